//! Alerts, dashboards and runbooks ask for what there is: metrics that the program exports, rows that its database has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use testkit::tools::{self, PROMTOOL};
use testkit::{http, postgres};

use crate::house::{Database, House};

const ALERTS: &str = "charts/kubevision-audit/files/alerts.yaml";
const DASHBOARDS: &str = "charts/kubevision-audit/files/dashboards";
const RUNBOOKS: &str = "docs/runbooks";
const PREFIX: &str = "kubevision_audit_";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn yaml(path: &str) -> anyhow::Result<Value> {
    let text = fs::read_to_string(root().join(path)).with_context(|| format!("reading {path}"))?;
    serde_saphyr::from_str(&text).with_context(|| format!("{path} is not YAML"))
}

fn rules() -> anyhow::Result<Vec<Value>> {
    let groups = yaml(ALERTS)?["groups"].take();
    let groups = groups.as_array().context("no groups")?.iter();
    let rules: Vec<Value> = groups.flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect();
    ensure!(!rules.is_empty(), "no rules");
    Ok(rules)
}

/// By the file's name.
fn dashboards() -> anyhow::Result<BTreeMap<String, Value>> {
    let mut found = BTreeMap::new();
    for file in fs::read_dir(root().join(DASHBOARDS))? {
        let path = file?.path();
        let read = serde_json::from_str(&fs::read_to_string(&path)?);
        found.insert(path.display().to_string(), read.with_context(|| format!("{} is not JSON", path.display()))?);
    }
    Ok(found)
}

/// What the panels ask, each with its panel's title.
fn asked(dashboard: &Value, key: &str) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| {
        let title = panel["title"].as_str().unwrap_or_default();
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.filter_map(move |target| Some((title.to_owned(), target[key].as_str()?.to_owned())))
    });
    targets.collect()
}

/// The program's metrics that an expression names.
fn metrics(expression: &str) -> BTreeSet<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    expression.split(|c| !is_word(c)).filter(|word| word.starts_with(PREFIX)).collect()
}

/// The labels of closed sets that an expression selects by, each with each of its values.
fn selected(expression: &str) -> Vec<String> {
    const CLOSED: [&str; 4] = ["result", "reason", "check", "level"];
    let selectors = expression.split(['{', '}', ',']).filter_map(|part| {
        let (label, values) = part.split_once(['=', '!'])?;
        let label = label.trim();
        let values = values.trim_start_matches(['=', '~']).trim_matches('"').to_owned();
        CLOSED
            .contains(&label)
            .then(|| values.split('|').map(|value| format!("{label}=\"{value}\"")).collect::<Vec<_>>())
    });
    selectors.flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_dashboards_ask_for_metrics_that_the_program_exports() -> anyhow::Result<()> {
    let house = House::on(Database::Sqlite, "").await?;
    let exported = http::get(house.program.metrics(), "/metrics").await?.body;
    let names: BTreeSet<&str> = exported
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let mut asked_for = BTreeSet::new();
    let mut check = |place: &str, expression: &str| {
        for name in metrics(expression) {
            assert!(names.contains(name), "{place} asks for {name}, which is not exported: {names:?}");
            asked_for.insert(name.to_owned());
        }
        for label in selected(expression) {
            assert!(exported.contains(&label), "{place} selects {label}, which no metric has");
        }
    };
    for rule in rules()? {
        check(rule["alert"].as_str().unwrap(), rule["expr"].as_str().unwrap());
    }
    for (file, dashboard) in dashboards()? {
        let expressions = asked(&dashboard, "expr");
        let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
        let queries =
            variables.filter_map(|variable| Some(("a variable".to_owned(), variable["query"].as_str()?.to_owned())));
        for (title, expression) in expressions.into_iter().chain(queries) {
            check(&format!("{file}, {title},"), &expression);
        }
    }
    // And nothing that is exported is left for nobody to see, but for the buckets' companions.
    let told = |name: &str| asked_for.iter().any(|asked| asked.starts_with(name));
    for line in exported.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(told(name), "no alert and no dashboard shows {name}");
    }
    Ok(())
}

#[test]
fn a_full_queue_is_what_the_pipeline_calls_full() -> anyhow::Result<()> {
    let full = pipeline::QUEUE_BYTES_MAX.to_string();
    let dashboards = dashboards()?;
    let shown = dashboards.values().flat_map(|dashboard| asked(dashboard, "expr")).map(|(_, expression)| expression);
    let alerts = rules()?.into_iter().map(|rule| rule["expr"].as_str().unwrap_or_default().to_owned());
    let about: Vec<_> =
        shown.chain(alerts).filter(|expression| expression.contains("0.8 *") || expression.contains("/ 3")).collect();
    assert_eq!(about.len(), 2);
    assert!(about.iter().all(|expression| expression.contains(&full)), "{full}: {about:?}");
    Ok(())
}

