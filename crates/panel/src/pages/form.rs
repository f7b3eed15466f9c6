//! The filter form of the list: its fields, what they hold, what is wrong with them, and the filters in force as chips.

use domain::query::Filter;
use domain::{Action, Evidence, Outcome};

use crate::links::{self, Href};
use crate::params::Params;
use crate::shown::Shown;

pub(crate) struct Form {
    pub(crate) fields: Vec<Field>,
    pub(crate) chips: Vec<Chip>,
    /// Not the default one: it stays when the form is sent again.
    pub(crate) limit: String,
    /// What is wrong with parameters that have no field.
    pub(crate) faults: Vec<Shown>,
}

pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) label: &'static str,
    pub(crate) kind: Kind,
    /// As it was given, to be sent again: the template escapes it, and a field shows it on its own.
    pub(crate) value: String,
    pub(crate) fault: Option<Shown>,
}

pub(crate) enum Kind {
    Text {
        example: &'static str,
    },
    Time {
        hint: &'static str,
    },
    /// Words to choose from; none is chosen by the text of the first option.
    Choice {
        any: &'static str,
        words: Vec<&'static str>,
    },
}

pub(crate) struct Chip {
    pub(crate) name: String,
    pub(crate) value: Shown,
    /// The list without this filter.
    pub(crate) without: Href,
}

impl Form {
    pub(crate) fn new(params: &Params) -> Self {
        let chip = |(name, value): (&str, &str)| Chip {
            name: name.to_owned(),
            value: Shown::line(value),
            without: links::list(params.given.iter().filter(|(other, _)| *other != name && *other != "cursor")),
        };
        let has_field = |name: &str| Filter::PARAMETERS.contains(&name);
        Self {
            fields: Filter::PARAMETERS.into_iter().map(|name| Field::new(name, params)).collect(),
            chips: params.given.filters().map(chip).collect(),
            limit: params.given.text("limit").to_owned(),
            faults: params
                .faults
                .iter()
                .filter(|fault| !has_field(&fault.parameter))
                .map(|fault| Shown::line(&fault.told))
                .collect(),
        }
    }
}

impl Field {
    fn new(name: &'static str, params: &Params) -> Self {
        let (label, kind) = described(name);
        let given = params.given.text(name);
        let value = match (&kind, name) {
            (Kind::Time { .. }, "from") => params.filter.from.map(local).unwrap_or_default(),
            (Kind::Time { .. }, _) => params.filter.to.map(local).unwrap_or_default(),
            _ => given.to_owned(),
        };
        let fault = params.fault(name).map(|fault| Shown::line(&fault.told));
        Self { name, label, kind, value, fault }
    }

    pub(crate) fn holds(&self, word: &str) -> bool {
        self.value == word
    }
}

/// What a browser's field for a date and a time takes.
fn local(time: chrono::DateTime<chrono::Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%S%.f").to_string()
}

fn described(name: &'static str) -> (&'static str, Kind) {
    let words = |all: &[&'static str]| all.to_vec();
    match name {
        "user" => ("User", Kind::Text { example: "alice@example.com" }),
        "action" => {
            let words = Action::ALL.iter().map(|action| action.as_str()).collect();
            ("Action", Kind::Choice { any: "any", words })
        }
        "resource" => ("Resource", Kind::Text { example: "Deployment" }),
        "cluster" => ("Cluster", Kind::Text { example: "local" }),
        "namespace" => ("Namespace", Kind::Text { example: "shop" }),
        "name" => ("Name", Kind::Text { example: "web" }),
        "from" => ("From", Kind::Time { hint: "UTC, included" }),
        "to" => ("To", Kind::Time { hint: "UTC, not included" }),
        "status" => ("Status", Kind::Choice { any: "any", words: words(&["success", "failure"]) }),
        "outcome" => {
            let words = Outcome::ALL.iter().map(|outcome| outcome.as_str()).collect();
            ("Outcome", Kind::Choice { any: "any but superseded", words })
        }
        _ => {
            let words = Evidence::ALL.iter().map(|evidence| evidence.as_str()).collect();
            ("Evidence", Kind::Choice { any: "any", words })
        }
    }
}
