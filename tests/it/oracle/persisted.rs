//! Which entries' writes came about, by the API server's own log, and what is held against that: outcomes that were
//! inferred, and objects that are made again from their recorded changes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use domain::diff::apply;
use domain::entry::{Change, ChangeOp, Detail};
use serde_json::Value;

use super::book::{Book, Event, without_noise};
use super::rows::Row;

/// Each entry of the webhook's, by its id: the event that names it, and whether its write is the one that came about.
pub struct Truth<'a> {
    pub of: BTreeMap<&'a str, (&'a Event, bool)>,
}

impl<'a> Truth<'a> {
    pub fn of(book: &'a Book, rows: &[Row]) -> anyhow::Result<Self> {
        let by_id: BTreeMap<&str, &Row> = rows.iter().map(|row| (row.id.as_str(), row)).collect();
        let mut of = BTreeMap::new();
        for event in book.events.iter().filter(|event| event.is_a_write()) {
            let replaced = |id: &str| by_id.get(id).map_or(0, |row| row.replaced());
            let order = |attempt: &'a super::book::Attempt| {
                (attempt.version.unwrap_or_else(|| replaced(&attempt.id)), attempt.id.as_str())
            };
            let last = event.attempts.iter().map(order).max();
            for attempt in event.attempts.iter().filter(|attempt| attempt.recorded) {
                ensure!(by_id.contains_key(attempt.id.as_str()), "{} of {} is not stored", attempt.id, event.audit_id);
                let all = event.verb == "deletecollection";
                let came_about = event.succeeded() && (all || Some(order(attempt)) == last);
                of.insert(attempt.id.as_str(), (event, came_about));
            }
        }
        Ok(Self { of })
    }

    /// Claims of writes that came about, but for those that nobody asked us of, for which there are not so many entries of the
    /// webhook's as there are to be: one of each that changed something, none of what did not.
    pub fn unaccounted(&self, book: &Book, rows: &[Row]) -> Vec<String> {
        let mut found: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
        for row in rows.iter().filter(|row| self.came_about(row)) {
            if let Some((event, _)) = self.of.get(row.id.as_str()) {
                found.entry(&event.audit_id).or_default().push(row);
            }
        }
        let mut unaccounted = Vec::new();
        for claim in book.claims() {
            let events: Vec<_> = claim.keys.iter().filter_map(|key| book.event(&key.audit_id)).collect();
            if events.iter().any(|event| !event.succeeded() || event.failed_open) {
                continue;
            }
            let fits = |row: &&&Row| claim.keys[0].name.as_ref().is_none_or(|name| *name == row.name);
            let rows = claim.keys.iter().filter_map(|key| found.get(key.audit_id.as_str())).flatten().filter(fits);
            let rows: Vec<_> = rows.map(|row| (&row.id, &row.action, &row.detail["summary"])).collect();
            if !claim.rows.contains(&rows.len()) {
                unaccounted
                    .push(format!("{:?} instead of {:?} ({}) for {:?}", rows, claim.rows, claim.why, claim.keys));
            }
        }
        unaccounted
    }

    fn came_about(&self, row: &Row) -> bool {
        self.of.get(row.id.as_str()).is_some_and(|(_, came_about)| *came_about)
    }
}

/// How well outcomes were inferred.
#[derive(Debug, Default)]
pub struct Inferred {
    /// Writes that came about.
    pub persisted: usize,
    pub confirmed: usize,
    /// Attempts that did not.
    pub lost: usize,
    pub rejected: usize,
    /// Told otherwise than the API server's log has it. Never any.
    pub wrong: Vec<String>,
    /// Writes that came about and are not confirmed, by what they are.
    pub open: BTreeMap<String, usize>,
}

impl Inferred {
    pub fn from(truth: &Truth<'_>, rows: &[Row]) -> Self {
        let mut inferred = Self::default();
        for row in rows.iter().filter(|row| row.source == "admission") {
            let Some((event, came_about)) = truth.of.get(row.id.as_str()) else {
                inferred.wrong.push(format!("no event names {} {} {}", row.action, row.resource, row.id));
                continue;
            };
            let told = row.outcome.as_str();
            if *came_about {
                inferred.persisted += 1;
                inferred.confirmed += usize::from(told == "confirmed");
                if told != "confirmed" {
                    *inferred.open.entry(format!("{} {} {told}", row.action, row.resource)).or_default() += 1;
                }
            } else {
                inferred.lost += 1;
                inferred.rejected += usize::from(told == "rejected" || told == "superseded");
            }
            let wrong = if *came_about { matches!(told, "rejected" | "superseded") } else { told == "confirmed" };
            if wrong {
                inferred.wrong.push(format!(
                    "{} {} {}/{} is {told} by {}, and the event says {} ({}), entry {}",
                    row.action, row.resource, row.namespace, row.name, row.evidence, event.code, event.audit_id, row.id
                ));
            }
        }
        inferred
    }

