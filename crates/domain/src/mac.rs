//! HMAC-SHA-256 under a key of 32 bytes.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// A key made ready, so that each message costs only itself.
#[derive(Clone)]
pub(crate) struct MacKey(Hmac<Sha256>);

impl MacKey {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        // RFC 2104 fills a key up to the block with zeros, so this is the key itself.
        let mut block = [0; 64];
        block[..32].copy_from_slice(key);
        Self(<Hmac<Sha256>>::new(&block.into()))
    }

    /// Whether these are the first bytes of the code of `purpose` and `message`; takes as long whatever they are.
    pub(crate) fn verify(&self, purpose: &[u8], message: &[u8], code: &[u8]) -> bool {
        self.0.clone().chain_update(purpose).chain_update(message).verify_truncated_left(code).is_ok()
    }

    /// The first bytes of the code of `purpose` and `message` together.
    pub(crate) fn code<const N: usize>(&self, purpose: &[u8], message: &[u8]) -> [u8; N] {
        const { assert!(N <= 32, "HMAC-SHA-256 gives 32 bytes") };
        let whole = self.0.clone().chain_update(purpose).chain_update(message).finalize().into_bytes();
        let mut kept = [0; N];
        kept.copy_from_slice(&whole[..N]);
        kept
    }
}
