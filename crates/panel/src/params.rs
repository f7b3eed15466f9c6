//! The query of an address, parsed once for REST, exports and pages.
//!
//! Every fault is found, each by its parameter, so that a page can show them beside their fields; REST tells the first.

use domain::query::{Filter, FilterError, Limit};
use domain::text::{shortened, storable};
use percent_encoding::percent_decode;

/// Where a page begins and how much it holds: lists take these beside the filter, exports don't.
pub(crate) const PLACE: [&str; 2] = ["limit", "cursor"];
/// How much of a bad value is said back, in characters.
const GIVEN_CHARS_MAX: usize = 80;

/// What an address asked for. Sound only where `faults` is empty.
#[derive(Debug, Default)]
pub(crate) struct Params {
    pub(crate) filter: Filter,
    pub(crate) limit: Limit,
    /// Not opened yet: that takes the store's key.
    pub(crate) cursor: Option<String>,
    /// What was given and isn't empty, as it was given.
    pub(crate) given: Given,
    pub(crate) faults: Vec<Fault>,
}

/// A parameter that can't be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) parameter: String,
    /// Names what was given and what is accepted.
    pub(crate) told: String,
}

/// Parameters and their texts, in the order in which they are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given(Vec<(&'static str, String)>);

impl Given {
    pub(crate) fn text(&self, parameter: &str) -> &str {
        self.0.iter().find(|(name, _)| *name == parameter).map_or("", |(_, text)| text)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (*name, text.as_str()))
    }

    /// The filters alone: what is asked for, wherever the page begins.
    pub(crate) fn filters(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter(|(name, _)| !PLACE.contains(name))
    }
}

impl Params {
    /// For a list: the filters, `limit` and `cursor`.
    pub(crate) fn of_list(query: Option<&str>) -> Self {
        Self::parse(query, &Filter::PARAMETERS, &PLACE)
    }

    /// For an export, which tells all that match: the filters only.
    pub(crate) fn of_export(query: Option<&str>) -> Self {
        Self::parse(query, &Filter::PARAMETERS, &[])
    }

    /// For one entry: none at all.
    pub(crate) fn of_nothing(query: Option<&str>) -> Self {
        Self::parse(query, &[], &[])
    }

    /// # Errors
    /// The first fault, where there is one.
    pub(crate) fn sound(self) -> Result<Self, Fault> {
        match self.faults.first() {
            None => Ok(self),
            Some(fault) => Err(fault.clone()),
        }
    }

    pub(crate) fn fault(&self, parameter: &str) -> Option<&Fault> {
        self.faults.iter().find(|fault| fault.parameter == parameter)
    }

    fn parse(query: Option<&str>, filters: &[&'static str], place: &[&'static str]) -> Self {
        let accepted: Vec<&'static str> = filters.iter().chain(place).copied().collect();
        let mut params = Self::default();
        let mut seen = vec![false; accepted.len()];
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let taken = decoded(name).map_err(|fault| fault.of(name)).and_then(|name| {
                let Some(at) = accepted.iter().position(|known| *known == name) else {
                    return Err(unknown(&name, &accepted));
                };
                if std::mem::replace(&mut seen[at], true) {
                    return Err(repeated(accepted[at]));
                }
                params.take(accepted[at], value)
            });
            params.faults.extend(taken.err());
        }
        params.given.0.sort_by_key(|(name, _)| accepted.iter().position(|known| known == name));
        params
    }

    fn take(&mut self, name: &'static str, value: &str) -> Result<(), Fault> {
        let value = decoded(value).map_err(|fault| fault.of(name))?;
        if value.is_empty() {
            return Ok(());
        }
        self.given.0.push((name, value.clone()));
        match name {
            "limit" => self.limit = value.parse().map_err(fault)?,
            "cursor" => self.cursor = Some(value),
            // Texts are stored so, and PostgreSQL takes no other.
            _ => self.filter.set(name, &storable(&value)).map_err(fault)?,
        }
        Ok(())
    }
}

struct NotUtf8;

