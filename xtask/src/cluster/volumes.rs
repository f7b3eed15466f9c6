//! The node's volumes: a few folders, made available again once who used them is gone.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::address::NODE_NAME;
use super::state::{State, fill, make_folder, remove_folder};

const NAMES: [&str; 3] = ["local-1", "local-2", "local-3"];
const VOLUME: &str = include_str!("manifests/volume.yaml");

/// Makes those that are missing, and empties those that were released: nobody else does.
pub(super) async fn renew(state: &State) -> anyhow::Result<()> {
    let list = state.kubectl(["get", "persistentvolumes", "-o", "json"])?.json().await?;
    for name in released(&list) {
        state.kubectl(["delete", "persistentvolume", name])?.ok().await?;
        remove_folder(&state.volumes().join(name))?;
    }
    let mut manifests = Vec::new();
    for name in NAMES {
        let folder = state.volumes().join(name);
        make_folder(&folder)?;
        // Whoever a pod runs as: as on most clusters' volumes, a pod's fsGroup narrows it.
        fs::set_permissions(&folder, Permissions::from_mode(0o777))?;
        let path = folder.to_string_lossy();
        manifests.push(fill(VOLUME, &[("name", name), ("path", &path), ("node", NODE_NAME)]));
    }
    state.kubectl(["apply", "--server-side", "-f", "-"])?.stdin(manifests.join("---\n")).ok().await?;
    Ok(())
}

/// Of ours, those that are bound to a claim that is no more.
fn released(list: &Value) -> Vec<&str> {
    let volumes = list["items"].as_array().into_iter().flatten();
    let released = volumes.filter(|volume| volume["status"]["phase"] == "Released");
    released.filter_map(|volume| volume["metadata"]["name"].as_str()).filter(|name| NAMES.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_our_volumes_only_the_released_are_emptied() {
        let volume = |name: &str, phase: &str| json!({"metadata": {"name": name}, "status": {"phase": phase}});
        let list = json!({"items": [
            volume("local-1", "Bound"), volume("local-2", "Released"), volume("local-3", "Available"),
            volume("theirs", "Released"),
        ]});
        assert_eq!(released(&list), ["local-2"]);
    }
}
