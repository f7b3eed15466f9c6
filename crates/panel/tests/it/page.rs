//! The log as a person sees it.

use axum::http::{StatusCode, header};
use domain::RedactedEntry;

use crate::fixture::Panel;
use crate::samples::{self, LINK, MARKUP, OVERRIDE};

#[tokio::test]
async fn a_list_shows_entries_day_by_day_with_what_came_of_them() {
    let panel = Panel::with(&samples::showcase()).await;
    let page = panel.get("/settings/audit-logs").await;
    assert_eq!((page.status, page.header(header::CONTENT_TYPE)), (StatusCode::OK, "text/html; charset=utf-8"));
    for told in [
        "Sunday, 1 March 2026",
        "Saturday, 28 February 2026",
        "title=\"2026-03-01T14:03:49.000Z\">14:03:49</time>",
        "1m ago",
        "image app:1.4.0 → app:1.5.0, container proxy added",
        "nobody saw what came of it",
        "12 entries lost between",
        "No filters",
        "<th scope=\"col\">Outcome</th>",
    ] {
        assert!(page.text.contains(told), "{told}");
    }
    let hidden = samples::showcase().iter().filter(|entry| entry.outcome == domain::Outcome::Superseded).count();
    assert_eq!(hidden, 1);
    assert_eq!(page.text.matches("class=\"when\"").count(), samples::showcase().len() - hidden);
}

#[tokio::test]
async fn the_filters_in_force_are_in_the_form_in_the_chips_and_in_every_link() {
    let panel = Panel::with(&samples::plain(5)).await;
    let query = "user=alice%40example.com&action=update&from=2026-03-01T00:00&limit=2";
    let page = panel.get(&format!("/settings/audit-logs?{query}")).await;
    assert_eq!(page.status, StatusCode::OK);
    for told in [
        "value=\"alice@example.com\"",
        "<option value=\"update\" selected>",
        "value=\"2026-03-01T00:00:00\"",
        "name=\"limit\" value=\"2\"",
        "3 filters",
        "href=\"/api/v1/audit-logs.csv?user=alice%40example.com&#38;action=update&#38;from=2026-03-01T00%3A00\"",
        // Each chip leads to the list without it.
        "href=\"/settings/audit-logs?action=update&#38;from=2026-03-01T00%3A00&#38;limit=2\"",
    ] {
        assert!(page.text.contains(told), "{told}");
    }

    let mut seen = 0;
    let mut at = format!("/settings/audit-logs?{query}");
    loop {
        let page = panel.get(&at).await;
        seen += page.text.matches("class=\"when\"").count();
        match link(&page.text, "rel=\"next\"") {
            Some(next) => at = next,
            None => break,
        }
        assert!(at.contains("user=alice%40example.com") && at.contains("limit=2") && at.contains("&cursor="), "{at}");
    }
    assert_eq!(seen, 5);
    let newest = panel.get(&at).await;
    assert!(newest.text.contains(">Newest</a>"));
    assert!(link(&newest.text, "rel=\"prev\"").is_some());
}

/// The address of the link with this attribute.
fn link(html: &str, attribute: &str) -> Option<String> {
    let (_, rest) = html.split_once(attribute)?;
    let (_, rest) = rest.split_once("href=\"")?;
    Some(rest.split_once('"')?.0.replace("&#38;", "&"))
}

#[tokio::test]
async fn a_bad_filter_is_told_beside_its_field_and_nothing_is_listed() {
    let panel = Panel::with(&samples::plain(1)).await;
    let page = panel.get("/settings/audit-logs?status=maybe&from=yesterday&user=al&sort=id").await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    for told in [
        "aria-invalid=\"true\" aria-describedby=\"status-fault\"",
        "id=\"status-fault\">status: &#34;maybe&#34; is not accepted: accepted is success or failure</p>",
        "id=\"from-fault\">from: &#34;yesterday&#34;",
        "value=\"al\"",
        "role=\"alert\">&#34;sort&#34; is no parameter here",
    ] {
        assert!(page.text.contains(told), "{told}");
    }
    assert!(!page.text.contains("class=\"log\"") && !page.text.contains("id=\"user-fault\""));

    let forged = panel.get("/settings/audit-logs?cursor=Zm9yZ2Vk").await;
    assert_eq!(forged.status, StatusCode::BAD_REQUEST);
    assert!(forged.text.contains("is not a cursor that this server gave"));
}

#[tokio::test]
async fn an_empty_list_says_why_it_is_empty() {
    let panel = Panel::with(&[]).await;
    for (query, told) in [
        ("", "Nothing recorded yet"),
        ("?user=al", "No entries match"),
        ("?from=2026-03-02&to=2026-03-01", "No entry can match"),
    ] {
        let page = panel.get(&format!("/settings/audit-logs{query}")).await;
        assert_eq!(page.status, StatusCode::OK, "{query}");
        assert!(page.text.contains(told), "{query}");
    }
}

