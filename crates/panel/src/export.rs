//! All entries that match, as a file that is written while it is read: CSV for spreadsheets, NDJSON for programs.
//!
//! Never the whole in memory: one chunk waits at a time. A store that fails on the way breaks the connection off, since
//! a file that merely ended would look complete.
//!
//! **CSV** is RFC 4180: a header of the table's columns, CRLF, quotes where needed. A cell that a spreadsheet would take
//! for a formula (it begins with `=`, `+`, `-`, `@`, a tab or a CR) gets one `'` in front. To read such a file back
//! exactly, take one `'` away from a cell that is one or more `'` followed by one of these characters; no other cell
//! was touched.

use std::pin::Pin;
use std::sync::Arc;

use async_stream::try_stream;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use domain::StoredEntry;
use domain::query::{Filter, Scope};
use futures::stream::Peekable;
use futures::{Stream, StreamExt, TryStreamExt};
use store::{EntryReader, StoreError};

use crate::PanelState;
use crate::body::{COLUMNS, EntryBody};
use crate::params::Params;
use crate::refusal::{Problem, Refusal, log_store_error};
use crate::viewer::Viewer;

/// A chunk goes out once it holds this much; the entry that fills it may reach past it.
const CHUNK_BYTES: usize = 64 * 1024;

/// `GET /api/v1/audit-logs.csv`
pub(crate) async fn csv(state: State<PanelState>, viewer: Viewer, query: RawQuery) -> Result<Response, Problem> {
    export(state, viewer, query, Format::Csv).await
}

/// `GET /api/v1/audit-logs.ndjson`
pub(crate) async fn ndjson(state: State<PanelState>, viewer: Viewer, query: RawQuery) -> Result<Response, Problem> {
    export(state, viewer, query, Format::Ndjson).await
}

async fn export(
    State(state): State<PanelState>,
    viewer: Viewer,
    RawQuery(query): RawQuery,
    format: Format,
) -> Result<Response, Problem> {
    let params = Params::of_export(query.as_deref()).sound().map_err(Refusal::from)?;
    let mut chunks = Box::pin(chunks(state.entries, viewer.scope, params.filter, format).peekable());
    // A store that is away from the start can still be told as a problem; later on the status is out.
    if let Some(error) = failed_at_once(chunks.as_mut()).await {
        return Err(Problem(Refusal::Store(error)));
    }
    let written = state.clock.now().format("%Y%m%dT%H%M%SZ");
    let disposition = format!("attachment; filename=\"audit-logs-{written}.{}\"", format.extension());
    let body = Body::from_stream(chunks.inspect_err(log_store_error));
    Ok(([(CONTENT_TYPE, format.media_type().to_owned()), (CONTENT_DISPOSITION, disposition)], body).into_response())
}

async fn failed_at_once<S>(mut chunks: Pin<&mut Peekable<S>>) -> Option<StoreError>
where
    S: Stream<Item = Result<Bytes, StoreError>>,
{
    match chunks.as_mut().peek().await {
        Some(Err(_)) => chunks.next().await.and_then(Result::err),
        _ => None,
    }
}

fn chunks(
    entries: Arc<dyn EntryReader>,
    scope: Scope,
    filter: Filter,
    format: Format,
) -> impl Stream<Item = Result<Bytes, StoreError>> {
    try_stream! {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        format.head(&mut chunk);
        let mut rows = entries.stream(&scope, &filter);
        while let Some(entry) = rows.next().await {
            format.entry(&mut chunk, &entry?)?;
            if chunk.len() >= CHUNK_BYTES {
                yield Bytes::from(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK_BYTES)));
            }
        }
        yield Bytes::from(chunk);
    }
}

#[derive(Clone, Copy)]
enum Format {
    Csv,
    Ndjson,
}

impl Format {
    fn media_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Ndjson => "application/x-ndjson",
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
        }
    }

    fn head(self, out: &mut Vec<u8>) {
        if let Self::Csv = self {
            out.extend_from_slice(COLUMNS.join(",").as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }

    fn entry(self, out: &mut Vec<u8>, entry: &StoredEntry) -> Result<(), StoreError> {
        let body = EntryBody::from(entry);
        match self {
            Self::Csv => {
                let mut separator = "";
                body.cells(|text| {
                    out.extend_from_slice(separator.as_bytes());
                    cell(out, text);
                    separator = ",";
                });
                out.extend_from_slice(b"\r\n");
            }
            Self::Ndjson => {
                let start = out.len();
                serde_json::to_writer(&mut *out, &body)
                    .map_err(|_| StoreError::Corrupt { id: entry.id.to_string(), column: "detail" })?;
                // A line break in JSON is space between its parts; a detail that was written by hand may hold one.
                out[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
                out.push(b'\n');
            }
        }
        Ok(())
    }
}

/// What makes a spreadsheet run a cell instead of showing it.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

fn cell(out: &mut Vec<u8>, text: &str) {
    let neutral = if text.trim_start_matches('\'').starts_with(FORMULA) { "'" } else { "" };
    let quoted = text.contains([',', '"', '\r', '\n']);
    let quote: &[u8] = if quoted { b"\"" } else { b"" };
    out.extend_from_slice(quote);
    out.extend_from_slice(neutral.as_bytes());
    for (at, part) in text.split('"').enumerate() {
        if at > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(quote);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(cells: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for (at, text) in cells.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            cell(&mut out, text);
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    /// As the module's documentation tells readers to.
    fn read_back(cell: &str) -> &str {
        match cell.strip_prefix('\'') {
            Some(rest) if rest.trim_start_matches('\'').starts_with(FORMULA) => rest,
            _ => cell,
        }
    }

    #[test]
    fn formulas_are_neutralised_and_nothing_else_is_touched() {
        for (text, cell) in [
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-8", "'-8"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\tx", "'\tx"),
            ("\r=1", "\"'\r=1\""),
            ("'=1", "''=1"),
            ("it's", "it's"),
            ("'quoted'", "'quoted'"),
            ("a=1", "a=1"),
            ("=\"a\",b", "\"'=\"\"a\"\",b\""),
            ("", ""),
        ] {
            assert_eq!(String::from_utf8(written(&[text])).unwrap(), format!("{cell}\r\n"));
        }
    }

    proptest! {
        #[test]
        fn any_text_reads_back(texts in prop::collection::vec("[=+\\-@\t\r\n',\"a \u{202e}é]{0,6}", 2..4)) {
            let cells: Vec<&str> = texts.iter().map(String::as_str).collect();
            let bytes = written(&cells);
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(bytes.as_slice());
            let record = reader.records().next().unwrap().unwrap();
            prop_assert!(record.iter().all(|cell| !cell.starts_with(FORMULA)));
            prop_assert_eq!(record.iter().map(read_back).collect::<Vec<_>>(), cells);
            prop_assert!(reader.records().next().is_none());
        }
    }
}
