//! A real PostgreSQL server of our own, from the binaries of the system.
//!
//! Every test takes a database of its own, empty or cloned from a template; the server is shared by the process.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Signal, geteuid};
use tokio::sync::{Mutex, OnceCell};

use crate::server::{Account, Launch, Server};
use crate::{eventually, guard, ports};

const START_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(30);
const CONNECTIONS_MAX: u16 = 200;
const SUPERUSER: &str = "postgres";
/// Where Debian keeps each major version's programs; only `psql` and some more are in PATH there.
const DEBIAN_FOLDER: &str = "/usr/lib/postgresql";
const PROGRAMS: [&str; 3] = ["initdb", "postgres", "psql"];

/// The server that all tests of this process share.
pub async fn shared() -> &'static Postgres {
    static SHARED: OnceCell<Postgres> = OnceCell::const_new();
    match SHARED.get_or_try_init(Postgres::start).await {
        Ok(postgres) => postgres,
        #[expect(clippy::panic, reason = "a test without its server has failed; it is never skipped")]
        Err(error) => panic!("PostgreSQL does not start: {error:#}"),
    }
}

/// A server with its data in a temporary folder, reached on 127.0.0.1 without a password.
pub struct Postgres {
    programs: PathBuf,
    account: Option<Account>,
    folder: PathBuf,
    port: u16,
    durability: Durability,
    server: Mutex<Option<Server>>,
    databases: AtomicU32,
}

/// Whether a commit reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As in production; for what is measured.
    Fsync,
    /// Survives the server's end but not the machine's; for tests.
    Memory,
}

impl Postgres {
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(Durability::Memory).await
    }

    pub async fn start_with(durability: Durability) -> anyhow::Result<Self> {
        let programs = programs()?;
        let account = account()?;
        let folder = guard::folder("postgres")?;
        if let Some(Account { uid, gid }) = account {
            chown(&folder, Some(uid), Some(gid)).with_context(|| format!("giving {} away", folder.display()))?;
        }
        let postgres = Self {
            programs,
            account,
            folder,
            port: ports::free()?,
            durability,
            server: Mutex::new(None),
            databases: AtomicU32::new(0),
        };
        postgres.init()?;
        postgres.start_again().await?;
        Ok(postgres)
    }

    /// How to reach a database of this server, whether it is there or not.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/{database}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Holds its data, its write-ahead log and its own log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A fresh, empty database; answers its URL.
    pub async fn create_database(&self) -> anyhow::Result<String> {
        self.create_from_template(&self.url("template0")).await
    }

    /// A fresh database that holds what the one at `template` (a URL of this server) holds. Nobody may be connected to
    /// the template; cloning it takes milliseconds where migrating would take a second.
    pub async fn create_from_template(&self, template: &str) -> anyhow::Result<String> {
        let template = database_name(template)?;
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")).await?;
        Ok(self.url(&name))
    }

    /// Runs SQL in one of this server's databases by `psql`; answers its rows, cells parted by `|`.
    pub async fn sql(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let output = tokio::process::Command::new(self.programs.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, &self.url(database)])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("running psql")?;
        ensure!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// Ends the server as an administrator does: open connections are closed, what was committed stays.
    pub async fn stop(&self) -> anyhow::Result<()> {
        match self.server.lock().await.take() {
            Some(mut server) => server.stop(Signal::INT, STOP_WITHIN).await.map(drop),
            None => bail!("PostgreSQL is stopped already"),
        }
    }

    /// Ends the server as a crash does.
    pub async fn crash(&self) -> anyhow::Result<()> {
        match self.server.lock().await.take() {
            Some(mut server) => server.stop(Signal::QUIT, STOP_WITHIN).await.map(drop),
            None => bail!("PostgreSQL is stopped already"),
        }
    }

    /// Starts a stopped server with the same data on the same port.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        let mut running = self.server.lock().await;
        ensure!(running.is_none(), "PostgreSQL runs already");
        let mut server = Launch::new(self.programs.join("postgres"))
            .args(self.settings())
            .account(self.account)
            .start(&self.folder)?;
        eventually(START_WITHIN, || {
            let alive = server.still_runs();
            async move {
                // One that ended won't become ready: that answer is final.
                if let Err(ended) = alive {
                    return Ok(Err(ended));
                }
                self.sql("postgres", "SELECT 1").await?;
                Ok(Ok(()))
            }
        })
        .await
        .with_context(|| format!("PostgreSQL is not ready; its log ends with\n{}", server.log_tail()))??;
        *running = Some(server);
        Ok(())
    }

    /// Whether something listens on its port.
    pub fn is_reachable(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn init(&self) -> anyhow::Result<()> {
        let mut initdb = Command::new(self.programs.join("initdb"));
        initdb.arg("--pgdata").arg(self.data()).args(["--username", SUPERUSER, "--auth", "trust"]);
        initdb.args(["--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"]);
        initdb.current_dir(&self.folder).stdin(Stdio::null()).env_remove("PGDATA");
        if let Some(Account { uid, gid }) = self.account {
            initdb.uid(uid).gid(gid);
        }
        let output = initdb.output().context("running initdb")?;
        ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    fn settings(&self) -> Vec<OsString> {
        let mut settings = vec![
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            "unix_socket_directories=".to_owned(),
            format!("max_connections={CONNECTIONS_MAX}"),
        ];
        if self.durability == Durability::Memory {
            settings.extend(["fsync=off", "full_page_writes=off"].map(str::to_owned));
        }
        let mut args = vec![OsString::from("-D"), self.data().into_os_string()];
        args.extend(settings.into_iter().flat_map(|setting| [OsString::from("-c"), setting.into()]));
        args
    }
}

/// The folder of the newest PostgreSQL here. Fails saying what to install.
pub fn programs() -> anyhow::Result<PathBuf> {
    let mut debian: Vec<PathBuf> = fs::read_dir(DEBIAN_FOLDER)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    debian.sort_by_key(|bin| std::cmp::Reverse(major(bin)));
    let path = env::var_os("PATH").unwrap_or_default();
    let found = debian.into_iter().chain(env::split_paths(&path)).find(|bin| has_all(bin));
    found.with_context(|| {
        format!(
            "PostgreSQL is missing: no folder in PATH or below {DEBIAN_FOLDER} holds {}; `make setup` installs it on \
             Debian as root, elsewhere install the PostgreSQL server, 15 or newer",
            PROGRAMS.join(", ")
        )
    })
}

fn has_all(bin: &Path) -> bool {
    PROGRAMS.iter().all(|program| bin.join(program).is_file())
}

/// Of `/usr/lib/postgresql/15/bin`: 15. By number: 9 is older than 15.
fn major(bin: &Path) -> u32 {
    bin.parent().and_then(Path::file_name).and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0)
}

