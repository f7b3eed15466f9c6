//! A place in the list of entries, and its tamper-evident text.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::id::EntryId;
use crate::mac::MacKey;

/// Minted only from the id, which is the order of pages. The entry it names need not exist any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub direction: Direction,
    /// The page begins just after this one, in the cursor's direction.
    pub id: EntryId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Older,
    Newer,
}

/// Signs cursors. It belongs to the database that is paged through, so that every replica reads every cursor.
#[derive(Clone)]
pub struct CursorKey([u8; 32]);

impl CursorKey {
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for CursorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CursorKey(256 bits)")
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{given:?} is not a cursor that this server gave: accepted is the text of next or prev of an earlier page")]
pub struct CursorError {
    pub given: String,
}

/// Direction, id, signature.
const TEXT_BYTES: usize = 1 + 16 + SIGNATURE_BYTES;
const SIGNATURE_BYTES: usize = 12;
/// Tells these codes from others under the same key.
const PURPOSE: &[u8] = b"cursor";

impl Cursor {
    pub fn seal(self, key: &CursorKey) -> String {
        let mut bytes = Vec::with_capacity(TEXT_BYTES);
        bytes.push(match self.direction {
            Direction::Older => b'o',
            Direction::Newer => b'n',
        });
        bytes.extend_from_slice(self.id.as_uuid().as_bytes());
        let signature = signature(key, &bytes);
        bytes.extend_from_slice(&signature);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// # Errors
    /// Where the text is not one that [`Cursor::seal`] made with this key.
    pub fn open(text: &str, key: &CursorKey) -> Result<Self, CursorError> {
        let refused = || CursorError { given: crate::text::shortened(text, 80).into_owned() };
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refused())?;
        let (body, signed) = bytes.split_at_checked(1 + 16).ok_or_else(refused)?;
        if signed.len() != SIGNATURE_BYTES || !MacKey::new(&key.0).verify(PURPOSE, body, signed) {
            return Err(refused());
        }
        let direction = match body[0] {
            b'o' => Direction::Older,
            b'n' => Direction::Newer,
            _ => return Err(refused()),
        };
        let id = Uuid::from_slice(&body[1..]).ok().and_then(|uuid| EntryId::try_from(uuid).ok()).ok_or_else(refused)?;
        Ok(Self { direction, id })
    }
}

fn signature(key: &CursorKey, body: &[u8]) -> [u8; SIGNATURE_BYTES] {
    MacKey::new(&key.0).code(PURPOSE, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor() -> Cursor {
        Cursor { direction: Direction::Newer, id: EntryId::at(chrono::DateTime::UNIX_EPOCH, 42) }
    }

    #[test]
    fn a_cursor_reads_back_under_its_key_and_no_other() {
        let text = cursor().seal(&CursorKey::new([1; 32]));
        assert_eq!(Cursor::open(&text, &CursorKey::new([1; 32])), Ok(cursor()));
        assert!(Cursor::open(&text, &CursorKey::new([2; 32])).is_err());
    }

    #[test]
    fn a_forged_or_broken_cursor_is_refused() {
        let key = CursorKey::new([1; 32]);
        let text = cursor().seal(&key);
        let mut forged = URL_SAFE_NO_PAD.decode(&text).unwrap();
        forged[0] = b'o';
        for given in ["", "x", "' OR 1=1 --", &text[1..], &format!("{text}AA"), &URL_SAFE_NO_PAD.encode(forged)] {
            assert!(Cursor::open(given, &key).is_err(), "{given}");
        }
    }
}
