use domain::Level;
use domain::attempt::Operation;
use policy::{DENIALS_BYTES_MAX, Facts, Requirement, RequirementOperator, Selector, Spec};
use serde_json::Value;

use crate::{Asked, named, rules};

fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).into()
}

fn selector(key: &str, operator: RequirementOperator, values: &[&str]) -> Option<Selector> {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    Some(Selector { requirements: vec![Requirement { key: key.to_owned(), operator, values }] })
}

/// What an administrator might have: each policy shows one way to match.
fn policies() -> Vec<(&'static str, Spec)> {
    let spec = |precedence, level| Spec { precedence, level, ..Spec::default() };
    let (none, metadata, diff, full) = (None, Some(Level::Metadata), Some(Level::Diff), Some(Level::Full));
    vec![
        ("quiet-bots", Spec { users: texts(["system:serviceaccount:ci:*", "robot"]), ..spec(10, none) }),
        (
            "secrets",
            Spec { api_groups: texts([""]), resources: texts(["secrets", "pods/exec"]), ..spec(100, metadata) },
        ),
        ("scales", Spec { resources: texts(["*/scale"]), operations: vec![Operation::Update], ..spec(150, metadata) }),
        ("pod-parts", Spec { resources: texts(["pods/*"]), namespaces: texts(["lab"]), ..spec(160, none) }),
        ("admins", Spec { groups: texts(["system:masters", "ops-*"]), ..spec(200, full) }),
        (
            "deletes-in-prod",
            Spec {
                operations: vec![Operation::Delete],
                namespace_selector: selector("env", RequirementOperator::In, &["prod"]),
                ..spec(300, full)
            },
        ),
        (
            "unlabelled",
            Spec {
                resources: texts(["configmaps"]),
                namespace_selector: selector("env", RequirementOperator::DoesNotExist, &[]),
                ..spec(310, metadata)
            },
        ),
        ("lab", Spec { namespaces: texts(["lab", "lab-*"]), ..spec(400, none) }),
        (
            "gold",
            Spec {
                resources: texts(["widgets"]),
                expression: "object.metadata.labels.tier == 'gold' && request.name.startsWith('g')".to_owned(),
                ..spec(500, full)
            },
        ),
        (
            "fails",
            Spec {
                resources: texts(["widgets"]),
                expression: "request.subResource == 'x'".to_owned(),
                ..spec(510, none)
            },
        ),
        ("tie-b", Spec { resources: texts(["gadgets"]), ..spec(600, none) }),
        ("tie-a", Spec { resources: texts(["gadgets"]), ..spec(600, metadata) }),
        ("apps", Spec { api_groups: texts(["apps", "batch"]), ..spec(700, diff) }),
        ("cluster-roles", Spec { resources: texts(["clusterroles"]), namespaces: texts(["shop"]), ..spec(800, none) }),
    ]
}

