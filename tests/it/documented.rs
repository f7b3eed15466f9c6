//! What README, docs/reference, docs/runbooks and docs/install/systemd.md tell a reader to type. The other pages of
//! docs/install are typed on a real node (tests/node).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context as _, bail, ensure};
use sqlx::{Connection as _, SqliteConnection};
use testkit::control_plane::ControlPlane;
use testkit::documented::{self, Typed};
use testkit::server::{Launch, Server};
use testkit::tools::{self, HELM, KUBECTL};
use testkit::{eventually, guard, http, ports, postgres};
use tokio::process::Command;

use crate::house::{Database, House, Sql};

const WITHIN: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_kubevision-audit");
/// An answer that is an error fails the command; a browser is what reads a page.
const PRELUDE: &str =
    r#"curl() { command curl -sSf "$@"; }; open() { curl -o /dev/null "$1"; }; sqlite3() { printf %s "$2"; }"#;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The pages of a folder, by name.
fn pages(folder: &str) -> anyhow::Result<BTreeSet<PathBuf>> {
    let files = fs::read_dir(repository(folder)).with_context(|| format!("reading {folder}"))?;
    Ok(files.map(|file| Ok(file?.path())).collect::<std::io::Result<_>>()?)
}

/// A reader's shell: their folder, cluster and database, and where what they were told to look at is here.
struct Shell {
    folder: PathBuf,
    env: Vec<(String, OsString)>,
    places: Vec<(String, String)>,
}

impl Shell {
    fn new(folder: &Path, kubeconfig: &Path) -> anyhow::Result<Self> {
        let above = |file: &Path| file.parent().map(Path::to_owned).context("it lies in no folder");
        let own = [above(&tools::find(KUBECTL)?)?, above(&tools::find(HELM)?)?, postgres::programs()?];
        let others = env::var_os("PATH").unwrap_or_default();
        let path =
            env::join_paths(own.into_iter().chain([above(Path::new(PROGRAM))?]).chain(env::split_paths(&others)))?;
        let env = vec![("PATH".to_owned(), path), ("KUBECONFIG".to_owned(), kubeconfig.into())];
        Ok(Self { folder: folder.to_owned(), env, places: Vec::new() })
    }

    fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    fn place(mut self, told: &str, here: impl ToString) -> Self {
        self.places.push((told.to_owned(), here.to_string()));
        self
    }

    /// With ports of its own for a program that is told of them by variables, which is started by [`Self::serve`].
    fn on_ports(self, ports: [SocketAddr; 3]) -> Self {
        let [webhook, panel, metrics] = ports;
        let shell = self.with("KUBEVISION_AUDIT_LISTEN__WEBHOOK", webhook.to_string());
        let shell = shell.with("KUBEVISION_AUDIT_KUBERNETES__WEBHOOK_URL", format!("https://{webhook}"));
        let shell = shell.with("KUBEVISION_AUDIT_LISTEN__PANEL", panel.to_string());
        let shell = shell.with("KUBEVISION_AUDIT_LISTEN__METRICS", metrics.to_string());
        shell.reaching(panel, metrics)
    }

    fn reaching(self, panel: SocketAddr, metrics: SocketAddr) -> Self {
        self.place("127.0.0.1:8080", panel).place("localhost:8080", panel).place("localhost:9090", metrics)
    }

    fn here(&self, command: &str) -> String {
        self.places.iter().fold(command.to_owned(), |command, (told, here)| command.replace(told, here))
    }

    /// What a command prints; fails with all that it said.
    async fn says(&self, command: &str) -> anyhow::Result<String> {
        let mut bash = Command::new("bash");
        bash.args(["-o", "pipefail", "-ec", &format!("{PRELUDE}\n{}", self.here(command))]);
        bash.current_dir(&self.folder).envs(self.env.iter().cloned()).kill_on_drop(true);
        let output = bash.output().await.context("running bash")?;
        let [said, complained] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        ensure!(output.status.success(), "{command}: {}\n{said}{complained}", output.status);
        Ok(said)
    }

