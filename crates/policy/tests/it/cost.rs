use std::time::{Duration, Instant};

use domain::Level;
use policy::{EXPRESSION_OBJECT_BYTES_MAX, Facts, Spec};
use serde_json::{Value, json};

use crate::{Asked, rules};

/// Of which nothing but the last matches: the dearest request there is.
#[test]
fn a_decision_among_500_policies_takes_less_than_20_microseconds() {
    let names: Vec<String> = (0..500).map(|n| format!("policy-{n:03}")).collect();
    let specs: Vec<(&str, Spec)> = names
        .iter()
        .enumerate()
        .map(|(n, name)| {
            let spec = Spec {
                precedence: i32::try_from(n).unwrap() + 1,
                resources: vec!["configmaps".to_owned(), "secrets".to_owned(), format!("kind{n}s")],
                namespaces: vec![format!("team-{n}"), format!("team-{n}-*")],
                users: vec![format!("system:serviceaccount:team-{n}:*")],
                level: Some(Level::Diff),
                ..Spec::default()
            };
            (name.as_str(), spec)
        })
        .collect();
    let rules = rules(&specs);
    let asked = Asked::new("UPDATE -/configmaps team-499-x/settings system:serviceaccount:team-499:app dev");
    let attempt = asked.attempt();
    assert_eq!(rules.decide(&attempt, &asked).rule.policy, "policy-499");
    // The quickest of many rounds: the machine does other things meanwhile.
    let round = |_| {
        let start = Instant::now();
        for _ in 0..100 {
            std::hint::black_box(rules.decide(std::hint::black_box(&attempt), &asked));
        }
        start.elapsed() / 100
    };
    let quickest = (0..20).map(round).min().unwrap();
    println!("a decision among 500 policies: {quickest:?}");
    assert!(quickest < Duration::from_micros(20), "{quickest:?}");
}

/// Whoever writes an object chooses what is in its 128 KiB; whoever writes a policy, what is asked of it. Whichever of these
/// would take longer than a review may, fails before it begins.
#[test]
fn no_expression_about_any_object_takes_longer_than_100_milliseconds() {
    let many = |one: &str, by: &str| vec![one; 2_000 / (one.len() + by.len())].join(by);
    let some = |one: &str, by: &str| [one; 4].join(by);
    let mut expressions: Vec<String> = [
        "object.spec.list.all(x, x == 7 || x == 'ab' || type(x) == map)",
        "object.spec.list.filter(x, x != 8).map(x, x).filter(x, x != 9).size() > 0",
        "object.spec.list.all(x, x in ['a', 'b', 'ab', 'c', 'd'])",
        "object.spec.list.exists(x, x.matches('c$'))",
        "object.spec.text.matches('(a|b)*a(a|b){60}c')",
        "object.spec.text.matches('[ab]*a[ab]{10}c')",
        "object.spec.list.exists_one(x, x.startsWith('c'))",
        "(object.spec.list + object.spec.list + oldObject.spec.list).all(x, x != 'c')",
        "[object, object, oldObject].all(x, x == object)",
    ]
    .map(str::to_owned)
    .into();
    for (one, by) in [
        ("object == oldObject", "&&"),
        ("object + 1 == 1", "||"),
        ("object > 1", "||"),
        ("object.spec.text + 'a' == 'b'", "||"),
        ("'c' in object.spec.list", "||"),
        ("object.spec.text.contains('abababc')", "||"),
        ("object.spec.text.matches('[ab]*a[ab]{60}c')", "||"),
        ("object.spec.list.exists(x, x.matches('c$'))", "||"),
    ] {
        expressions.extend([some(one, by), many(one, by)]);
    }
    for (one, by) in [("x != 'c'", "&&"), ("x.startsWith('c')", "||")] {
        expressions.extend([some(one, by), many(one, by)].map(|turn| format!("object.spec.list.all(x, {turn})")));
    }
    expressions.push(format!("[{}].size() > 0", many("object", ",")));
    expressions.push(format!("({}).size() > 0", many("object.spec.text", "+")));

    let random = (0..120_000_u32).scan(12_345_u32, |state, _| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(if *state >> 31 == 0 { 'a' } else { 'b' })
    });
    let objects = [
        ("many numbers", json!({"spec": {"list": vec![7; 60_000], "text": "b"}})),
        ("many texts", json!({"spec": {"list": vec!["ab"; 25_000], "text": "b"}})),
        ("many maps", json!({"spec": {"list": vec![json!({"a": 1}); 14_000], "text": "b"}})),
        ("one text", json!({"spec": {"list": [1], "text": random.collect::<String>()}})),
    ];
    let mut longest = Duration::ZERO;
    for (what, object) in objects {
        assert!(object.to_string().len() <= EXPRESSION_OBJECT_BYTES_MAX, "{what}");
        let large = Large { asked: Asked::new("UPDATE -/configmaps shop/a alice dev"), object };
        let attempt = large.asked.attempt();
        for expression in &expressions {
            let spec = Spec { precedence: 1, expression: expression.clone(), level: None, ..Spec::default() };
            let rules = rules(&[("noise", spec)]);
            let round = |_| {
                let start = on_cpu();
                std::hint::black_box(rules.decide(std::hint::black_box(&attempt), &large));
                on_cpu().saturating_sub(start)
            };
            let quickest = (0..3).map(round).min().unwrap();
            longest = longest.max(quickest);
            assert!(quickest < Duration::from_millis(100), "{quickest:?} for {what}: {expression}");
        }
    }
    println!("the longest: {longest:?}");
}

#[test]
fn a_usual_object_leaves_room_for_many_expressions() {
    let container = |n: u32| {
        json!({"name": format!("container-{n}"), "image": "registry.example.org/team/app:1.2.3",
            "ports": [{"containerPort": n}], "env": vec![json!({"name": "LANGUAGE", "value": "some value"}); 20]})
    };
    let object = json!({"metadata": {"labels": {"tier": "gold"}}, "spec": {"replicas": 3,
        "containers": (0..10).map(container).collect::<Vec<_>>()}});
    let large = Large { asked: Asked::new("UPDATE -/configmaps shop/a alice dev"), object };
    let specs: Vec<(String, Spec)> = (0..200)
        .map(|n| {
            let expression = match n % 4 {
                0 => "object.spec.containers.all(c, !c.image.startsWith('docker.io/') && c.env.size() == 20)",
                1 => r"object.spec.containers.exists(c, !c.image.matches('^registry[.]example[.]org/[a-z]+/[^:]+:[0-9.]+$'))",
                2 => "object.metadata.labels.tier != 'gold' && object.spec.replicas + 1 > 3",
                _ => "object.spec.replicas != oldObject.spec.replicas && object.spec != oldObject.spec",
            };
            let expression = format!("!({expression}) && false");
            let spec = Spec { precedence: n, expression, level: None, ..Spec::default() };
            (format!("policy-{n:03}"), spec)
        })
        .collect();
    let rules = rules(&specs.iter().map(|(name, spec)| (name.as_str(), spec.clone())).collect::<Vec<_>>());
    assert_eq!(rules.decide(&large.asked.attempt(), &large).failed, 0);
}

struct Large {
    asked: Asked,
    object: Value,
}

impl Facts for Large {
    fn request(&self) -> Option<Value> {
        self.asked.request()
    }

    fn object(&self) -> Option<Value> {
        Some(self.object.clone())
    }

    fn old_object(&self) -> Option<Value> {
        Some(self.object.clone())
    }
}

/// Of this thread: the machine does other things meanwhile.
fn on_cpu() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(told.split_whitespace().next().unwrap().parse().unwrap())
}
