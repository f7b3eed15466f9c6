//! What is read is what is there, and reading costs no more memory than one may hold.

#![expect(clippy::print_stdout, reason = "figures, for whoever wants to see them")]

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use domain::clock::Clock as _;
use domain::{DetailJson, Entry, EntryId, Evidence, Outcome, RedactedEntry};
use futures::future::{self, Either};
use reqwest::Response;
use serde_json::Value;
use testkit::program::Program;
use tokio::time::interval;

use crate::api::client;
use crate::house::{BOTH, Database};
use crate::made_up::{self, Question, Random};
use crate::stock::{Now, Stock};

const ENTRIES: usize = 5_000;
const QUESTIONS: usize = 200;
/// Of the questions, every so manieth is asked of the exports, and of the page, too.
const EXPORTED_EACH: usize = 5;
const SHOWN_EACH: usize = 8;
const WALK_PAGES_MAX: usize = 2_000;

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_is_read_as_sql_reads_it_while_a_writer_writes() -> anyhow::Result<()> {
    whatever_is_asked_is_answered_as_by_sql(Database::Sqlite).await
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_read_as_sql_reads_it_while_a_writer_writes() -> anyhow::Result<()> {
    whatever_is_asked_is_answered_as_by_sql(Database::Postgres).await
}

async fn whatever_is_asked_is_answered_as_by_sql(database: Database) -> anyhow::Result<()> {
    let seed = Random::seed();
    println!("READING_SEED={seed} brings this run of {database:?} back");
    let mut random = Random::from(seed);
    let now = Now.now();
    let entries: Vec<_> = (0..ENTRIES).map(|_| made_up::entry(&mut random, now)).collect();
    let stock = Stock::holding(database, &entries).await?;
    let program = stock.serve("audit: {retention_days: 0}").await?;
    let reader = Reader::new(&stock, &program)?;
    let mut writing = std::pin::pin!(write_on(&stock, Random::from(seed ^ 1)));

    let mut found = 0;
    for number in 0..QUESTIONS {
        let question = Question::about(&mut random, &entries);
        let asked = std::pin::pin!(reader.ask(number, &question, &mut random));
        let answered = match future::select(asked, &mut writing).await {
            Either::Left((answered, _)) => answered,
            Either::Right((failed, _)) => bail!("the writer failed: {failed:?}"),
        };
        found += usize::from(answered.with_context(|| format!("question {number}, seed {seed}: {question:?}"))? > 0);
    }
    let written = stock.ids_where("true").await?.len() - ENTRIES;
    println!("{database:?}: {QUESTIONS} questions, {found} found something; {written} entries were written meanwhile");
    ensure!(found > QUESTIONS / 2, "only {found} of {QUESTIONS} questions found anything");
    ensure!(written > 0, "nothing was written meanwhile");
    Ok(())
}

/// A few entries at a time, of now and of all the days before; never ends by itself.
async fn write_on(stock: &Stock, mut random: Random) -> anyhow::Result<()> {
    let mut turns = interval(Duration::from_millis(20));
    loop {
        turns.tick().await;
        let batch: Vec<_> = (0..3).map(|_| made_up::entry(&mut random, Now.now())).collect();
        stock.store.write(&batch).await?;
    }
}

struct Reader<'a> {
    stock: &'a Stock,
    url: String,
    client: reqwest::Client,
}

impl<'a> Reader<'a> {
    fn new(stock: &'a Stock, program: &Program) -> anyhow::Result<Self> {
        Ok(Self { stock, url: format!("http://{}", program.panel()), client: client().tls_certs_only([]).build()? })
    }

    /// Asks in every way; answers how many there were.
    async fn ask(&self, number: usize, question: &Question, random: &mut Random) -> anyhow::Result<usize> {
        let before = self.stock.ids_where(&question.condition).await?;
        // A walk of some ten pages, now and then just so many.
        let least = before.len() / 10 + 1;
        let limit =
            if random.once_in(2) { least + random.below(10) } else { least.max(random.below(500) + 1) }.min(500);
        let (forth, back) = self.walk(question, limit).await.with_context(|| format!("limit {limit}"))?;
        self.agrees(&before, &forth, question).await.context("by next")?;
        self.agrees(&before, &back, question).await.context("by prev")?;
        if number.is_multiple_of(EXPORTED_EACH) {
            self.agrees(&before, &self.csv(question).await?, question).await.context("CSV")?;
            self.agrees(&before, &self.ndjson(question).await?, question).await.context("NDJSON")?;
        }
        if number.is_multiple_of(SHOWN_EACH) {
            self.agrees(&before, &self.pages(question, limit).await?, question).await.context("page")?;
        }
        Ok(before.len())
    }

