use std::path::Path;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MatchCondition, ValidatingWebhook};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use policy::{Policy, Rule, Rules, Spec};
use testkit::golden;

use super::decide::overlaid;
use super::*;

fn settings(webhook_url: Option<&str>) -> Settings {
    Settings {
        webhook_url: webhook_url.map(|url| url.parse().unwrap()),
        namespace: "kubevision-audit".to_owned(),
        service: "kubevision-audit".to_owned(),
        rules: Arc::new(Rules::only(Rule::built_in("built-in", false))),
        policies_known: true,
    }
}

fn wanted_by(settings: &Settings) -> ValidatingWebhookConfiguration {
    wanted(&Wanted { settings, ca_bundle: Some(b"-----BEGIN CERTIFICATE-----\n") })
}

const OURS: Known = Known { registered_before: false, ours: true };
const ANOTHERS: Known = Known { registered_before: true, ours: false };

#[test]
fn the_configuration_is_the_one_that_was_reviewed() {
    let golden_json = |name: &str, settings: &Settings| {
        let json = serde_json::to_string_pretty(&wanted_by(settings)).unwrap() + "\n";
        golden(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name), &json);
    };
    golden_json("registration-by-service.json", &settings(None));
    golden_json("registration-by-url.json", &settings(Some("https://127.0.0.1:8443")));
}