#[test]
fn each_request_gets_the_level_of_the_first_policy_that_matches() {
    let rules = rules(&policies());
    let cases = [
        // By user: exactly, by the start of a name, and no further.
        ("UPDATE -/configmaps shop/a robot -", "quiet-bots", "None"),
        ("UPDATE -/configmaps shop/a robots -", "built-in", "Diff"),
        ("CREATE -/secrets shop/a system:serviceaccount:ci:build -", "quiet-bots", "None"),
        ("CREATE -/secrets shop/a system:serviceaccount:ci -", "secrets", "Metadata"),
        ("CREATE -/secrets shop/a system:serviceaccount:cd:build -", "secrets", "Metadata"),
        ("DELETE apps/deployments shop/web robot system:masters", "quiet-bots", "None"),
        // By group and plural; a subresource is named or it is not meant.
        ("CREATE -/secrets shop/a alice -", "secrets", "Metadata"),
        ("UPDATE -/secrets shop/a alice -", "secrets", "Metadata"),
        ("DELETE -/secrets shop/a alice -", "secrets", "Metadata"),
        ("DELETE -/secrets shop/a alice system:masters", "secrets", "Metadata"),
        ("CREATE example.org/secrets shop/a alice -", "built-in", "Diff"),
        ("CREATE -/secrets/status shop/a alice -", "built-in", "Diff"),
        ("CONNECT -/pods/exec shop/web alice -", "secrets", "Metadata"),
        ("CONNECT -/pods/exec lab/web alice -", "secrets", "Metadata"),
        ("CONNECT -/pods/attach shop/web alice -", "built-in", "Diff"),
        ("CREATE -/pods shop/web alice -", "built-in", "Diff"),
        // Any resource's one subresource.
        ("UPDATE apps/deployments/scale shop/web alice -", "scales", "Metadata"),
        ("UPDATE example.org/gizmos/scale shop/web alice -", "scales", "Metadata"),
        ("UPDATE apps/deployments shop/web alice -", "apps", "Diff"),
        ("CREATE apps/deployments/scale shop/web alice -", "apps", "Diff"),
        ("UPDATE apps/deployments/scale lab/web alice -", "scales", "Metadata"),
        // Each subresource, but not the object.
        ("CONNECT -/pods/attach lab/web alice -", "pod-parts", "None"),
        ("CREATE -/pods/eviction lab/web alice -", "pod-parts", "None"),
        ("CREATE -/pods/eviction shop/web alice -", "built-in", "Diff"),
        ("CREATE -/pods lab/web alice ops-eu", "admins", "Full"),
        ("CREATE -/pods/eviction lab/web alice ops-eu", "pod-parts", "None"),
        // By one of the user's groups.
        ("UPDATE -/configmaps shop/a alice system:masters", "admins", "Full"),
        ("UPDATE -/configmaps shop/a alice dev,ops-eu", "admins", "Full"),
        ("UPDATE -/configmaps shop/a alice ops", "built-in", "Diff"),
        ("UPDATE -/configmaps lab/a alice system:masters", "admins", "Full"),
        ("CREATE -/nodes n1 alice system:masters", "admins", "Full"),
        ("UPDATE -/configmaps shop/a system:masters -", "built-in", "Diff"),
        // By the labels of the namespace.
        ("DELETE -/configmaps shop/a alice -", "deletes-in-prod", "Full"),
        ("DELETE apps/deployments shop/web alice -", "deletes-in-prod", "Full"),
        ("UPDATE apps/deployments shop/x alice -", "apps", "Diff"),
        ("DELETE -/configmaps lab/a alice -", "lab", "None"),
        ("DELETE -/configmaps unknown/a alice -", "built-in", "Diff"),
        ("DELETE -/nodes n1 alice -", "built-in", "Diff"),
        ("UPDATE -/configmaps plain/a alice -", "unlabelled", "Metadata"),
        ("CREATE -/configmaps plain/a alice -", "unlabelled", "Metadata"),
        ("UPDATE -/configmaps shop/a alice -", "built-in", "Diff"),
        ("UPDATE -/configmaps unknown/a alice -", "built-in", "Diff"),
        ("UPDATE -/services plain/a alice -", "built-in", "Diff"),
        // By the namespace's name; a Namespace is in itself.
        ("UPDATE -/services lab/a alice -", "lab", "None"),
        ("UPDATE -/services lab-7/a alice -", "lab", "None"),
        ("UPDATE -/services labs/a alice -", "built-in", "Diff"),
        ("UPDATE -/services prelab/a alice -", "built-in", "Diff"),
        ("UPDATE -/namespaces lab/lab alice -", "lab", "None"),
        ("UPDATE -/namespaces shop/shop alice -", "built-in", "Diff"),
        ("UPDATE apps/deployments lab/web alice -", "lab", "None"),
        // By an expression; of one that fails see below.
        ("CREATE example.org/widgets shop/good alice -", "gold", "Full"),
        ("UPDATE example.org/widgets shop/good alice -", "gold", "Full"),
        ("CREATE example.org/widgets shop/bad alice -", "built-in", "Diff"),
        ("CREATE example.org/widgets/x shop/good alice -", "built-in", "Diff"),
        ("DELETE example.org/widgets shop/good alice -", "deletes-in-prod", "Full"),
        ("CREATE example.org/widgets lab/good alice -", "lab", "None"),
        // Equal precedence: by name.
        ("CREATE example.org/gadgets shop/a alice -", "tie-a", "Metadata"),
        ("DELETE example.org/gadgets plain/a alice -", "tie-a", "Metadata"),
        ("CREATE example.org/gadgets/x shop/a alice -", "built-in", "Diff"),
        // By group alone.
        ("CREATE batch/jobs shop/a alice -", "apps", "Diff"),
        ("CREATE batch/jobs/status shop/a alice -", "apps", "Diff"),
        ("CREATE events.k8s.io/events shop/a alice -", "built-in", "Diff"),
        ("CREATE apps/daemonsets kube-system/a system:node:n1 system:nodes", "apps", "Diff"),
        // What is in no namespace is in none of those that are listed.
        ("UPDATE rbac.authorization.k8s.io/clusterroles admin alice -", "built-in", "Diff"),
        ("CREATE -/persistentvolumes pv alice dev", "built-in", "Diff"),
    ];
    assert!(cases.len() >= 60);
    for (request, policy, level) in cases {
        let asked = Asked::new(request);
        let decided = rules.decide(&asked.attempt(), &asked);
        assert_eq!((decided.rule.policy.as_str(), decided.rule.level_name()), (policy, level), "{request}");
    }
}

