//! One run at a time.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::Context;

/// Held until the file is closed; a second run says `why`, waits here, and then finds the work done.
pub(crate) fn take(folder: &Path, why: &str) -> anyhow::Result<File> {
    let path = folder.join(".lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("{why}; waiting for it");
            file.lock().with_context(|| format!("locking {}", path.display()))?;
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("locking {}", path.display()));
        }
    }
    Ok(file)
}
