//! Values kept in a Secret, shared by all replicas, and the namespace it lies in.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Api;
use kube::api::ObjectMeta;

use crate::{Cluster, ClusterError, FIELD_MANAGER, within, writing};

/// Each attempt is lost only to a writer who won, and there are as many of those as replicas that start at once.
const ATTEMPTS_MAX: u32 = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}/{}", self.namespace, self.name)
    }
}

impl Cluster {
    /// One value of a Secret; none where the Secret, its namespace or the key in it is missing.
    ///
    /// # Errors
    /// Where the API server cannot be asked or refuses.
    pub async fn secret_value(&self, secret: &SecretRef, key: &str) -> Result<Option<Vec<u8>>, ClusterError> {
        Ok(self.secret(secret).await?.and_then(|mut secret| value(&mut secret, key)))
    }

    /// Sets one value of a Secret unless somebody else has set another than the caller saw (`seen`; none: it was missing),
    /// and gives what is there afterwards: of callers who race, one sets it and all are given the same. Makes the Secret and its
    /// namespace where they are missing; leaves the Secret's other values alone.
    ///
    /// # Errors
    /// Where the API server cannot be asked or refuses, or where others keep changing the Secret.
    pub async fn exchange_secret_value(
        &self,
        secret: &SecretRef,
        key: &str,
        seen: Option<&[u8]>,
        new: &[u8],
    ) -> Result<Vec<u8>, ClusterError> {
        for _ in 0..ATTEMPTS_MAX {
            let live = self.secret(secret).await?;
            let there = live.as_ref().and_then(|live| live.data.as_ref()?.get(key));
            if let Some(ByteString(there)) = there
                && seen != Some(there.as_slice())
            {
                return Ok(there.clone());
            }
            let written = match live {
                Some(live) => self.replace_secret(secret, with_value(live, key, new)).await,
                None => self.create_secret(secret, with_value(empty(secret), key, new)).await,
            };
            match written {
                Ok(()) => return Ok(new.to_vec()),
                // Somebody was faster: what they wrote is looked at in the next turn.
                Err(error) if error.is_conflict() => {}
                // Of the Secret or of its namespace; only a namespace can be missing for long.
                Err(error) if error.is_not_found() => self.ensure_namespace(&secret.namespace).await?,
                Err(error) => return Err(error),
            }
        }
        Err(ClusterError::Contended { operation: "changing", object: secret.to_string(), attempts: ATTEMPTS_MAX })
    }

    /// Makes the namespace where it is missing.
    ///
    /// # Errors
    /// Where the API server cannot be asked or refuses.
    pub async fn ensure_namespace(&self, name: &str) -> Result<(), ClusterError> {
        let namespace = Namespace {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        let (api, params): (Api<Namespace>, _) = (Api::all(self.client.clone()), writing());
        match within("creating", || format!("Namespace {name}"), api.create(&params, &namespace)).await {
            Err(error) if !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }

    async fn secret(&self, secret: &SecretRef) -> Result<Option<Secret>, ClusterError> {
        within("reading", || secret.to_string(), self.secrets(secret).get_opt(&secret.name)).await
    }

    async fn create_secret(&self, secret: &SecretRef, whole: Secret) -> Result<(), ClusterError> {
        let (api, params) = (self.secrets(secret), writing());
        within("creating", || secret.to_string(), api.create(&params, &whole)).await.map(drop)
    }

    async fn replace_secret(&self, secret: &SecretRef, whole: Secret) -> Result<(), ClusterError> {
        let (api, params) = (self.secrets(secret), writing());
        within("replacing", || secret.to_string(), api.replace(&secret.name, &params, &whole)).await.map(drop)
    }

    fn secrets(&self, secret: &SecretRef) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &secret.namespace)
    }
}

