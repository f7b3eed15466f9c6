use std::time::{Duration, Instant};

use domain::Level;
use policy::Spec;

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
