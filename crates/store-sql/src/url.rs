//! Where the database is, parsed from `database.url`. Never shows more of a URL than its scheme: what a person mistyped
//! may hold a password anywhere.

use std::path::PathBuf;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

pub(crate) enum DatabaseUrl {
    Sqlite(PathBuf),
    /// What the URL leaves out is taken as libpq takes it, from `PGHOST`, `PGPASSWORD`, `~/.pgpass` and the like.
    Postgres(Box<PgConnectOptions>),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{given} is not the URL of a database ({problem}): accepted is {ACCEPTED}")]
pub struct UrlError {
    /// The scheme, or the whole where it is a path.
    pub given: String,
    pub problem: String,
}

const ACCEPTED: &str = "sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE";

/// Those of libpq that sqlx knows.
const PARAMETERS: [&str; 11] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

impl FromStr for DatabaseUrl {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(UrlError { given: "a text without ://".to_owned(), problem: "no scheme".to_owned() });
        };
        match scheme {
            "sqlite" => sqlite(rest),
            "postgres" | "postgresql" => postgres(url, scheme),
            _ => Err(UrlError { given: hidden(scheme), problem: "another scheme".to_owned() }),
        }
    }
}

/// The path as it stands, without escapes.
fn sqlite(path: &str) -> Result<DatabaseUrl, UrlError> {
    let refused = |problem: &str| UrlError { given: format!("sqlite://{path}"), problem: problem.to_owned() };
    match path {
        "" => Err(refused("no path")),
        _ if path.contains(":memory:") => Err(refused("a database in memory is lost with the process")),
        _ if path.contains(['?', '\0']) => Err(refused("a path only, without parameters")),
        _ => Ok(DatabaseUrl::Sqlite(PathBuf::from(path))),
    }
}

fn postgres(url: &str, scheme: &str) -> Result<DatabaseUrl, UrlError> {
    // sqlx ignores a parameter that it does not know, and logs it: a password with a question mark would be one.
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
    let mut names = parameters.split('&').map(|parameter| parameter.split('=').next().unwrap_or_default());
    if !names.all(|name| name.is_empty() || PARAMETERS.contains(&name)) {
        let problem = format!("a parameter is none of {}", PARAMETERS.join(", "));
        return Err(UrlError { given: hidden(scheme), problem });
    }
    // What sqlx says of a URL is said by the parser of one part, and names that part's rule, not its text.
    let refused = |error: sqlx::Error| UrlError { given: hidden(scheme), problem: cause(&error) };
    url.parse().map(|options| DatabaseUrl::Postgres(Box::new(options))).map_err(refused)
}

fn cause(error: &sqlx::Error) -> String {
    std::error::Error::source(error).map_or_else(|| "it does not parse".to_owned(), ToString::to_string)
}

/// A scheme is a word; whatever else stands before `://` is not shown.
fn hidden(scheme: &str) -> String {
    let word = scheme.len() <= 16 && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+');
    if word { format!("{scheme}://…") } else { "…://…".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        url.parse::<DatabaseUrl>().err().unwrap_or_else(|| panic!("{url} is taken")).to_string()
    }

    #[test]
    fn a_url_names_a_file_or_a_server() {
        for (url, path) in [("sqlite://audit.db", "audit.db"), ("sqlite:///var/lib/a b%20.db", "/var/lib/a b%20.db")] {
            assert!(matches!(url.parse(), Ok(DatabaseUrl::Sqlite(p)) if p.as_os_str() == path), "{url}");
        }
        for url in ["postgres://u:p@db.example:5433/audit", "postgresql://localhost/audit?sslmode=require"] {
            assert!(matches!(url.parse(), Ok(DatabaseUrl::Postgres(_))), "{url}");
        }
    }

    #[test]
    fn what_is_refused_is_told_with_what_is_accepted() {
        let told = refused("mysql://db/audit");
        assert_eq!(
            told,
            "mysql://… is not the URL of a database (another scheme): accepted is sqlite://PATH or \
             postgres://USER:PASSWORD@HOST:PORT/DATABASE"
        );
        assert!(refused("sqlite://").contains("no path"));
        assert!(refused("sqlite://a.db?mode=ro").contains("sqlite://a.db?mode=ro"));
        assert!(refused("sqlite://:memory:").contains("lost with the process"));
    }

    #[test]
    fn a_parameter_that_is_not_known_is_refused_with_those_that_are() {
        assert!(refused("postgres://db/audit?sslmod=require").contains("none of sslmode, sslrootcert,"));
    }

    #[test]
    fn no_password_is_shown_wherever_it_stands() {
        for url in [
            "mysql://root:hunter2@db/audit",
            "postgres://u:hunter2@db:99999/audit",
            "postgres://u:hun/hunter2@db:x/audit",
            "postgres://u:?hunter2@[/audit",
            "postgres://u@db:x/audit?password=hunter2",
            "postgres:hunter2@db/audit",
            "hunter2",
            "u:hunter2://db",
        ] {
            assert!(!refused(url).contains("hunter2"), "{}", refused(url));
        }
    }
}
