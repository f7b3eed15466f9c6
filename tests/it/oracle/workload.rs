//! A random workload from a seed: what each client does is the same for the same seed, and how the clients meet is not.
//!
//! Each request names itself by an audit ID of the driver's own making, so that both books can be told which of its kinds
//! a request was of. What the API server answers is checked here already: a driver that does not do what it says proves
//! nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use reqwest::{Client, Identity, Method};
use serde_json::{Value, json};
use testkit::control_plane::{ADMINISTRATORS, ControlPlane};
use testkit::eventually;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::ground::{FULL, GROUP, HOT, NAMESPACES};
use crate::api::tls_client;
use crate::made_up::Random;

/// What every audit ID of the workload begins with.
pub const MARK: &str = "oracle-";
/// All who write, also in another's name.
pub const USERS: [&str; 4] = ["alice", "bob", "mallory", "ops"];
/// What a client does at once is a few requests.
const STEP_MAX: usize = 12;
const WITHIN: Duration = Duration::from_secs(500);
/// Of each client's objects so many are written to far more often than the others.
const FAVOURED: usize = 2;

/// Answers that a request may have.
type Codes = &'static [u16];

/// The whole of a run, as it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub requests: usize,
    pub clients: usize,
}

/// A request that was answered.
#[derive(Clone, Debug)]
pub struct Sent {
    pub class: &'static str,
    pub code: u16,
}

/// By their audit IDs.
pub type AllSent = BTreeMap<String, Sent>;

#[derive(Clone, Copy)]
enum Who {
    /// Alice or Bob, each client one of them.
    Own,
    /// May do everything.
    Ops,
    /// May do nothing.
    Mallory,
    /// Shows a token that nobody knows.
    Stranger,
}

/// Who is asked to be, beside who one is.
type As = Option<&'static str>;

#[derive(Clone, Copy)]
enum Form {
    Json,
    Merge,
    Strategic,
    Steps,
    Apply,
    /// No body.
    Nothing,
}

