//! What the panel answers to whom, whatever is asked.

use axum::http::{Method, StatusCode, header};

use crate::fixture::{Panel, ask};
use crate::samples;

#[tokio::test]
async fn a_name_that_is_not_this_machines_own_is_refused_before_anything_is_read() {
    let panel = Panel::with(&samples::plain(1)).await;
    for host in ["evil.example", "evil.example:8080", "10.0.0.5:8080", "localhost.evil.example"] {
        for path in ["/", "/api/v1/audit-logs", "/settings/audit-logs", "/assets/panel.css", "/nowhere"] {
            let answer = ask(&panel.router, Method::GET, path, &[(header::HOST, host)]).await;
            assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "{host} {path}");
            assert!(!answer.text.contains("alice"), "{host} {path}");
        }
    }
    assert_eq!(ask(&panel.router, Method::GET, "/", &[]).await.status, StatusCode::MISDIRECTED_REQUEST);
    for host in ["127.0.0.1:8080", "[::1]:8080", "localhost"] {
        let answer = ask(&panel.router, Method::GET, "/api/v1/audit-logs", &[(header::HOST, host)]).await;
        assert_eq!(answer.status, StatusCode::OK, "{host}");
    }
}

#[tokio::test]
async fn only_reading_is_possible() {
    let panel = Panel::with(&[]).await;
    for path in ["/api/v1/audit-logs", "/api/v1/audit-logs.csv", "/settings/audit-logs", "/"] {
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
            let answer = ask(&panel.router, method.clone(), path, &[(header::HOST, "localhost")]).await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_eq!(answer.header(header::ALLOW), "GET,HEAD", "{method} {path}");
        }
        let answer = ask(&panel.router, Method::HEAD, path, &[(header::HOST, "localhost")]).await;
        assert!(answer.status.is_success() || answer.status.is_redirection(), "{path}");
        assert_eq!(answer.text, "", "{path}");
    }
}

#[tokio::test]
async fn every_answer_forbids_what_a_page_of_text_does_not_need() {
    let panel = Panel::with(&[]).await;
    for path in ["/", "/settings/audit-logs", "/api/v1/audit-logs", "/api/v1/audit-logs.csv", "/assets/panel.css", "/x"]
    {
        let answer = panel.get(path).await;
        let policy = answer.header(header::CONTENT_SECURITY_POLICY);
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}");
        assert!(!policy.contains("unsafe") && !policy.contains("script"), "{path}");
        assert_eq!(answer.header(header::X_CONTENT_TYPE_OPTIONS), "nosniff", "{path}");
        assert_eq!(answer.header(header::REFERRER_POLICY), "no-referrer", "{path}");
        let cached = if path.starts_with("/assets/") { "no-cache" } else { "no-store" };
        if path != "/x" {
            assert_eq!(answer.header(header::CACHE_CONTROL), cached, "{path}");
        }
    }
}

#[tokio::test]
async fn the_style_sheet_is_sent_once() {
    let panel = Panel::with(&[]).await;
    for (path, media_type) in [("/assets/panel.css", "text/css; charset=utf-8"), ("/assets/panel.svg", "image/svg+xml")]
    {
        let first = panel.get(path).await;
        assert_eq!((first.status, first.header(header::CONTENT_TYPE)), (StatusCode::OK, media_type));
        let known = [(header::HOST, "localhost"), (header::IF_NONE_MATCH, first.header(header::ETAG))];
        let again = ask(&panel.router, Method::GET, path, &known).await;
        assert_eq!((again.status, again.text.as_str()), (StatusCode::NOT_MODIFIED, ""));
        let stale = [(header::HOST, "localhost"), (header::IF_NONE_MATCH, "\"other\"")];
        assert_eq!(ask(&panel.router, Method::GET, path, &stale).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn the_front_door_leads_to_the_log() {
    let panel = Panel::with(&[]).await;
    let answer = panel.get("/").await;
    assert_eq!((answer.status, answer.header(header::LOCATION)), (StatusCode::SEE_OTHER, "/settings/audit-logs"));
    let lost = panel.get("/settings/nowhere").await;
    assert_eq!(lost.status, StatusCode::NOT_FOUND);
    assert!(lost.text.contains("Go to the audit log"));
}
