//! What is sent to do harm, or by mistake: refused by name, answered in time, and the process stays as it was.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use reqwest::{Body, Method};
use serde_json::{Value, json};
use testkit::{eventually, http};

use crate::api::{client, config_map};
use crate::house::{Database, House};
use crate::reviews::{Door, Review};

/// What a review may cost, of which the API server waits for.
const ANSWERED_WITHIN: Duration = Duration::from_millis(100);
/// The machine does other things too: the best of so many tries is what a review costs.
const TRIES: usize = 8;
const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_review_is_refused_by_its_fault_and_changes_nothing() -> anyhow::Result<()> {
    let house = House::on(Database::Sqlite, "").await?;
    let door = Door::of(&house).await?;
    let recorded = house.entries_now("cluster=local").await?.len();

    let good = Review::default().json();
    let uid = Review::default().uid;
    let edited = |from: &str, to: &str| {
        assert!(good.contains(from), "no {from} in {good}");
        good.replacen(from, to, 1).into_bytes()
    };
    let with_object = |object: &[u8]| {
        let parts = good.split_once(r#"{"metadata":{"name":"by-hand"}}"#).unwrap();
        [parts.0.as_bytes(), object, parts.1.as_bytes()].concat()
    };
    let json = "application/json";
    let cases: [(&str, &str, Vec<u8>, u16, &str); 26] = [
        ("an empty body", json, vec![], 400, "the body is empty"),
        ("blanks", json, b"  \n".to_vec(), 400, "cut short"),
        ("a form", "application/x-www-form-urlencoded", good.clone().into(), 415, "x-www-form-urlencoded"),
        ("no type", "", good.clone().into(), 415, r#"accepted is "application/json""#),
        ("YAML", "application/yaml", b"a: b".to_vec(), 415, "application/yaml"),
        ("prose", json, b"hello".to_vec(), 400, "not valid JSON"),
        ("a number", json, b"7".to_vec(), 400, "expected struct AdmissionReview"),
        ("a list", json, b"[]".to_vec(), 400, ""),
        ("an empty object", json, b"{}".to_vec(), 400, r#"accepted is "AdmissionReview""#),
        ("another kind", json, edited("AdmissionReview", "EventList"), 400, r#"kind is "EventList""#),
        ("v1beta1", json, edited("k8s.io/v1", "k8s.io/v1beta1"), 400, r#"apiVersion is "admission.k8s.io/v1beta1""#),
        (
            "no request",
            json,
            br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#.to_vec(),
            400,
            "no request",
        ),
        (
            "a request of null",
            json,
            br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":null}"#.to_vec(),
            400,
            "no request",
        ),
        ("no uid", json, edited("uid", "uuid"), 400, "missing field `uid`"),
        ("an empty uid", json, edited(uid, ""), 400, "uid is empty"),
        ("a uid that is a number", json, edited(&format!("{uid:?}"), "7"), 400, "request.uid"),
        ("a user that is a list", json, edited(r#"{"username":"mallory"}"#, "[1]"), 400, "request.userInfo"),
        ("another operation", json, edited("CREATE", "DESTROY"), 400, "accepted is one of CREATE, UPDATE"),
        ("a dry run of yes", json, edited(r#""dryRun":false"#, r#""dryRun":"yes""#), 400, "request.dryRun"),
        ("a review cut short", json, good.as_bytes()[..good.len() - 40].to_vec(), 400, "cut short"),
        ("more after the review", json, [good.as_bytes(), b"{}"].concat(), 400, "more after the review"),
        ("invalid UTF-8", json, with_object(b"{\"a\":\"\xff\xfe\"}"), 400, "not UTF-8 from byte"),
        ("a lone surrogate", json, with_object(br#"{"a":"\ud800"}"#), 400, "object is not valid JSON"),
        ("a lone low surrogate as a key", json, with_object(br#"{"\udc00":1}"#), 400, "object is not valid JSON"),
        ("a lone surrogate in a name", json, edited("by-hand", r"\ud800"), 400, "not valid JSON"),
        ("9 MiB", json, vec![b' '; 9 * MIB], 413, "too large: accepted are 8388608 bytes"),
    ];
    for (name, kind, body, status, told) in cases {
        let headers = [("content-type", kind)];
        let headers = if kind.is_empty() { &[][..] } else { &headers };
        let answer = door.send(Method::POST, headers, body).await.context(name)?;
        assert_eq!(answer.status, status, "{name}: {}", answer.body);
        assert!(
            answer.json()["detail"].as_str().is_some_and(|detail| detail.contains(told)),
            "{name}: {}",
            answer.body
        );
        assert_eq!(answer.json()["status"], status, "{name}: {}", answer.body);
    }
    let echoed = door.post(edited("CREATE", "DESTROY")).await?;
    assert_eq!(echoed.json()["uid"], uid, "{}", echoed.body);

    let zipped = [("content-type", json), ("content-encoding", "gzip")];
    let answer = door.send(Method::POST, &zipped, vec![0x1f, 0x8b, 8, 0]).await?;
    assert_eq!(answer.status, 415, "{}", answer.body);
    assert!(answer.body.contains("Content-Encoding"), "{}", answer.body);
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let answer = door.send(method.clone(), &[("content-type", json)], good.clone()).await?;
        assert_eq!(answer.status, 405, "{method}: {}", answer.body);
    }

    assert_eq!(http::get(house.program.metrics(), "/readyz").await?.status, 200);
    assert_eq!(house.entries_now("cluster=local").await?.len(), recorded, "nothing of that was recorded");
    assert_eq!(house.metric("kubevision_audit_admission_reviews_total", r#"result="panicked""#).await?, 0);
    let answer = door.post(good).await?;
    assert_eq!((answer.status, &answer.json()["response"]["allowed"]), (200, &json!(true)), "{}", answer.body);
    house.entries("name=by-hand", 1).await?;
    Ok(())
}

/// With and without an announced length, so that both bounds are met.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_bodies_of_9_mib_are_refused_and_take_no_memory() -> anyhow::Result<()> {
    const POSTS: usize = 200;
    const AT_ONCE: usize = 8;
    /// Four reviews of 8 MiB may be in flight, each a second time while it grows, and what the allocator keeps of them.
    const RSS_MAX: u64 = 160 * MIB as u64;
    let house = House::on(Database::Sqlite, "").await?;
    let door = Door::of(&house).await?;
    let piece: &'static [u8] = vec![b' '; 64 * 1024].leak();
    let pieces = move || futures::stream::repeat(piece).take(9 * MIB / piece.len()).map(Ok::<_, std::io::Error>);
    let unannounced = move || Body::wrap_stream(pieces());
    let announced = || Body::from(vec![b' '; 9 * MIB]);
    let before = house.program.rss_bytes()?;
    let mut peak = before;
    let mut answered = 0;
    let posts = (0..POSTS).map(|n| {
        let door = &door;
        async move { door.post(if n % 2 == 0 { unannounced() } else { announced() }).await }
    });
    let mut posts = futures::stream::iter(posts).buffer_unordered(AT_ONCE);
    while let Some(answer) = posts.next().await {
        // A peer that closes before it has read everything may be noticed before its answer is.
        if let Ok(answer) = answer {
            ensure!(answer.status == 413, "{} {}", answer.status, answer.body);
            answered += 1;
        }
        peak = peak.max(house.program.rss_bytes()?);
    }
    let after = house.program.rss_bytes()?;
    let mib = |bytes: u64| bytes / MIB as u64;
    println!(
        "{POSTS} x 9 MiB, {answered} of them answered: {} MiB before, {} at most, {} after",
        mib(before),
        mib(peak),
        mib(after)
    );
    assert!(answered > POSTS * 9 / 10, "{answered}");
    assert!(peak < RSS_MAX, "{} MiB", mib(peak));
    // Not over a connection that was closed after what it brought.
    let door = Door::of(&house).await?;
    assert_eq!(door.post(Review::default().json()).await?.status, 200);
    Ok(())
}

/// An object before and after, as a kind's.
struct Hard {
    name: &'static str,
    kind: &'static str,
    old: String,
    new: String,
}

fn widget(name: &'static str, member: impl Fn(bool) -> String) -> Hard {
    let object = |new| format!(r#"{{"metadata":{{"name":"{name}","uid":"u"}},"spec":{{"x":{}}}}}"#, member(new));
    Hard { name, kind: "Widget", old: object(false), new: object(true) }
}

fn data(name: &'static str, kind: &'static str, data: impl Fn(bool) -> String) -> Hard {
    let object = |new| format!(r#"{{"metadata":{{"name":"{name}","uid":"u"}},"data":{}}}"#, data(new));
    Hard { name, kind, old: object(false), new: object(true) }
}

fn list(new: bool, count: usize, element: impl Fn(usize) -> String) -> String {
    let mut elements: Vec<_> = (0..count).map(element).collect();
    if new {
        elements.reverse();
    }
    format!("[{}]", elements.join(","))
}

fn repeated(new: bool, text: &str, bytes: usize) -> String {
    let tail = if new { "n" } else { "o" };
    format!("\"{}{tail}\"", text.repeat(bytes / text.len()))
}

/// What the API server accepts and a recorder may stumble over.
fn hard() -> Vec<Hard> {
    let mut all = vec![
        widget("three-mib-in-one-line", |new| repeated(new, "x", 3 * MIB - 4096)),
        widget("the-most-that-etcd-is-sent", |new| repeated(new, "x", 2 * MIB - 4096)),
        widget("three-mib-of-escapes", |new| repeated(new, r"\u0001\n", 3 * MIB - 4096)),
        widget("maps-8000-deep", |new| format!("{}{new}{}", r#"{"a":"#.repeat(8_000), "}".repeat(8_000))),
        widget("lists-8000-deep", |new| format!("{}{new}{}", "[".repeat(8_000), "]".repeat(8_000))),
        widget("lists-90-deep-times-2000", |new| {
            list(new, 1_000, |n| format!("{}{n}{}", "[".repeat(90), "]".repeat(90)))
        }),
        widget("texts-100000-reordered", |new| list(new, 100_000, |n| format!(r#""element-{n:06}""#))),
        widget("names-100000-reordered", |new| list(new, 100_000, |n| format!(r#"{{"name":"e{n:06}"}}"#))),
        widget("names-49000-reordered", |new| list(new, 49_000, |n| format!(r#"{{"name":"e{n:06}"}}"#))),
        widget("numbers-300000", |new| list(new, 300_000, |n| n.to_string())),
        widget("numbers-99000-reordered", |new| list(new, 99_000, |n| n.to_string())),
        widget("shared-keys-30000", |new| list(new, 30_000, |n| format!(r#"{{"name":"same","v":{n}}}"#))),
        widget("every-key-shared", |new| {
            let fields = "name containerPort protocol port ip key type uid mountPath devicePath topologyKey host path id \
                          kind namespace";
            let same: Vec<_> = fields.split_whitespace().map(|field| format!(r#""{field}":"same""#)).collect();
            list(new, 5_400, |n| format!(r#"{{{},"v":{n}}}"#, same.join(",")))
        }),
        widget("a-long-name-over-19000-changes", |new| {
            let members: Vec<_> = (0..19_000).map(|n| format!(r#""{n}":{new}"#)).collect();
            format!(r#"{{"{}":{{{}}}}}"#, "k".repeat(MIB), members.join(","))
        }),
        widget("many-keys-unsorted", |new| {
            let members: Vec<_> = (0..90_000).map(|n| format!(r#""{:x}":{new}"#, (n * 7_919_u64) % 90_001)).collect();
            format!("{{{}}}", members.join(","))
        }),
        data("secret-of-200000", "Secret", |new| {
            let value = if new { "MQ==" } else { "Mg==" };
            let members: Vec<_> = (0..200_000).map(|n| format!(r#""{n:x}":"{value}""#)).collect();
            format!("{{{}}}", members.join(","))
        }),
        data("secret-of-39000", "Secret", |new| {
            let value = if new { "MQ==" } else { "Mg==" };
            let members: Vec<_> = (0..39_000).map(|n| format!(r#""{n:x}":"{value}""#)).collect();
            format!("{{{}}}", members.join(","))
        }),
    ];
    let texts = [
        ("web-token-starts", "eyJ"),
        ("web-token-dots", "eyJ."),
        ("web-tokens", "eyJa.eyJb.c "),
        ("url-starts", "://"),
        ("url-users", "://a:"),
        ("url-ats", "a://b:c@"),
        ("bearers", "Bearer "),
        ("bearer-tokens", "Bearer abcdefghijklmnop "),
        ("private-keys", "-----BEGIN PRIVATE KEY-----"),
        ("flags", "--password="),
        ("brackets", "[{<&>}]"),
    ];
    all.extend(texts.map(|(name, text)| {
        data(name, "ConfigMap", move |new| format!(r#"{{"v":{}}}"#, repeated(new, text, MIB - 8)))
    }));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_api_server_accepts_is_answered_in_time_and_recorded() -> anyhow::Result<()> {
    let house = House::on(Database::Sqlite, "").await?;
    let door = Door::of(&house).await?;
    let mut slow = Vec::new();
    let mut expected = Vec::new();
    for Hard { name, kind, old, new } in hard() {
        for (operation, old, new) in
            [("CREATE", None, Some(&new)), ("UPDATE", Some(&old), Some(&new)), ("DELETE", Some(&new), None)]
        {
            let (old, new) = (old.map(String::as_str), new.map(String::as_str));
            let review = |uid: &str| {
                Review { uid, operation, kind, name, old, new, resource: "things", ..Review::default() }.json()
            };
            let mut best = Duration::MAX;
            let mut tries = 0;
            while tries < TRIES && best > ANSWERED_WITHIN {
                // Each call of the API server has a uid of its own.
                let uid = format!("{operation}-{name}-{tries}");
                let answer = door.post(review(&uid)).await.with_context(|| format!("{operation} {name}"))?;
                ensure!(answer.status == 200, "{operation} {name}: {} {}", answer.status, answer.body);
                ensure!(answer.json()["response"]["allowed"] == true, "{operation} {name}: {}", answer.body);
                ensure!(answer.body.contains("entry."), "{operation} {name} is not recorded: {}", answer.body);
                best = best.min(answer.took);
                tries += 1;
            }
            println!("{operation} {name}: {} KiB in {} ms, try {tries}", review("").len() / 1024, best.as_millis());
            if best > ANSWERED_WITHIN {
                slow.push(format!("{operation} {name}: {best:?}"));
            }
            expected.push((operation, name, tries));
        }
    }
    assert!(slow.is_empty(), "{slow:#?}");
    let all: usize = expected.iter().map(|(_, _, tries)| tries).sum();
    let entries = house.entries("user=mallory", all).await?;
    for (operation, name, tries) in expected {
        let action = operation.to_lowercase();
        let of_it: Vec<_> = entries.iter().filter(|e| e["resource_name"] == name && e["action"] == action).collect();
        assert_eq!(of_it.len(), tries, "{operation} {name}");
        for entry in of_it {
            assert!(told_or_said_why(&entry["detail"]), "{operation} {name}: {entry:#}");
        }
    }
    Ok(())
}

/// The change is there, or a sentence in its place.
fn told_or_said_why(detail: &Value) -> bool {
    let told = ["changes", "before", "after"].iter().any(|part| !detail[part].is_null());
    let why = detail["omitted"].as_str().is_some_and(|why| why.len() > 10) || detail["truncated"].is_object();
    (told || why) && detail["summary"].as_str().is_some_and(|summary| (1..2_000).contains(&summary.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_panel_answers_this_machine_alone_and_only_tells() -> anyhow::Result<()> {
    let house = House::on(Database::Sqlite, "").await?;
    let client = client().build()?;
    let url = |path: &str| format!("http://{}{path}", house.program.panel());
    let paths = ["/", "/settings/audit-logs", "/api/v1/audit-logs", "/api/v1/audit-logs.csv", "/assets/panel.css"];
    for path in paths {
        for host in ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:8080"] {
            let answer = client.get(url(path)).header("host", host).send().await?;
            assert_eq!(answer.status(), 421, "{host} {path}");
            assert!(answer.text().await?.contains("is not this machine's own name"), "{host} {path}");
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            let answer = client.request(method.clone(), url(path)).body("user=al").send().await?;
            assert_eq!(answer.status(), 405, "{method} {path}");
        }
    }
    let sent = ["%00", "%FF", "'%20OR%201=1--", "al%25", "*", "../../etc/passwd"];
    for text in sent {
        let answer = house.program.get(&format!("/api/v1/audit-logs?user={text}&name={text}")).await?;
        assert!(matches!(answer.status, 200 | 400), "{text}: {answer:?}");
        assert!(answer.status == 400 || answer.body.contains(r#""items":[]"#), "{text}: {answer:?}");
    }
    for (path, status) in [
        ("/api/v1/audit-logs?sort=id", 400),
        ("/api/v1/audit-logs?cursor=forged", 400),
        ("/api/v1/audit-logs/not-an-id", 400),
        ("/api/v1/audit-logs/01890a5d-ac96-774b-bcce-b302099a8057", 404),
        ("/settings/audit-logs/..%2f..%2fetc%2fpasswd", 400),
        ("/nowhere", 404),
    ] {
        assert_eq!(house.program.get(path).await?.status, status, "{path}");
    }
    Ok(())
}

/// Through the API server, whose own limits say what can come: what it accepts is in the log, and none was let by.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_server_accepted_is_recorded_however_hard_it_was() -> anyhow::Result<()> {
    let house = House::on(Database::Sqlite, "").await?;
    let namespace = house.namespace("hard").await?;
    let api = house.api("mallory")?;
    api.define("Widget", "hostile.example.com").await?;
    let widgets = format!("/apis/hostile.example.com/v1/namespaces/{namespace}/widgets");
    let mut written = Vec::new();
    // The API server thinks about it for ten seconds, and then it is too large for etcd.
    for Hard { name, kind, old, new } in hard().into_iter().filter(|hard| hard.name != "secret-of-200000") {
        let (kind, api_version, collection) = match kind {
            "Widget" => (kind, "hostile.example.com/v1", widgets.clone()),
            kind => (kind, "v1", format!("/api/v1/namespaces/{namespace}/{}s", kind.to_lowercase())),
        };
        let typed = |object: &str| {
            let object = object.replacen(r#","uid":"u""#, "", 1);
            object.replacen('{', &format!(r#"{{"apiVersion":"{api_version}","kind":"{kind}","#), 1)
        };
        let place = format!("{collection}/{name}");
        let mut told = Vec::new();
        let mut version = String::new();
        for (method, path) in [(Method::POST, &collection), (Method::PUT, &place), (Method::DELETE, &place)] {
            let body = match method {
                Method::POST => typed(&old),
                // Of custom resources the API server wants to be told what is replaced.
                Method::PUT => typed(&new).replacen(
                    r#""metadata":{"#,
                    &format!(r#""metadata":{{"resourceVersion":"{version}","#),
                    1,
                ),
                _ => "{}".to_owned(),
            };
            let start = Instant::now();
            let (status, answer) = api.call(method.clone(), path, "application/json", &body).await?;
            version = resource_version(&answer);
            told.push(format!("{method} {status} in {} ms", start.elapsed().as_millis()));
            if (200..300).contains(&status) {
                let action = match method {
                    Method::POST => "create",
                    Method::PUT => "update",
                    _ => "delete",
                };
                written.push((name, action));
            }
        }
        println!("{name}: {}", told.join(", "));
    }
    assert!(written.len() >= 60, "the API server took only {written:?}");
    // There may be more of them: the webhook sees what etcd then finds too large.
    eventually(Duration::from_secs(20), || async {
        let entries = house.entries_now("user=mallory&namespace=hard").await?;
        let is_there = |(name, action): &(&str, &str)| {
            entries.iter().any(|entry| {
                entry["resource_name"] == *name && entry["action"] == *action && told_or_said_why(&entry["detail"])
            })
        };
        let lost: Vec<_> = written.iter().filter(|write| !is_there(write)).collect();
        ensure!(lost.is_empty(), "{lost:?}; the log ends with {}", tail(&house)?);
        Ok(())
    })
    .await?;
    api.undefine("Widget", "hostile.example.com").await
}

/// The API server writes a `<` as `\u003c`: six bytes for one, before and after. A megabyte of them, updated, is a review of
/// twelve, and the bound is eight: nobody is stopped, and that a write went unseen is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_review_is_past_the_bound_goes_through_and_leaves_a_gap() -> anyhow::Result<()> {
    let house = House::on(Database::Sqlite, "").await?;
    let namespace = house.namespace("past-the-bound").await?;
    let api = house.api("mallory")?;
    let (collection, object) = config_map(&namespace, "brackets", json!({"v": "<".repeat(MIB - 8)}));
    api.create(&collection, &object).await?;
    house.entries(&format!("namespace={namespace}&name=brackets&action=create"), 1).await?;
    api.merge(&format!("{collection}/brackets"), &json!({"metadata": {"labels": {"a": "b"}}})).await?;
    let gaps = house.entries("resource=AuditLog&action=gap", 1).await?;
    let told = gaps[0]["detail"].to_string();
    ensure!(told.contains("too large"), "{told}");
    assert_eq!(house.entries_now(&format!("namespace={namespace}&name=brackets&action=update")).await?.len(), 0);
    api.delete(&format!("{collection}/brackets")).await?;
    house.entries(&format!("namespace={namespace}&name=brackets&action=delete"), 1).await?;
    Ok(())
}

/// Found in the text: of what is thousands of levels deep, the test's own JSON reader makes no more than that.
fn resource_version(answer: &Value) -> String {
    let text = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
    let version = text.split_once(r#""resourceVersion":""#).and_then(|(_, rest)| rest.split_once('"'));
    version.map_or_else(String::new, |(version, _)| version.to_owned())
}

fn tail(house: &House) -> anyhow::Result<String> {
    let log = house.program.log()?;
    let lines: Vec<_> = log.lines().rev().take(5).collect();
    Ok(lines.join("\n"))
}