#[test]
fn each_alert_says_what_it_means_and_has_a_runbook_and_each_runbook_an_alert() -> anyhow::Result<()> {
    let mut runbooks = BTreeSet::new();
    for rule in rules()? {
        let name = rule["alert"].as_str().context("a rule without a name")?;
        let annotation = |key: &str| rule["annotations"][key].as_str().with_context(|| format!("{name} has no {key}"));
        ensure!(!annotation("summary")?.is_empty() && !annotation("description")?.is_empty(), "{name} says nothing");
        ensure!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap_or_default()), "{name}");
        let runbook = annotation("runbook_url")?;
        let text = fs::read_to_string(root().join(runbook)).with_context(|| format!("{name} leads to {runbook}"))?;
        ensure!(text.lines().next().is_some_and(|title| title.contains(name)), "{runbook} is not about {name}");
        for section in ["## Look", "## Do"] {
            ensure!(text.contains(section), "{runbook} has no {section:?}");
        }
        runbooks.insert(runbook.to_owned());
    }
    for file in fs::read_dir(root().join(RUNBOOKS))? {
        let name = file?.file_name().to_string_lossy().into_owned();
        ensure!(name == "README.md" || runbooks.contains(&format!("{RUNBOOKS}/{name}")), "no alert leads to {name}");
    }
    Ok(())
}

#[test]
fn each_alert_fires_and_keeps_still_as_its_tests_say() -> anyhow::Result<()> {
    let cases = yaml("observability/alerts_test.yaml")?;
    let checks: Vec<&Value> = cases["tests"]
        .as_array()
        .context("no tests")?
        .iter()
        .flat_map(|case| case["alert_rule_test"].as_array().into_iter().flatten())
        .collect();
    for rule in rules()? {
        for fires in [true, false] {
            let of_it = |check: &&&Value| check["alertname"] == rule["alert"];
            let so = |check: &&Value| check["exp_alerts"].as_array().is_some_and(|alerts| alerts.is_empty() != fires);
            ensure!(
                checks.iter().filter(of_it).any(so),
                "no test has {} {}",
                rule["alert"],
                if fires { "fire" } else { "keep still" }
            );
        }
    }
    let promtool = tools::find(PROMTOOL)?;
    for args in [["check", "rules", "--lint=all", "--lint-fatal"].as_slice(), &["test", "rules"]] {
        let file = if args[0] == "check" { ALERTS } else { "observability/alerts_test.yaml" };
        let output = Command::new(&promtool).current_dir(root()).args(args).arg(file).output()?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "promtool {}:\n{}", args.join(" "), String::from_utf8_lossy(&said));
    }
    Ok(())
}

/// As Grafana writes them for a day that is shown by the hour.
fn without_macros(sql: &str, from: i64, to: i64, variables: &[(&str, &str)]) -> String {
    let mut sql = sql.replace("$__unixEpochFrom()", &from.to_string()).replace("$__unixEpochTo()", &to.to_string());
    let group = "$__timeGroupAlias(\"timestamp\", $__interval)";
    sql = sql.replace(group, "floor(extract(epoch from \"timestamp\")/3600)*3600 AS \"time\"");
    for (name, value) in variables {
        sql = sql.replace(&format!("${name}"), value);
    }
    sql
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "the dashboard's own queries are what is tested")]
async fn the_dashboard_of_the_database_asks_what_it_can_answer_and_of_the_days_shown_alone() -> anyhow::Result<()> {
    const DAY: i64 = 86_400;
    let url = postgres::shared().await.create_database().await?;
    let program = Path::new(env!("CARGO_BIN_EXE_kubevision-audit"));
    let migrated = Command::new(program).arg("migrate").env("KUBEVISION_AUDIT_DATABASE__URL", &url).output()?;
    ensure!(migrated.status.success(), "migrate: {}", String::from_utf8_lossy(&migrated.stderr));
    let mut database = PgConnection::connect(&url).await?;
    let today: i64 =
        sqlx::query_scalar("SELECT extract(epoch from date_trunc('day', now() AT TIME ZONE 'UTC'))::bigint")
            .fetch_one(&mut database)
            .await?;
    let tomorrow: String =
        sqlx::query_scalar("SELECT 'audit_entries_' || to_char((now() AT TIME ZONE 'UTC')::date + 1, 'YYYYMMDD')")
            .fetch_one(&mut database)
            .await?;
    let queries: Vec<_> = dashboards()?.values().flat_map(|dashboard| asked(dashboard, "rawSql")).collect();
    ensure!(queries.len() > 10, "only {} queries", queries.len());
    for (title, query) in queries {
        for variables in [
            [("cluster", ""), ("namespace", ""), ("user", "")],
            [("cluster", "local"), ("namespace", "shop"), ("user", "o''hara")],
        ] {
            let sql = without_macros(&query, today, today + DAY - 1, &variables);
            ensure!(!sql.contains('$'), "{title}: a macro that is not known here: {sql}");
            let rows = sqlx::raw_sql(AssertSqlSafe(sql.clone())).fetch_all(&mut database).await;
            rows.with_context(|| format!("{title}: {sql}"))?;
            let plan =
                sqlx::raw_sql(AssertSqlSafe(format!("EXPLAIN (COSTS OFF) {sql}"))).fetch_all(&mut database).await?;
            let plan = plan.iter().map(|row| row.try_get_unchecked(0)).collect::<Result<Vec<String>, _>>()?.join("\n");
            ensure!(!plan.contains(&tomorrow), "{title} looks at days that are not shown:\n{plan}");
        }
    }
    Ok(())
}
