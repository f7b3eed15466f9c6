//! A program under test and what it stands on: one API server, one of the two databases.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection};
use testkit::control_plane::{self, Exclusive};
use testkit::program::{Options, Program};
use testkit::{eventually, http, postgres};

use crate::api::{Api, config_map};

/// An entry is written half a second after it came, and a machine may be busy.
pub const RECORDED_WITHIN: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    Sqlite,
    Postgres,
}

pub const BOTH: [Database; 2] = [Database::Sqlite, Database::Postgres];

/// The API server for this test alone, with the program registered at it.
pub struct House {
    pub control_plane: Exclusive,
    pub program: Program,
    pub database: Database,
}

impl House {
    /// Ready to record; `config` are further sections of config.yaml.
    pub async fn on(database: Database, config: &str) -> anyhow::Result<Self> {
        Self::with(database, config, |_| ()).await
    }

    /// As [`Self::on`], with whatever else is to be different.
    pub async fn with(database: Database, config: &str, edit: impl FnOnce(&mut Options)) -> anyhow::Result<Self> {
        let control_plane = control_plane::exclusive().await;
        let mut options = options(&control_plane, config);
        options.database_url = match database {
            Database::Sqlite => None,
            Database::Postgres => Some(postgres::shared().await.create_database().await?),
        };
        edit(&mut options);
        let program = Program::start(options).await?;
        Ok(Self { control_plane, program, database })
    }

    pub fn api(&self, user: &str) -> anyhow::Result<Api> {
        Api::of(&self.control_plane, user)
    }

    /// Until the API server calls the webhook: it takes a moment to notice a registration.
    pub async fn recording(&self) -> anyhow::Result<()> {
        let api = self.api("prober")?;
        let write = async |name: String| {
            let (collection, object) = config_map("default", &name, json!({}));
            api.create(&collection, &object).await.map(drop)
        };
        self.program.until_it_records(write).await
    }

    /// The sum of a metric's samples that have this label, or all where it is empty.
    pub async fn metric(&self, name: &str, label: &str) -> anyhow::Result<u64> {
        let metrics = http::get(self.program.metrics(), "/metrics").await?.body;
        let samples = metrics.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
        });
        let values = samples.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<u64>()?));
        let values = values.collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(!values.is_empty(), "no {name} with {label:?} in {metrics}");
        Ok(values.iter().sum())
    }

    /// A namespace of this test's own, and its name.
    pub async fn namespace(&self, name: &str) -> anyhow::Result<String> {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.api("namespace-maker")?.create("/api/v1/namespaces", &object).await?;
        Ok(name.to_owned())
    }

    /// The entries that match, oldest first, once there are so many.
    pub async fn entries(&self, query: &str, count: usize) -> anyhow::Result<Vec<Value>> {
        eventually(RECORDED_WITHIN, || async {
            let found = self.entries_now(query).await?;
            ensure!(found.len() == count, "{} entries instead of {count} for {query}: {found:#?}", found.len());
            Ok(found)
        })
        .await
    }

    /// All entries that match now, oldest first, page by page.
    pub async fn entries_now(&self, query: &str) -> anyhow::Result<Vec<Value>> {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.program.json(&format!("/api/v1/audit-logs?limit=500&{query}{cursor}")).await?;
            found.extend(page["items"].as_array().context("items is no list")?.iter().cloned());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        found.reverse();
        Ok(found)
    }

    /// Rows of the database itself, each its columns parted by `|`.
    pub async fn sql(&self, sql: &str) -> anyhow::Result<Vec<String>> {
        let text = match self.database {
            Database::Sqlite => sqlite(self.program.database_url(), sql).await?,
            Database::Postgres => {
                let url = self.program.database_url();
                let name = url.rsplit('/').next().context("the URL has no database")?;
                postgres::shared().await.sql(name, sql).await?
            }
        };
        Ok(text.lines().map(str::to_owned).collect())
    }
}

pub fn options(control_plane: &control_plane::ControlPlane, config: &str) -> Options {
    let mut options = Options::new(env!("CARGO_BIN_EXE_kubevision-audit"), control_plane.kubeconfig());
    config.clone_into(&mut options.config);
    options
}

/// By the house's own driver: the machine need not have a sqlite3 program. Cells are texts and whole numbers.
async fn sqlite(url: &str, sql: &str) -> anyhow::Result<String> {
    let mut connection = SqliteConnection::connect(url).await?;
    let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await?;
    let cell = |row: &SqliteRow, at: usize| match row.try_get_unchecked::<Option<String>, _>(at) {
        Ok(text) => Ok(text.unwrap_or_default()),
        Err(_) => row.try_get_unchecked::<i64, _>(at).map(|number| number.to_string()),
    };
    let line = |row: &SqliteRow| (0..row.columns().len()).map(|at| cell(row, at)).collect::<Result<Vec<_>, _>>();
    let lines = rows.iter().map(|row| line(row).map(|cells| cells.join("|"))).collect::<Result<Vec<_>, _>>()?;
    Ok(lines.join("\n"))
}
