//! The program's table, as SQL shows it, and how it differs from what it is to hold.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, SqliteConnection};
use testkit::program::Program;

use super::book::{Claim, Key};
use super::workload::{AllSent, MARK, USERS};
use crate::house::Sql;

const COLUMNS: &str = "id, action, resource, namespace, resource_name, status_code, \"user\", real_user, ip, audit_id, \
                       outcome, evidence, source, object_uid, CAST(detail AS text)";
/// As many differences are told; one is enough to fail.
const TOLD_MAX: usize = 20;

/// An entry of the workload's.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub id: String,
    pub action: String,
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub code: u16,
    pub user: String,
    pub real_user: String,
    pub ip: String,
    pub audit_id: String,
    pub outcome: String,
    pub evidence: String,
    pub source: String,
    pub uid: String,
    pub detail: Value,
}

pub async fn connect(program: &Program) -> anyhow::Result<Sql> {
    let url = program.database_url();
    if url.starts_with("sqlite:") {
        Ok(Sql::Sqlite(SqliteConnection::connect(url).await?))
    } else {
        Ok(Sql::Postgres(PgConnection::connect(url).await?))
    }
}

/// All entries that the workload is the cause of, oldest first.
pub async fn all(program: &Program) -> anyhow::Result<Vec<Row>> {
    let sql = format!("SELECT {COLUMNS} FROM audit_entries ORDER BY id");
    let rows = connect(program).await?.rows(&sql).await?;
    let rows = rows.iter().map(|row| Row::read(row)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(rows.into_iter().filter(Row::is_of_the_workload).collect())
}

impl Row {
    fn read(row: &str) -> anyhow::Result<Self> {
        let mut cells = row.splitn(COLUMNS.split(',').count(), '|');
        let mut cell = || cells.next().map(str::to_owned).context("a row with fewer cells");
        Ok(Self {
            id: cell()?,
            action: cell()?,
            resource: cell()?,
            namespace: cell()?,
            name: cell()?,
            code: cell()?.parse()?,
            user: cell()?,
            real_user: cell()?,
            ip: cell()?,
            audit_id: cell()?,
            outcome: cell()?,
            evidence: cell()?,
            source: cell()?,
            uid: cell()?,
            detail: serde_json::from_str(&cell()?)?,
        })
    }

    /// What nobody else writes: by its audit ID, or where it is written and by whom.
    fn is_of_the_workload(&self) -> bool {
        let unnamed = self.audit_id.is_empty() && self.namespace.starts_with("oracle-");
        self.audit_id.starts_with(MARK) || USERS.contains(&self.user.as_str()) || unnamed
    }

    pub fn is_superseded(&self) -> bool {
        self.outcome == "superseded"
    }

    /// Nobody saw it happen.
    pub fn is_unseen(&self) -> bool {
        self.detail["system"]["seen"] == false
    }

    /// The version that it replaced; 0 where there was none.
    pub fn replaced(&self) -> u64 {
        let version = self.detail["request"]["prior"]["resourceVersion"].as_str();
        version.and_then(|version| version.parse().ok()).unwrap_or(0)
    }

    fn told(&self) -> String {
        format!(
            "{} {} {}/{} {} by {:?} (really {:?}) from {:?}, {}/{} from {}, event {:?}, entry {}",
            self.action,
            self.resource,
            self.namespace,
            self.name,
            self.code,
            self.user,
            self.real_user,
            self.ip,
            self.outcome,
            self.evidence,
            self.source,
            self.audit_id,
            self.id
        )
    }
}

impl Key {
    /// What of the row is not as it should be.
    fn differs(&self, row: &Row) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, wanted: Option<&str>, found: &str| {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
                differences.push(format!("{what} is {found:?}, not {wanted:?}"));
            }
        };
        let action = self.actions.iter().find(|action| **action == row.action).or(self.actions.first());
        compare("action", action.copied(), &row.action);
        compare("resource", self.resource.as_deref(), &row.resource);
        compare("namespace", self.namespace.as_deref(), &row.namespace);
        compare("name", self.name.as_deref(), &row.name);
        compare("code", Some(&self.code.to_string()), &row.code.to_string());
        compare("user", Some(&self.user), &row.user);
        compare("real user", Some(&self.real_user), &row.real_user);
        compare("ip", Some(&self.ip), &row.ip);
        let outcome = if self.code < 400 { "confirmed" } else { "rejected" };
        compare("outcome", Some(outcome), &row.outcome);
        compare("evidence", Some("audit"), &row.evidence);
        differences
    }

    fn told(&self) -> String {
        let open = |part: &Option<String>| part.clone().unwrap_or_else(|| "?".to_owned());
        format!(
            "{} {} {}/{} {} by {:?} (really {:?}), event {}",
            self.actions.join("|"),
            open(&self.resource),
            open(&self.namespace),
            open(&self.name),
            self.code,
            self.user,
            self.real_user,
            self.audit_id
        )
    }
}

