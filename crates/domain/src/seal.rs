//! The mark that the program leaves on what it writes into a cluster, so that it knows its own work again.

use std::fmt;

use crate::mac::MacKey;

const PURPOSE: &[u8] = b"seal";
const BYTES: usize = 16;

/// Made by [`crate::redact::RedactionKey::seal_key`]: all replicas have the same one, and nobody else has it.
#[derive(Clone)]
pub struct SealKey(MacKey);

impl SealKey {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(MacKey::new(key))
    }

    /// Of a message, as hexadecimal digits.
    pub fn seal(&self, message: &[u8]) -> String {
        let code: [u8; BYTES] = self.0.code(PURPOSE, message);
        code.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Takes as long whatever the seal is, but for its length.
    pub fn fits(&self, message: &[u8], seal: &str) -> bool {
        let digits = seal.as_bytes();
        if digits.len() != 2 * BYTES {
            return false;
        }
        let pairs = digits.chunks_exact(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        pairs.collect::<Option<Vec<u8>>>().is_some_and(|code| self.0.verify(PURPOSE, message, &code))
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use crate::redact::RedactionKey;

    #[test]
    fn a_seal_fits_its_message_under_its_key_and_nothing_else() {
        let (key, other) = (RedactionKey::new([7; 32]).seal_key(), RedactionKey::new([8; 32]).seal_key());
        let seal = key.seal(b"message");
        assert_eq!(seal.len(), 32);
        assert!(key.fits(b"message", &seal));
        let reversed: String = seal.chars().rev().collect();
        for forged in ["", "00", &seal[..30], &format!("{seal}00"), &reversed, &"ä".repeat(16)] {
            assert!(!key.fits(b"message", forged), "{forged}");
        }
        assert!(!key.fits(b"another", &seal) && !other.fits(b"message", &seal));
    }
}