    /// Newest first, none twice, all that were there before and nothing that is not there after.
    async fn agrees(&self, before: &[String], read: &[String], question: &Question) -> anyhow::Result<()> {
        for pair in read.windows(2) {
            ensure!(pair[0] > pair[1], "{} follows {}", pair[1], pair[0]);
        }
        let after = self.stock.ids_where(&question.condition).await?;
        let (read, after): (HashSet<_>, HashSet<_>) = (read.iter().collect(), after.iter().collect());
        let skipped: Vec<_> = before.iter().filter(|id| !read.contains(id)).collect();
        let foreign: Vec<_> = read.difference(&after).collect();
        ensure!(skipped.is_empty() && foreign.is_empty(), "skipped {skipped:?}, and read {foreign:?}");
        Ok(())
    }

    /// Page by page to the oldest, and back to the newest; both newest first.
    async fn walk(&self, question: &Question, limit: usize) -> anyhow::Result<(Vec<String>, Vec<String>)> {
        let mut page = self.page(question, limit, None).await?;
        ensure!(page.prev.is_none(), "there is something before the first page");
        let mut forth = page.ids.clone();
        let mut pages = 1;
        while let Some(next) = &page.next {
            ensure!(page.ids.len() == limit, "{} instead of {limit} on a page that is not the last", page.ids.len());
            page = self.page(question, limit, Some(next)).await?;
            forth.extend(page.ids.iter().cloned());
            pages += 1;
            ensure!(pages < WALK_PAGES_MAX, "the walk never ends");
        }
        let mut back = page.ids.clone();
        while let Some(prev) = &page.prev {
            page = self.page(question, limit, Some(prev)).await?;
            back.splice(0..0, page.ids.iter().cloned());
            pages += 1;
            ensure!(pages < WALK_PAGES_MAX, "the walk never ends");
        }
        Ok((forth, back))
    }

    async fn page(&self, question: &Question, limit: usize, cursor: Option<&str>) -> anyhow::Result<Page> {
        let limit = limit.to_string();
        let place = [("limit", limit.as_str()), ("cursor", cursor.unwrap_or_default())];
        let body: Value = serde_json::from_str(&self.get("/api/v1/audit-logs", question, &place).await?)?;
        let id = |item: &Value| item["id"].as_str().map(str::to_owned).context("an item has no id");
        let link = |name: &str| body[name].as_str().map(str::to_owned);
        let ids = body["items"].as_array().context("items is no list")?.iter().map(id).collect::<Result<_, _>>()?;
        Ok(Page { ids, next: link("next"), prev: link("prev") })
    }

    async fn csv(&self, question: &Question) -> anyhow::Result<Vec<String>> {
        let text = self.get("/api/v1/audit-logs.csv", question, &[]).await?;
        let mut rows = csv::Reader::from_reader(text.as_bytes());
        ensure!(rows.headers()?.get(0) == Some("id"), "the first column is not the id");
        rows.records().map(|row| Ok(row?.get(0).context("an empty row")?.to_owned())).collect()
    }

    async fn ndjson(&self, question: &Question) -> anyhow::Result<Vec<String>> {
        let text = self.get("/api/v1/audit-logs.ndjson", question, &[]).await?;
        let id = |line: &str| {
            let entry: Value = serde_json::from_str(line)?;
            entry["id"].as_str().map(str::to_owned).context("a line has no id")
        };
        text.lines().map(id).collect()
    }