fn empty(secret: &SecretRef) -> Secret {
    let labels = [("app.kubernetes.io/name", FIELD_MANAGER), ("app.kubernetes.io/managed-by", FIELD_MANAGER)];
    Secret {
        metadata: ObjectMeta {
            namespace: Some(secret.namespace.clone()),
            name: Some(secret.name.clone()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// Keeps the `resourceVersion` that was read, so that the API server refuses the write when somebody was faster.
fn with_value(mut secret: Secret, key: &str, value: &[u8]) -> Secret {
    secret.data.get_or_insert_with(BTreeMap::new).insert(key.to_owned(), ByteString(value.to_vec()));
    secret
}

fn value(secret: &mut Secret, key: &str) -> Option<Vec<u8>> {
    secret.data.as_mut()?.remove(key).map(|ByteString(bytes)| bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    fn at() -> SecretRef {
        SecretRef { namespace: "audit".to_owned(), name: "keys".to_owned() }
    }

    fn live(version: &str, data: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Secret", "data": data,
               "metadata": {"namespace": "audit", "name": "keys", "resourceVersion": version}})
    }

    fn refusal(code: u16, reason: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason})
    }

    type Line = (&'static str, u16, Value);
    /// Its name, what the caller saw, the script, what the caller is given.
    type Case = (&'static str, Option<&'static [u8]>, Vec<Line>, &'static [u8]);

    /// An API server that gives these answers in this order, each to the request that it is for.
    fn scripted(script: Vec<Line>) -> (Cluster, Arc<Mutex<Vec<Line>>>) {
        let script = Arc::new(Mutex::new(script));
        let remaining = script.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (expected, code, answer) = script.lock().unwrap().remove(0);
            assert_eq!(format!("{} {}", request.method(), request.uri().path()), expected);
            let response = Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
            std::future::ready(response)
        });
        (Cluster { client: kube::Client::new(service, "audit"), in_cluster_namespace: None }, remaining)
    }

    const READ: &str = "GET /api/v1/namespaces/audit/secrets/keys";
    const CREATE: &str = "POST /api/v1/namespaces/audit/secrets";
    const REPLACE: &str = "PUT /api/v1/namespaces/audit/secrets/keys";
    const NAMESPACE: &str = "POST /api/v1/namespaces";

    fn absent() -> Line {
        (READ, 404, refusal(404, "NotFound"))
    }

    #[tokio::test]
    async fn of_those_who_race_all_are_given_what_the_winner_wrote() {
        // "d2lubmVy" is "winner", "bWluZQ==" is "mine", "b2xk" is "old".
        let created = (CREATE, 201, live("1", &json!({"k": "bWluZQ=="})));
        let conflict = |request| (request, 409, refusal(409, "Conflict"));
        let winner = || (READ, 200, live("2", &json!({"k": "d2lubmVy"})));
        let cases: Vec<Case> = vec![
            ("nothing there", None, vec![absent(), created.clone()], b"mine"),
            ("another created it", None, vec![absent(), conflict(CREATE), winner()], b"winner"),
            ("it was there", None, vec![winner()], b"winner"),
            (
                "another key was there, and was touched meanwhile",
                None,
                vec![
                    (READ, 200, live("1", &json!({"other": "b2xk"}))),
                    conflict(REPLACE),
                    (READ, 200, live("2", &json!({"other": "bWluZQ=="}))),
                    (REPLACE, 200, live("3", &json!({}))),
                ],
                b"mine",
            ),
            (
                "what was seen is replaced",
                Some(b"old"),
                vec![(READ, 200, live("1", &json!({"k": "b2xk"}))), (REPLACE, 200, live("2", &json!({})))],
                b"mine",
            ),
            ("another replaced what was seen", Some(b"old"), vec![winner()], b"winner"),
            (
                "no namespace",
                None,
                vec![
                    absent(),
                    (CREATE, 404, refusal(404, "NotFound")),
                    (NAMESPACE, 201, json!({"metadata": {"name": "audit"}})),
                    absent(),
                    created,
                ],
                b"mine",
            ),
        ];
        for (case, seen, script, expected) in cases {
            let (cluster, remaining) = scripted(script);
            let given = cluster.exchange_secret_value(&at(), "k", seen, b"mine").await.unwrap();
            assert_eq!(given, expected, "{case}");
            assert!(remaining.lock().unwrap().is_empty(), "{case}: {:?}", remaining.lock().unwrap());
        }
    }

    #[tokio::test]
    async fn a_refusal_names_the_operation_the_object_and_the_reason() {
        let (cluster, _) = scripted(vec![(READ, 403, refusal(403, "Forbidden"))]);
        let error = cluster.secret_value(&at(), "k").await.unwrap_err();
        assert_eq!(error.to_string(), "reading Secret audit/keys: refused with 403 Forbidden");
        assert_eq!(error.retry(), crate::Retry::Later, "it may yet be granted");
        let (cluster, _) = scripted(vec![(READ, 422, refusal(422, "Invalid"))]);
        assert_eq!(cluster.secret_value(&at(), "k").await.unwrap_err().retry(), crate::Retry::Never);
    }

    #[tokio::test]
    async fn a_secret_that_never_stands_still_is_given_up() {
        let turn = || [absent(), (CREATE, 409, refusal(409, "Conflict"))];
        let (cluster, remaining) = scripted((0..ATTEMPTS_MAX).flat_map(|_| turn()).collect());
        let error = cluster.exchange_secret_value(&at(), "k", None, b"mine").await.unwrap_err();
        assert_eq!(error.to_string(), "changing Secret audit/keys: others changed it 10 times in a row");
        assert!(remaining.lock().unwrap().is_empty());
    }
}