/// `keep` records, for each level that does, in front of `noise`, which records nothing.
#[test]
fn a_failed_expression_keeps_what_its_policy_records_and_leaves_out_nothing() {
    let spec = |precedence, level, expression: &str| Spec {
        precedence,
        level,
        resources: texts(["widgets"]),
        expression: expression.to_owned(),
        ..Spec::default()
    };
    let (none, holds, does_not, fails) = (None, "true", "false", "object.nope == 1");
    let (metadata, diff, full) = (Some(Level::Metadata), Some(Level::Diff), Some(Level::Full));
    let cases = [
        // The level and expression of each, which decides, and how many failed.
        ((metadata, fails), (none, ""), "keep", "Metadata", 1),
        ((diff, fails), (none, ""), "keep", "Diff", 1),
        ((full, fails), (none, ""), "keep", "Full", 1),
        ((diff, holds), (none, ""), "keep", "Diff", 0),
        ((diff, does_not), (none, ""), "noise", "None", 0),
        ((none, fails), (none, ""), "noise", "None", 1),
        ((none, fails), (none, fails), "built-in", "Diff", 2),
        ((none, fails), (metadata, fails), "noise", "Metadata", 2),
        ((diff, "object.list.all(x, x.nope)"), (none, ""), "keep", "Diff", 1),
        ((diff, "object.metadata.labels.tier"), (none, ""), "keep", "Diff", 1),
    ];
    let asked = Asked::new("CREATE example.org/widgets shop/a alice -");
    for (keep, noise, policy, level, failed) in cases {
        let keep = Spec {
            sync: keep.0.is_some(),
            redact: if keep.0.is_some() { texts(["$.spec.password"]) } else { Vec::new() },
            ..spec(1, keep.0, keep.1)
        };
        let (level_of, expression) = (keep.level, keep.expression.clone());
        let rules = rules(&[("keep", keep.clone()), ("noise", spec(2, noise.0, noise.1))]);
        let attempt = asked.attempt();
        let decided = rules.decide(&attempt, &asked);
        let told = (decided.rule.policy.as_str(), decided.rule.level_name(), decided.failed);
        assert_eq!(told, (policy, level, failed), "{level_of:?} if {expression}, then {:?} if {}", noise.0, noise.1);
        if policy == "keep" {
            assert_eq!((decided.rule.sync, decided.rule.redact.len()), (keep.sync, keep.redact.len()), "{expression}");
        }
    }
}

/// As one that is too large, or too deep to be read.
#[test]
fn an_object_that_cannot_be_shown_to_an_expression_is_recorded_and_redacted_as_its_policy_says() {
    struct Hidden(Asked);

    impl Facts for Hidden {
        fn request(&self) -> Option<Value> {
            self.0.request()
        }
        fn object(&self) -> Option<Value> {
            None
        }
        fn old_object(&self) -> Option<Value> {
            None
        }
    }

    let widgets = || Spec { resources: texts(["widgets"]), ..Spec::default() };
    let keep = Spec {
        precedence: 1,
        expression: "object.spec.kind == 'db'".to_owned(),
        level: Some(Level::Diff),
        redact: texts(["$.spec.password"]),
        ..widgets()
    };
    let rules = rules(&[("keep", keep), ("noise", Spec { precedence: 2, level: None, ..widgets() })]);
    let hidden = Hidden(Asked::new("CREATE example.org/widgets shop/a alice -"));
    let attempt = hidden.0.attempt();
    let rule = rules.decide(&attempt, &hidden).rule;
    assert_eq!((rule.policy.as_str(), rule.level_name(), rule.redact.len()), ("keep", "Diff", 1));
}