impl Form {
    fn content_type(self) -> &'static str {
        match self {
            Self::Json | Self::Nothing => "application/json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Steps => "application/json-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ConfigMap,
    Secret,
    Widget,
    Deployment,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Kind {
    fn collection(self, namespace: &str) -> String {
        match self {
            Self::ConfigMap => format!("/api/v1/namespaces/{namespace}/configmaps"),
            Self::Secret => format!("/api/v1/namespaces/{namespace}/secrets"),
            Self::Widget => format!("/apis/{GROUP}/v1/namespaces/{namespace}/widgets"),
            Self::Deployment => format!("/apis/apps/v1/namespaces/{namespace}/deployments"),
        }
    }

    fn object(self, metadata: Value, value: &str) -> Value {
        let version = match self {
            Self::ConfigMap | Self::Secret => "v1".to_owned(),
            Self::Widget => format!("{GROUP}/v1"),
            Self::Deployment => "apps/v1".to_owned(),
        };
        let mut object = json!({"apiVersion": version, "kind": self.to_string(), "metadata": metadata});
        match self {
            Self::ConfigMap => object["data"] = json!({"value": value}),
            Self::Secret => object["stringData"] = json!({"value": value}),
            Self::Widget => {
                object["spec"] = json!({"replicas": 1, "value": value, "sizes": [{"name": "a", "size": value}]})
            }
            Self::Deployment => {
                object["spec"] = json!({"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "app", "image": format!("app:{value}")}, {"name": "log", "image": "log:1"}]}}});
            }
        }
        object
    }

    /// A merge patch that gives it this value.
    fn patch(self, value: &str) -> Value {
        match self {
            Self::ConfigMap => json!({"data": {"value": value}}),
            Self::Secret => json!({"stringData": {"value": value}}),
            Self::Widget => json!({"spec": {"value": value}}),
            Self::Deployment => json!({"metadata": {"annotations": {"value": value}}}),
        }
    }
}

/// What one client made and nobody else writes to.
#[derive(Clone)]
struct Object {
    kind: Kind,
    path: String,
    name: String,
    /// As the last answer had it.
    last: Value,
}

/// Clients at work. They go on as far as they are allowed.
pub struct Workload {
    plan: Plan,
    clients: JoinSet<anyhow::Result<AllSent>>,
    allowed: watch::Sender<usize>,
    done: Arc<AtomicUsize>,
    start: Instant,
}

impl Workload {
    /// Waits for [`Self::allow`], but for the objects that all share, which are there when this comes back.
    pub async fn start(control_plane: &ControlPlane, plan: Plan) -> anyhow::Result<Self> {
        println!("seed {}, {} requests, {} clients", plan.seed, plan.requests, plan.clients);
        let (allowed, gate) = watch::channel(STEP_MAX * 2);
        let (taken, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let worker = |client: usize| -> anyhow::Result<Worker> {
            let random = Random::from(plan.seed.wrapping_add((client as u64) << 32));
            let own = if client.is_multiple_of(2) { "alice" } else { "bob" };
            Ok(Worker {
                mark: format!("{MARK}{:x}-{client}", plan.seed),
                client,
                random,
                own: caller(control_plane, Some((own, None)))?,
                ops: caller(control_plane, Some(("ops", Some(ADMINISTRATORS))))?,
                mallory: caller(control_plane, Some(("mallory", None)))?,
                stranger: caller(control_plane, None)?,
                url: control_plane.url(),
                gate: gate.clone(),
                taken: taken.clone(),
                done: done.clone(),
                objects: Vec::new(),
                made: 0,
                sent: AllSent::new(),
            })
        };
        let mut setter = worker(plan.clients)?;
        setter.share().await?;
        allowed.send_replace(0);
        taken.store(0, Ordering::Relaxed);
        done.store(0, Ordering::Relaxed);
        let mut clients = JoinSet::new();
        let shared = setter.sent;
        clients.spawn(async move { Ok(shared) });
        let each = plan.requests / plan.clients;
        for client in 0..plan.clients {
            let worker = worker(client)?;
            clients.spawn(worker.run(each));
        }
        Ok(Self { plan, clients, allowed, done, start: Instant::now() })
    }

    /// This share of the requests, and those before.
    pub fn allow(&self, share: f64) {
        let up_to = if share < 1.0 { (self.plan.requests as f64 * share) as usize } else { usize::MAX };
        self.allowed.send_replace(up_to);
    }

    /// Until this share of the requests was answered; of those that are allowed, all.
    pub async fn reaches(&self, share: f64) -> anyhow::Result<()> {
        let wanted = (self.plan.requests as f64 * share) as usize;
        eventually(WITHIN, || async {
            let done = self.done.load(Ordering::Relaxed);
            ensure!(done >= wanted, "{done} of {wanted} requests are done");
            Ok(())
        })
        .await
    }

    /// All that is left of it.
    pub async fn finish(mut self) -> anyhow::Result<AllSent> {
        self.allow(1.0);
        let mut all = AllSent::new();
        while let Some(sent) = self.clients.join_next().await {
            all.extend(sent??);
        }
        let took = self.start.elapsed();
        println!("{} requests in {took:.1?}: {:.0} a second", all.len(), all.len() as f64 / took.as_secs_f64());
        let mut classes: BTreeMap<_, usize> = BTreeMap::new();
        for sent in all.values() {
            *classes.entry((sent.class, sent.code)).or_default() += 1;
        }
        let told: Vec<_> = classes.iter().map(|((class, code), count)| format!("{class} {code}: {count}")).collect();
        println!("{}", told.join(", "));
        Ok(all)
    }
}

struct Worker {
    /// Of its audit IDs.
    mark: String,
    client: usize,
    random: Random,
    own: Client,
    ops: Client,
    mallory: Client,
    stranger: Client,
    url: String,
    gate: watch::Receiver<usize>,
    /// Requests begun and answered, of all clients.
    taken: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
    objects: Vec<Object>,
    made: usize,
    sent: AllSent,
}

fn caller(control_plane: &ControlPlane, user: Option<(&str, Option<&str>)>) -> anyhow::Result<Client> {
    let mut client = tls_client(&control_plane.authority().certificate())?.user_agent("oracle/1");
    if let Some((user, group)) = user {
        let identity = control_plane.authority().client(user, group)?;
        client = client.identity(Identity::from_pem(format!("{}{}", identity.key, identity.certificate).as_bytes())?);
    }
    Ok(client.build()?)
}

impl Worker {
    async fn run(mut self, requests: usize) -> anyhow::Result<AllSent> {
        while self.sent.len() < requests {
            self.step().await?;
        }
        Ok(self.sent)
    }

    /// What all write to.
    async fn share(&mut self) -> anyhow::Result<()> {
        for hot in 0..HOT {
            let object = Kind::ConfigMap.object(json!({"name": format!("hot-{hot}")}), "0");
            self.own(Method::POST, &Kind::ConfigMap.collection(NAMESPACES[0]), Form::Json, &object, "create", &[201])
                .await?;
        }
        for kind in [Kind::Deployment, Kind::Widget] {
            let object = kind.object(json!({"name": "hot"}), "0");
            self.own(Method::POST, &kind.collection(NAMESPACES[0]), Form::Json, &object, "create", &[201]).await?;
        }
        Ok(())
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        match self.random.below(100) {
            0..14 => self.create().await,
            14..18 => self.generate().await,
            18..30 => self.hot().await,
            30..42 => self.change().await,
            42..47 => self.stale().await,
            47..53 => self.apply().await,
            53..57 => self.scale().await,
            57..62 => self.delete().await,
            62..65 => self.delete_many().await,
            65..69 => self.dry_run().await,
            69..73 => self.over_quota().await,
            73..77 => self.refused().await,
            77..80 => self.without_rights().await,
            80..82 => self.stranger().await,
            82..85 => self.as_another().await,
            85..89 => self.no_op().await,
            89..94 => self.wrong().await,
            94..96 => self.flicker().await,
            96..98 => self.finalized().await,
            _ => self.of_no_interest().await,
        }
    }

    async fn create(&mut self) -> anyhow::Result<()> {
        let kind =
            [Kind::ConfigMap, Kind::ConfigMap, Kind::Secret, Kind::Widget, Kind::Deployment][self.random.below(5)];
        let (namespace, name, value) = (self.namespace(), self.name(), self.value());
        let collection = kind.collection(namespace);
        let object = kind.object(json!({"name": name}), &value);
        let last = self.own(Method::POST, &collection, Form::Json, &object, "create", &[201]).await?;
        self.objects.push(Object { kind, path: format!("{collection}/{name}"), name, last });
        Ok(())
    }

    async fn generate(&mut self) -> anyhow::Result<()> {
        let kind = Kind::ConfigMap;
        let (collection, value) = (kind.collection(self.namespace()), self.value());
        let object = kind.object(json!({"generateName": "generated-"}), &value);
        let last = self.own(Method::POST, &collection, Form::Json, &object, "generateName", &[201]).await?;
        let name = last["metadata"]["name"].as_str().context("no name was generated")?.to_owned();
        self.objects.push(Object { kind, path: format!("{collection}/{name}"), name, last });
        Ok(())
    }

    /// Parallel writers of one object: attempts inside a request, contents that were there before, writes that change nothing.
    async fn hot(&mut self) -> anyhow::Result<()> {
        const CODES: Codes = &[200, 409];
        let map = format!("{}/hot-{}", Kind::ConfigMap.collection(NAMESPACES[0]), self.random.below(HOT));
        let few = self.random.below(3).to_string();
        let value = self.value();
        let key = format!("c{}", self.client);
        match self.random.below(6) {
            0 => self.own(Method::PATCH, &map, Form::Merge, &json!({"data": {key: value}}), "hot merge", CODES).await,
            1 => self.own(Method::PATCH, &map, Form::Merge, &json!({"data": {"value": few}}), "hot same", CODES).await,
            2 => {
                let steps = json!([{"op": "add", "path": "/data/steps", "value": value}]);
                self.own(Method::PATCH, &map, Form::Steps, &steps, "hot steps", CODES).await
            }
            3 => {
                let name = map.rsplit('/').next().unwrap_or_default();
                let object = Kind::ConfigMap.object(json!({"name": name}), &few);
                self.own(Method::PUT, &map, Form::Json, &object, "hot put", CODES).await
            }
            4 => {
                let web = format!("{}/hot", Kind::Deployment.collection(NAMESPACES[0]));
                let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": format!("app:{few}")}]}}}});
                self.own(Method::PATCH, &web, Form::Strategic, &image, "hot strategic", CODES).await
            }
            _ => {
                let kind = [Kind::Deployment, Kind::Widget][self.random.below(2)];
                let scale = format!("{}/hot/scale", kind.collection(NAMESPACES[0]));
                let replicas = json!({"spec": {"replicas": self.random.below(3)}});
                self.own(Method::PATCH, &scale, Form::Merge, &replicas, "hot scale", CODES).await
            }
        }?;
        Ok(())
    }

    /// An object of one's own, in each of the ways.
    async fn change(&mut self) -> anyhow::Result<()> {
        let Some(at) = self.pick(|_| true) else { return self.create().await };
        let (Object { kind, path, name, mut last }, value) = (self.objects[at].clone(), self.value());
        let last = match (self.random.below(4), kind) {
            (0, _) => {
                last["metadata"]["labels"] = json!({"value": value});
                self.own(Method::PUT, &path, Form::Json, &last, "put", &[200]).await?
            }
            (1, _) => self.own(Method::PATCH, &path, Form::Merge, &kind.patch(&value), "merge", &[200]).await?,
            (2, Kind::Deployment) => {
                let patch = json!({"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "proxy"}, {"name": "app"}],
                    "containers": [{"name": "proxy", "image": format!("proxy:{value}")}]}}}});
                self.own(Method::PATCH, &path, Form::Strategic, &patch, "strategic", &[200]).await?
            }
            (2, Kind::Widget) => {
                let sizes = json!({"spec": {"sizes": [{"name": "b", "size": value}, {"name": "a", "size": "1"}]}});
                self.own(Method::PATCH, &path, Form::Merge, &sizes, "merge", &[200]).await?
            }
            (2, _) => self.own(Method::PATCH, &path, Form::Strategic, &kind.patch(&value), "strategic", &[200]).await?,
            (_, _) => {
                let steps = json!([{"op": "test", "path": "/metadata/name", "value": name},
                    {"op": "add", "path": "/metadata/annotations", "value": {"value": value, "a.b/c_d": "="}}]);
                self.own(Method::PATCH, &path, Form::Steps, &steps, "steps", &[200]).await?
            }
        };
        self.objects[at].last = last;
        Ok(())
    }

    async fn stale(&mut self) -> anyhow::Result<()> {
        let Some(at) = self.pick(|_| true) else { return self.create().await };
        let (Object { kind, path, mut last, .. }, value) = (self.objects[at].clone(), self.unique());
        let now = self.own(Method::PATCH, &path, Form::Merge, &kind.patch(&value), "merge", &[200]).await?;
        self.objects[at].last = now;
        last["metadata"]["labels"] = json!({"value": "stale"});
        self.own(Method::PUT, &path, Form::Json, &last, "stale put", &[409]).await?;
        let version = &last["metadata"]["resourceVersion"];
        let patch = json!({"metadata": {"resourceVersion": version, "labels": {"value": "stale"}}});
        self.own(Method::PATCH, &path, Form::Merge, &patch, "stale merge", &[409]).await?;
        Ok(())
    }

    async fn apply(&mut self) -> anyhow::Result<()> {
        let kind = [Kind::ConfigMap, Kind::Widget, Kind::Deployment][self.random.below(3)];
        let (name, value) = (self.name(), self.value());
        let path = format!("{}/{name}", kind.collection(self.namespace()));
        let (ours, theirs) = (format!("{path}?fieldManager=one"), format!("{path}?fieldManager=two"));
        let object = |value: &str| kind.object(json!({"name": name}), value);
        self.own(Method::PATCH, &ours, Form::Apply, &object(&value), "apply anew", &[201]).await?;
        let other = self.value();
        let third = format!("{other}-x");
        self.own(Method::PATCH, &ours, Form::Apply, &object(&other), "apply", &[200]).await?;
        self.own(Method::PATCH, &theirs, Form::Apply, &object(&third), "apply in conflict", &[409]).await?;
        // Another owner of the same fields: only noise differs.
        let last = self.own(Method::PATCH, &theirs, Form::Apply, &object(&other), "apply the same", &[200]).await?;
        self.objects.push(Object { kind, path, name, last });
        Ok(())
    }

    async fn scale(&mut self) -> anyhow::Result<()> {
        let scales = |object: &Object| matches!(object.kind, Kind::Deployment | Kind::Widget);
        let Some(at) = self.pick(scales) else { return self.create().await };
        let Object { path, kind, .. } = self.objects[at].clone();
        let replicas = self.random.below(5);
        let patch = json!({"spec": {"replicas": replicas}});
        let scale = format!("{path}/scale");
        let mut scaled = self.own(Method::PATCH, &scale, Form::Merge, &patch, "scale", &[200]).await?;
        scaled["spec"]["replicas"] = json!(replicas + 1);
        self.own(Method::PUT, &scale, Form::Json, &scaled, "scale", &[200]).await?;
        let value = self.value();
        self.objects[at].last =
            self.own(Method::PATCH, &path, Form::Merge, &kind.patch(&value), "merge", &[200]).await?;
        Ok(())
    }

    async fn delete(&mut self) -> anyhow::Result<()> {
        let Some(at) = self.pick(|_| true) else { return self.create().await };
        let Object { path, .. } = self.objects.swap_remove(at);
        self.own(Method::DELETE, &path, Form::Json, &json!({}), "delete", &[200]).await?;
        self.own(Method::DELETE, &path, Form::Json, &json!({}), "delete nothing", &[404]).await?;
        Ok(())
    }

    async fn delete_many(&mut self) -> anyhow::Result<()> {
        let kind = [Kind::ConfigMap, Kind::Secret, Kind::Widget][self.random.below(3)];
        let (batch, collection) = (self.name(), kind.collection(self.namespace()));
        for _ in 0..self.random.below(4) {
            let (name, value) = (self.name(), self.value());
            let object = kind.object(json!({"name": name, "labels": {"batch": batch}}), &value);
            self.own(Method::POST, &collection, Form::Json, &object, "create", &[201]).await?;
        }
        let many = format!("{collection}?labelSelector=batch%3D{batch}");
        self.own(Method::DELETE, &many, Form::Json, &json!({"dryRun": ["All"]}), "dry run", &[200]).await?;
        self.own(Method::DELETE, &many, Form::Json, &json!({}), "delete many", &[200]).await?;
        Ok(())
    }

    async fn dry_run(&mut self) -> anyhow::Result<()> {
        let (kind, name) = (Kind::ConfigMap, self.name());
        let collection = format!("{}?dryRun=All", kind.collection(self.namespace()));
        let object = kind.object(json!({"name": name}), "dry");
        self.own(Method::POST, &collection, Form::Json, &object, "dry run", &[201]).await?;
        let Some(at) = self.pick(|_| true) else { return Ok(()) };
        let Object { path, kind, .. } = self.objects[at].clone();
        let dry = format!("{path}?dryRun=All");
        self.own(Method::PATCH, &dry, Form::Merge, &kind.patch("dry"), "dry run", &[200]).await?;
        self.own(Method::DELETE, &dry, Form::Nothing, &Value::Null, "dry run", &[200]).await?;
        // As kubectl says it: in the body, of which an event at the level Metadata tells nothing.
        self.own(Method::DELETE, &path, Form::Json, &json!({"dryRun": ["All"]}), "dry run", &[200]).await?;
        // Of a deletion with a body the API server reads nothing else: this one is none.
        if self.random.once_in(2) {
            self.objects.swap_remove(at);
            self.own(Method::DELETE, &dry, Form::Json, &json!({}), "no dry run", &[200]).await?;
        }
        Ok(())
    }

    async fn over_quota(&mut self) -> anyhow::Result<()> {
        let (kind, value) = (Kind::ConfigMap, self.value());
        let metadata =
            if self.random.once_in(2) { json!({"generateName": "full-"}) } else { json!({"name": self.name()}) };
        let object = kind.object(metadata, &value);
        self.own(Method::POST, &kind.collection(FULL), Form::Json, &object, "quota", &[201, 403, 409]).await?;
        Ok(())
    }

    async fn refused(&mut self) -> anyhow::Result<()> {
        let codes: [(&str, Codes); 4] = [("400", &[400]), ("403", &[403]), ("422", &[422]), ("451", &[451])];
        let (code, codes) = codes[self.random.below(4)];
        let (kind, own) = (Kind::ConfigMap, self.name());
        let (collection, name) = (kind.collection(self.namespace()), format!("no-{code}-{own}"));
        match self.random.below(3) {
            0 => {
                let object = kind.object(json!({"generateName": format!("no-{code}-")}), "x");
                self.own(Method::POST, &collection, Form::Json, &object, "refused", codes).await?;
            }
            1 => {
                let object = kind.object(json!({"name": name}), "x");
                let path = format!("{collection}/{name}?fieldManager=one");
                self.own(Method::PATCH, &path, Form::Apply, &object, "refused apply", codes).await?;
            }
            _ => {
                let object = kind.object(json!({"name": name}), "x");
                self.own(Method::POST, &collection, Form::Json, &object, "refused", codes).await?;
            }
        }
        Ok(())
    }

    async fn without_rights(&mut self) -> anyhow::Result<()> {
        let kind = [Kind::ConfigMap, Kind::Secret, Kind::Widget][self.random.below(3)];
        let (collection, name) = (kind.collection(self.namespace()), self.name());
        let object = kind.object(json!({"name": name}), "x");
        let path = format!("{collection}/{name}");
        match self.random.below(3) {
            0 => self.by(Who::Mallory, None, Method::POST, &collection, Form::Json, &object, "no right", &[403]).await,
            1 => self.by(Who::Mallory, None, Method::PATCH, &path, Form::Merge, &object, "no right", &[403]).await,
            _ => self.by(Who::Mallory, None, Method::DELETE, &path, Form::Json, &json!({}), "no right", &[403]).await,
        }?;
        Ok(())
    }

    async fn stranger(&mut self) -> anyhow::Result<()> {
        let (kind, name) = (Kind::ConfigMap, self.name());
        let object = kind.object(json!({"name": name}), "x");
        let collection = kind.collection(self.namespace());
        self.by(Who::Stranger, None, Method::POST, &collection, Form::Json, &object, "bad token", &[401]).await?;
        Ok(())
    }

    async fn as_another(&mut self) -> anyhow::Result<()> {
        let (kind, name, value) = (Kind::ConfigMap, self.name(), self.value());
        let object = kind.object(json!({"name": name}), &value);
        let collection = kind.collection(self.namespace());
        let (who, whom, codes): (Who, As, Codes) = match self.random.below(4) {
            0 => (Who::Ops, Some("mallory"), &[403]),
            1 => (Who::Own, Some("ops"), &[403]),
            _ => (Who::Ops, Some("alice"), &[201]),
        };
        self.by(who, whom, Method::POST, &collection, Form::Json, &object, "as another", codes).await?;
        Ok(())
    }

    /// What is there already, in each of the ways.
    async fn no_op(&mut self) -> anyhow::Result<()> {
        let Some(at) = self.pick(|object| object.kind == Kind::ConfigMap) else { return self.create().await };
        let Object { path, mut last, .. } = self.objects[at].clone();
        let patch = json!({"data": last["data"]});
        self.own(Method::PATCH, &path, Form::Merge, &patch, "no change", &[200]).await?;
        self.own(Method::PATCH, &path, Form::Strategic, &patch, "no change", &[200]).await?;
        self.own(Method::PUT, &path, Form::Json, &last, "no change", &[200]).await?;
        if let Some(metadata) = last["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
            self.own(Method::PUT, &path, Form::Json, &last, "no change", &[200]).await?;
        }
        Ok(())
    }

    /// What the API server refuses by itself.
    async fn wrong(&mut self) -> anyhow::Result<()> {
        let (kind, name) = (Kind::ConfigMap, self.name());
        let collection = kind.collection(self.namespace());
        let path = format!("{collection}/{name}");
        match self.random.below(8) {
            0 => {
                let mut object = kind.object(json!({"name": name}), "x");
                object["data"] = json!({"not a key": "x"});
                self.own(Method::POST, &collection, Form::Json, &object, "invalid", &[422]).await
            }
            1 => {
                let object = kind.object(json!({"name": "Not_A_Name"}), "x");
                self.own(Method::POST, &collection, Form::Json, &object, "invalid", &[422]).await
            }
            2 => self.own(Method::PATCH, &path, Form::Merge, &kind.patch("x"), "not there", &[404]).await,
            3 => {
                self.own(Method::PUT, &path, Form::Json, &kind.object(json!({"name": name}), "x"), "not there", &[404])
                    .await
            }
            4 => self.own(Method::DELETE, &path, Form::Json, &json!({}), "not there", &[404]).await,
            5 => self.own(Method::POST, &collection, Form::Json, &json!("no object"), "malformed", &[400]).await,
            6 => {
                let widgets = format!("{}/{name}", Kind::Widget.collection(NAMESPACES[0]));
                self.own(Method::PATCH, &widgets, Form::Strategic, &json!({"spec": {}}), "unsupported", &[415, 404])
                    .await
            }
            _ => match self.pick(|object| object.kind == kind) {
                Some(at) => {
                    let Object { path, name, .. } = self.objects[at].clone();
                    let collection = path.rsplit_once('/').map_or("", |(collection, _)| collection);
                    let object = kind.object(json!({"name": name}), "x");
                    self.own(Method::POST, collection, Form::Json, &object, "there already", &[409]).await?;
                    let steps = json!([{"op": "test", "path": "/metadata/name", "value": "another"},
                        {"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}]);
                    self.own(Method::PATCH, &path, Form::Steps, &steps, "steps refused", &[422, 409, 400]).await
                }
                None => return self.create().await,
            },
        }?;
        Ok(())
    }

    /// Made and deleted by all at once, under the same names.
    async fn flicker(&mut self) -> anyhow::Result<()> {
        let (kind, name, value) = (Kind::ConfigMap, format!("flicker-{}", self.random.below(2)), self.value());
        let collection = kind.collection(NAMESPACES[1]);
        let object = kind.object(json!({"name": name}), &value);
        let path = format!("{collection}/{name}");
        self.own(Method::POST, &collection, Form::Json, &object, "flicker", &[201, 409]).await?;
        self.own(Method::PATCH, &path, Form::Merge, &kind.patch(&value), "flicker", &[200, 404, 409]).await?;
        self.own(Method::DELETE, &path, Form::Json, &json!({}), "flicker", &[200, 404, 409]).await?;
        Ok(())
    }

    /// An object that stays for a while after it was deleted.
    async fn finalized(&mut self) -> anyhow::Result<()> {
        let (kind, name, value) = (Kind::ConfigMap, self.name(), self.value());
        let collection = kind.collection(self.namespace());
        let path = format!("{collection}/{name}");
        let object = kind.object(json!({"name": name, "finalizers": ["oracle.example/wait"]}), &value);
        self.own(Method::POST, &collection, Form::Json, &object, "create", &[201]).await?;
        self.own(Method::DELETE, &path, Form::Json, &json!({}), "delete for later", &[200]).await?;
        self.own(Method::PATCH, &path, Form::Merge, &kind.patch("late"), "merge", &[200]).await?;
        self.own(Method::PATCH, &path, Form::Merge, &json!({"metadata": {"finalizers": null}}), "let go", &[200])
            .await?;
        Ok(())
    }

    /// What is never recorded: the registration leaves it out.
    async fn of_no_interest(&mut self) -> anyhow::Result<()> {
        if let (true, Some(at)) = (self.random.once_in(2), self.pick(|object| object.kind == Kind::Widget)) {
            let path = format!("{}/status", self.objects[at].path);
            let status = json!({"status": {"replicas": self.random.below(9)}});
            self.own(Method::PATCH, &path, Form::Merge, &status, "left out", &[200]).await?;
            let (path, value) = (self.objects[at].path.clone(), self.value());
            let patch = Kind::Widget.patch(&value);
            self.objects[at].last = self.own(Method::PATCH, &path, Form::Merge, &patch, "merge", &[200]).await?;
            return Ok(());
        }
        let (name, namespace) = (self.name(), self.namespace());
        let lease =
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {}});
        let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        self.own(Method::POST, &leases, Form::Json, &lease, "left out", &[201]).await?;
        Ok(())
    }

    async fn own(
        &mut self,
        method: Method,
        path: &str,
        form: Form,
        body: &Value,
        class: &'static str,
        codes: Codes,
    ) -> anyhow::Result<Value> {
        self.by(Who::Own, None, method, path, form, body, class, codes).await
    }

    #[expect(clippy::too_many_arguments, reason = "a request has so many parts, and each is named where it is given")]
    async fn by(
        &mut self,
        who: Who,
        whom: As,
        method: Method,
        path: &str,
        form: Form,
        body: &Value,
        class: &'static str,
        codes: Codes,
    ) -> anyhow::Result<Value> {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        self.gate.wait_for(|allowed| number < *allowed).await.context("nobody allows any more")?;
        let id = format!("{}-{}", self.mark, self.sent.len());
        let client = match who {
            Who::Own => &self.own,
            Who::Ops => &self.ops,
            Who::Mallory => &self.mallory,
            Who::Stranger => &self.stranger,
        };
        let mut request = client.request(method.clone(), format!("{}{path}", self.url)).header("audit-id", &id);
        request = request.header("content-type", form.content_type()).header("x-forwarded-for", "203.0.113.7");
        if let Some(whom) = whom {
            request = request.header("impersonate-user", whom);
        }
        if matches!(who, Who::Stranger) {
            request = request.bearer_auth("not-a-token");
        }
        let body = if matches!(form, Form::Nothing) { String::new() } else { body.to_string() };
        let response = request.body(body).send().await.with_context(|| format!("{method} {path}"))?;
        let code = response.status().as_u16();
        let text = response.text().await?;
        self.done.fetch_add(1, Ordering::Relaxed);
        ensure!(codes.contains(&code), "{class}, {id}: {method} {path} answers {code}, not {codes:?}: {text}");
        self.sent.insert(id, Sent { class, code });
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    fn pick(&mut self, wanted: impl Fn(&Object) -> bool) -> Option<usize> {
        let mut fitting: Vec<_> = (0..self.objects.len()).filter(|at| wanted(&self.objects[*at])).collect();
        // Some are to have a long history.
        if self.random.once_in(2) {
            fitting.truncate(FAVOURED);
        }
        (!fitting.is_empty()).then(|| fitting[self.random.below(fitting.len())])
    }

    fn namespace(&mut self) -> &'static str {
        NAMESPACES[self.random.below(NAMESPACES.len())]
    }

    /// Of no other object.
    fn name(&mut self) -> String {
        self.made += 1;
        format!("c{}-{}", self.client, self.made)
    }

    /// Mostly of no other write.
    fn value(&mut self) -> String {
        if self.random.once_in(5) { self.random.below(3).to_string() } else { self.unique() }
    }

    fn unique(&mut self) -> String {
        self.made += 1;
        format!("{}-{}", self.client, self.made)
    }
}
