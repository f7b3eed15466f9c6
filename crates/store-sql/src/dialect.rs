//! All in which the two databases differ where they are read, and the one type of what is bound into a statement.

use domain::finding::Link;
use domain::{EntryId, StoredEntry};
use futures::stream::BoxStream;
use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::{Database, Pool, Postgres, QueryBuilder, Sqlite, Type};
use store::{PolicyCount, StoreError};

use crate::row;

/// A value in a statement. There is no other way for one to get there.
#[derive(Clone, Debug)]
pub(crate) enum Bind {
    Text(String),
    Id(EntryId),
    Number(i64),
}

pub(crate) trait Dialect: Database {
    /// The expressions that the indexes hold, word for word as in the migration.
    const USER_KEY: &str;
    const NAMESPACE_KEY: &str;
    const NAME_KEY: &str;
    const KIND_KEY: &str;
    /// The kind in whole, without its subresource.
    const KIND: &str;
    /// How many characters of a text the keys hold.
    const KEY_CHARS: usize;
    /// Two facts of `detail.request`, as text; null where it has none.
    const VERSION: &str;
    const PRIOR: &str;

    fn push(sql: &mut QueryBuilder<Self>, value: Bind);

    /// Row by row, so that the reader decides how many it holds.
    fn rows<'a>(pool: &'a Pool<Self>, sql: &'a mut QueryBuilder<Self>)
    -> BoxStream<'a, Result<Self::Row, sqlx::Error>>;

    fn entry(row: &Self::Row) -> Result<StoredEntry, StoreError>;

    /// A row of [`links`](crate::links).
    fn link(row: &Self::Row) -> Result<Link, StoreError>;

    /// A row of [`policies::counts`](crate::policies::counts).
    fn policy_count(row: &Self::Row) -> Result<PolicyCount, StoreError>;

    /// The first column, as bytes.
    fn bytes(row: &Self::Row) -> Result<Vec<u8>, sqlx::Error>;

    /// The first column, as a number.
    fn number(row: &Self::Row) -> Result<i64, sqlx::Error>;
}

impl Dialect for Sqlite {
    const USER_KEY: &str = r#""user""#;
    const NAMESPACE_KEY: &str = "namespace";
    const NAME_KEY: &str = "resource_name";
    const KIND_KEY: &str = Self::KIND;
    const KIND: &str = "substr(resource, 1, instr(resource || '/', '/') - 1)";
    const KEY_CHARS: usize = usize::MAX;
    // SQLite reads JSON only to a depth of 1,000, and fails where it does not.
    const VERSION: &str =
        "CASE WHEN json_valid(detail) THEN CAST(json_extract(detail, '$.request.version') AS text) END";
    const PRIOR: &str = "CASE WHEN json_valid(detail) THEN CAST(json_extract(detail, '$.request.prior') AS text) END";

    fn push(sql: &mut QueryBuilder<Self>, value: Bind) {
        sql.push_bind(value);
    }

    fn rows<'a>(
        pool: &'a Pool<Self>,
        sql: &'a mut QueryBuilder<Self>,
    ) -> BoxStream<'a, Result<Self::Row, sqlx::Error>> {
        sql.build().fetch(pool)
    }

    fn entry(row: &Self::Row) -> Result<StoredEntry, StoreError> {
        row::entry(row)
    }

    fn link(row: &Self::Row) -> Result<Link, StoreError> {
        row::link(row)
    }

    fn policy_count(row: &Self::Row) -> Result<PolicyCount, StoreError> {
        row::policy_count(row)
    }

    fn bytes(row: &Self::Row) -> Result<Vec<u8>, sqlx::Error> {
        sqlx::Row::try_get(row, 0)
    }

    fn number(row: &Self::Row) -> Result<i64, sqlx::Error> {
        sqlx::Row::try_get(row, 0)
    }
}

impl Dialect for Postgres {
    const USER_KEY: &str = r#"left("user", 256)"#;
    const NAMESPACE_KEY: &str = "left(namespace, 256)";
    const NAME_KEY: &str = "left(resource_name, 256)";
    const KIND_KEY: &str = "left(split_part(resource, '/', 1), 256)";
    const KIND: &str = "split_part(resource, '/', 1)";
    const KEY_CHARS: usize = 256;
    const VERSION: &str = "detail #>> '{request,version}'";
    const PRIOR: &str = "detail #>> '{request,prior}'";

    fn push(sql: &mut QueryBuilder<Self>, value: Bind) {
        sql.push_bind(value);
    }

    fn rows<'a>(
        pool: &'a Pool<Self>,
        sql: &'a mut QueryBuilder<Self>,
    ) -> BoxStream<'a, Result<Self::Row, sqlx::Error>> {
        sql.build().fetch(pool)
    }

    fn entry(row: &Self::Row) -> Result<StoredEntry, StoreError> {
        row::entry(row)
    }

    fn link(row: &Self::Row) -> Result<Link, StoreError> {
        row::link(row)
    }

    fn policy_count(row: &Self::Row) -> Result<PolicyCount, StoreError> {
        row::policy_count(row)
    }

    fn bytes(row: &Self::Row) -> Result<Vec<u8>, sqlx::Error> {
        sqlx::Row::try_get(row, 0)
    }

    fn number(row: &Self::Row) -> Result<i64, sqlx::Error> {
        sqlx::Row::try_get(row, 0)
    }
}

impl Type<Postgres> for Bind {
    fn type_info() -> <Postgres as Database>::TypeInfo {
        <str as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Bind {
    fn encode_by_ref(&self, buffer: &mut <Postgres as Database>::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match self {
            Self::Text(text) => Encode::<Postgres>::encode_by_ref(text, buffer),
            Self::Id(id) => Encode::<Postgres>::encode_by_ref(&id.as_uuid(), buffer),
            Self::Number(number) => Encode::<Postgres>::encode_by_ref(number, buffer),
        }
    }

    fn produces(&self) -> Option<<Postgres as Database>::TypeInfo> {
        Some(match self {
            Self::Text(_) => <str as Type<Postgres>>::type_info(),
            Self::Id(_) => <uuid::Uuid as Type<Postgres>>::type_info(),
            Self::Number(_) => <i64 as Type<Postgres>>::type_info(),
        })
    }
}

impl Type<Sqlite> for Bind {
    fn type_info() -> <Sqlite as Database>::TypeInfo {
        <str as Type<Sqlite>>::type_info()
    }
}

impl Encode<'_, Sqlite> for Bind {
    fn encode_by_ref(&self, buffer: &mut <Sqlite as Database>::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match self {
            Self::Text(text) => Encode::<Sqlite>::encode_by_ref(text, buffer),
            Self::Id(id) => Encode::<Sqlite>::encode(id.to_string(), buffer),
            Self::Number(number) => Encode::<Sqlite>::encode(*number, buffer),
        }
    }

    fn produces(&self) -> Option<<Sqlite as Database>::TypeInfo> {
        Some(match self {
            Self::Text(_) | Self::Id(_) => <str as Type<Sqlite>>::type_info(),
            Self::Number(_) => <i64 as Type<Sqlite>>::type_info(),
        })
    }
}