/// How the rows differ from what is claimed: nothing is missing, nothing is there besides, nothing is twice, and each is as
/// the API server tells it.
pub fn differences(claims: &[Claim], rows: &[Row], sent: &AllSent) -> Vec<String> {
    let mut of_event: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, claim) in claims.iter().enumerate() {
        for key in &claim.keys {
            of_event.entry(&key.audit_id).or_default().push(at);
        }
    }
    let class = |id: &str| sent.get(id).map_or("?", |sent| sent.class);
    let mut found: Vec<Vec<&Row>> = claims.iter().map(|_| Vec::new()).collect();
    let mut differences = Vec::new();
    for row in rows.iter().filter(|row| !row.is_superseded()) {
        let candidates = of_event.get(row.audit_id.as_str()).into_iter().flatten();
        let keys = candidates.flat_map(|at| claims[*at].keys.iter().map(move |key| (*at, key)));
        let keys = keys.filter(|(_, key)| key.audit_id == row.audit_id);
        // The best fit; of the same fit, the one that has no row yet.
        let best = keys.map(|(at, key)| (key.differs(row), found[at].len(), at)).min_by_key(|(d, n, _)| (d.len(), *n));
        match best {
            None => differences.push(format!("nobody wrote: {} ({})", row.told(), class(&row.audit_id))),
            Some((differs, _, at)) => {
                if !differs.is_empty() {
                    differences.push(format!("{}: {} ({})", differs.join(", "), row.told(), class(&row.audit_id)));
                }
                found[at].push(row);
            }
        }
    }
    for (claim, rows) in claims.iter().zip(&found) {
        if claim.rows.contains(&rows.len()) {
            continue;
        }
        let keys: Vec<_> = claim.keys.iter().map(|key| format!("{} ({})", key.told(), class(&key.audit_id))).collect();
        let rows: Vec<_> = rows.iter().map(|row| row.told()).collect();
        let what = if rows.len() < *claim.rows.start() { "missing" } else { "too many" };
        differences.push(format!("{what}: {} {}: found {rows:?}", keys.join(" or "), claim.why));
    }
    differences
}

/// The first of them, and how many there are.
pub fn told(differences: &[String]) -> String {
    let first: Vec<_> = differences.iter().take(TOLD_MAX).map(String::as_str).collect();
    format!("{} differences:\n{}", differences.len(), first.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "oracle-1";

    fn key() -> Key {
        let text = |text: &str| Some(text.to_owned());
        let (resource, namespace, name) = (text("ConfigMap"), text("oracle-a"), text("a"));
        let (user, real_user, ip) = ("alice".to_owned(), String::new(), "127.0.0.1".to_owned());
        Key { audit_id: ID.to_owned(), actions: &["create"], resource, namespace, name, code: 201, user, real_user, ip }
    }

    fn row() -> Row {
        let cells =
            "i|create|ConfigMap|oracle-a|a|201|alice||127.0.0.1|oracle-1|confirmed|audit|admission|u|{\"a\":\"|\"}";
        Row::read(cells).unwrap()
    }

    fn claim(rows: std::ops::RangeInclusive<usize>) -> Claim {
        Claim { keys: vec![key()], rows, why: "" }
    }

    fn found(claim: Claim, rows: &[Row]) -> Vec<String> {
        differences(&[claim], rows, &AllSent::new())
    }

    #[test]
    fn what_is_as_claimed_does_not_differ_and_what_was_superseded_does_not_count() {
        let superseded = Row { outcome: "superseded".to_owned(), id: "j".to_owned(), ..row() };
        assert_eq!(found(claim(1..=1), &[row(), superseded]), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_twice_or_claimed_by_nobody_is_told() {
        let starts =
            |found: Vec<String>, with: &str| assert!(found.len() == 1 && found[0].starts_with(with), "{found:?}");
        starts(found(claim(1..=1), &[]), "missing: create ConfigMap oracle-a/a");
        starts(found(claim(1..=1), &[row(), row()]), "too many: create ConfigMap");
        starts(found(claim(0..=0), &[row()]), "too many: ");
        let other = Row { audit_id: "oracle-2".to_owned(), ..row() };
        assert_eq!(found(claim(1..=1), &[row(), other.clone()]).len(), 1);
        starts(found(claim(1..=1), &[row(), other]), "nobody wrote: create");
    }

    #[test]
    fn each_part_of_a_row_counts() {
        let edits: [fn(&mut Row); 10] = [
            |row| row.action.push('x'),
            |row| row.resource.push('x'),
            |row| row.namespace.push('x'),
            |row| row.name.push('x'),
            |row| row.code = 200,
            |row| row.user.push('x'),
            |row| row.real_user.push('x'),
            |row| row.ip.push('x'),
            |row| row.outcome = "unconfirmed".to_owned(),
            |row| row.evidence = "probe".to_owned(),
        ];
        for (at, edit) in edits.into_iter().enumerate() {
            let mut row = row();
            edit(&mut row);
            assert_eq!(found(claim(1..=1), &[row]).len(), 1, "{at}");
        }
    }
}