#[test]
fn policies_narrow_what_is_asked_and_make_a_webhook_that_fails_closed() {
    let none = Spec { namespaces: vec!["lab".to_owned()], precedence: 2, ..Spec::default() };
    let deny = Spec {
        resources: vec!["secrets".to_owned()],
        level: Some(domain::Level::Diff),
        sync: true,
        deny: true,
        precedence: 1,
        ..Spec::default()
    };
    let compiled = |name: &str, spec: &Spec| Arc::new(Policy::compile(name, spec).unwrap());
    let rules = Rules::new(
        vec![compiled("lab", &none), compiled("secrets", &deny)],
        Rule::built_in("built-in", false),
        Arc::default(),
    );
    let json = serde_json::to_string_pretty(&wanted_by(&Settings { rules: Arc::new(rules), ..settings(None) }))
        .unwrap()
        + "\n";
    golden(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/registration-with-policies.json"), &json);
}

#[test]
fn what_is_missing_is_created_what_is_right_is_kept_and_what_is_ours_is_repaired() {
    type Edit = fn(&mut ValidatingWebhookConfiguration);
    fn webhook(live: &mut ValidatingWebhookConfiguration) -> &mut ValidatingWebhook {
        &mut live.webhooks.as_mut().unwrap()[0]
    }
    fn rule(
        live: &mut ValidatingWebhookConfiguration,
        field: fn(&mut k8s_openapi::api::admissionregistration::v1::RuleWithOperations),
    ) {
        field(&mut webhook(live).rules.as_mut().unwrap()[0]);
    }
    let kept: [(&str, Edit); 5] = [
        ("nothing changed", |_| {}),
        ("another's label", |live| {
            live.metadata.labels.as_mut().unwrap().insert("team".into(), "a".into());
        }),
        ("another's annotation", |live| {
            live.metadata.annotations.as_mut().unwrap().insert("seen-by".into(), "a".into());
        }),
        ("what the server writes", |live| live.metadata.resource_version = Some("7".into())),
        ("an empty selector left out", |live| webhook(live).object_selector = None),
    ];
    let repaired: [(&str, Edit); 19] = [
        ("labels", |live| live.metadata.labels = None),
        ("annotations", |live| {
            live.metadata.annotations.as_mut().unwrap().values_mut().for_each(|v| *v = "false".into())
        }),
        ("webhooks", |live| live.webhooks = None),
        ("webhooks", |live| {
            let another = ValidatingWebhook { name: "another.example.org".into(), ..webhook(live).clone() };
            live.webhooks.as_mut().unwrap().push(another);
        }),
        ("name", |live| webhook(live).name = "another.example.org".into()),
        ("failurePolicy", |live| webhook(live).failure_policy = Some("Fail".into())),
        ("timeoutSeconds", |live| webhook(live).timeout_seconds = Some(30)),
        ("rules", |live| rule(live, |rule| rule.api_groups = Some(vec!["apps".into()]))),
        ("rules", |live| rule(live, |rule| rule.resources = Some(vec!["*".into()]))),
        ("rules", |live| rule(live, |rule| rule.operations = Some(vec!["CREATE".into()]))),
        ("rules", |live| rule(live, |rule| rule.scope = Some("Namespaced".into()))),
        ("matchConditions", |live| {
            let never = MatchCondition { name: "never".into(), expression: "false".into() };
            webhook(live).match_conditions.as_mut().unwrap().push(never);
        }),
        ("matchConditions", |live| webhook(live).match_conditions = None),
        ("clientConfig", |live| webhook(live).client_config.ca_bundle = Some(ByteString(b"another".into()))),
        ("clientConfig", |live| webhook(live).client_config.url = Some("https://another".into())),
        ("namespaceSelector", |live| webhook(live).namespace_selector = Some(LabelSelector::default())),
        ("objectSelector", |live| {
            webhook(live).object_selector.as_mut().unwrap().match_labels = Some([("audit".into(), "on".into())].into());
        }),
        ("sideEffects", |live| webhook(live).side_effects = "None".into()),
        ("matchPolicy", |live| webhook(live).match_policy = Some("Exact".into())),
    ];
    let wanted = wanted_by(&settings(None));
    assert_eq!(decide(&wanted, None, OURS), Step::Create);
    assert_eq!(decide(&wanted, None, ANOTHERS), Step::Restore);
    for (case, edit) in kept {
        let mut live = wanted.clone();
        edit(&mut live);
        assert_eq!(decide(&wanted, Some(&live), ANOTHERS), Step::Keep, "{case}");
    }
    for (field, edit) in repaired {
        let mut live = wanted.clone();
        edit(&mut live);
        assert_eq!(decide(&wanted, Some(&live), ANOTHERS), Step::Repair(vec![field]));
        assert_eq!(decide(&wanted, Some(&live), OURS), Step::Update(vec![field]));
        assert_eq!(decide(&wanted, Some(&overlaid(&wanted, live)), ANOTHERS), Step::Keep, "{field}");
    }
}

#[test]
fn an_overlay_leaves_to_others_what_is_theirs() {
    let wanted = wanted_by(&settings(None));
    let mut live = ValidatingWebhookConfiguration::default();
    live.metadata.resource_version = Some("7".into());
    live.metadata.labels = Some([("team".into(), "a".into())].into());
    let whole = overlaid(&wanted, live);
    assert_eq!(whole.metadata.resource_version.as_deref(), Some("7"));
    assert_eq!(whole.metadata.labels.unwrap().get("team").map(String::as_str), Some("a"));
}

#[test]
fn failures_are_followed_by_longer_and_longer_pauses_up_to_the_period() {
    let pauses: Vec<u128> = (0..8).map(|failures| pause(failures).as_millis()).collect();
    assert_eq!(pauses, [4000, 250, 500, 1000, 2000, 4000, 4000, 4000]);
    assert_eq!(pause(u32::MAX), PERIOD);
}

#[test]
fn a_hint_at_who_wrote_is_the_newest_writer_but_for_us() {
    let told = |entries: &[(&str, &str, &str)]| {
        let entries = entries.iter().map(
            |(manager, time, field)| serde_json::json!({"manager": manager, "time": time, "fieldsV1": {*field: {}}}),
        );
        let object = serde_json::json!({"metadata": {"managedFields": entries.collect::<Vec<_>>()}});
        ledger::other_manager(&serde_json::from_value(object).unwrap())
    };
    let (early, late, ours) = ("2026-03-01T12:00:00Z", "2026-03-01T12:00:01Z", "kubevision-audit");
    let (webhooks, metadata) = ("f:webhooks", "f:metadata");
    assert_eq!(told(&[]), "");
    assert_eq!(told(&[(ours, late, webhooks)]), "");
    assert_eq!(told(&[("kubectl-label", late, metadata)]), "");
    assert_eq!(told(&[("kubectl-edit", early, webhooks), (ours, late, webhooks)]), "kubectl-edit");
    assert_eq!(told(&[("helm", early, webhooks), ("kubectl-edit", late, webhooks)]), "kubectl-edit");
}

#[test]
fn the_policies_that_the_api_server_is_not_told_of_are_named() {
    let deny = |n: usize| {
        let spec = Spec { deny: true, sync: true, resources: vec![format!("kind-{n:02}")], ..Spec::default() };
        Arc::new(Policy::compile(&format!("deny-{n:02}"), &spec).unwrap())
    };
    let rules = Rules::new((0..18).map(deny).collect(), Rule::built_in("built-in", false), Arc::default());
    let untold = untold(&rules);
    assert_eq!(untold.keys().collect::<Vec<_>>(), ["deny-16", "deny-17"]);
}
