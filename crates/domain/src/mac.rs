//! HMAC-SHA-256 under a key of 32 bytes.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

pub(crate) fn hmac<const N: usize>(key: &[u8; 32], purpose: &[u8], message: &[u8]) -> [u8; N] {
    const { assert!(N <= 32, "HMAC-SHA-256 gives 32 bytes") };
    // RFC 2104 fills a key up to the block with zeros, so this is the key itself.
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    let whole = <Hmac<Sha256>>::new(&block.into()).chain_update(purpose).chain_update(message).finalize().into_bytes();
    let mut kept = [0; N];
    kept.copy_from_slice(&whole[..N]);
    kept
}
