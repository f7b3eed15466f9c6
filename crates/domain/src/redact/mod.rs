//! What must not be known is replaced here, before anything else sees the object.
//!
//! On by default and, for Secrets, always. A value becomes `<redacted hmac:1a2b3c4d>`: a keyed HMAC, so that a change
//! shows as a change and equal values look equal, while the value stays unknown. What is redacted:
//!
//! - every value in a Secret's `data` and `stringData` (of the decoded value, so that both spell the same secret alike);
//! - the annotation `kubectl.kubernetes.io/last-applied-configuration`, which repeats the whole object;
//! - the same in a Secret that another object carries, as a custom resource does for what it is to make;
//! - the value of an environment variable, a ConfigMap's key or a `--flag=` whose name looks secret ([`words`]), and of
//!   fields that are named like one (`password`, `token`, …);
//! - the arguments of exec and attach beyond the program's name;
//! - what a policy lists ([`JsonPath`]);
//! - anywhere: bearer tokens, JSON web tokens, private keys, and passwords inside URLs.

mod path;
mod words;

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

use crate::entry::ObjectHash;
use crate::hash::HashKey;
use crate::json::{Member, Node, Tree, Unwalkable};
use crate::mac::MacKey;
use crate::seal::SealKey;

pub use self::path::{JsonPath, PathError};

/// Values that are redacted in one object. Each costs an HMAC, and a Secret of 1 MiB can have 200,000 of them.
pub const VALUES_MAX: usize = 40_000;

/// The annotation in which `kubectl apply` keeps a copy of the whole object.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The operator's secret: who has it can test guesses of a redacted value.
#[derive(Clone)]
pub struct RedactionKey([u8; 32]);

impl RedactionKey {
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// By another purpose than redaction's, so that a seal, which many may read, tells nothing of a value.
    pub fn seal_key(&self) -> SealKey {
        SealKey::new(&MacKey::new(&self.0).code(b"seals", b""))
    }
}

impl fmt::Debug for RedactionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedactionKey(256 bits)")
    }
}

/// Redacts and hashes under keys derived from one [`RedactionKey`].
#[derive(Clone)]
pub struct Redactor {
    values: MacKey,
    objects: HashKey,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor(..)")
    }
}

/// An object without its secrets. Only a [`Redactor`] makes one.
#[derive(Debug)]
pub struct Redacted<'a> {
    pub(crate) root: Shown<'a>,
    /// The placeholder of the annotation that repeats the object; it is told apart from what the object itself says.
    pub(crate) last_applied: Option<String>,
}

/// A node that holds no secret.
#[derive(Clone, PartialEq)]
pub(crate) struct Shown<'a>(pub(crate) Node<'a>);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown(..)")
    }
}

impl Serialize for Redacted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.root.0.serialize(serializer)
    }
}

impl Redactor {
    pub fn new(key: RedactionKey) -> Self {
        let master = MacKey::new(&key.0);
        Self {
            values: MacKey::new(&master.code(b"redacted values", b"")),
            objects: HashKey(master.code(b"object hashes", b"")),
        }
    }

    pub fn hash(&self, tree: &Tree<'_>) -> ObjectHash {
        self.objects.hash(tree)
    }

    /// Takes the object apart by its kind, by its names, and by the paths that a policy lists.
    ///
    /// # Errors
    /// [`Unwalkable::TooSecret`] where more than [`VALUES_MAX`] values would have to be redacted.
    pub fn redact<'a>(&self, kind: &str, tree: Tree<'a>, paths: &[JsonPath]) -> Result<Redacted<'a>, Unwalkable> {
        let mut root = tree.root;
        let redaction = Redaction { key: &self.values, values: Cell::new(0) };
        let last_applied = take_last_applied(&mut root).map(|text| redaction.placeholder(text.as_bytes()));
        redaction.by_kind(kind, &mut root);
        for path in paths {
            path.each(&mut root, &|node| redaction.every_value(node, false));
        }
        redaction.inside(&mut root);
        if redaction.values.get() > VALUES_MAX {
            return Err(Unwalkable::TooSecret);
        }
        Ok(Redacted { root: Shown(root), last_applied })
    }
}

/// The redaction of one object.
struct Redaction<'r> {
    key: &'r MacKey,
    /// How many values were redacted so far.
    values: Cell<usize>,
}

