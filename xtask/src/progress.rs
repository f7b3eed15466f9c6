//! Long steps tell that they are alive: what is done, and for how long already.

use std::io::{IsTerminal, Write, stderr};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A terminal's line is rewritten; a log gets a line each time.
const TELL_TERMINAL_EVERY: Duration = Duration::from_secs(1);
const TELL_LOG_EVERY: Duration = Duration::from_secs(30);

/// Runs `command` to its end, telling on standard error what it is and how long it takes. Fails if it fails.
pub(crate) fn run(what: &str, mut command: Command) -> anyhow::Result<()> {
    let program = command.get_program().to_owned();
    let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
    let start = Instant::now();
    eprintln!("{what} …");
    let status = wait(what, child, start)?;
    ensure!(status.success(), "{what}: {} failed ({status})", program.display());
    eprintln!("{what}: done in {}", elapsed(start));
    Ok(())
}

fn wait(what: &str, mut child: Child, start: Instant) -> anyhow::Result<ExitStatus> {
    let terminal = stderr().is_terminal();
    let every = if terminal { TELL_TERMINAL_EVERY } else { TELL_LOG_EVERY };
    let mut told = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if told.elapsed() >= every {
            told = Instant::now();
            if terminal {
                eprint!("\r{what} … {} ", elapsed(start));
                stderr().flush()?;
            } else {
                eprintln!("{what} … {}", elapsed(start));
            }
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn elapsed(start: Instant) -> String {
    let seconds = start.elapsed().as_secs();
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {} s", seconds / 60, seconds % 60) }
}
