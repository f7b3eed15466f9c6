//! An AdmissionReview as it is sent, read without building what is not looked at: objects stay text.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use domain::EntryId;
use domain::attempt::{Attempt, Operation, Unredacted};
use domain::entry::RequestFacts;
use domain::kinds::Kinds;
use policy::{EXPRESSION_OBJECT_BYTES_MAX, Facts};
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::admission::refusal::Refusal;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// A review of the right version with a request in it.
#[derive(Debug)]
pub(super) struct Review<'a> {
    request: AdmissionRequest<'a>,
    /// The whole, for an expression that asks for what is not read here.
    text: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AdmissionReview<'a> {
    #[serde(borrow, default)]
    api_version: Cow<'a, str>,
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    request: Option<AdmissionRequest<'a>>,
}

/// `k8s.io/api/admission/v1`. No `Serialize`, and `Debug` shows of an object only its size.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AdmissionRequest<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    kind: GroupVersionKind<'a>,
    #[serde(borrow)]
    resource: GroupVersionResource<'a>,
    #[serde(borrow, default)]
    sub_resource: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    operation: Cow<'a, str>,
    #[serde(borrow)]
    user_info: UserInfo<'a>,
    #[serde(borrow, default)]
    object: Object<'a>,
    #[serde(borrow, default)]
    old_object: Object<'a>,
    #[serde(default)]
    dry_run: Option<bool>,
    #[serde(borrow, default)]
    options: Object<'a>,
}

#[derive(Debug, Deserialize)]
struct GroupVersionKind<'a> {
    #[serde(borrow, default)]
    version: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
struct GroupVersionResource<'a> {
    #[serde(borrow, default)]
    group: Cow<'a, str>,
    #[serde(borrow)]
    resource: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
struct UserInfo<'a> {
    #[serde(borrow, default)]
    username: Cow<'a, str>,
    #[serde(borrow, default)]
    groups: Vec<Cow<'a, str>>,
}

/// Text of an object, or none; `null` is none.
#[derive(Default, Deserialize)]
#[serde(transparent)]
struct Object<'a>(#[serde(borrow)] Option<&'a RawValue>);

impl<'a> Object<'a> {
    fn unredacted(&self) -> Option<Unredacted<'a>> {
        self.0.map(Unredacted)
    }
}

impl fmt::Debug for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.unredacted().fmt(f)
    }
}

/// What the client asked for, of which the API server sends `CreateOptions` and its like.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Options<'a> {
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    field_manager: Cow<'a, str>,
}

impl<'a> Review<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(body)
            .map_err(|error| Refusal::malformed(format!("the body is not UTF-8 from byte {}", error.valid_up_to())))?;
        let review: AdmissionReview<'a> = serde_json::from_str(text).map_err(|_| fault(text))?;
        let uid = review.request.as_ref().map_or("", |request| &request.uid);
        check_version(&review.api_version, &review.kind).map_err(|refusal| refusal.of(uid))?;
        match review.request {
            None => Err(Refusal::malformed("the review has no request")),
            Some(request) if request.uid.is_empty() => Err(Refusal::malformed("request.uid is empty")),
            Some(request) => Ok(Self { request, text }),
        }
    }

    pub(super) fn uid(&self) -> &str {
        &self.request.uid
    }

    pub(super) fn attempt<'r>(&'r self, id: EntryId, kinds: &'r Kinds) -> Result<Attempt<'r>, Refusal> {
        let request = &self.request;
        // Of a scale the request names the kind `Scale`; of whom it is the scale, only the API server's own word tells.
        let of_scale = (request.sub_resource == "scale")
            .then(|| kinds.kind(&request.resource.group, &request.resource.resource))
            .flatten();
        Ok(Attempt {
            id,
            operation: self.operation()?,
            // The object's group: what a subresource carries may come from another (`autoscaling` for a scale).
            api_group: &request.resource.group,
            kind: of_scale.unwrap_or(&request.kind.kind),
            resource: &request.resource.resource,
            subresource: &request.sub_resource,
            name: &request.name,
            namespace: &request.namespace,
            user: &request.user_info.username,
            groups: &request.user_info.groups,
            object: request.object.unredacted(),
            old_object: request.old_object.unredacted(),
            request: self.facts()?,
        })
    }

    /// The resourceVersion and the uid of the object as it was found; empty where there is none.
    pub(super) fn replaced(&self) -> (Cow<'_, str>, Cow<'_, str>) {
        #[derive(Default, Deserialize)]
        struct Old<'a> {
            #[serde(borrow, default)]
            metadata: Metadata<'a>,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata<'a> {
            #[serde(borrow, default)]
            resource_version: Cow<'a, str>,
            #[serde(borrow, default)]
            uid: Cow<'a, str>,
        }
        let old = self.request.old_object.0.map(|old| serde_json::from_str::<Old<'_>>(old.get()).unwrap_or_default());
        let Metadata { resource_version, uid } = old.unwrap_or_default().metadata;
        (resource_version, uid)
    }

    fn operation(&self) -> Result<Operation, Refusal> {
        match self.request.operation.as_ref() {
            "CREATE" => Ok(Operation::Create),
            "UPDATE" => Ok(Operation::Update),
            "DELETE" => Ok(Operation::Delete),
            "CONNECT" => Ok(Operation::Connect),
            given => {
                let accepted = "one of CREATE, UPDATE, DELETE, CONNECT";
                Err(Refusal::unknown("request.operation", given, accepted).of(self.uid()))
            }
        }
    }

    fn facts(&self) -> Result<RequestFacts, Refusal> {
        let options: Options<'_> = match self.request.options.0 {
            None => Options::default(),
            Some(options) => serde_json::from_str(options.get())
                .map_err(|_| Refusal::malformed("request.options is no options object").of(self.uid()))?,
        };
        let verb = match options.kind.as_ref() {
            "PatchOptions" => "patch".to_owned(),
            "CreateOptions" => "create".to_owned(),
            "UpdateOptions" => "update".to_owned(),
            "DeleteOptions" => "delete".to_owned(),
            _ => self.request.operation.to_ascii_lowercase(),
        };
        let field_manager = options.field_manager.into_owned();
        let version = self.request.kind.version.clone().into_owned();
        let dry_run = self.request.dry_run.unwrap_or(false);
        Ok(RequestFacts { verb, field_manager, dry_run, version, prior: None })
    }
}