#[tokio::test]
async fn an_entry_shows_its_facts_its_changes_and_the_way_on() {
    let panel = Panel::with(&samples::showcase()).await;
    let entry = &samples::showcase()[0];
    let page = panel.get(&format!("/settings/audit-logs/{}?user=alice%40example.com", entry.id)).await;
    assert_eq!(page.status, StatusCode::OK);
    for told in [
        "/spec/template/spec/containers[name=app]/image",
        "<del><code>&#34;registry.example.com/shop/app:1.4.0&#34;</code></del>",
        "<ins><code>&#34;registry.example.com/shop/app:1.5.0&#34;</code></ins>",
        "/spec/template/spec/containers[name=proxy]",
        "at index 0",
        "JSON, 18 lines",
        "It went through, with status 200.",
        "kubectl-client-side-apply",
        "-8123456789012345678",
        "2026-03-01T14:03:49.000Z",
        // Back to where it was chosen from, and on.
        "href=\"/settings/audit-logs?user=alice%40example.com\"",
        "href=\"/settings/audit-logs?resource=Deployment.apps&#38;cluster=local&#38;namespace=shop&#38;name=web\"",
    ] {
        assert!(page.text.contains(told), "{told}");
    }
    let everything =
        panel.get("/settings/audit-logs?resource=Deployment.apps&cluster=local&namespace=shop&name=web").await;
    assert_eq!(everything.text.matches("class=\"when\"").count(), 2, "the rollout and the scale");
}

#[tokio::test]
async fn an_entry_says_honestly_what_is_known_of_it_and_what_is_missing() {
    let panel = Panel::with(&samples::showcase()).await;
    let told = async |summary: &str| {
        let all = samples::showcase();
        let entry = all.iter().find(|entry| entry.detail.read().unwrap().summary == summary).expect(summary);
        panel.get(&format!("/settings/audit-logs/{}", entry.id)).await.text
    };
    for (summary, sentences) in [
        (
            "data.token changed",
            &[
                "nobody saw what came of it",
                "equal fingerprints are equal values",
                "impersonated by <bdi>carol@example.com",
            ][..],
        ),
        ("Pod miner created", &["then it was refused with status 403: nothing was stored", "Object after"]),
        ("containers reordered", &["what was stored came from another attempt", "Reordered"]),
        ("812 changes", &["3 of 812 changes were kept", "e3b0c44298fc1c14"]),
        ("Workflow nested updated", &["No diff:", "more than 100 levels deep."]),
        ("Service legacy deleted", &["Object before", "&#34;legacy&#34;"]),
        ("authentication failed", &["It was refused, with status 401.", "Nobody named"]),
        ("data.routes.conf changed", &["class=\"line removed\"", "route_07 = backend-9", "class=\"line skipped\""]),
        ("48211 entries from before 2025-12-01T14:05:00.000Z purged", &["Facts", "48211"]),
    ] {
        let page = told(summary).await;
        for sentence in sentences {
            assert!(page.contains(sentence), "{summary}: {sentence}");
        }
    }
}

#[tokio::test]
async fn whatever_a_name_holds_is_shown_and_does_nothing() {
    let panel = Panel::with(&samples::showcase()).await;
    let mut pages = vec![panel.get("/settings/audit-logs").await];
    for entry in samples::showcase() {
        let page = panel.get(&format!("/settings/audit-logs/{}", entry.id)).await;
        assert_eq!(page.status, StatusCode::OK, "{}", entry.id);
        pages.push(page);
    }
    for text in samples::hostile() {
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        pages.push(panel.get(&format!("/settings/audit-logs?user={encoded}&name={encoded}")).await);
        pages.push(
            panel.get(&format!("/settings/audit-logs?action={encoded}&{encoded}={encoded}&cursor={encoded}")).await,
        );
        pages.push(panel.get(&format!("/settings/audit-logs/{encoded}")).await);
        pages.push(panel.get(&format!("/{encoded}")).await);
    }
    for page in &pages {
        assert!(!page.text.contains("<script") && !page.text.contains("<img src=x"), "{MARKUP}");
        assert!(!page.text.contains("href=\"javascript:"), "{LINK}");
        let outside_fields: String = page.text.lines().filter(|line| !line.contains("<input")).collect();
        assert!(!outside_fields.contains(['\u{202e}', '\u{7}']), "{OVERRIDE:?}");
        assert!(!page.text.contains(" on") || !page.text.contains(" onerror=alert(1)>"), "{MARKUP}");
        assert!(!page.text.contains(" style=") && !page.text.contains("<style"), "the policy would drop it");
    }
    let list = &pages[0].text;
    for shown in [r"admin\u{202e}gpj.exe\u{7}\u{d}\u{a}Set-Cookie", "&#60;script&#62;alert(1)", LINK] {
        assert!(list.contains(shown), "{shown}");
    }
}

#[tokio::test]
async fn a_detail_of_another_version_is_shown_as_it_is() {
    let mut entry = samples::entry(chrono::TimeDelta::zero(), 0);
    entry.detail = samples::detail(serde_json::json!({"summary": {"v2": true}}));
    let id = entry.id;
    let panel = Panel::with(&[RedactedEntry::sample(entry)]).await;
    assert!(panel.get("/settings/audit-logs").await.text.contains("not in a form that this version reads"));
    let page = panel.get(&format!("/settings/audit-logs/{id}")).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.text.contains("Not readable by this version") && page.text.contains("&#34;v2&#34;: true"));
}

#[tokio::test]
async fn a_page_for_an_entry_that_is_gone_or_never_was_leads_back() {
    let panel = Panel::with(&[]).await;
    let gone = panel.get(&format!("/settings/audit-logs/{}", samples::plain(1)[0].id)).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    assert!(gone.text.contains("it may have been purged") && gone.text.contains("Go to the audit log"));
    assert_eq!(panel.get("/settings/audit-logs/42").await.status, StatusCode::BAD_REQUEST);
}
