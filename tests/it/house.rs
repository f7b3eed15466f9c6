//! A program under test and what it stands on: one API server, one of the two databases.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, ColumnIndex, Connection as _, Decode, PgConnection, Row, SqliteConnection};
use testkit::control_plane::{self, Exclusive};
use testkit::postgres::Postgres;
use testkit::program::{Options, Program};
use testkit::{eventually, http, postgres};

use crate::account;
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
        match database {
            Database::Sqlite => Self::at(database, None, config).await,
            Database::Postgres => Self::on_postgres(postgres::shared().await, config).await,
        }
    }

    /// As [`Self::on`], on a server that the test may stop.
    pub async fn on_postgres(postgres: &Postgres, config: &str) -> anyhow::Result<Self> {
        Self::at(Database::Postgres, Some(postgres.create_database().await?), config).await
    }

    /// As [`Self::on`], at a URL; None: in the program's own folder.
    pub async fn at(database: Database, url: Option<String>, config: &str) -> anyhow::Result<Self> {
        Self::not_ready(database, url, config).await?.at_work().await
    }

    /// As [`Self::on`], with whatever else is to be different.
    pub async fn with(database: Database, config: &str, edit: impl FnOnce(&mut Options)) -> anyhow::Result<Self> {
        let control_plane = control_plane::exclusive().await;
        let mut options = options(&control_plane, config).await?;
        if database == Database::Postgres {
            options.database_url = Some(postgres::shared().await.create_database().await?);
        }
        edit(&mut options);
        let program = Program::spawn(options)?;
        Self { control_plane, program, database }.at_work().await
    }

    async fn at_work(mut self) -> anyhow::Result<Self> {
        self.program.ready().await?;
        self.records().await?;
        Ok(self)
    }

    /// The process is there, whatever becomes of it.
    pub async fn not_ready(database: Database, url: Option<String>, config: &str) -> anyhow::Result<Self> {
        let control_plane = control_plane::exclusive().await;
        let mut options = options(&control_plane, config).await?;
        options.database_url = url;
        let program = Program::spawn(options)?;
        Ok(Self { control_plane, program, database })
    }

    /// Until the API server has noticed that there is a webhook, and where.
    pub async fn records(&self) -> anyhow::Result<()> {
        let api = self.api("prober")?;
        let probe = async |name: String| {
            let (collection, object) = config_map("default", &name, json!({}));
            api.create(&collection, &object).await.map(drop)
        };
        self.program.until_it_records(probe).await
    }

    pub fn api(&self, user: &str) -> anyhow::Result<Api> {
        Api::of(&self.control_plane, user)
    }

    /// As [`metric`], of its program.
    pub async fn metric(&self, name: &str, label: &str) -> anyhow::Result<u64> {
        metric(&self.program, name, label).await
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

    /// To the program's database.
    pub async fn connect(&self) -> anyhow::Result<Sql> {
        let url = self.program.database_url();
        Ok(match self.database {
            Database::Sqlite => Sql::Sqlite(SqliteConnection::connect(url).await?),
            Database::Postgres => Sql::Postgres(PgConnection::connect(url).await?),
        })
    }

    /// Rows of the database itself, each its columns parted by `|`.
    pub async fn sql(&self, sql: &str) -> anyhow::Result<Vec<String>> {
        self.connect().await?.rows(sql).await
    }
}

/// The sum of a metric's samples that have this label, or all where it is empty.
pub async fn metric(program: &Program, name: &str, label: &str) -> anyhow::Result<u64> {
    let metrics = http::get(program.metrics(), "/metrics").await?.body;
    let samples = metrics.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
    });
    let values = samples.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<u64>()?));
    let values = values.collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(!values.is_empty(), "no {name} with {label:?} in {metrics}");
    Ok(values.iter().sum())
}

impl Drop for House {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            account::nothing_was_refused(&self.control_plane).unwrap();
        }
    }
}

/// As the program's own ServiceAccount.
pub async fn options(control_plane: &control_plane::ControlPlane, config: &str) -> anyhow::Result<Options> {
    let kubeconfig = account::kubeconfig(control_plane).await?;
    let mut options = Options::new(env!("CARGO_BIN_EXE_kubevision-audit"), kubeconfig);
    config.clone_into(&mut options.config);
    Ok(options)
}

/// A connection by the house's own driver: the machine need not have a sqlite3 program.
pub enum Sql {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Sql {
    /// Each row its columns parted by `|`. Cells are texts and whole numbers.
    #[expect(clippy::disallowed_methods, reason = "a test asks what it likes of a database of its own")]
    pub async fn rows(&mut self, sql: &str) -> anyhow::Result<Vec<String>> {
        let raw = || sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match self {
            Self::Sqlite(connection) => lines(&raw().fetch_all(connection).await?),
            // Sent as a simple query, whose answer is text whatever the columns are.
            Self::Postgres(connection) => lines(&raw().fetch_all(connection).await?),
        }
    }
}

fn lines<R: Row>(rows: &[R]) -> anyhow::Result<Vec<String>>
where
    usize: ColumnIndex<R>,
    for<'r> String: Decode<'r, R::Database>,
    for<'r> i64: Decode<'r, R::Database>,
    for<'r> Option<String>: Decode<'r, R::Database>,
{
    let cell = |row: &R, at: usize| match row.try_get_unchecked::<Option<String>, _>(at) {
        Ok(text) => Ok(text.unwrap_or_default()),
        Err(_) => row.try_get_unchecked::<i64, _>(at).map(|number| number.to_string()),
    };
    let line = |row: &R| (0..row.len()).map(|at| cell(row, at)).collect::<Result<Vec<_>, _>>();
    rows.iter().map(|row| Ok(line(row)?.join("|"))).collect()
}
