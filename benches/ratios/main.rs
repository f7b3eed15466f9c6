//! What the program costs, each number beside its yardstick, measured in one run: machines differ, ratios hardly do.
//!
//! `make bench`, or `make bench ARGS="-- paging"` for one of them. Prints a line for each goal, met or missed; fails only
//! where something could not be measured. Load stays on the loopback and is bounded in count and in time.

#![expect(unreachable_pub, reason = "nothing reaches into a bench; pub marks what a module offers")]

mod client;
mod given;
mod import;
mod ingest;
mod paging;
mod report;
mod review;
mod webhook;

use std::time::Instant;

use crate::report::Report;

type Bench = fn(&mut Report) -> anyhow::Result<()>;

const BENCHES: [(&str, Bench); 4] =
    [("webhook", webhook::run), ("ingest", ingest::run), ("import", import::run), ("paging", paging::run)];

fn main() -> anyhow::Result<()> {
    // Cargo says `--bench` to every bench.
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let unknown = asked.iter().find(|name| !BENCHES.iter().any(|(known, _)| known == name));
    if let Some(name) = unknown {
        anyhow::bail!("{name:?} is no bench: accepted are {}", BENCHES.map(|(name, _)| name).join(", "));
    }
    let mut report = Report::default();
    for (name, bench) in BENCHES {
        if asked.is_empty() || asked.iter().any(|asked| asked == name) {
            let start = Instant::now();
            bench(&mut report)?;
            report.note(&format!("{name} took {} s", start.elapsed().as_secs()));
        }
    }
    report.print();
    Ok(())
}