#[test]
fn what_records_nothing_is_told_but_for_what_a_policy_before_it_might_want() {
    let told = rules(&policies()).exclusions(64);
    let names: Vec<&str> = told.iter().map(|condition| condition.policy.as_str()).collect();
    assert_eq!(names, ["quiet-bots", "pod-parts", "lab", "tie-b", "cluster-roles"], "not the one with an expression");
    let quiet = r#"(has(request.userInfo.username) && (request.userInfo.username in ["robot"] || request.userInfo.username.startsWith("system:serviceaccount:ci:")))"#;
    assert_eq!(told[0].matches, quiet);
    let lab = &told[2].matches;
    assert!(lab.contains(r#"request.namespace in ["lab"] || request.namespace.startsWith("lab-")"#), "{lab}");
    assert!(lab.contains(r#" && !("#) && lab.contains(r#""secrets""#) && lab.contains("ops-"), "{lab}");
    assert!(rules(&policies()).exclusions(2).len() == 2);
}

#[test]
fn a_read_is_recorded_where_a_policy_names_it_and_is_told_to_nobody() {
    let on = |precedence, operations: &[Operation], level| Spec {
        precedence,
        resources: texts(["secrets"]),
        operations: operations.to_vec(),
        level,
        ..Spec::default()
    };
    let rules = rules(&[
        ("no-lists", on(1, &[Operation::List], None)),
        ("reads", on(2, &[Operation::Get, Operation::List, Operation::Delete], Some(Level::Metadata))),
        ("any-write", on(3, &[], None)),
    ]);
    let cases = [
        ("GET -/secrets shop/a alice -", "reads", "Metadata"),
        ("LIST -/secrets shop/a alice -", "no-lists", "None"),
        ("GET -/configmaps shop/a alice -", "built-in", "None"),
        ("DELETE -/secrets shop/a alice -", "reads", "Metadata"),
        ("UPDATE -/secrets shop/a alice -", "any-write", "None"),
    ];
    for (request, policy, level) in cases {
        let asked = Asked::new(request);
        let decided = rules.decide(&asked.attempt(), &asked);
        assert_eq!((decided.rule.policy.as_str(), decided.rule.level_name()), (policy, level), "{request}");
    }
    let told = rules.exclusions(64);
    assert_eq!(told.iter().map(|condition| condition.policy.as_str()).collect::<Vec<_>>(), ["any-write"]);
    let but = r#"!((request.operation in ["DELETE"]) && "#;
    assert!(told[0].matches.contains(but), "{}", told[0].matches);
}

fn denying(spec: Spec) -> Spec {
    Spec { level: Some(Level::Diff), sync: true, deny: true, ..spec }
}

#[test]
fn what_is_refused_is_told_with_many_users_and_behind_many_policies() {
    let users = (0..64).map(|n| format!("system:serviceaccount:team-{n:03}:{}", "x".repeat(120))).collect();
    let denials = rules(&[("long", denying(Spec { precedence: 5, users, ..Spec::default() }))]).denials(16);
    assert_eq!((denials.told.len(), denials.untold.len()), (1, 0), "{:?}", denials.untold);

    let small = |n| Spec {
        precedence: n,
        users: vec![format!("system:serviceaccount:team-{n}:*")],
        resources: texts(["configmaps", "secrets"]),
        level: Some(Level::Diff),
        ..Spec::default()
    };
    let mut specs: Vec<_> = (1..=60).map(|n| (format!("small-{n}"), small(n))).collect();
    specs.push((
        "secrets".to_owned(),
        denying(Spec { precedence: 99, resources: texts(["secrets"]), ..Spec::default() }),
    ));
    let denials = rules(&named(&specs)).denials(16);
    assert_eq!((denials.told.len(), denials.untold.len()), (1, 0), "{:?}", denials.untold);
    assert!(denials.told[0].matches.len() > 8 * 1024, "it is one that was dropped for its length");
}

#[test]
fn which_denials_are_not_told_is_said_and_why() {
    let secrets = |precedence| denying(Spec { precedence, resources: texts(["secrets"]), ..Spec::default() });
    let specs: Vec<_> = (1..=5).map(|n| (format!("deny-{n}"), secrets(n))).collect();
    let denials = rules(&named(&specs)).denials(3);
    let told: Vec<_> = denials.told.iter().map(|told| told.policy.as_str()).collect();
    let untold: Vec<_> = denials.untold.iter().map(|untold| untold.name.as_str()).collect();
    assert_eq!((told, untold), (vec!["deny-1", "deny-2", "deny-3"], vec!["deny-4", "deny-5"]));
    assert!(denials.untold[0].reason.contains("of 3 policies that deny"), "{:?}", denials.untold[0]);

    // In all, the one expression that they become can be parsed; a later, smaller one is told all the same.
    let large = |n: usize| {
        let users = (0..64).map(|user| format!("{n}-{user}-{}", "u".repeat(248))).collect();
        denying(Spec { precedence: i32::try_from(n).unwrap(), users, ..Spec::default() })
    };
    let mut specs: Vec<_> = (1..=8).map(|n| (format!("large-{n}"), large(n))).collect();
    specs.push(("small".to_owned(), secrets(9)));
    let denials = rules(&named(&specs)).denials(16);
    assert!(denials.told.iter().map(|told| told.matches.len() + 6).sum::<usize>() <= DENIALS_BYTES_MAX);
    assert_eq!(denials.told.last().unwrap().policy, "small");
    assert_eq!(denials.told.len() + denials.untold.len(), 9);
    let reason = &denials.untold[0].reason;
    assert!(reason.contains("bytes to tell: of 98304 for all that deny"), "{reason}");

    // What is asked of each of a user's groups costs most.
    let groups = (0..64).map(|group| format!("{group}-{}", "g".repeat(100))).collect();
    let denials =
        rules(&[("groups", denying(Spec { groups, ..Spec::default() })), ("secrets", secrets(9))]).denials(16);
    assert_eq!((denials.told.len(), denials.untold[0].name.as_str()), (1, "groups"));
    assert!(denials.untold[0].reason.contains("the groups that it"), "{:?}", denials.untold[0]);

    let expressed = denying(Spec { expression: "true".to_owned(), ..Spec::default() });
    let denials = rules(&[("expressed", expressed)]).denials(16);
    assert_eq!(denials.untold[0].reason, "it has an expression");
}

#[test]
fn a_policy_before_it_is_told_only_where_both_can_match_one_request() {
    let denied = denying(Spec {
        precedence: 9,
        resources: texts(["secrets", "pods/exec"]),
        users: texts(["system:serviceaccount:shop:*", "alice"]),
        namespaces: texts(["shop-*"]),
        ..Spec::default()
    });
    let none = || Spec { precedence: 1, level: Some(Level::Diff), ..Spec::default() };
    let cases = [
        (none(), true),
        (Spec { users: texts(["system:serviceaccount:lab:*"]), ..none() }, false),
        (Spec { users: texts(["system:serviceaccount:*"]), ..none() }, true),
        (Spec { users: texts(["system:serviceaccount:shop:web-*"]), ..none() }, true),
        (Spec { users: texts(["bob", "alic*"]), ..none() }, true),
        (Spec { users: texts(["bob", "alice2"]), ..none() }, false),
        (Spec { resources: texts(["pods"]), ..none() }, false),
        (Spec { resources: texts(["pods/attach", "configmaps"]), ..none() }, false),
        (Spec { resources: texts(["pods/*"]), ..none() }, true),
        (Spec { resources: texts(["*/exec"]), ..none() }, true),
        (Spec { resources: texts(["secrets/*"]), ..none() }, false),
        (Spec { resources: texts(["*"]), ..none() }, true),
        (Spec { namespaces: texts(["shop"]), ..none() }, false),
        (Spec { namespaces: texts(["shop-eu"]), ..none() }, true),
        (Spec { namespaces: texts(["sho*"]), ..none() }, true),
        // Somebody can be in both.
        (Spec { groups: texts(["dev"]), ..none() }, true),
    ];
    for (before, meets) in cases {
        let told = rules(&[("before", before.clone()), ("denied", denied.clone())]).denials(16).told;
        assert_eq!(told[0].matches.contains(" && !("), meets, "{before:?}");
    }
}
