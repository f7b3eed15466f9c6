//! A database that the test fills itself, and the program over it. No API server, which reading and purging need only to know
//! that there are no policies.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use domain::RedactedEntry;
use domain::clock::Clock;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};
use store::Store;
use testkit::program::{Options, Program};
use testkit::{eventually, guard, postgres};
use tokio::process::Command;

use crate::house::Database;

const BINARY: &str = env!("CARGO_BIN_EXE_kubevision-audit");
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// A command works through some thousands of entries, and a machine may be busy.
const COMMAND_WITHIN: Duration = Duration::from_secs(120);

/// The time, as the program that is tested sees it.
pub struct Now;

impl Clock for Now {
    #[expect(clippy::disallowed_methods, reason = "the test's own end of the clock")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

pub struct Stock {
    pub store: Arc<dyn Store>,
    database: Database,
    url: String,
    folder: PathBuf,
}

impl Stock {
    /// Migrated and empty.
    pub async fn of(database: Database) -> anyhow::Result<Self> {
        let folder = guard::folder("stock")?;
        let url = match database {
            Database::Sqlite => format!("sqlite://{}", folder.join("audit.db").display()),
            Database::Postgres => postgres::shared().await.create_database().await?,
        };
        let store = store_sql::open(&url)?;
        store.migrate().await?;
        Ok(Self { store, database, url, folder })
    }

    pub async fn holding(database: Database, entries: &[RedactedEntry]) -> anyhow::Result<Self> {
        let stock = Self::of(database).await?;
        stock.store.write(entries).await?;
        Ok(stock)
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The program, once its panel answers. `config` are further sections of config.yaml.
    pub async fn serve(&self, config: &str) -> anyhow::Result<Program> {
        self.serve_in(&self.folder, config).await
    }

    /// As [`Self::serve`], while another one serves.
    pub async fn serve_beside(&self, config: &str) -> anyhow::Result<Program> {
        self.serve_in(&guard::folder("beside")?, config).await
    }

    async fn serve_in(&self, folder: &Path, config: &str) -> anyhow::Result<Program> {
        let mut options = Options::new(BINARY, self.nowhere()?);
        options.database_url = Some(self.url.clone());
        config.clone_into(&mut options.config);
        let program = Program::spawn_in(folder, options)?;
        let answers = eventually(ANSWERS_WITHIN, || async { program.json("/api/v1/audit-logs?limit=1").await }).await;
        answers.with_context(|| program.log().unwrap_or_default())?;
        Ok(program)
    }

    /// Runs a command of the program to its end; answers what it printed.
    pub async fn command(&self, config: &str, args: &[&str]) -> anyhow::Result<String> {
        let path = self.folder.join("command.yaml");
        std::fs::write(&path, format!("database: {{url: {:?}}}\n{config}\n", self.url))?;
        let ended = Command::new(BINARY).args(args).arg("--config").arg(path).kill_on_drop(true).output();
        let Output { status, stdout, stderr } = tokio::time::timeout(COMMAND_WITHIN, ended).await??;
        ensure!(status.success(), "{args:?}: {status}: {}", String::from_utf8_lossy(&stderr));
        Ok(String::from_utf8(stdout)?)
    }

    /// The one column of text that a statement gives.
    #[expect(clippy::disallowed_methods, reason = "a test asks the database what it likes")]
    pub async fn column(&self, sql: &str) -> anyhow::Result<Vec<String>> {
        let sql = AssertSqlSafe(sql.to_owned());
        Ok(match self.database {
            Database::Sqlite => {
                sqlx::query_scalar(sql).fetch_all(&mut SqliteConnection::connect(&self.url).await?).await?
            }
            Database::Postgres => {
                sqlx::query_scalar(sql).fetch_all(&mut PgConnection::connect(&self.url).await?).await?
            }
        })
    }

    /// The ids of the rows for which a condition holds, newest first.
    pub async fn ids_where(&self, condition: &str) -> anyhow::Result<Vec<String>> {
        // By their text, so that no index of the product's has a say.
        let sql = "SELECT CAST(id AS text) AS text_id FROM audit_entries WHERE";
        self.column(&format!("{sql} {condition} ORDER BY CAST(id AS text) DESC")).await
    }

    /// A kubeconfig of a cluster that knows of no policies, and answers nothing else.
    fn nowhere(&self) -> anyhow::Result<PathBuf> {
        let path = self.folder.join("kubeconfig");
        let server = format!("http://{}", knows_of_no_policies()?);
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "nowhere",
            "clusters": [{"name": "nowhere", "cluster": {"server": server}}],
            "contexts": [{"name": "nowhere", "context": {"cluster": "nowhere", "user": "nobody"}}],
            "users": [{"name": "nobody", "user": {}}],
        });
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }
}

/// Answers until this process ends: who asks for policies that there is no such kind, others to try again.
fn knows_of_no_policies() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let answer = |mut asked: TcpStream| {
        let mut question = [0; 64 * 1024];
        // What did not arrive is asked again.
        let read = asked.read(&mut question).unwrap_or(0);
        let of_policies = question[..read].starts_with(b"GET /apis/audit.kubevision.io/");
        let status = if of_policies { "404 Not Found" } else { "503 Service Unavailable" };
        let _sent = write!(asked, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    };
    thread::Builder::new()
        .name("api-server".to_owned())
        .spawn(move || listener.incoming().flatten().for_each(answer))?;
    Ok(address)
}
