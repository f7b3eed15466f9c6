use super::*;

fn load(yaml: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, yaml).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources { file: Some(file), environment, kubeconfig: None }.load().map_err(|error| error.to_string())
}

#[test]
fn an_empty_file_has_every_default() {
    for yaml in ["", "audit:\n", "audit: { batch: { interval: null } }\n"] {
        let config = load(yaml, &[]).unwrap();
        assert_eq!(config.cluster, "local");
        assert_eq!((config.kubernetes.namespace, config.kubernetes.service.as_str()), (None, "kubevision-audit"));
        assert_eq!(config.listen.panel.to_string(), "127.0.0.1:8080");
        assert_eq!(config.database_url.as_str(), "sqlite://kubevision-audit.db");
        assert_eq!(config.audit.retention, Retention::Days(90));
        assert_eq!(config.audit.batch_interval, Duration::from_millis(500));
        assert_eq!(config.audit.purge_at.to_string(), "02:00:00");
    }
}

#[test]
fn each_key_is_read_and_a_variable_overrides_it() {
    let yaml = "
        cluster: prod-eu
        listen: { webhook: '127.0.0.1:1', panel: '[::1]:2', metrics: '127.0.0.1:3' }
        kubernetes: { webhook_url: 'https://127.0.0.1:1', namespace: audit, service: log, kubeconfig: k }
        tls: { cert_file: a, key_file: b, ca_file: c }
        database: { url: 'postgres://u:p@h/d' }
        audit: { sync: true, retention_days: 0, batch: { max_entries: 7, interval: 2s }, purge_at: '03:30', log_path: l }
        audit_events: { client_ca_file: e, bearer_token_file: f }";
    let config = load(yaml, &[("KUBEVISION_AUDIT_AUDIT__BATCH__MAX_ENTRIES", "9"), ("KUBEVISION_AUDIT_CLUSTER", "x")]);
    let config = config.unwrap();
    assert_eq!((config.cluster.as_str(), config.audit.batch_max_entries), ("x", 9));
    assert_eq!((config.audit.sync, config.audit.retention), (true, Retention::Forever));
    assert_eq!((config.kubernetes.namespace.as_deref(), config.kubernetes.service.as_str()), (Some("audit"), "log"));
    assert_eq!(config.tls.unwrap().ca_file, Path::new("c"));
    assert_eq!(config.audit.log_path.as_deref(), Some(Path::new("l")));
    let callers = config.audit_events.unwrap();
    assert_eq!(callers.client_ca_file.as_deref(), Some(Path::new("e")));
    assert_eq!(callers.bearer_token_file.as_deref(), Some(Path::new("f")));
    assert_eq!(format!("{:?}", config.database_url), "DatabaseUrl(postgres://…)");
}

#[test]
fn what_is_not_accepted_is_named_with_its_key_its_value_and_what_is() {
    let cases = [
        (
            "audit: { retension_days: 3 }",
            "audit.retension_days: no such key: accepted is one of `sync`, `retention_days`",
        ),
        ("audits: {}", "audits: no such key: accepted is one of `cluster`, `listen`"),
        (
            "audit: { retention_days: -1 }",
            "audit.retention_days: -1 is not accepted: accepted is a whole number of days",
        ),
        (
            "audit: { batch: { interval: 5 parsecs } }",
            r#"audit.batch.interval: "5 parsecs" is not accepted: accepted is a duration"#,
        ),
        (
            "audit: { batch: { max_entries: 0 } }",
            "audit.batch.max_entries: 0 is not accepted: accepted is a whole number",
        ),
        ("audit: { sync: maybe }", r#"audit.sync: "maybe" is not accepted: accepted is true or false"#),
        ("audit: { purge_at: '25:00' }", r#"audit.purge_at: "25:00" is not accepted: accepted is a time of day"#),
        (
            "listen: { panel: '0.0.0.0:8080' }",
            "listen.panel: 0.0.0.0:8080 is not accepted: accepted is a loopback address",
        ),
        ("listen: { webhook: 8443 }", "listen.webhook: 8443 is not accepted: accepted is an IP address and a port"),
        (
            "kubernetes: { namespace: A_b }",
            r#"kubernetes.namespace: "A_b" is not accepted: accepted is a name such as"#,
        ),
        (
            "kubernetes: { webhook_url: 'http://x' }",
            r#"kubernetes.webhook_url: "http://x" is not accepted: accepted is an https"#,
        ),
        ("tls: { cert_file: a }", "tls: cert_file, key_file and ca_file go together"),
        ("cluster: [a]", r#"cluster: ["a"] is not accepted: accepted is 1 to 253"#),
        ("- a", "is not YAML: accepted is a mapping of keys"),
        ("a: [", "is not YAML: "),
    ];
    for (yaml, told) in cases {
        let error = load(yaml, &[]).unwrap_err();
        assert!(error.contains(told), "{yaml}\n told {error}\n want {told}");
    }
    let error = load("", &[("KUBEVISION_AUDIT_AUDIT__RETENTION", "3")]).unwrap_err();
    assert!(error.starts_with("audit.retention: no such key"), "{error}");
}

#[test]
fn a_password_is_never_repeated_wherever_it_was_put() {
    const CANARY: &str = "postgres://u:canary-61@h/d";
    let told = [
        load(&format!("database: {CANARY}"), &[]).unwrap_err(),
        load(&format!("database: {{ url: [{CANARY}] }}"), &[]).unwrap_err(),
        load(&format!("database:\n  url: {CANARY}\n  x: [\n"), &[]).unwrap_err(),
        load("", &[("KUBEVISION_AUDIT_DATABASE", CANARY)]).unwrap_err(),
    ];
    for told in told {
        assert!(!told.contains("canary"), "{told}");
    }
    assert!(load("audit: 5", &[]).unwrap_err().ends_with("accepted is a mapping of keys"));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let sources = Sources { file: Some("nowhere/config.yaml".into()), ..Sources::default() };
    assert_eq!(sources.load().unwrap_err().to_string(), "reading the configuration file nowhere/config.yaml");
}

/// The only block of YAML on the page about the configuration.
fn documented() -> &'static str {
    const PAGE: &str = include_str!("../../docs/reference/configuration.md");
    let (_, rest) = PAGE.split_once("```yaml\n").unwrap();
    rest.split_once("```").unwrap().0
}

#[test]
fn the_page_about_the_configuration_tells_the_defaults() {
    assert_eq!(format!("{:?}", load(documented(), &[]).unwrap()), format!("{:?}", load("", &[]).unwrap()));
}

#[test]
fn the_page_about_the_configuration_has_each_key_that_is_accepted() {
    fn hold(path: &[&str], documented: &serde_json::Value) {
        let Some(members) = documented.as_object() else { return };
        let opened: String = path.iter().map(|key| format!("{{{key}: ")).collect();
        let told = load(&format!("{opened}{{no-such-key: 1}}{}", "}".repeat(path.len())), &[]).unwrap_err();
        let accepted: std::collections::BTreeSet<_> = told.split('`').skip(1).step_by(2).collect();
        assert_eq!(accepted, members.keys().map(String::as_str).collect(), "under {path:?}: {told}");
        for (key, documented) in members {
            hold(&[path, &[key.as_str()]].concat(), documented);
        }
    }
    hold(&[], &serde_saphyr::from_str(documented()).unwrap());
}
