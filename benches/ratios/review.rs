//! A review of 28 kB: the image of a workload changes, as the API server sends it, both objects with their managed fields.
//!
//! Grown from a recorded one, in the order of keys in which the API server writes them.

use std::fmt::Write as _;

use axum::body::Bytes;

const RECORDED: &str = include_str!("../../crates/intake/fixtures/update-deployment-image.json");
const BYTES: usize = 28_000;
/// Stands for the uid, which is another one each time.
const UID: &str = "73e41105-3c54-4564-8035-0c349ca97599";

/// A review, of which each has its own number.
#[derive(Clone)]
pub struct Review {
    text: String,
    uid: usize,
}

impl Review {
    pub fn new() -> anyhow::Result<Self> {
        let text = review();
        anyhow::ensure!(text.matches(UID).count() == 1, "the recorded review has another uid");
        Ok(Self { uid: text.find(UID).unwrap_or_default(), text })
    }

    /// One that is delivered twice would be recorded once, so each number is another review.
    pub fn numbered(&self, number: u64) -> Bytes {
        let mut bytes = self.text.clone().into_bytes();
        let uid = format!("{:08x}-3c54-4564-8035-{:012x}", number >> 32, number & 0xffff_ffff);
        bytes[self.uid..self.uid + UID.len()].copy_from_slice(uid.as_bytes());
        bytes.into()
    }

    pub fn len(&self) -> usize {
        self.text.len()
    }
}

/// Containers are put in until it weighs enough.
fn review() -> String {
    let mut review = RECORDED.trim_end().to_owned();
    for number in 0.. {
        if review.len() >= BYTES {
            break;
        }
        let container = container(number);
        let applied = container.replace('"', "\\\"");
        review = review
            .replace(r#""containers":["#, &format!(r#""containers":[{container},"#))
            .replace(r#"\"containers\":["#, &format!(r#"\"containers\":[{applied},"#))
            .replace(r#""f:containers":{"#, &format!(r#""f:containers":{{{},"#, managed(number)));
    }
    review
}

fn container(number: usize) -> String {
    let mut env = String::new();
    for variable in 0..10 {
        let _ =
            write!(env, r#"{{"name":"SETTING_{variable}","value":"http://service-{variable}.shop.svc:8080/path"}},"#);
    }
    let probe = |path: &str| {
        format!(
            r#"{{"httpGet":{{"path":"{path}","port":8080,"scheme":"HTTP"}},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3}}"#
        )
    };
    format!(
        r#"{{"name":"sidecar-{number}","image":"registry.example/shop/sidecar-{number}:1.27.{number}","args":["--level=info","--listen=:8080"],"ports":[{{"name":"http","containerPort":8080,"protocol":"TCP"}}],"env":[{env}{{"name":"DB_PASSWORD","value":"hunter2"}}],"resources":{{"limits":{{"cpu":"500m","memory":"256Mi"}},"requests":{{"cpu":"100m","memory":"128Mi"}}}},"volumeMounts":[{{"name":"config","mountPath":"/etc/config"}},{{"name":"cache","mountPath":"/var/cache"}}],"livenessProbe":{},"readinessProbe":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}}"#,
        probe("/healthz"),
        probe("/readyz")
    )
}

fn managed(number: usize) -> String {
    let mut env = String::new();
    for variable in 0..10 {
        let _ = write!(env, r#""k:{{\"name\":\"SETTING_{variable}\"}}":{{".":{{}},"f:name":{{}},"f:value":{{}}}},"#);
    }
    let probe = r#"{".":{},"f:failureThreshold":{},"f:httpGet":{".":{},"f:path":{},"f:port":{},"f:scheme":{}},"f:periodSeconds":{},"f:successThreshold":{},"f:timeoutSeconds":{}}"#;
    format!(
        r#""k:{{\"name\":\"sidecar-{number}\"}}":{{".":{{}},"f:args":{{}},"f:env":{{".":{{}},{env}"k:{{\"name\":\"DB_PASSWORD\"}}":{{".":{{}},"f:name":{{}},"f:value":{{}}}}}},"f:image":{{}},"f:imagePullPolicy":{{}},"f:livenessProbe":{probe},"f:name":{{}},"f:ports":{{".":{{}},"k:{{\"containerPort\":8080,\"protocol\":\"TCP\"}}":{{".":{{}},"f:containerPort":{{}},"f:name":{{}},"f:protocol":{{}}}}}},"f:readinessProbe":{probe},"f:resources":{{".":{{}},"f:limits":{{".":{{}},"f:cpu":{{}},"f:memory":{{}}}},"f:requests":{{".":{{}},"f:cpu":{{}},"f:memory":{{}}}}}},"f:terminationMessagePath":{{}},"f:terminationMessagePolicy":{{}},"f:volumeMounts":{{".":{{}},"k:{{\"mountPath\":\"/etc/config\"}}":{{".":{{}},"f:mountPath":{{}},"f:name":{{}}}},"k:{{\"mountPath\":\"/var/cache\"}}":{{".":{{}},"f:mountPath":{{}},"f:name":{{}}}}}}}}"#
    )
}
