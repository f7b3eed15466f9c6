//! The one place where a question becomes SQL, for both databases. Values are bound, never written.

use domain::EntryId;
use domain::query::{Filter, ResourceFilter, Scope, Status};
use domain::text::storable;
use sqlx::QueryBuilder;

use crate::dialect::{Bind, Dialect};

/// What the reader may see, of what is asked for. Each condition begins with `AND`.
pub(crate) fn push_conditions<D: Dialect>(sql: &mut QueryBuilder<D>, scope: &Scope, filter: &Filter) {
    push_scope(sql, scope);
    push_filter(sql, filter);
}

pub(crate) fn push_scope<D: Dialect>(_: &mut QueryBuilder<D>, scope: &Scope) {
    match scope {
        Scope::Everything => {}
    }
}

fn push_filter<D: Dialect>(sql: &mut QueryBuilder<D>, filter: &Filter) {
    push_keyed(sql, D::USER_KEY, r#""user""#, filter.user.as_deref());
    push_keyed(sql, D::NAMESPACE_KEY, "namespace", filter.namespace.as_deref());
    push_keyed(sql, D::NAME_KEY, "resource_name", filter.name.as_deref());
    if let Some(resource) = &filter.resource {
        push_resource(sql, resource);
    }
    push_equal(sql, "action", filter.action.map(|action| action.as_str()));
    push_equal(sql, "cluster", filter.cluster.as_deref());
    match filter.status {
        // Literals, or PostgreSQL would not know that the index of the failures serves.
        Some(Status::Success) => drop(sql.push(" AND status_code < 400")),
        Some(Status::Failure) => drop(sql.push(" AND status_code >= 400")),
        None => {}
    }
    match filter.outcome {
        Some(outcome) => push_equal(sql, "outcome", Some(outcome.as_str())),
        None => drop(sql.push(" AND outcome <> 'superseded'")),
    }
    push_equal(sql, "evidence", filter.evidence.map(|evidence| evidence.as_str()));
    if let Some(from) = filter.from {
        push_id(sql, ">=", EntryId::not_before(from));
    }
    if let Some(to) = filter.to {
        push_id(sql, "<", EntryId::not_before(to));
    }
}

/// Equality without patterns: there is no wildcard to leak.
fn push_resource<D: Dialect>(sql: &mut QueryBuilder<D>, filter: &ResourceFilter) {
    push_keyed(sql, D::KIND_KEY, D::KIND, Some(&filter.kind));
    push_equal(sql, "api_group", filter.group.as_deref());
    if let Some(subresource) = &filter.subresource {
        push_equal(sql, "resource", Some(&format!("{}/{subresource}", filter.kind)));
    }
}

/// `key` is what an index holds, the beginning of `column`. A value shorter than the key equals it only in whole; a
/// longer one has to be compared to its end.
pub(crate) fn push_keyed<D: Dialect>(sql: &mut QueryBuilder<D>, key: &str, column: &str, value: Option<&str>) {
    let Some(value) = value else { return };
    let value = storable(value);
    match value.char_indices().nth(D::KEY_CHARS - 1) {
        None => push_equal(sql, key, Some(&value)),
        Some((last, char)) => {
            push_equal(sql, key, value.get(..last + char.len_utf8()));
            push_equal(sql, column, Some(&value));
        }
    }
}

pub(crate) fn push_equal<D: Dialect>(sql: &mut QueryBuilder<D>, column: &str, value: Option<&str>) {
    if let Some(value) = value {
        sql.push(" AND ").push(column).push(" = ");
        D::push(sql, Bind::Text(storable(value).into_owned()));
    }
}

pub(crate) fn push_id<D: Dialect>(sql: &mut QueryBuilder<D>, comparison: &'static str, id: EntryId) {
    sql.push(" AND id ").push(comparison).push(" ");
    D::push(sql, Bind::Id(id));
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fmt::Write as _;

    use domain::query::{Cursor, Direction};
    use sqlx::{Postgres, Sqlite};

    use super::*;
    use crate::reader::walk;
    use crate::row::SELECT;

    const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/goldens");

    /// The version of PostgreSQL whose plans were reviewed: Debian 12's.
    pub(crate) const PLANS_OF: u32 = 15;

    fn filter(parameters: &[(&str, &str)]) -> Filter {
        let mut filter = Filter::default();
        for (parameter, value) in parameters {
            filter.set(parameter, value).unwrap();
        }
        filter
    }

    /// A name, what is asked for, and the values that are bound, as psql reads them.
    fn cases() -> Vec<(&'static str, Filter, Option<Direction>, Vec<&'static str>)> {
        const ID: &str = "'019ca9c4-bec0-7000-8000-000000000000'";
        let long = "a".repeat(300);
        vec![
            ("all", Filter::default(), None, vec![]),
            ("older", Filter::default(), Some(Direction::Older), vec![ID]),
            ("newer", Filter::default(), Some(Direction::Newer), vec![ID]),
            ("user", filter(&[("user", "user-7")]), None, vec!["'user-7'"]),
            ("long user", filter(&[("user", &long)]), None, vec!["'long'", "'long'"]),
            ("action", filter(&[("action", "delete")]), None, vec!["'delete'"]),
            ("kind", filter(&[("resource", "Kind7")]), None, vec!["'Kind7'"]),
            ("kind and group", filter(&[("resource", "Kind7.apps")]), None, vec!["'Kind7'", "'apps'"]),
            ("subresource", filter(&[("resource", "Kind7/scale")]), None, vec!["'Kind7'", "'Kind7/scale'"]),
            ("cluster", filter(&[("cluster", "local")]), None, vec!["'local'"]),
            ("namespace", filter(&[("namespace", "ns-7")]), None, vec!["'ns-7'"]),
            ("name", filter(&[("name", "name-7")]), None, vec!["'name-7'"]),
            ("object", filter(&[("namespace", "ns-7"), ("name", "name-7")]), None, vec!["'ns-7'", "'name-7'"]),
            ("time", filter(&[("from", "2026-03-01"), ("to", "2026-03-02")]), None, vec![ID, ID]),
            ("success", filter(&[("status", "success")]), None, vec![]),
            ("failure", filter(&[("status", "failure")]), None, vec![]),
            ("superseded", filter(&[("outcome", "superseded")]), None, vec!["'superseded'"]),
            ("evidence", filter(&[("evidence", "probe")]), None, vec!["'probe'"]),
        ]
    }

    fn sql<D: Dialect>(filter: &Filter, direction: Option<Direction>) -> String {
        let id = EntryId::floor("2026-03-01T12:00:00Z".parse().unwrap());
        let cursor = direction.map(|direction| Cursor { direction, id });
        walk::<D>(&Scope::Everything, filter, cursor, 51).into_string()
    }

    #[test]
    fn the_statement_of_every_filter_is_reviewed() {
        let mut text = format!("-- Each begins with\n{SELECT}\n");
        for (name, filter, direction, _) in cases() {
            let sqlite = sql::<Sqlite>(&filter, direction);
            let postgres = sql::<Postgres>(&filter, direction);
            let [sqlite, postgres] = [&sqlite, &postgres].map(|sql| sql.strip_prefix(SELECT).unwrap().trim_start());
            writeln!(text, "\n-- {name}\n-- sqlite\n{sqlite}\n-- postgres\n{postgres}").unwrap();
        }
        testkit::golden(format!("{GOLDENS}/filters.sql"), &text);
    }

    #[test]
    fn a_value_is_never_in_the_text() {
        let value = "x' OR 1=1 --";
        for parameter in ["user", "cluster", "namespace", "name", "resource"] {
            let filter = filter(&[(parameter, value)]);
            assert!(!sql::<Sqlite>(&filter, None).contains(value), "{parameter}");
            assert!(!sql::<Postgres>(&filter, None).contains(value), "{parameter}");
        }
    }

    /// A database of two days of 20,000 entries; every two-hundredth is what a filter looks for.
    pub(crate) async fn filled(server: &testkit::postgres::Postgres) -> String {
        let url = server.create_database().await.unwrap();
        let store = crate::open(&url).unwrap();
        store.migrate().await.unwrap();
        store.prepare("2026-03-01T00:00:00Z".parse().unwrap()).await.unwrap();
        let database = url.rsplit('/').next().unwrap().to_owned();
        let fill = r#"
            DROP TABLE audit_entries_20260303, audit_entries_20260304, audit_entries_20260305, audit_entries_20260306,
                audit_entries_20260307, audit_entries_20260308;
            INSERT INTO audit_entries
            SELECT (lpad(to_hex(1772323200000 + day * 86400000 + n * 4000), 12, '0') || '70008000' || lpad(n::text, 12, '0'))::uuid,
                   'user-' || n % 200, 'update', 'Kind' || n % 200 || '/scale', 'name-' || n % 200, 'local', 'ns-' || n % 200,
                   CASE WHEN n % 200 = 0 THEN 403 ELSE 200 END, '{}', '', now(), 'unconfirmed', 'none', 'admission',
                   '', '', '', 'apps', '', NULL, NULL, '', nextval('audit_entries_position')
            FROM generate_series(0, 1) AS day, generate_series(1, 20000) AS n;
            ANALYZE audit_entries"#;
        server.sql(&database, fill).await.unwrap();
        database
    }

    /// What PostgreSQL makes of them: an index for each, and sorting only where it expects next to nothing to sort.
    #[tokio::test]
    async fn the_plan_of_every_filter_is_reviewed() {
        let server = testkit::postgres::shared().await;
        let database = filled(server).await;
        let mut text = String::new();
        for (name, filter, direction, values) in cases() {
            let statement = sql::<Postgres>(&filter, direction);
            let values = if values.is_empty() { String::new() } else { format!("({})", values.join(", ")) };
            let explain = format!(
                "SET plan_cache_mode = force_generic_plan; PREPARE page AS {statement}; \
                 EXPLAIN (COSTS OFF) EXECUTE page{values}"
            );
            let plan = server.sql(&database, &explain).await.unwrap();
            writeln!(text, "-- {name}\n{plan}\n").unwrap();
            assert!(!plan.contains("Seq Scan"), "{name}\n{plan}");
        }
        // Another version says the same in other words.
        if server.sql(&database, "SHOW server_version_num").await.unwrap().starts_with(&PLANS_OF.to_string()) {
            testkit::golden(format!("{GOLDENS}/plans-{PLANS_OF}.txt"), &text);
        }
    }
}
