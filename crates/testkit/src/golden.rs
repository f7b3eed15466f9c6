//! Files that a program generates and people review.

use std::env;
use std::fs;
use std::path::Path;

/// A stale file is rewritten and the test fails once: the diff goes into your commit. CI only fails.
#[track_caller]
pub fn golden(path: impl AsRef<Path>, actual: &str) {
    let stale = compare(path.as_ref(), actual, env::var_os("CI").is_none());
    #[expect(clippy::panic, reason = "this is an assertion")]
    if let Err(stale) = stale {
        panic!("{stale}");
    }
}

fn compare(path: &Path, actual: &str, rewrite: bool) -> Result<(), String> {
    if fs::read_to_string(path).is_ok_and(|committed| committed == actual) {
        return Ok(());
    }
    let shown = path.display();
    if !rewrite {
        return Err(format!("{shown} is stale; run the test outside CI and commit what it writes"));
    }
    let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
    match folder.and_then(|()| fs::write(path, actual)) {
        Ok(()) => Err(format!("{shown} was stale; read its git diff and commit it")),
        Err(error) => Err(format!("{shown} is stale and can't be written: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard;

    #[test]
    fn a_stale_file_fails_once_and_in_ci_always() {
        let path = guard::folder("golden").unwrap().join("new/file.txt");
        assert!(compare(&path, "a", false).unwrap_err().contains("is stale"));
        assert!(!path.exists());
        assert!(compare(&path, "a", true).unwrap_err().contains("was stale"));
        compare(&path, "a", true).unwrap();
        golden(&path, "a");
        assert!(compare(&path, "b", false).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a");
    }
}