impl Redaction<'_> {
    /// What stands in a value's place. Past the bound the object will not be shown at all, so it is nothing.
    fn placeholder(&self, value: &[u8]) -> String {
        self.values.set(self.values.get() + 1);
        if self.values.get() > VALUES_MAX {
            return String::new();
        }
        let code: [u8; 4] = self.key.code(b"", value);
        format!("<redacted hmac:{:08x}>", u32::from_be_bytes(code))
    }

    /// What is secret because of what the object is.
    fn by_kind(&self, kind: &str, root: &mut Node<'_>) {
        match kind {
            "Secret" => self.secret(root),
            "ConfigMap" => {
                for part in ["data", "binaryData"] {
                    if let Some(Node::Object(entries)) = root.member_mut(part) {
                        self.named_like_secrets(entries, part == "binaryData");
                    }
                }
            }
            "PodExecOptions" | "PodAttachOptions" => {
                if let Some(Node::Array(argv)) = root.member_mut("command") {
                    argv.iter_mut().skip(1).for_each(|argument| self.every_value(argument, false));
                }
            }
            _ => {}
        }
    }

    fn secret(&self, object: &mut Node<'_>) {
        for part in ["data", "stringData"] {
            if let Some(values) = object.member_mut(part) {
                self.every_value(values, part == "data");
            }
        }
    }

    fn named_like_secrets(&self, members: &mut [Member<'_>], encoded: bool) {
        for (name, value) in members {
            if words::name_looks_secret(name) {
                self.every_value(value, encoded);
            }
        }
    }

    /// Every scalar below this node. `encoded`: its texts are base64 of what they mean.
    fn every_value(&self, node: &mut Node<'_>, encoded: bool) {
        match node {
            Node::Null => {}
            Node::Array(elements) => elements.iter_mut().for_each(|element| self.every_value(element, encoded)),
            Node::Object(members) => members.iter_mut().for_each(|(_, value)| self.every_value(value, encoded)),
            Node::String(text) => {
                let decoded = if encoded { STANDARD.decode(text.as_bytes()).ok() } else { None };
                let placeholder = self.placeholder(decoded.as_deref().unwrap_or(text.as_bytes()));
                *node = Node::String(Cow::Owned(placeholder));
            }
            Node::Bool(value) => *node = Node::String(Cow::Owned(self.placeholder(value.to_string().as_bytes()))),
            Node::Number(value) => *node = Node::String(Cow::Owned(self.placeholder(value.to_string().as_bytes()))),
        }
    }

    /// What is secret wherever it stands.
    fn walk(&self, node: &mut Node<'_>) {
        // As custom resources carry what they are to make.
        if node.member("kind").and_then(Node::as_str) == Some("Secret") {
            self.secret(node);
        }
        self.inside(node);
    }

    fn inside(&self, node: &mut Node<'_>) {
        match node {
            Node::Null | Node::Bool(_) | Node::Number(_) => {}
            Node::String(text) => {
                if let Some(redacted) = words::without_secrets(text, |secret| self.placeholder(secret.as_bytes())) {
                    *text = Cow::Owned(redacted);
                }
            }
            Node::Array(elements) => elements.iter_mut().for_each(|element| self.walk(element)),
            Node::Object(members) => {
                for (key, value) in members.iter_mut() {
                    match (key.as_ref(), &mut *value) {
                        ("env", Node::Array(_)) => self.environment(value),
                        ("env", Node::Object(variables)) => {
                            self.named_like_secrets(variables, false);
                            self.inside(value);
                        }
                        (LAST_APPLIED, _) => self.every_value(value, false),
                        (key, Node::String(text)) if words::field_is_secret(key) && !is_placeholder(text) => {
                            self.every_value(value, false);
                        }
                        _ => self.walk(value),
                    }
                }
            }
        }
    }

    fn environment(&self, variables: &mut Node<'_>) {
        if let Node::Array(variables) = variables {
            for variable in variables {
                let secret = variable.member("name").and_then(Node::as_str).is_some_and(words::name_looks_secret);
                match variable.member_mut("value") {
                    Some(value) if secret => self.every_value(value, false),
                    _ => self.walk(variable),
                }
            }
        }
    }
}

