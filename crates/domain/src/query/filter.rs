//! Which entries are asked for. Parsed here, at the door; inside, a filter is simply right.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};

use crate::entry::{Action, Evidence, Outcome};

/// All that are given must match, each exactly: `al` does not find `alice`. The default asks for everything but what was
/// superseded, which only an `outcome` of that name shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub user: Option<String>,
    pub action: Option<Action>,
    pub resource: Option<ResourceFilter>,
    pub cluster: Option<String>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    /// Inclusive.
    pub from: Option<DateTime<Utc>>,
    /// Exclusive.
    pub to: Option<DateTime<Utc>>,
    pub status: Option<Status>,
    pub outcome: Option<Outcome>,
    pub evidence: Option<Evidence>,
}

/// A bad value, by the parameter's name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{parameter}: {given:?} is not accepted: {accepted}")]
pub struct FilterError {
    pub parameter: &'static str,
    pub given: String,
    /// A sentence's end: "accepted is …".
    pub accepted: String,
}

impl Filter {
    /// The parameters that REST and the page share, in the order in which they are shown.
    pub const PARAMETERS: [&str; 11] =
        ["user", "action", "resource", "cluster", "namespace", "name", "from", "to", "status", "outcome", "evidence"];

    /// Sets one parameter from its text. An empty text asks for nothing: forms send those.
    ///
    /// # Errors
    /// Where the parameter is none of [`Filter::PARAMETERS`], or its value does not parse.
    pub fn set(&mut self, parameter: &str, value: &str) -> Result<(), FilterError> {
        let known = Self::PARAMETERS.into_iter().find(|known| *known == parameter);
        let Some(parameter) = known else {
            return Err(FilterError {
                parameter: "parameter",
                given: parameter.to_owned(),
                accepted: format!("accepted are {}", Self::PARAMETERS.join(", ")),
            });
        };
        if value.is_empty() {
            return Ok(());
        }
        let text = || Some(value.to_owned());
        match parameter {
            "user" => self.user = text(),
            "action" => self.action = Some(word(parameter, value, Action::ACCEPTED)?),
            "resource" => self.resource = Some(value.parse()?),
            "cluster" => self.cluster = text(),
            "namespace" => self.namespace = text(),
            "name" => self.name = text(),
            "from" => self.from = Some(time(parameter, value)?),
            "to" => self.to = Some(time(parameter, value)?),
            "status" => self.status = Some(value.parse()?),
            "outcome" => self.outcome = Some(word(parameter, value, Outcome::ACCEPTED)?),
            _ => self.evidence = Some(word(parameter, value, Evidence::ACCEPTED)?),
        }
        Ok(())
    }
}

fn word<T: FromStr>(parameter: &'static str, given: &str, accepted: &str) -> Result<T, FilterError> {
    given.parse().map_err(|_| FilterError {
        parameter,
        given: given.to_owned(),
        accepted: format!("accepted is one of {accepted}"),
    })
}

/// RFC 3339, or the shorter forms that a browser's field gives, which are UTC.
fn time(parameter: &'static str, given: &str) -> Result<DateTime<Utc>, FilterError> {
    let minute = || chrono::NaiveDateTime::parse_from_str(given, "%Y-%m-%dT%H:%M").map(|t| t.and_utc());
    let second = || chrono::NaiveDateTime::parse_from_str(given, "%Y-%m-%dT%H:%M:%S%.f").map(|t| t.and_utc());
    let day = || {
        let date = chrono::NaiveDate::parse_from_str(given, "%Y-%m-%d")?;
        Ok::<_, chrono::ParseError>(date.and_time(chrono::NaiveTime::MIN).and_utc())
    };
    given.parse::<DateTime<Utc>>().or_else(|_| minute()).or_else(|_| second()).or_else(|_| day()).map_err(|_| {
        FilterError {
            parameter,
            given: given.to_owned(),
            accepted: "accepted is a time such as 2026-03-01T14:05:00Z (RFC 3339), 2026-03-01T14:05 or 2026-03-01, \
                       the latter two in UTC"
                .to_owned(),
        }
    })
}

/// A kind, its API group where that matters, its subresource where only that is asked for.
///
/// `Deployment` finds a Deployment's own writes and those of its subresources, in every group; `Deployment.apps` those
/// of the group `apps`; `Deployment/scale` the scales alone; `Pod.` those of the core group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceFilter {
    pub kind: String,
    pub group: Option<String>,
    pub subresource: Option<String>,
}