    pub fn share(&self) -> f64 {
        if self.persisted == 0 { 1.0 } else { self.confirmed as f64 / self.persisted as f64 }
    }
}

/// Objects as their recorded changes make them.
#[derive(Debug, Default)]
pub struct Replayed {
    pub objects: usize,
    pub changes: usize,
    /// Of which a write was not seen, so there is nothing to go on from.
    pub broken: usize,
}

/// Makes every object again: its first version from its creation, then change after change, each time compared with what the
/// API server answered, and in the end with what its deletion found. Secrets, whose values nobody kept, only the last.
pub fn replay(book: &Book, truth: &Truth<'_>, rows: &[Row]) -> anyhow::Result<Replayed> {
    let mut objects: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.source == "admission" && truth.came_about(row)) {
        objects.entry(&row.uid).or_default().push(row);
    }
    let unseen = book.events.iter().filter(|event| event.failed_open && event.succeeded());
    let broken: BTreeSet<_> = unseen.map(|event| (&event.resource, &event.namespace, &event.name)).collect();
    let mut replayed = Replayed::default();
    for (uid, mut rows) in objects {
        rows.sort_by_key(|row| (row.replaced(), row.id.clone()));
        let event = truth.of.get(rows[0].id.as_str()).map(|(event, _)| *event).context("an entry without its event")?;
        if broken.contains(&(&event.resource, &event.namespace, &event.name)) {
            replayed.broken += 1;
            continue;
        }
        let changes = one(truth, &rows)
            .with_context(|| format!("{} {}/{} ({uid})", rows[0].resource, rows[0].namespace, rows[0].name))?;
        replayed.objects += 1;
        replayed.changes += changes;
    }
    Ok(replayed)
}

fn one(truth: &Truth<'_>, rows: &[&Row]) -> anyhow::Result<usize> {
    let (first, rest) = rows.split_first().context("no entry")?;
    ensure!(first.action == "create", "its first entry is {} {}", first.action, first.id);
    let mut object = first.detail["after"].clone();
    let is_secret = first.resource == "Secret";
    let mut changes = 0;
    for row in std::iter::once(first).chain(rest) {
        let told = || format!("{} {}, entry {}", row.action, row.resource, row.id);
        match row.action.as_str() {
            "create" => {}
            "update" => {
                let detail: Detail = serde_json::from_value(row.detail.clone()).with_context(told)?;
                ensure!(detail.truncated.is_none() && detail.omitted.is_none(), "{} is not whole", told());
                let found = detail.changes.with_context(|| format!("{} tells no changes", told()))?;
                changes += found.len();
                object = if row.resource.ends_with("/scale") {
                    scaled(object, &found).with_context(told)?
                } else {
                    apply(object, &found).with_context(told)?
                };
            }
            "delete" => {
                same(&object, &row.detail["before"]).with_context(told)?;
                continue;
            }
            other => anyhow::bail!("an entry {other}"),
        }
        let (event, _) = truth.of.get(row.id.as_str()).context("an entry without its event")?;
        if let Some(shown) = Book::shown(event).filter(|_| !is_secret) {
            same(&object, &shown).with_context(|| format!("after {}", told()))?;
        }
    }
    Ok(changes)
}

/// A scale's changes are to another object, which says the same of one place.
fn scaled(mut object: Value, changes: &[Change]) -> anyhow::Result<Value> {
    for change in changes {
        ensure!(change.path == "/spec/replicas", "a scale changed {}", change.path);
        let replicas = match (&change.new, change.op) {
            (Some(new), ChangeOp::Add | ChangeOp::Replace) => serde_json::from_str(new.get())?,
            // A scale does not tell of none.
            _ => Value::from(0),
        };
        object["spec"]["replicas"] = replicas;
    }
    Ok(object)
}

fn same(made: &Value, shown: &Value) -> anyhow::Result<()> {
    let (made, shown) = (without_nothing(&without_noise(made)), without_nothing(&without_noise(shown)));
    ensure!(made == shown, "by its changes it is\n{made}\nand it was\n{shown}");
    Ok(())
}

/// What is empty is as good as absent: the API server shows now one, now the other.
fn without_nothing(value: &Value) -> Value {
    let is_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Array(elements) => elements.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(members) => {
            let members = members.iter().map(|(key, value)| (key.clone(), without_nothing(value)));
            Value::Object(members.filter(|(_, value)| !is_nothing(value)).collect())
        }
        Value::Array(elements) => Value::Array(elements.iter().map(without_nothing).collect()),
        value => value.clone(),
    }
}
