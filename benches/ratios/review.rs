//! A review of 28 kB: the image of a workload changes, as the API server sends it, both objects with their managed fields.
//!
//! Grown from a recorded one, in the order of keys in which the API server writes them.

use std::fmt::Write as _;

const RECORDED: &str = include_str!("../../crates/intake/fixtures/update-deployment-image.json");
const BYTES: usize = 28_000;
/// Stands for the uid, which is another one each time.
const UID: &str = "73e41105-3c54-4564-8035-0c349ca97599";

/// A POST of the review over a connection that stays, ready to be sent.
#[derive(Clone)]
pub struct Request {
    bytes: Vec<u8>,
    uid: usize,
}

impl Request {
    pub fn new() -> anyhow::Result<Self> {
        let body = review();
        anyhow::ensure!(body.matches(UID).count() == 1, "the recorded review has another uid");
        let head = format!(
            "POST /admission HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let bytes = format!("{head}{body}");
        let uid = bytes.find(UID).unwrap_or_default();
        Ok(Self { bytes: bytes.into_bytes(), uid })
    }

    /// The same, of another review: one that is delivered twice would be recorded once.
    pub fn numbered(&mut self, number: u64) -> &[u8] {
        let uid = format!("{:08x}-3c54-4564-8035-{:012x}", number >> 32, number & 0xffff_ffff);
        self.bytes[self.uid..self.uid + UID.len()].copy_from_slice(uid.as_bytes());
        &self.bytes
    }

    pub fn body_len(&self) -> usize {
        review().len()
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
