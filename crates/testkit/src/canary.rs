//! Looks for what must be nowhere: secret values, in whatever files a run left.

use std::fmt;
use std::fs::{self, FileType};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::memmem;

/// A shorter one is found by chance.
const NEEDLE_BYTES_MIN: usize = 12;

/// A needle that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    pub file: PathBuf,
    pub offset: usize,
    pub needle: String,
    pub form: Form,
}

/// How it was written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Plain,
    /// Also in the middle of something longer.
    Base64,
    Hex,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} at byte {}, as {:?}", self.file.display(), self.needle, self.offset, self.form)
    }
}

/// Searches files, and folders with all that lies in them, for each needle in each form; the first place of each.
pub fn search<P: AsRef<Path>>(places: impl IntoIterator<Item = P>, needles: &[&str]) -> anyhow::Result<Vec<Hit>> {
    let mut patterns = Vec::new();
    for needle in needles {
        let long_enough = needle.len() >= NEEDLE_BYTES_MIN;
        ensure!(long_enough, "{needle:?} would be found by chance: a canary has at least {NEEDLE_BYTES_MIN} bytes");
        patterns.extend(forms(needle).into_iter().map(|(form, bytes)| (*needle, form, bytes)));
    }
    let mut hits = Vec::new();
    for place in places {
        let place = place.as_ref();
        // One that is not there would make the search worthless without a word.
        let kind = fs::symlink_metadata(place).with_context(|| format!("searching {}", place.display()))?;
        visit(place, kind.file_type(), &mut |file, content| {
            for (needle, form, bytes) in &patterns {
                if let Some(offset) = memmem::find(content, bytes) {
                    hits.push(Hit { file: file.to_owned(), offset, needle: (*needle).to_owned(), form: *form });
                }
            }
        })?;
    }
    Ok(hits)
}

fn visit(place: &Path, kind: FileType, look: &mut dyn FnMut(&Path, &[u8])) -> anyhow::Result<()> {
    let seen = if kind.is_dir() {
        visit_folder(place, look)
    } else if kind.is_file() {
        fs::read(place).map(|content| look(place, &content)).map_err(Into::into)
    } else {
        Ok(())
    };
    match seen {
        // A database that runs removes files while we look.
        Err(gone) if gone.downcast_ref().is_some_and(|e: &std::io::Error| e.kind() == ErrorKind::NotFound) => Ok(()),
        seen => seen.with_context(|| format!("searching {}", place.display())),
    }
}

fn visit_folder(folder: &Path, look: &mut dyn FnMut(&Path, &[u8])) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        visit(&entry.path(), entry.file_type()?, look)?;
    }
    Ok(())
}

fn forms(needle: &str) -> Vec<(Form, Vec<u8>)> {
    let hex: String = needle.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![(Form::Plain, needle.into()), (Form::Hex, hex.to_uppercase().into()), (Form::Hex, hex.into())];
    for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
        forms.extend((0..3).map(|before| (Form::Base64, inner_base64(&engine, needle, before).into())));
    }
    forms
}

/// The characters that stand for `needle` alone when `before` bytes (modulo 3) precede it and anything follows.
fn inner_base64(engine: &impl Engine, needle: &str, before: usize) -> String {
    let mut bytes = vec![0; before];
    bytes.extend_from_slice(needle.as_bytes());
    let text = engine.encode(&bytes);
    let (first, end) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
    text[first..end].to_owned()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::guard;

    const CANARY: &str = "hunter2-and-some?>more";

    #[test]
    fn a_canary_is_found_in_every_form_and_at_every_alignment() {
        let folder = guard::folder("canary").unwrap();
        fs::create_dir(folder.join("deep")).unwrap();
        let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut cases = vec![(Form::Plain, format!("x{CANARY}y")), (Form::Hex, hex)];
        for around in ["", "a", "ab", "abc", "abcd"] {
            let within = format!("{around}{CANARY}{around}");
            cases.push((Form::Base64, STANDARD.encode(&within)));
            cases.push((Form::Base64, URL_SAFE_NO_PAD.encode(&within)));
        }
        for (form, content) in cases {
            let file = folder.join("deep/file");
            fs::write(&file, [b"\0\xff", content.as_bytes(), b"\xff"].concat()).unwrap();
            let hits = search([&folder], &["another-canary", CANARY]).unwrap();
            assert!(hits.iter().any(|hit| hit.form == form && hit.file == file && hit.needle == CANARY), "{content}");
            assert!(hits.iter().all(|hit| hit.form == form), "{hits:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_found_and_a_search_of_nothing_fails() {
        let folder = guard::folder("canary").unwrap();
        fs::write(folder.join("file"), "hunter3-and-some-more").unwrap();
        assert_eq!(search([&folder], &[CANARY]).unwrap(), []);
        assert!(search([folder.join("missing")], &[CANARY]).is_err());
        assert!(search([&folder], &["short"]).is_err());
    }
}
