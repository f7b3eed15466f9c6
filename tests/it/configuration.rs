//! What the program is told on its command line, in config.yaml and in its environment, and what it says to that.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use testkit::{guard, postgres};

const PASSWORD: &str = "hunter2-is-a-password";

/// How a call ended, and what it said.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// In a folder of its own, with no environment but this.
struct Call {
    folder: PathBuf,
    env: Vec<(String, String)>,
}

impl Call {
    fn new() -> Self {
        Self { folder: guard::folder("configuration").unwrap(), env: Vec::new() }
    }

    fn config(self, yaml: &str) -> Self {
        fs::write(self.folder.join("config.yaml"), yaml).unwrap();
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn run(&self, args: &[&str]) -> Ended {
        let output = Command::new(env!("CARGO_BIN_EXE_kubevision-audit"))
            .args(args)
            .current_dir(&self.folder)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

#[test]
fn what_is_not_accepted_ends_every_command_with_2_naming_key_value_and_what_is() {
    let cases = [
        ("audit: { retension_days: 3 }", ["audit.retension_days", "no such key", "retention_days"]),
        ("databse: { url: sqlite://x.db }", ["databse", "no such key", "database"]),
        ("audit: { retention_days: -1 }", ["audit.retention_days", "-1", "from 0 (for ever) to 36500"]),
        ("audit: { batch: { interval: 5 parsecs } }", ["audit.batch.interval", "5 parsecs", "from 1ms to 1min"]),
        ("audit: { batch: { max_entries: 1e9 } }", ["audit.batch.max_entries", "", "from 1 to 5000"]),
        ("audit: { purge_at: noon }", ["audit.purge_at", "noon", "02:00"]),
        ("audit: { sync: perhaps }", ["audit.sync", "perhaps", "true or false"]),
        ("listen: { panel: '0.0.0.0:8080' }", ["listen.panel", "0.0.0.0:8080", "127.0.0.1:8080"]),
        ("listen: { panel: '[::]:8080' }", ["listen.panel", "[::]:8080", "a loopback address"]),
        ("listen: { webhook: everywhere }", ["listen.webhook", "everywhere", "an IP address and a port"]),
        ("tls: { cert_file: a.pem }", ["tls", "key_file", "all three, or none"]),
        (
            "database: { url: 'mysql://u:hunter2-is-a-password@db/x' }",
            ["database.url", "mysql://", "sqlite://PATH or postgres://"],
        ),
        (
            "database: { url: 'postgres://u:hunter2-is-a-password@db:x/y' }",
            ["database.url", "postgres://", "USER:PASSWORD@HOST"],
        ),
        ("database: { url: hunter2-is-a-password }", ["database.url", "no scheme", "sqlite://PATH"]),
        ("database: { url: [hunter2-is-a-password] }", ["database.url", "not accepted", "text"]),
        ("database: { url: '' }", ["database.url", "not accepted", "not empty"]),
        ("- a\n- b", ["config.yaml", "is not YAML", "a mapping of keys"]),
        ("audit: [", ["config.yaml", "is not YAML", "line 1"]),
        (
            "database: { url: 'postgres://u:hunter2-is-a-password@db/x' }\naudit: [",
            ["config.yaml", "is not YAML", "line 2"],
        ),
        ("database: { url: 'postgres://u:hunter2-is-a-password@db/x }", ["config.yaml", "is not YAML", "line 1"]),
    ];
    for (yaml, told) in cases {
        for command in [&["serve"][..], &["migrate"], &["purge", "--dry-run"]] {
            let ended = Call::new().config(yaml).run(command);
            assert_eq!(ended.code, Some(2), "{yaml} {command:?}: {}", ended.stderr);
            for part in told {
                assert!(ended.stderr.contains(part), "{yaml}: no {part:?} in {}", ended.stderr);
            }
            assert!(!ended.stderr.contains(PASSWORD), "{}", ended.stderr);
            assert_eq!(ended.stderr.lines().count(), 1, "one line: {}", ended.stderr);
            assert_eq!(ended.stdout, "");
        }
    }
}

#[test]
fn a_variable_overrides_the_file_and_is_checked_alike() {
    let call = Call::new().config("audit: { retention_days: 7 }").env("KUBEVISION_AUDIT_AUDIT__RETENTION_DAYS", "-5");
    let ended = call.run(&["purge"]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("audit.retention_days") && ended.stderr.contains("-5"), "{}", ended.stderr);
    let ended = Call::new().env("KUBEVISION_AUDIT_AUDIT__RETENTION", "5").run(&["purge"]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("audit.retention: no such key"), "{}", ended.stderr);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let call = Call::new();
    fs::create_dir(call.folder.join("folder.yaml")).unwrap();
    fs::write(call.folder.join("binary.yaml"), b"\xff\xfe\x00").unwrap();
    for file in ["nowhere.yaml", "folder.yaml", "binary.yaml"] {
        let ended = call.run(&["serve", "--config", file]);
        assert_eq!(ended.code, Some(2), "{file}: {}", ended.stderr);
        assert!(ended.stderr.contains(file), "{file}: {}", ended.stderr);
    }
}

#[test]
fn what_fails_for_another_reason_than_its_configuration_ends_with_1() {
    let away = format!("database: {{ url: 'postgres://u:{PASSWORD}@127.0.0.1:1/audit' }}");
    // At once: each tries for as long as the pool has patience.
    std::thread::scope(|scope| {
        for command in [&["migrate"][..], &["purge"], &["purge", "--dry-run"]] {
            let call = Call::new().config(&away);
            scope.spawn(move || {
                let ended = call.run(command);
                assert_eq!(ended.code, Some(1), "{command:?}: {}", ended.stderr);
                assert!(!ended.stderr.contains(PASSWORD), "{}", ended.stderr);
                let told = "the database does not answer, or refuses";
                assert!(ended.stderr.contains(told), "{}", ended.stderr);
            });
        }
    });
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let ended = Call::new().config(&format!("listen: {{ panel: '{address}' }}")).run(&["serve"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for part in ["listen.panel", &address.to_string(), "another process listens there already"] {
        assert!(ended.stderr.contains(part), "no {part} in {}", ended.stderr);
    }
    let listen = "listen: { webhook: '127.0.0.1:0', panel: '127.0.0.1:0', metrics: '127.0.0.1:0' }";
    let ended = Call::new().config(listen).run(&["serve", "--kubeconfig", "nowhere.kubeconfig"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("nowhere.kubeconfig"), "{}", ended.stderr);
}

#[test]
fn each_command_helps_with_examples_and_a_wrong_one_is_told_what_there_is() {
    let call = Call::new();
    for args in [&["--help"][..], &["serve", "--help"], &["migrate", "--help"], &["purge", "--help"]] {
        let ended = call.run(args);
        assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr);
        assert!(ended.stdout.contains("Example") && ended.stdout.contains("kubevision-audit "), "{}", ended.stdout);
        assert!(ended.stdout.contains("--config <FILE>"), "{}", ended.stdout);
    }
    let ended = call.run(&["--version"]);
    assert_eq!((ended.code, ended.stdout.trim()), (Some(0), concat!("kubevision-audit ", env!("CARGO_PKG_VERSION"))));
    for (args, told) in [
        (&["serv"][..], "serve"),
        (&["purge", "--dry"], "--dry-run"),
        (&["migrate", "now"], "unexpected argument"),
        (&[], "Usage"),
    ] {
        let ended = call.run(args);
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(told), "{args:?}: {}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_twice_does_nothing_and_a_dry_purge_only_tells() -> anyhow::Result<()> {
    let postgres = postgres::shared().await.create_database().await?;
    for url in ["sqlite://audit.db", &postgres] {
        let call = Call::new().config(&format!("database: {{ url: '{url}' }}"));
        for _ in 0..2 {
            let ended = call.run(&["migrate"]);
            assert_eq!(ended.code, Some(0), "{url}: {}", ended.stderr);
            assert_eq!(ended.stdout.trim(), "the schema is up to date");
        }
        let ended = call.run(&["purge", "--dry-run"]);
        assert_eq!(ended.code, Some(0), "{url}: {}", ended.stderr);
        assert!(ended.stdout.starts_with("0 entries from before "), "{url}: {}", ended.stdout);
        assert!(ended.stdout.trim().ends_with("would be purged"), "{url}: {}", ended.stdout);

        let for_ever = call.env("KUBEVISION_AUDIT_AUDIT__RETENTION_DAYS", "0");
        let ended = for_ever.run(&["purge"]);
        assert_eq!((ended.code, ended.stdout.contains("kept for ever")), (Some(0), true), "{url}: {}", ended.stdout);
    }
    Ok(())
}
