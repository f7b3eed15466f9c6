//! Keeps audit entries in SQLite or PostgreSQL: the store's contract ([`store`]), in SQL.
//!
//! What both databases understand is written once: the columns ([`row`]), the filter ([`filter`]), reading ([`reader`], [`links`]),
//! which policies there are ([`policies`]), what an entry learns later ([`outcomes`]).
//! What they do not is written by hand, each in its folder: schema, batch insert, outcomes, partitions, purge.
//!
//! This crate never decides what an entry is or who may see it, never asks for the time, and never puts a value into
//! the text of a statement. Opening does no IO: a program starts while its database is down.

mod dialect;
mod failure;
mod filter;
mod links;
mod migrations;
mod outcomes;
mod policies;
mod postgres;
mod reader;
mod row;
mod sqlite;
mod url;

use std::sync::Arc;

use sqlx::Pool;
use store::Store;

use crate::dialect::Dialect;
use crate::reader::Reader;
use crate::url::DatabaseUrl;
pub use crate::url::UrlError;

/// Whether [`open`] takes this text.
///
/// # Errors
/// As [`open`].
pub fn check(url: &str) -> Result<(), UrlError> {
    url.parse::<DatabaseUrl>().map(drop)
}

/// The store behind a `database.url`. Does no IO: what cannot be reached is told by the first call that needs it.
///
/// # Errors
/// Where the text is no URL of a database that this program knows.
pub fn open(url: &str) -> Result<Arc<dyn Store>, UrlError> {
    Ok(match url.parse()? {
        DatabaseUrl::Sqlite(path) => Arc::new(sqlite::store(&path)),
        DatabaseUrl::Postgres(options) => Arc::new(postgres::store(*options)),
    })
}

/// One database: whoever waits to read never waits behind whoever writes, and the other way round.
struct SqlStore<D: Dialect> {
    reads: Reader<D>,
    writes: Pool<D>,
}