    /// As [`Self::says`], where the cluster may take a moment until it works.
    async fn says_soon(&self, command: &str) -> anyhow::Result<String> {
        eventually(WITHIN, || self.says(command)).await
    }

    /// A command that stays, once it is ready.
    async fn serve(&self, folder: &Path, command: &str) -> anyhow::Result<Server> {
        let launch = Launch::new("bash").args(["-ec".to_owned(), format!("exec {}", self.here(command))]);
        let server = self.env.iter().cloned().fold(launch, |launch, (name, value)| launch.env(name, value));
        let server = server.start(folder)?;
        let metrics = self.here("localhost:9090").parse()?;
        let ready = eventually(WITHIN, || async {
            let answer = http::get(metrics, "/readyz?verbose").await?;
            ensure!(answer.status == 200, "{}", answer.body);
            Ok(())
        });
        ready.await.with_context(|| fs::read_to_string(server.log()).unwrap_or_default())?;
        Ok(server)
    }
}

fn addresses() -> anyhow::Result<[SocketAddr; 3]> {
    let address = || Ok::<_, anyhow::Error>(([127, 0, 0, 1], ports::free()?).into());
    Ok([address()?, address()?, address()?])
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_readme_does_what_it_says() -> anyhow::Result<()> {
    let control_plane = ControlPlane::start().await?;
    let folder = guard::folder("readme")?;
    symlink(repository("charts"), folder.join("charts"))?;
    let shell = Shell::new(&folder, control_plane.kubeconfig())?.on_ports(addresses()?);
    let shell = shell.place("target/release/kubevision-audit", PROGRAM);
    let mut served = None;
    for Typed { command, shown } in documented::typed(&repository("README.md"))? {
        if command.starts_with("make ") {
            continue;
        }
        if command == "cat config.yaml" {
            fs::write(folder.join("config.yaml"), shown)?;
        } else if command.contains("kubevision-audit serve ") {
            served = Some(shell.serve(&folder, &command).await?);
        } else if command.starts_with("sqlite3 kubevision-audit.db ") {
            // By the house's own driver: the machine need not have a sqlite3.
            let sql = shell.says(&command).await?;
            let url = format!("sqlite://{}", folder.join("kubevision-audit.db").display());
            let mut database = Sql::Sqlite(SqliteConnection::connect(&url).await?);
            let rows = database.rows(&sql).await?;
            ensure!(rows.iter().any(|row| row.ends_with("|ConfigMap|of-a-reader")), "{command} shows {rows:?}");
        } else {
            shell.says(&command).await?;
        }
        if served.is_some() && command.starts_with("open ") {
            let probe = "kubectl create configmap of-a-reader; kubectl delete configmap of-a-reader";
            eventually(WITHIN, || async {
                shell.says(probe).await?;
                let found = shell.says("curl 'http://127.0.0.1:8080/api/v1/audit-logs?name=of-a-reader'").await?;
                ensure!(found.contains(r#""resource_name":"of-a-reader""#), "{found}");
                Ok(())
            })
            .await?;
        }
    }
    served.context("the README starts no program")?;
    Ok(())
}

/// What is not typed by a test, since it would run all tests again or build for minutes: where the same is run, and by what.
const RUN_ELSEWHERE: [(&str, &str, &str); 9] = [
    ("make test", ".ci/run", "\nmake test\n"),
    ("make lint", ".ci/run", "\nmake lint\n"),
    // With few requests by `make test`, but for what it says there.
    ("make oracle", "tests/it/oracle/mod.rs", "async fn events_that_are_posted_and_entries_come_to_what"),
    ("make demo", "xtask/tests/demo.rs", r#""--once""#),
    // By `make test-cluster`, which .ci/run runs.
    ("make image", "xtask/src/test_cluster.rs", "image::run(root)"),
    ("make cluster", "xtask/src/test_cluster.rs", r#"&["up", "--image"]"#),
    ("make generate", "xtask/src/generate/mod.rs", "fn what_is_made_from_other_files_is_as_they_are()"),
    // The image's profile is that of a release, without its symbols.
    ("make build", "Cargo.toml", "[profile.image]\ninherits = \"release\"\nstrip = \"symbols\""),
    ("make help", "Makefile", ".DEFAULT_GOAL := help\n"),
];

#[tokio::test]
async fn each_verb_of_make_that_a_page_names_is_one_and_is_run_somewhere() -> anyhow::Result<()> {
    let mut verbs = BTreeSet::new();
    for page in ["README.md", "CONTRIBUTING.md"] {
        let typed = documented::typed(&repository(page))?.into_iter().map(|typed| typed.command);
        let named = documented::spans(&documented::read(&repository(page))?);
        let commands =
            typed.chain(named).map(|command| command.split('#').next().unwrap_or_default().trim().to_owned());
        verbs.extend(commands.filter(|command| command.starts_with("make ")));
    }
    for verb in &verbs {
        let tried = Command::new("make").arg("-n").args(verb.split(' ').skip(1)).current_dir(repository("")).output();
        let output = tried.await.context("running make")?;
        ensure!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
        let in_ci = documented::read(&repository(".ci/run"))?.lines().any(|line| line == verb);
        let target = verb.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let known = RUN_ELSEWHERE.iter().find(|(known, ..)| *known == target);
        match known {
            Some((_, file, how)) => {
                ensure!(documented::read(&repository(file))?.contains(how), "{file} does not run {verb} any more");
            }
            None => {
                ensure!(in_ci || target == "make cluster-down" || target == "make test-cluster", "nothing runs {verb}")
            }
        }
    }
    ensure!(verbs.len() >= 7, "{verbs:?}");
    Ok(())
}

/// What needs a pod that runs, metrics of it, or a name that the reader has: no more than parsed, by its own `--help`.
const ONLY_PARSED: [&str; 10] = [
    " port-forward ",
    " run psql ",
    " top ",
    "| grep purge",
    " serve",
    " POD",
    "USER",
    "NAME",
    "NAMESPACE/",
    " describe ",
];
const PROGRAMS: [&str; 4] = ["kubectl ", "helm ", "curl ", "kubevision-audit "];

/// As far as the program itself reads its arguments: an unknown verb or flag fails.
fn parsed(command: &str) -> String {
    let own = command.split(" | ").next().unwrap_or(command).trim_end_matches(" &");
    match own.split_once(" -- ") {
        Some((own, of_pod)) => format!("{own} --help -- {of_pod}"),
        None => format!("{own} --help"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_reference_and_of_the_runbooks_runs_or_is_one_that_would() -> anyhow::Result<()> {
    let house = House::on(Database::Postgres, "").await?;
    let program = &house.program;
    let shell = Shell::new(program.folder(), house.control_plane.kubeconfig())?.with("URL", program.database_url());
    let shell = shell.reaching(program.panel(), program.metrics());
    let (mut run, mut only_parsed) = (0, 0);
    for page in pages("docs/reference")?.into_iter().chain(pages("docs/runbooks")?) {
        let text = documented::read(&page)?;
        let typed = if text.contains("```console") { documented::typed(&page)? } else { Vec::new() };
        for Typed { command, .. } in typed {
            let told = || format!("{}: {command}", page.display());
            if ONLY_PARSED.iter().any(|part| command.contains(part)) {
                shell.says(&parsed(&command)).await.with_context(told)?;
                only_parsed += 1;
                continue;
            }
            let found = eventually(WITHIN, || async {
                let said = shell.says(&command).await?;
                let asked = command.contains("audit-logs?name=audit-probe");
                ensure!(!asked || said.contains(r#""resource_name":"audit-probe""#), "it is not recorded: {said}");
                Ok(())
            });
            found.await.with_context(told)?;
            run += 1;
            if command.contains("delete validatingwebhookconfiguration") {
                house.records().await?;
            }
        }
        for sql in documented::blocks(&text, "sql") {
            let psql = shell.says(&format!("psql \"$URL\" -v ON_ERROR_STOP=1 <<'SQL'\n{sql}\nSQL")).await;
            psql.with_context(|| page.display().to_string())?;
            run += 1;
        }
        // In a sentence: what to do when it is so, which it is not.
        for span in documented::spans(&text).iter().filter(|span| PROGRAMS.iter().any(|name| span.starts_with(name))) {
            let checked =
                if span.starts_with("curl ") { shell.says(span).await } else { shell.says(&parsed(span)).await };
            checked.with_context(|| format!("{}: {span}", page.display()))?;
            only_parsed += 1;
        }
    }
    println!("{run} commands were run, {only_parsed} parsed");
    ensure!(run > 20, "only {run} commands were run");
    Ok(())
}

/// All but systemd: its unit's own line is run by hand, with its paths below another root.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_page_about_systemd_installs_runs_by_the_line_of_its_unit() -> anyhow::Result<()> {
    const REGISTRATION: &str = "kubectl get validatingwebhookconfigurations -o name";
    let control_plane = ControlPlane::start().await?;
    let folder = guard::folder("systemd")?;
    let root = folder.join("root");
    for made in ["usr/local/bin", "etc/systemd/system", "run/credentials", "var/lib/kubevision-audit"] {
        fs::create_dir_all(root.join(made))?;
    }
    symlink(PROGRAM, folder.join("kubevision-audit"))?;
    symlink(repository("deploy"), folder.join("deploy"))?;
    fs::copy(control_plane.kubeconfig(), folder.join("admin.kubeconfig"))?;
    let shell = Shell::new(&folder, control_plane.kubeconfig())?.on_ports(addresses()?);
    let credentials = root.join("run/credentials");
    let shell = shell.with("CREDENTIALS_DIRECTORY", &credentials);
    let below = |path: &str| format!(" {}{path}", root.display());
    let shell = shell.place(" /usr/local/", below("/usr/local/")).place(" /etc/", below("/etc/"));

    let page = documented::read(&repository("docs/install/systemd.md"))?;
    let mut served = None;
    for command in documented::blocks(&page, "sh").iter().flat_map(|block| block.lines()) {
        match command.split(' ').next() {
            Some("systemctl") if command.starts_with("systemctl enable --now ") => {
                let [config] = &documented::blocks(&page, "yaml")[..] else { bail!("one config.yaml is told") };
                fs::write(root.join("etc/kubevision-audit/config.yaml"), config)?;
                shell.says_soon("kubevision-audit crd | kubectl apply -f -").await?;
                let unit = fs::read_to_string(root.join("etc/systemd/system/kubevision-audit.service"))?;
                let of = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)).context(key.to_owned());
                let (name, source) = of("LoadCredential=")?.split_once(':').context("no credential")?;
                fs::copy(root.join(source.trim_start_matches('/')), credentials.join(name))?;
                let state = of("WorkingDirectory=")?.replace("%S", "var/lib");
                ensure!(format!("/{state}").ends_with(of("StateDirectory=")?), "it works where it may not write");
                served = Some(shell.serve(&root.join(state), &format!(" {}", of("ExecStart=")?)).await?);
            }
            Some("systemctl" | "journalctl") => {}
            _ => drop(shell.says(command).await.context("docs/install/systemd.md")?),
        }
    }
    let mut served = served.context("nothing is started")?;
    ensure!(root.join("var/lib/kubevision-audit/kubevision-audit.db").is_file(), "SQLite lies elsewhere");
    ensure!(shell.says(REGISTRATION).await?.contains("/kubevision-audit"), "it made no registration");
    served.stop_or_kill(WITHIN).await?;
    let last = documented::spans(&page).into_iter().find(|span| span.starts_with("kubevision-audit unregister "));
    shell.says(&last.context("the page does not say how to be rid of it")?).await?;
    ensure!(!shell.says(REGISTRATION).await?.contains("/kubevision-audit"), "the registration is still there");
    Ok(())
}