/// PostgreSQL refuses to run as root, so root runs it as the user that its package made.
fn account() -> anyhow::Result<Option<Account>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
    let account = find_account(&users, SUPERUSER);
    account.map(Some).context("we are root, as which PostgreSQL refuses to run, and there is no user `postgres`")
}

fn find_account(passwd: &str, user: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != user {
            return None;
        }
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Account { uid, gid })
    })
}

fn database_name(url: &str) -> anyhow::Result<&str> {
    let name = url.rsplit('/').next().unwrap_or_default();
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    ensure!(plain, "{url:?} does not end in the name of a database of this server");
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_database_is_fresh_and_a_clone_holds_what_its_template_holds() {
        let postgres = shared().await;
        let (one, two) = (postgres.create_database().await.unwrap(), postgres.create_database().await.unwrap());
        assert_ne!(one, two);
        let name = database_name(&one).unwrap();
        postgres.sql(name, "CREATE TABLE t AS SELECT 7 AS n").await.unwrap();
        let clone = postgres.create_from_template(&one).await.unwrap();
        let read = |url: String| async move { postgres.sql(database_name(&url).unwrap(), "SELECT n FROM t").await };
        assert_eq!(read(clone).await.unwrap(), "7");
        assert!(read(two).await.unwrap_err().to_string().contains("does not exist"));
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_the_server_was_away() {
        let postgres = Postgres::start().await.unwrap();
        postgres.sql("postgres", "CREATE TABLE t AS SELECT 7 AS n").await.unwrap();
        postgres.stop().await.unwrap();
        assert!(!postgres.is_reachable());
        assert!(postgres.sql("postgres", "SELECT 1").await.is_err());
        postgres.start_again().await.unwrap();
        postgres.crash().await.unwrap();
        postgres.start_again().await.unwrap();
        assert_eq!(postgres.sql("postgres", "SELECT n FROM t").await.unwrap(), "7");
    }

    #[test]
    fn the_newest_version_is_the_highest_number() {
        let mut bins = ["9", "15", "x"].map(|version| PathBuf::from(format!("{DEBIAN_FOLDER}/{version}/bin")));
        bins.sort_by_key(|bin| std::cmp::Reverse(major(bin)));
        assert!(bins[0].ends_with("15/bin") && bins[2].ends_with("x/bin"), "{bins:?}");
    }

    #[test]
    fn the_account_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:7:::\npostgres:x:101:104:admin,,,:/var:/bin/bash\n";
        let account = find_account(passwd, "postgres").unwrap();
        assert_eq!((account.uid, account.gid), (101, 104));
        assert!(find_account(passwd, "nobody").is_none());
    }
}
