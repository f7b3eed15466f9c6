//! What a database's refusal means: whether the same call can succeed later. Decided here, where the code is known.

use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;
use store::{BoxError, Retry, StoreError};

/// For `map_err`, on every statement that is not a batch.
pub(crate) fn failed(operation: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |error| StoreError::Failed { operation, retry: retry(&error), source: source(error) }
}

pub(crate) fn later(operation: &'static str, source: impl Into<BoxError>) -> StoreError {
    StoreError::Failed { operation, retry: Retry::Later, source: source.into() }
}

pub(crate) fn never(operation: &'static str, source: impl Into<BoxError>) -> StoreError {
    StoreError::Failed { operation, retry: Retry::Never, source: source.into() }
}

pub(crate) fn writing(entries: usize) -> impl Fn(sqlx::Error) -> StoreError {
    move |error| StoreError::Write { entries, retry: retry(&error), source: source(error) }
}

pub(crate) fn migrating(error: MigrateError) -> StoreError {
    let retry = match &error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => retry(error),
        _ => Retry::Never,
    };
    StoreError::Failed { operation: "migrating the schema", retry, source: error.into() }
}

/// The pool tries again and again without a word, and would say that it ran out of time.
fn source(error: sqlx::Error) -> BoxError {
    match error {
        sqlx::Error::PoolTimedOut => "the database does not answer, or refuses every connection".into(),
        error => error.into(),
    }
}

/// `Never` only where it is certain that this input is refused whatever happens to the database: an entry that is given
/// up is lost.
pub(crate) fn retry(error: &sqlx::Error) -> Retry {
    match error {
        sqlx::Error::Database(error) => of_database(error.as_ref()),
        sqlx::Error::Encode(_)
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::InvalidArgument(_) => Retry::Never,
        _ => Retry::Later,
    }
}

fn of_database(error: &(dyn DatabaseError + 'static)) -> Retry {
    if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
        return of_sqlstate(error.code());
    }
    let code = error.try_downcast_ref::<SqliteError>().and_then(|error| error.code()?.parse().ok());
    of_sqlite(code.unwrap_or_default())
}

/// By class (PostgreSQL's documentation, appendix A): 22 data exception, 23 integrity constraint, 54 a limit of the
/// program. All others pass: connections, locks, resources, an operator, a schema that is yet to come.
fn of_sqlstate(code: &str) -> Retry {
    match code.get(..2) {
        Some("22" | "23" | "54") => Retry::Never,
        _ => Retry::Later,
    }
}

/// By primary result code (https://www.sqlite.org/rescode.html), the lower eight bits of the extended one.
fn of_sqlite(code: i32) -> Retry {
    const TOOBIG: i32 = 18;
    const CONSTRAINT: i32 = 19;
    const MISMATCH: i32 = 20;
    match code & 0xff {
        TOOBIG | CONSTRAINT | MISMATCH => Retry::Never,
        _ => Retry::Later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_tried_again_and_what_the_input_is_to_blame_for_is_not() {
        let postgres = [
            ("08006", "connection lost", Retry::Later),
            ("40P01", "deadlock", Retry::Later),
            ("53100", "disk full", Retry::Later),
            ("53300", "too many connections", Retry::Later),
            ("57P01", "administrator shutdown", Retry::Later),
            ("57014", "statement timeout", Retry::Later),
            ("25006", "read only after a failover", Retry::Later),
            ("42P01", "not migrated yet", Retry::Later),
            ("22P05", "a NUL in jsonb", Retry::Never),
            ("23514", "a CHECK", Retry::Never),
            ("54000", "an index row too long", Retry::Never),
        ];
        for (code, name, expected) in postgres {
            assert_eq!(of_sqlstate(code), expected, "{name}");
        }
        let sqlite = [
            (5, "busy", Retry::Later),
            (517, "busy snapshot", Retry::Later),
            (8, "read only", Retry::Later),
            (13, "full", Retry::Later),
            (14, "cannot open", Retry::Later),
            (778, "write error", Retry::Later),
            (1, "no such table", Retry::Later),
            (275, "a CHECK", Retry::Never),
            (18, "too big", Retry::Never),
        ];
        for (code, name, expected) in sqlite {
            assert_eq!(of_sqlite(code), expected, "{name}");
        }
        for error in [sqlx::Error::PoolTimedOut, sqlx::Error::PoolClosed, sqlx::Error::WorkerCrashed] {
            assert_eq!(retry(&error), Retry::Later, "{error}");
        }
    }
}