/// Whether a text is what [`Redactor`] puts in a value's place.
pub(crate) fn is_placeholder(text: &str) -> bool {
    text.strip_prefix("<redacted hmac:")
        .and_then(|rest| rest.strip_suffix('>'))
        .is_some_and(|mac| mac.len() == 8 && mac.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// Takes the annotation out of the object, and the annotations where it was the only one.
fn take_last_applied(root: &mut Node<'_>) -> Option<String> {
    let annotations = root.member_mut("metadata")?.member_mut("annotations")?;
    let taken = annotations.remove(LAST_APPLIED)?;
    if matches!(annotations, Node::Object(left) if left.is_empty()) {
        root.member_mut("metadata")?.remove("annotations");
    }
    Some(taken.as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::tests::raw;
    use crate::json::{Budget, Noise};

    fn redact(kind: &str, text: &str) -> String {
        let raw = raw(text);
        let tree = Tree::read(&raw, Noise::Status, &Budget::default()).unwrap();
        serde_json::to_string(&Redactor::new(RedactionKey::new([9; 32])).redact(kind, tree, &[]).unwrap()).unwrap()
    }

    fn placeholder(value: &str) -> String {
        let redactor = Redactor::new(RedactionKey::new([9; 32]));
        Redaction { key: &redactor.values, values: Cell::new(0) }.placeholder(value.as_bytes())
    }

    #[test]
    fn a_secret_value_is_the_same_placeholder_in_data_in_string_data_and_in_an_environment() {
        let p = placeholder("hunter2");
        assert_eq!(
            redact("Secret", r#"{"data":{"a":"aHVudGVyMg=="},"stringData":{"a":"hunter2"},"type":"Opaque"}"#),
            format!(r#"{{"data":{{"a":"{p}"}},"stringData":{{"a":"{p}"}},"type":"Opaque"}}"#)
        );
        assert_eq!(
            redact("Pod", r#"{"env":[{"name":"DB_PASSWORD","value":"hunter2"},{"name":"LEVEL","value":"debug"}]}"#),
            format!(r#"{{"env":[{{"name":"DB_PASSWORD","value":"{p}"}},{{"name":"LEVEL","value":"debug"}}]}}"#)
        );
        assert!(is_placeholder(&p) && !is_placeholder("<redacted hmac:1a2b3c4d> or so"));
    }

    #[test]
    fn each_place_of_a_secret_is_redacted_and_its_neighbours_are_not() {
        let cases = [
            ("ConfigMap", r#"{"data":{"api-key":"CANARY","color":"blue"}}"#, "blue"),
            ("ConfigMap", r#"{"binaryData":{"api-key.p12":"CANARY","logo.png":"aGk="}}"#, "aGk="),
            ("Widget", r#"{"make":{"kind":"Secret","data":{"a":"CANARY"},"type":"Opaque"}}"#, "Opaque"),
            ("Widget", r#"{"make":[{"kind":"Secret","stringData":{"password":"CANARY"}},1]}"#, "stringData"),
            ("Widget", r#"{"env":{"DB_PASSWORD":"CANARY","LEVEL":"debug"}}"#, "debug"),
            ("Widget", r#"{"env":{"DB":"postgres://app:CANARY@db"}}"#, "@db"),
            ("PodExecOptions", r#"{"command":["mysql","-pCANARY"],"container":"app"}"#, "mysql"),
            ("TokenRequest", r#"{"token":"CANARY","audience":"x"}"#, "audience"),
            ("Widget", r#"{"spec":{"password":"CANARY","user":"root"}}"#, "root"),
            ("Widget", r#"{"x":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"CANARY"}}}"#, "x"),
            ("Pod", r#"{"args":["--token=CANARY","--level=debug"]}"#, "--level=debug"),
            ("Pod", r#"{"url":"postgres://app:CANARY@db:5432/shop"}"#, "@db:5432/shop"),
            ("Pod", r#"{"x":"Authorization: Bearer CANARYCANARYCANARY"}"#, "Authorization: Bearer "),
            ("Pod", r#"{"x":"-----BEGIN RSA PRIVATE KEY-----\nCANARY\n-----END RSA PRIVATE KEY-----"}"#, "redacted"),
        ];
        for (kind, text, kept) in cases {
            let told = redact(kind, text);
            assert!(!told.contains("CANARY"), "{kind} {text}: {told}");
            assert!(told.contains(kept), "{kind} {text}: {told}");
            assert!(told.contains("<redacted hmac:"), "{kind} {text}: {told}");
        }
    }

    #[test]
    fn a_carried_secret_is_the_same_placeholder_as_the_secret_itself() {
        let p = placeholder("hunter2");
        for text in [
            r#"{"make":{"data":{"token":"aHVudGVyMg=="},"kind":"Secret"}}"#,
            r#"{"make":{"kind":"Secret","stringData":{"token":"hunter2"}}}"#,
        ] {
            assert!(redact("Widget", text).contains(&format!(r#"{{"token":"{p}"}}"#)), "{text}");
        }
        let reference = r#"{"ref":{"kind":"Secret","name":"db"}}"#;
        assert_eq!(redact("Widget", reference), reference);
    }

    #[test]
    fn the_copy_that_apply_keeps_is_taken_out_of_the_object() {
        let text =
            r#"{"metadata":{"name":"n","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"}}}"#;
        assert_eq!(redact("Deployment", text), r#"{"metadata":{"name":"n"}}"#);
    }

    #[test]
    fn what_a_policy_lists_is_redacted_whatever_it_is() {
        let text = r#"{"spec":{"pin":"1234","users":[{"id":7,"n":"a"},{"id":8,"n":"b"}],"tree":{"a":{"b":"leaf"}}}}"#;
        let paths: Vec<JsonPath> = ["$.spec.pin", "$.spec.users[*].id", "$.spec.tree", "$.nowhere[0].x"]
            .map(|path| path.parse().unwrap())
            .into();
        let raw = raw(text);
        let tree = Tree::read(&raw, Noise::Status, &Budget::default()).unwrap();
        let redacted = Redactor::new(RedactionKey::new([9; 32])).redact("Widget", tree, &paths).unwrap();
        let p = placeholder;
        assert_eq!(
            serde_json::to_string(&redacted).unwrap(),
            format!(
                r#"{{"spec":{{"pin":"{}","tree":{{"a":{{"b":"{}"}}}},"users":[{{"id":"{}","n":"a"}},{{"id":"{}","n":"b"}}]}}}}"#,
                p("1234"),
                p("leaf"),
                p("7"),
                p("8"),
            )
        );
    }

    #[test]
    fn names_of_secrets_are_no_secrets() {
        let text =
            r#"{"secretName":"tls","secretKeyRef":{"key":"password","name":"db"},"tokenExpirationSeconds":3607}"#;
        assert!(!redact("Pod", text).contains("redacted"));
    }
}
