//! The log as a file.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use futures::StreamExt;
use store::Retry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

use crate::failing::Failing;
use crate::fixture::{Panel, over};
use crate::samples;

#[tokio::test]
async fn a_csv_reads_back_with_the_columns_of_the_table_and_formulas_are_text() {
    let mut entries = samples::showcase();
    for (n, text) in
        ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\tx", "\r=1", "'=1", "a,\"b\"\nc"].iter().enumerate()
    {
        let age = chrono::TimeDelta::days(3 + n as i64);
        entries.push(domain::RedactedEntry::sample(samples::hostile_entry(age, text)));
    }
    let panel = Panel::with(&entries).await;
    let answer = panel.get("/api/v1/audit-logs.csv").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.header(header::CONTENT_TYPE).starts_with("text/csv; charset=utf-8"));
    let disposition = answer.header(header::CONTENT_DISPOSITION);
    assert_eq!(disposition, "attachment; filename=\"audit-logs-20260301T140500Z.csv\"");
    assert_eq!(answer.header(header::CACHE_CONTROL), "no-store");

    let list = panel.get("/api/v1/audit-logs?limit=500").await.json();
    let mut reader = csv::Reader::from_reader(answer.text.as_bytes());
    let columns = reader.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), entries.len() - 1, "what was superseded is left out, as in the list");
    for (row, item) in rows.iter().zip(list["items"].as_array().unwrap()) {
        for (column, cell) in columns.iter().zip(row) {
            assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r']), "{column}: {cell:?}");
            match &item[column] {
                serde_json::Value::String(text) => assert_eq!(read_back(cell), text, "{column}"),
                serde_json::Value::Null => assert_eq!(cell, "", "{column}"),
                other => assert_eq!(&serde_json::from_str::<serde_json::Value>(cell).unwrap(), other, "{column}"),
            }
        }
    }
    let heads = answer.text.lines().next().unwrap();
    let item = list["items"][0].as_object().unwrap();
    assert_eq!(heads.split(',').count(), item.len(), "as many columns as the list tells");
    assert!(answer.text.ends_with("\r\n"));
}

/// As the export's documentation tells readers to.
fn read_back(cell: &str) -> &str {
    let formula = |rest: &str| rest.trim_start_matches('\'').starts_with(['=', '+', '-', '@', '\t', '\r']);
    cell.strip_prefix('\'').filter(|rest| formula(rest)).unwrap_or(cell)
}

#[tokio::test]
async fn ndjson_is_an_entry_a_line_under_the_same_filters() {
    let panel = Panel::with(&samples::showcase()).await;
    let answer = panel.get("/api/v1/audit-logs.ndjson?user=bob").await;
    assert_eq!(answer.header(header::CONTENT_TYPE), "application/x-ndjson");
    let lines: Vec<serde_json::Value> = answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let list = panel.get("/api/v1/audit-logs?user=bob").await.json();
    assert_eq!(lines, *list["items"].as_array().unwrap());
}

#[tokio::test]
async fn an_export_of_nothing_is_its_header() {
    let panel = Panel::with(&[]).await;
    let answer = panel.get("/api/v1/audit-logs.csv").await;
    assert_eq!(answer.text.matches("\r\n").count(), 1);
    assert!(answer.text.starts_with("id,user,action,resource,resource_name,cluster,namespace,status_code,detail,ip,"));
    assert_eq!(panel.get("/api/v1/audit-logs.ndjson").await.text, "");
}

#[tokio::test]
async fn an_export_of_many_comes_in_chunks_and_is_whole() {
    let panel = Panel::with(&samples::plain(1_700)).await;
    let request = Request::get("/api/v1/audit-logs.csv").header(header::HOST, "localhost").body(Body::empty()).unwrap();
    let chunks = panel.router.clone().oneshot(request).await.unwrap().into_body().into_data_stream();
    let sizes: Vec<usize> = chunks.map(|chunk| chunk.unwrap().len()).collect().await;
    assert!(sizes.len() > 5, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size < 128 * 1024), "{sizes:?}");
    assert_eq!(panel.get("/api/v1/audit-logs.csv").await.text.matches("\r\n").count(), 1_701);
}

#[tokio::test]
async fn a_store_that_fails_on_the_way_breaks_the_body_off() {
    let panel = Panel::with(&samples::plain(400)).await;
    let router = over(Arc::new(Failing { store: panel.store.clone(), retry: Retry::Later, after: 300 }));
    let request = Request::get("/api/v1/audit-logs.csv").header(header::HOST, "localhost").body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "its first chunk was there");
    assert!(to_bytes(response.into_body(), usize::MAX).await.is_err());
}

#[tokio::test]
async fn a_client_sees_a_broken_export_as_broken() {
    let panel = Panel::with(&samples::plain(400)).await;
    let router = over(Arc::new(Failing { store: panel.store.clone(), retry: Retry::Later, after: 300 }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = async {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(b"GET /api/v1/audit-logs.csv HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut received = Vec::new();
        // Broken off, by an end or by a reset: either way the last chunk, which says that it was the last, never comes.
        let _ = socket.read_to_end(&mut received).await;
        String::from_utf8(received).unwrap()
    };
    let received = tokio::select! {
        received = client => received,
        served = async { axum::serve(listener, router).await } => panic!("the server ended: {served:?}"),
    };
    assert!(received.starts_with("HTTP/1.1 200 OK") && received.contains("alice@example.com"), "{received}");
    assert!(!received.ends_with("\r\n0\r\n\r\n"), "the last chunk came");
}
