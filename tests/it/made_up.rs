//! Entries as nobody wrote them, and questions about them: random, from a seed.

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use domain::{Action, DetailJson, Entry, EntryId, Evidence, Outcome, RedactedEntry, Resource, Source};

/// SplitMix64: the same numbers for the same seed, on every machine.
pub struct Random(u64);

impl Random {
    /// Another one each time; `READING_SEED`, when this is built, brings one back.
    pub fn seed() -> u64 {
        option_env!("READING_SEED").map_or_else(|| RandomState::new().hash_one("seed"), |seed| seed.parse().unwrap())
    }

    pub fn from(seed: u64) -> Self {
        Self(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }

    /// Once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn one_of<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// As [`Self::one_of`], the first far more often than the last.
    fn mostly<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        let most = self.below(of.len()) + 1;
        of[self.below(most)]
    }
}

const USERS: [&str; 6] =
    ["alice", "al", "bob", "system:serviceaccount:kube-system:replicaset-controller", "o'hara \"%_\\", "зоя 🦀"];
const NAMESPACES: [&str; 6] = ["shop", "", "kube-system", "shop-2", "sho", "Shop"];
const NAMES: [&str; 6] = ["web", "web-", "w%b", "=1+1", "a\0b", "we_"];
const CLUSTERS: [&str; 3] = ["local", "east", ""];
/// Kind, group, subresource.
const KINDS: [(&str, &str, &str); 9] = [
    ("Deployment", "apps", ""),
    ("ConfigMap", "", ""),
    ("Deployment", "apps", "scale"),
    ("Deployment", "legacy.example.com", ""),
    ("Pod", "", ""),
    ("Pod", "", "eviction"),
    ("Deploy", "apps", ""),
    ("Deployments", "apps", "scale"),
    ("Secret", "", ""),
];

/// The days that entries lie in; the last of them has not ended for a while.
const DAYS: usize = 20;

/// An entry of some time in the last days, to the millisecond often the same as another's.
pub fn entry(random: &mut Random, now: DateTime<Utc>) -> RedactedEntry {
    let ago = if random.once_in(4) { random.below(50) } else { random.below(DAYS * 24 * 3_600_000) };
    let id = EntryId::at(now - TimeDelta::milliseconds(ago as i64), random.bits());
    RedactedEntry::sample(at(random, id))
}

pub fn at(random: &mut Random, id: EntryId) -> Entry {
    let kinds: Vec<_> = KINDS.iter().collect();
    let (kind, group, subresource) = random.mostly(&kinds);
    let (outcome, evidence) = match random.below(10) {
        0..4 => (Outcome::Unconfirmed, Evidence::Nothing),
        4..7 => (Outcome::Confirmed, Evidence::Successor),
        7 => (Outcome::Superseded, Evidence::Successor),
        _ => (Outcome::Rejected, Evidence::Audit),
    };
    let status_code = if outcome == Outcome::Rejected { 403 } else { [200, 201, 409][random.below(3)] };
    let mut name = random.mostly(&NAMES).to_owned();
    if random.once_in(10) {
        // Past what PostgreSQL's indexes hold of it.
        let _ = write!(name, "{:0>300}", random.below(3));
    }
    let summary = format!("={}, \"quoted\"\r\n,+{}", random.below(1_000), "x".repeat(random.below(200)));
    let detail = serde_json::json!({ "summary": summary }).to_string();
    Entry {
        id,
        user: random.mostly(&USERS).to_owned(),
        action: *random.mostly(&Action::ALL.iter().collect::<Vec<_>>()),
        resource: Resource::new(kind, subresource),
        resource_name: name,
        cluster: random.mostly(&CLUSTERS).to_owned(),
        namespace: random.mostly(&NAMESPACES).to_owned(),
        status_code,
        detail: DetailJson::parse(detail).unwrap(),
        ip: "10.0.0.7".to_owned(),
        outcome,
        evidence,
        source: Source::Admission,
        audit_id: "5c5bd3b2".to_owned(),
        real_user: String::new(),
        user_agent: "-kubectl".to_owned(),
        api_group: (*group).to_owned(),
        object_uid: String::new(),
        before_hash: None,
        after_hash: None,
        policy: String::new(),
    }
}

