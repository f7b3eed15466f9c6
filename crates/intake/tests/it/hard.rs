//! Valid reviews that are hard: answered and recorded, without their diff where that would cost too much.

use domain::EntryId;

use crate::door::{Door, config_map};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn whatever_the_api_server_accepts_is_allowed_and_recorded() {
    let deep = |levels: usize| format!(r#"{{"a":{}1{}}}"#, r#"{"b":"#.repeat(levels), "}".repeat(levels));
    let list = |numbers: &mut dyn Iterator<Item = usize>| {
        let numbers: Vec<_> = numbers.map(|n| n.to_string()).collect();
        format!(r#"{{"a":[{}]}}"#, numbers.join(","))
    };
    let large = |filler: &str| format!(r#"{{"a":"{}"}}"#, filler.repeat(3 * MIB - 1_000));
    let cases = [
        ("8,000 levels deep", deep(8_000), deep(7_999)),
        ("100,000 elements in another order", list(&mut (0..100_000)), list(&mut (0..100_000).rev())),
        ("3 MiB twice", large("x"), large("y")),
        ("NUL in a value", r#"{"a":"b\u0000c"}"#.to_owned(), r#"{"a":"\u0000"}"#.to_owned()),
        ("a number of three hundred digits", format!(r#"{{"a":{}}}"#, "9".repeat(300)), r#"{"a":2e299}"#.to_owned()),
        ("the same key twice", r#"{"a":1,"a":2}"#.to_owned(), r#"{"a":3}"#.to_owned()),
    ];
    for (name, old, new) in cases {
        let mut door = Door::open();
        let answer = door.post(config_map("UPDATE", Some(&old), Some(&new))).await;
        let entries = door.entries().await;
        let ids: Vec<EntryId> = entries.iter().map(|entry| entry.id).collect();
        assert_eq!(ids.iter().map(EntryId::to_string).collect::<Vec<_>>(), [answer.entry().unwrap()], "{name}");
        let detail = entries[0].detail.read().unwrap();
        let told = detail.changes.is_some_and(|changes| !changes.is_empty());
        assert!(told || detail.omitted.is_some() || detail.truncated.is_some(), "{name}");
        assert!(!entries[0].detail.as_str().contains(r"\u0000"), "{name}");
    }
}
