//! The key of redaction, under which secret values become marks that compare equal and tell nothing.
//!
//! It is made once and kept for good: with another key the marks of before and after would not compare.

use std::fmt;

use cluster::Retry;
use domain::clock::Entropy;

use crate::safe::{Safe, SafeError};

const REDACTION_KEY: &str = "redaction.key";
const BYTES: usize = 32;

/// 32 bytes that nobody may see. No `Serialize`, no `Display`; `Debug` tells a size.
pub struct RedactionKey([u8; BYTES]);

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(transparent)]
    Safe(#[from] SafeError),

    #[error(
        "{place} holds {found} bytes: a redaction key is {BYTES}. Restore it from a backup; a new one makes earlier \
         redactions incomparable, and is made at start once this one is removed"
    )]
    Length { place: String, found: usize },
}

impl KeyError {
    pub fn retry(&self) -> Retry {
        match self {
            Self::Safe(error) => error.retry(),
            Self::Length { .. } => Retry::Never,
        }
    }
}

/// The key that is kept in the safe; at the very first start one is made, from 256 bits of `entropy`.
///
/// # Errors
/// Where the safe cannot be used or what it holds is no key. A key is never replaced.
pub async fn redaction_key(safe: &Safe, entropy: &dyn Entropy) -> Result<RedactionKey, KeyError> {
    let kept = match safe.read(REDACTION_KEY).await? {
        Some(kept) => kept,
        None => safe.exchange(REDACTION_KEY, None, &fresh(entropy)).await?,
    };
    let key = kept.try_into();
    key.map(RedactionKey)
        .map_err(|kept: Vec<u8>| KeyError::Length { place: safe.place(REDACTION_KEY), found: kept.len() })
}

fn fresh(entropy: &dyn Entropy) -> [u8; BYTES] {
    let mut key = [0; BYTES];
    for part in key.chunks_exact_mut(size_of::<u64>()) {
        part.copy_from_slice(&entropy.bits().to_be_bytes());
    }
    key
}

impl RedactionKey {
    pub fn into_bytes(self) -> [u8; BYTES] {
        self.0
    }
}

impl fmt::Debug for RedactionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedactionKey({BYTES} bytes)")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct Counting(AtomicU64);

    impl Entropy for Counting {
        fn bits(&self) -> u64 {
            self.0.fetch_add(1, Ordering::Relaxed)
        }
    }

    fn entropy() -> Counting {
        Counting(AtomicU64::new(7))
    }

    #[tokio::test]
    async fn a_key_is_made_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let safe = Safe::Files { beside: folder.path().join("audit.db") };
        let first = redaction_key(&safe, &entropy()).await.unwrap();
        assert_eq!(format!("{first:?}"), "RedactionKey(32 bytes)");
        let first = first.into_bytes();
        assert_eq!([first[7], first[15], first[23], first[31]], [7, 8, 9, 10], "all of its bits are drawn");
        let again = redaction_key(&safe, &Counting(AtomicU64::new(99))).await.unwrap();
        assert_eq!(first, again.into_bytes());
    }

    #[tokio::test]
    async fn what_is_no_key_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let safe = Safe::Files { beside: folder.path().join("audit.db") };
        safe.exchange(REDACTION_KEY, None, b"short").await.unwrap();
        let error = redaction_key(&safe, &entropy()).await.unwrap_err();
        let told = error.to_string();
        assert!(told.contains("audit.db.redaction.key holds 5 bytes: a redaction key is 32"), "{told}");
        assert_eq!(error.retry(), Retry::Never);
        assert_eq!(safe.read(REDACTION_KEY).await.unwrap().unwrap(), b"short");
    }
}