/// What REST is asked, and the same in SQL by someone who knows the table and not the product.
#[derive(Debug)]
pub struct Question {
    pub parameters: Vec<(&'static str, String)>,
    pub condition: String,
}

impl Question {
    /// Mostly about something that is there: its parts are taken from one of these entries.
    pub fn about(random: &mut Random, entries: &[RedactedEntry]) -> Self {
        let entry = &entries[random.below(entries.len())];
        let mut question = Self { parameters: Vec::new(), condition: "true".to_owned() };
        let few = random.below(6) + 1;
        for (parameter, column, value) in [
            ("user", r#""user""#, entry.user.as_str()),
            ("action", "action", entry.action.as_str()),
            ("cluster", "cluster", &entry.cluster),
            ("namespace", "namespace", &entry.namespace),
            ("name", "resource_name", &entry.resource_name),
        ] {
            if random.once_in(few) && !value.is_empty() {
                question.ask(parameter, value, &format!("{column} = {}", quoted(value)));
            }
        }
        if random.once_in(few) {
            question.ask_resource(random, &entry.resource, &entry.api_group);
        }
        for (parameter, comparison, sign) in [("from", ">=", -1), ("to", "<", 1)] {
            if random.once_in(few) {
                let apart = sign * random.below(5 * 24 * 3_600_000) as i64;
                let time = entry.id.timestamp() + TimeDelta::milliseconds(if random.once_in(3) { 0 } else { apart });
                question.ask_time(random, parameter, comparison, time);
            }
        }
        if random.once_in(few) {
            let (status, holds) = random.one_of(&[&("success", "< 400"), &("failure", ">= 400")]);
            question.ask("status", status, &format!("status_code {holds}"));
        }
        if random.once_in(few) {
            let outcome = entry.outcome.as_str();
            question.ask("outcome", outcome, &format!("outcome = {}", quoted(outcome)));
        } else {
            question.condition += " AND outcome <> 'superseded'";
        }
        question
    }

    fn ask(&mut self, parameter: &'static str, value: &str, condition: &str) {
        self.parameters.push((parameter, value.to_owned()));
        let _ = write!(self.condition, " AND {condition}");
    }

    /// `Kind`, `Kind.group`, `Kind/sub` and all three.
    fn ask_resource(&mut self, random: &mut Random, resource: &Resource, group: &str) {
        let (kind, subresource) = (resource.kind(), resource.subresource());
        let mut value = kind.to_owned();
        let mut condition = String::new();
        if random.once_in(2) {
            let _ = write!(value, ".{group}");
            let _ = write!(condition, "api_group = {} AND ", quoted(group));
        }
        if random.once_in(2) && !subresource.is_empty() {
            let _ = write!(value, "/{subresource}");
            let _ = write!(condition, "resource = {}", quoted(resource.as_str()));
        } else {
            let start = quoted(&format!("{kind}/"));
            let _ =
                write!(condition, "(resource = {} OR substr(resource, 1, {}) = {start})", quoted(kind), kind.len() + 1);
        }
        self.ask("resource", &value, &condition);
    }

    /// In one of the forms that are accepted.
    fn ask_time(&mut self, random: &mut Random, parameter: &'static str, comparison: &str, time: DateTime<Utc>) {
        let millis = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Millis, true);
        let whole = |format: &str| {
            let text = time.format(format).to_string();
            let start = text.get(..16).unwrap_or(&text);
            let parsed = format!("{start}{}:00Z", if start.len() == 10 { "T00:00" } else { "" });
            (text, parsed.parse().unwrap())
        };
        let (text, meant) = match random.below(4) {
            0 => whole("%Y-%m-%d"),
            1 => whole("%Y-%m-%dT%H:%M"),
            2 => (time.with_timezone(&chrono::FixedOffset::east_opt(7_200).unwrap()).to_rfc3339(), time),
            _ => (millis(time), time),
        };
        self.ask(parameter, &text, &format!(r#""timestamp" {comparison} {}"#, quoted(&millis(meant))));
    }
}

/// A text in SQL, as the databases hold it: without NUL.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''").replace('\0', "\u{2400}"))
}