impl Facts for Review<'_> {
    fn request(&self) -> Option<serde_json::Value> {
        /// Its other members are small, or text that is not built.
        #[derive(Deserialize)]
        struct Whole<'a> {
            #[serde(borrow)]
            request: BTreeMap<Cow<'a, str>, &'a RawValue>,
        }
        let whole: Whole<'_> = serde_json::from_str(self.text).ok()?;
        let without_objects = whole.request.iter().filter(|(name, _)| !matches!(name.as_ref(), "object" | "oldObject"));
        let member = |(name, value): (&Cow<'_, str>, &&RawValue)| {
            Some((name.clone().into_owned(), serde_json::from_str(value.get()).ok()?))
        };
        without_objects.map(member).collect::<Option<serde_json::Map<_, _>>>().map(serde_json::Value::Object)
    }

    fn object(&self) -> Option<serde_json::Value> {
        shown(&self.request.object)
    }

    fn old_object(&self) -> Option<serde_json::Value> {
        shown(&self.request.old_object)
    }
}

/// An absent object is null, as in matchConditions.
fn shown(object: &Object<'_>) -> Option<serde_json::Value> {
    match object.0 {
        None => Some(serde_json::Value::Null),
        Some(raw) if raw.get().len() > EXPRESSION_OBJECT_BYTES_MAX => None,
        Some(raw) => serde_json::from_str(raw.get()).ok(),
    }
}

/// For the answer to a review that cannot be handled. Reads no further than that, so what comes later may be missing,
/// broken or anything.
pub(super) fn readable_uid(body: &[u8]) -> Option<String> {
    let mut found = None;
    let mut json = serde_json::Deserializer::from_slice(body);
    // It ends in an error where the uid was found, so as to stop there.
    let _stopped = Within { path: &["request", "uid"], found: &mut found }.deserialize(&mut json);
    found.filter(|uid| !uid.is_empty())
}

/// The text at a path of keys, of which the rest is skipped.
struct Within<'f> {
    path: &'static [&'static str],
    found: &'f mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Within<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.path.is_empty() {
            *self.found = Some(String::deserialize(deserializer)?);
            return Err(D::Error::custom("found"));
        }
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Within<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((wanted, path)) = self.path.split_first() else { return Ok(()) };
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == *wanted {
                map.next_value_seed(Within { path, found: &mut *self.found })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

fn check_version(api_version: &str, kind: &str) -> Result<(), Refusal> {
    if kind != KIND {
        return Err(Refusal::unknown("kind", kind, &format!("{KIND:?}")));
    }
    if api_version != API_VERSION {
        return Err(Refusal::unknown("apiVersion", api_version, &format!("{API_VERSION:?}")));
    }
    Ok(())
}

/// Reads once more, slower, to tell where it went wrong. Of serde's messages only those are repeated that quote no value.
fn fault(text: &str) -> Refusal {
    let mut json = serde_json::Deserializer::from_str(text);
    let error = match serde_path_to_error::deserialize::<_, AdmissionReview<'_>>(&mut json) {
        Err(error) => error,
        // It reads as a review, so what was wrong came after it.
        Ok(review) => {
            let uid = review.request.as_ref().map_or("", |request| &request.uid);
            return Refusal::malformed("there is more after the review").of(uid);
        }
    };
    let path = error.path().to_string();
    let error = error.into_inner();
    let (line, column) = (error.line(), error.column());
    let detail = match error.classify() {
        Category::Eof => format!("the JSON is cut short at line {line} column {column}"),
        Category::Syntax | Category::Io => format!("the body is not valid JSON: {error}"),
        Category::Data => {
            let whole = error.to_string();
            match (whole.starts_with("missing field `"), whole.rsplit_once(", expected ")) {
                // `missing field`, `duplicate field`: names of ours.
                (true, _) => format!("{path}: {whole}"),
                (false, Some((_quotes_the_value, expected))) => format!("{path}: expected {expected}"),
                (false, None) => format!("{path}: not what is expected at line {line} column {column}"),
            }
        }
    };
    let refusal = Refusal::malformed(detail);
    match readable_uid(text.as_bytes()) {
        Some(uid) => refusal.of(&uid),
        None => refusal,
    }
}
