//! An object as it lies in the cluster, of whatever kind: its text, for who is to see what became of a write.

use std::fmt;

use http::Request;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{Cluster, ClusterError, within};

/// Which object, and how it is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookAt<'a> {
    pub api_group: &'a str,
    pub version: &'a str,
    pub plural: &'a str,
    /// `scale`, or empty for the object itself.
    pub subresource: &'a str,
    /// Empty for what is in none.
    pub namespace: &'a str,
    pub name: &'a str,
    /// Nothing but its metadata leaves the API server.
    pub metadata_only: bool,
}

/// The text of an object. It may hold secrets.
pub struct ObjectText(String);

impl ObjectText {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ObjectText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectText({} bytes)", self.0.len())
    }
}

impl Cluster {
    /// Whether this program may look at all objects of that sort. Everybody may ask that of themselves.
    ///
    /// # Errors
    /// Where the API server cannot be asked or refuses.
    pub async fn may_look(&self, at: &LookAt<'_>) -> Result<bool, ClusterError> {
        let text = |text: &str| Some(text.to_owned());
        let resource_attributes = ResourceAttributes {
            verb: text("get"),
            group: text(at.api_group),
            resource: text(at.plural),
            subresource: text(at.subresource),
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(resource_attributes),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let (api, params): (Api<SelfSubjectAccessReview>, _) = (Api::all(self.client.clone()), PostParams::default());
        let answer = within("asking whether to look at", || at.plural.to_owned(), api.create(&params, &review)).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// None where there is no object of that name. That there is no such kind is a refusal, and tells nothing of its objects.
    ///
    /// # Errors
    /// Where the API server cannot be asked or refuses.
    pub async fn look(&self, at: &LookAt<'_>) -> Result<Option<ObjectText>, ClusterError> {
        let accept = if at.metadata_only { METADATA_ONLY } else { "application/json" };
        let request = Request::get(at.path()).header("Accept", accept).body(Vec::new());
        let request = async { self.client.request_text(request.map_err(kube::Error::HttpError)?).await };
        let object = || format!("{} {}/{}", at.plural, at.namespace, at.name);
        match within("looking at", object, async { is_there(request.await, at.name) }).await {
            Ok(found) => Ok(found.map(ObjectText)),
            Err(error) => Err(error),
        }
    }
}

const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl LookAt<'_> {
    fn path(&self) -> String {
        let part = |text| utf8_percent_encode(text, IN_PATH);
        let mut path = match self.api_group {
            "" => format!("/api/{}", part(self.version)),
            group => format!("/apis/{}/{}", part(group), part(self.version)),
        };
        if !self.namespace.is_empty() {
            path += &format!("/namespaces/{}", part(self.namespace));
        }
        path += &format!("/{}/{}", part(self.plural), part(self.name));
        if !self.subresource.is_empty() {
            path += &format!("/{}", part(self.subresource));
        }
        path
    }
}

/// Of an object that is not there the API server says its name; of a path that leads nowhere it does not.
fn is_there(answer: kube::Result<String>, name: &str) -> kube::Result<Option<String>> {
    match answer {
        Ok(text) => Ok(Some(text)),
        Err(kube::Error::Api(status))
            if status.is_not_found() && status.details.as_ref().is_some_and(|details| details.name == name) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        let mut at = LookAt {
            api_group: "apps",
            version: "v1",
            plural: "deployments",
            subresource: "scale",
            namespace: "shop",
            name: "web",
            metadata_only: false,
        };
        assert_eq!(at.path(), "/apis/apps/v1/namespaces/shop/deployments/web/scale");
        (at.api_group, at.plural, at.subresource, at.namespace, at.name) = ("", "nodes", "", "", "a/../secrets?x");
        assert_eq!(at.path(), "/api/v1/nodes/a%2F..%2Fsecrets%3Fx");
    }

    #[test]
    fn that_there_is_no_such_kind_is_not_that_there_is_no_object() {
        let answer = |details: serde_json::Value| {
            let status = json!({"status": "Failure", "code": 404, "reason": "NotFound", "details": details});
            Err(kube::Error::Api(serde_json::from_value::<Status>(status).unwrap().boxed()))
        };
        assert!(matches!(is_there(answer(json!({"name": "web", "kind": "deployments"})), "web"), Ok(None)));
        assert!(is_there(answer(json!({})), "web").is_err());
        let nowhere = Status::failure("404 page not found", "Failed to parse error data").with_code(404);
        assert!(is_there(Err(kube::Error::Api(nowhere.boxed())), "web").is_err());
    }
}