impl NotUtf8 {
    fn of(self, name: &str) -> Fault {
        let name = shortened(name, GIVEN_CHARS_MAX).into_owned();
        Fault { told: format!("{name}: accepted is UTF-8, percent-encoded"), parameter: name }
    }
}

/// As forms encode: `+` is a space.
fn decoded(text: &str) -> Result<String, NotUtf8> {
    let spaced = text.replace('+', " ");
    percent_decode(spaced.as_bytes()).decode_utf8().map(String::from).map_err(|_| NotUtf8)
}

fn fault(error: FilterError) -> Fault {
    let given = shortened(&error.given, GIVEN_CHARS_MAX).into_owned();
    let told = FilterError { given, ..error };
    Fault { parameter: told.parameter.to_owned(), told: told.to_string() }
}

fn unknown(name: &str, accepted: &[&str]) -> Fault {
    let name = shortened(name, GIVEN_CHARS_MAX).into_owned();
    let accepted = if accepted.is_empty() { "none".to_owned() } else { accepted.join(", ") };
    Fault { told: format!("{name:?} is no parameter here: accepted are {accepted}"), parameter: name }
}

fn repeated(name: &str) -> Fault {
    Fault { parameter: name.to_owned(), told: format!("{name} is given more than once: accepted is once") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_place_are_taken_and_empty_fields_of_a_form_ask_for_nothing() {
        let params =
            Params::of_list(Some("limit=7&user=al%20b%2Bc+d&action=&cursor=&outcome=unconfirmed")).sound().unwrap();
        assert_eq!((params.limit.get(), params.cursor), (7, None));
        assert_eq!(params.filter.user.as_deref(), Some("al b+c d"));
        let given: Vec<_> = params.given.iter().collect();
        assert_eq!(given, [("user", "al b+c d"), ("outcome", "unconfirmed"), ("limit", "7")]);
        assert_eq!(params.given.filters().count(), 2);
    }

    #[test]
    fn a_fault_names_its_parameter_and_what_is_accepted() {
        for (query, parameter, told) in [
            ("sort=id", "sort", r#""sort" is no parameter here: accepted are user, action, "#),
            ("User=al", "User", r#""User" is no parameter here"#),
            ("user=al&user=bob", "user", "user is given more than once"),
            ("user=&user=bob", "user", "user is given more than once"),
            ("user=%FF", "user", "user: accepted is UTF-8"),
            ("%FF=1", "%FF", "%FF: accepted is UTF-8"),
            ("limit=0", "limit", r#"limit: "0" is not accepted: accepted is 1 to 500"#),
            ("from=now", "from", r#"from: "now" is not accepted: accepted is a time such as"#),
            ("action=DROP", "action", r#"action: "DROP" is not accepted: accepted is one of create, "#),
        ] {
            let fault = Params::of_list(Some(query)).sound().unwrap_err();
            assert_eq!(fault.parameter, parameter, "{query}");
            assert!(fault.told.starts_with(told), "{query}: {}", fault.told);
        }
    }

    #[test]
    fn every_fault_is_found() {
        let params = Params::of_list(Some("from=x&to=y&user=al&nope"));
        let faulty: Vec<_> = params.faults.iter().map(|fault| fault.parameter.as_str()).collect();
        assert_eq!(faulty, ["from", "to", "nope"]);
        assert_eq!(params.given.text("from"), "x", "what was given is shown beside its fault");
    }

    #[test]
    fn an_export_has_no_place() {
        for query in ["limit=10", "cursor=abc"] {
            assert!(Params::of_export(Some(query)).sound().is_err(), "{query}");
        }
    }

    #[test]
    fn a_nul_is_looked_for_as_it_is_stored() {
        assert_eq!(Params::of_list(Some("name=a%00b")).filter.name.as_deref(), Some("a\u{2400}b"));
    }

    #[test]
    fn a_long_value_is_not_said_back_whole() {
        let fault = Params::of_list(Some(&format!("action={}", "x".repeat(10_000)))).sound().unwrap_err();
        assert!(fault.told.len() < 400, "{}", fault.told.len());
    }
}
