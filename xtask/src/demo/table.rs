//! Entries as a table that a person reads.

use serde_json::Value;

const TITLES: [&str; 7] = ["TIME", "USER", "ACTION", "RESOURCE", "NAME", "OUTCOME", "SUMMARY"];
const GAP: &str = "  ";

/// One line each, in the order given.
pub(super) fn table(entries: &[&Value]) -> String {
    let mut rows = vec![TITLES.map(str::to_owned)];
    rows.extend(entries.iter().map(|entry| row(entry)));
    let widths: Vec<usize> = (0..TITLES.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default())
        .collect();
    let line = |row: &[String; 7]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        cells.join(GAP).trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn row(entry: &Value) -> [String; 7] {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    [
        time_of_day(entry["timestamp"].as_str().unwrap_or_default()).to_owned(),
        text(&entry["user"]),
        text(&entry["action"]),
        text(&entry["resource"]),
        text(&entry["resource_name"]),
        text(&entry["outcome"]),
        text(&entry["detail"]["summary"]),
    ]
}

/// Of `2026-03-01T14:05:12.123Z`: `14:05:12`.
fn time_of_day(timestamp: &str) -> &str {
    let time = timestamp.split_once('T').map_or(timestamp, |(_, time)| time);
    time.get(..8).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let entry = |user: &str, summary: Option<&str>| {
            json!({
                "timestamp": "2026-03-01T14:05:12.123Z", "user": user, "action": "update", "resource": "Secret",
                "resource_name": "db", "outcome": "unconfirmed", "detail": {"summary": summary},
            })
        };
        let (one, two) = (entry("al", Some("a → b")), entry("bérénice", None));
        assert_eq!(
            table(&[&one, &two]),
            "TIME      USER      ACTION  RESOURCE  NAME  OUTCOME      SUMMARY\n\
             14:05:12  al        update  Secret    db    unconfirmed  a → b\n\
             14:05:12  bérénice  update  Secret    db    unconfirmed"
        );
    }
}