impl FromStr for ResourceFilter {
    type Err = FilterError;

    fn from_str(s: &str) -> Result<Self, FilterError> {
        let (head, subresource) = match s.split_once('/') {
            Some((head, subresource)) => (head, Some(subresource.to_owned())),
            None => (s, None),
        };
        let (kind, group) = match head.split_once('.') {
            Some((kind, group)) => (kind, Some(group.to_owned())),
            None => (head, None),
        };
        if kind.is_empty() || subresource.as_deref() == Some("") {
            return Err(FilterError {
                parameter: "resource",
                given: s.to_owned(),
                accepted: "accepted is KIND, KIND/SUBRESOURCE or KIND.GROUP, such as Deployment, Deployment/scale or \
                           Deployment.apps"
                    .to_owned(),
            });
        }
        Ok(Self { kind: kind.to_owned(), group, subresource })
    }
}

impl fmt::Display for ResourceFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if let Some(group) = &self.group {
            write!(f, ".{group}")?;
        }
        if let Some(subresource) = &self.subresource {
            write!(f, "/{subresource}")?;
        }
        Ok(())
    }
}

/// Whether the operation went through, by its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Below 400.
    Success,
    /// 400 and above.
    Failure,
}

impl FromStr for Status {
    type Err = FilterError;

    fn from_str(s: &str) -> Result<Self, FilterError> {
        match s {
            "success" => Ok(Self::Success),
            "failure" => Ok(Self::Failure),
            _ => Err(FilterError {
                parameter: "status",
                given: s.to_owned(),
                accepted: "accepted is success or failure".to_owned(),
            }),
        }
    }
}

/// How many entries a page holds: never none, never all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(usize);

impl Limit {
    pub fn get(self) -> usize {
        self.0
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(50)
    }
}

impl FromStr for Limit {
    type Err = FilterError;

    fn from_str(s: &str) -> Result<Self, FilterError> {
        match s.parse() {
            Ok(n @ 1..=500) => Ok(Self(n)),
            _ => Err(FilterError {
                parameter: "limit",
                given: s.to_owned(),
                accepted: "accepted is 1 to 500".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parameter_parses_or_says_what_it_takes() {
        let cases = [
            ("user", "al", Ok(())),
            ("user", "", Ok(())),
            ("action", "create", Ok(())),
            ("action", "CREATE", Err("accepted is one of create, update,")),
            ("resource", "Deployment.apps/scale", Ok(())),
            ("resource", "/scale", Err("accepted is KIND,")),
            ("resource", "Pod/", Err("accepted is KIND,")),
            ("from", "2026-03-01T14:05:00+02:00", Ok(())),
            ("from", "2026-03-01T14:05", Ok(())),
            ("to", "2026-03-01", Ok(())),
            ("to", "yesterday", Err("accepted is a time such as")),
            ("status", "failure", Ok(())),
            ("status", "500", Err("accepted is success or failure")),
            ("outcome", "superseded", Ok(())),
            ("outcome", "lost", Err("accepted is one of confirmed,")),
            ("evidence", "successor", Ok(())),
            ("evidence", "hearsay", Err("accepted is one of audit,")),
            ("sort", "id", Err("accepted are user, action,")),
        ];
        for (parameter, value, accepted) in cases {
            let told = Filter::default().set(parameter, value).map_err(|e| e.accepted);
            match accepted {
                Ok(()) => assert_eq!(told, Ok(()), "{parameter}={value}"),
                Err(start) => {
                    assert!(told.as_ref().is_err_and(|t| t.starts_with(start)), "{parameter}={value}: {told:?}")
                }
            }
        }
    }

    #[test]
    fn a_resource_filter_reads_back_as_it_was_written() {
        for text in ["Deployment", "Deployment.apps", "Deployment/scale", "Deployment.apps/scale", "Pod."] {
            assert_eq!(text.parse::<ResourceFilter>().map(|r| r.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn a_page_holds_from_1_to_500() {
        for (given, holds) in [("1", Some(1)), ("500", Some(500)), ("0", None), ("501", None), ("-1", None), ("", None)]
        {
            assert_eq!(given.parse::<Limit>().ok().map(Limit::get), holds, "{given}");
        }
    }
}
