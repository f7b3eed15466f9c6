//! Log lines on standard error: for people on a terminal, as JSON elsewhere. Which of them is `RUST_LOG`'s to say.

use std::io::{self, IsTerminal as _};

use tracing::error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// To be called once, first.
pub fn start() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let people = io::stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(filter);
    if people {
        registry.with(fmt::layer().with_target(false).with_writer(io::stderr)).init();
    } else {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(io::stderr)).init();
    }
    // A panic's message may quote the text it stumbled over, which may be a secret.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        error!(place, "panic; its message is withheld, since it may quote an object");
    }));
}