    /// The page that people see, by its links to entries and to what is older.
    async fn pages(&self, question: &Question, limit: usize) -> anyhow::Result<Vec<String>> {
        const ENTRY: &str = r#"<td class="when"><a href="/settings/audit-logs/"#;
        const OLDER: &str = r#"rel="next" href=""#;
        let limit = limit.to_string();
        let mut html = self.get("/settings/audit-logs", question, &[("limit", &limit)]).await?;
        let mut ids = Vec::new();
        for _ in 0..WALK_PAGES_MAX {
            let shown = html.split(ENTRY).skip(1).map(|rest| rest.get(..36).map(str::to_owned).context("no id"));
            ids.extend(shown.collect::<Result<Vec<_>, _>>()?);
            let Some((_, rest)) = html.split_once(OLDER) else { return Ok(ids) };
            let href = rest.split_once('"').context("a link without its end")?.0.replace("&#38;", "&");
            html = text(self.client.get(format!("{}{href}", self.url)).send().await?).await?;
        }
        bail!("the pages never end")
    }

    async fn get(&self, path: &str, question: &Question, place: &[(&str, &str)]) -> anyhow::Result<String> {
        let request = self.client.get(format!("{}{path}", self.url)).query(&question.parameters).query(place);
        text(request.send().await?).await
    }
}

struct Page {
    ids: Vec<String>,
    next: Option<String>,
    prev: Option<String>,
}

async fn text(response: Response) -> anyhow::Result<String> {
    let (status, url) = (response.status(), response.url().clone());
    let text = response.text().await?;
    ensure!(status == 200, "{url} answers {status}: {text}");
    Ok(text)
}

/// Were they all held at once, the export would take 600 MB and the page 150.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_entries_are_read_in_bounded_memory() -> anyhow::Result<()> {
    const HEAVY: usize = 2_000;
    const DETAIL_BYTES: usize = 300_000;
    const RSS_MAX: u64 = 96 * 1024 * 1024;
    const MEASURED_EACH: usize = 8 * 1024 * 1024;
    for database in BOTH {
        let stock = Stock::of(database).await?;
        for numbers in (0..HEAVY).collect::<Vec<_>>().chunks(25) {
            stock.store.write(&numbers.iter().map(|number| heavy(*number, DETAIL_BYTES)).collect::<Vec<_>>()).await?;
        }
        let program = stock.serve("audit: {retention_days: 0}").await?;
        let reader = Reader::new(&stock, &program)?;
        let idle = program.rss_bytes()?;
        let (mut bytes, mut lines, mut most, mut measured) = (0, 0, idle, 0);
        let mut export = reader.client.get(format!("{}/api/v1/audit-logs.csv", reader.url)).send().await?;
        while let Some(chunk) = export.chunk().await? {
            bytes += chunk.len();
            lines += chunk.iter().filter(|byte| **byte == b'\n').count();
            if bytes - measured > MEASURED_EACH {
                measured = bytes;
                most = most.max(program.rss_bytes()?);
            }
        }
        let everything = Question { parameters: Vec::new(), condition: "true".to_owned() };
        let page = reader.page(&everything, 500, None).await?;
        let after_page = program.rss_bytes()?;
        let mib = |bytes: u64| bytes / 1024 / 1024;
        println!(
            "{database:?}: an export of {} MB took {} MiB, a page of {} entries {} MiB, idle were {} MiB",
            bytes / 1_000_000,
            mib(most),
            page.ids.len(),
            mib(after_page),
            mib(idle),
        );
        assert_eq!(lines, HEAVY + 1);
        assert!(bytes > HEAVY * DETAIL_BYTES, "{bytes}");
        assert!(page.next.is_some() && !page.ids.is_empty());
        assert!(most.max(after_page) < RSS_MAX, "{} MiB", mib(most.max(after_page)));
    }
    Ok(())
}

fn heavy(number: usize, bytes: usize) -> RedactedEntry {
    let start: DateTime<Utc> = Now.now() - TimeDelta::hours(1);
    let id = EntryId::at(start + TimeDelta::milliseconds(number as i64), number as u64);
    let detail = serde_json::json!({"summary": "created", "after": "0123456789abcdef".repeat(bytes / 16 + 1)});
    let detail = DetailJson::parse(detail.to_string()).unwrap();
    let (outcome, evidence) = (Outcome::Unconfirmed, Evidence::Nothing);
    RedactedEntry::sample(Entry { detail, outcome, evidence, ..made_up::at(&mut Random::from(number as u64), id) })
}
