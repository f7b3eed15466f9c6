//! How far a log file has been read, kept in a small file of its own.
//!
//! A file is known by its inode and its first bytes, in which an audit log has an id: a file that was copied away and begun
//! anew has the same inode and other first bytes.

use std::fs::{self, DirEntry, File, Metadata};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The level, the audit id and the stage: nothing of who asked or for what.
const HEAD_BYTES: usize = 100;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    inode: u64,
    head: String,
    pub(super) offset: u64,
}

/// A log file that is open, from where it was not read yet.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) place: Place,
}

impl Place {
    /// None where there is none, or one that cannot be read: then the log is read from its start, which does no harm.
    pub(super) fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Whole or not at all: it is moved to its place.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let beside = PathBuf::from(format!("{}.new", path.display()));
        fs::write(&beside, serde_json::to_vec(self)?)?;
        fs::rename(beside, path)
    }

    fn is_of(&self, file: &mut File) -> io::Result<bool> {
        let metadata = file.metadata()?;
        Ok(metadata.ino() == self.inode && metadata.len() >= self.offset && head(file)?.starts_with(&self.head))
    }

    /// Whether the path names another file by now, or this one was begun anew.
    pub(super) fn is_over(&self, path: &Path) -> io::Result<bool> {
        match File::open(path) {
            Ok(mut now) => Ok(!self.is_of(&mut now)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    Anew,
    WhereItWasLeft,
    /// What it was left in is no longer there.
    Gone,
}

impl Opened {
    /// Where it was left, if that is the file; else the file that it was, if it was moved aside; else the oldest
    /// that is left of those that were, since all of them are newer.
    pub(super) fn open(path: &Path, left: Option<&Place>) -> io::Result<(Self, Begin)> {
        let Some(left) = left else { return Ok((Self::from_start(path)?, Begin::Anew)) };
        let here = File::open(path).and_then(|file| Self::at(file, left));
        if let Some(opened) = here.ok().flatten().or_else(|| moved_aside(path, left)) {
            return Ok((opened, Begin::WhereItWasLeft));
        }
        // No log at all is none that was lost.
        let current = Self::from_start(path)?;
        Ok((newer(path, None).unwrap_or(current), Begin::Gone))
    }

    /// Once all of it is read: the oldest of those that are newer, at last the current one.
    pub(super) fn next(&self, path: &Path) -> io::Result<Self> {
        let read = self.file.metadata()?;
        newer(path, Some(&read)).map_or_else(|| Self::from_start(path), Ok)
    }

    pub(super) fn from_start(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let place = Place { inode: file.metadata()?.ino(), head: head(&mut file)?, offset: 0 };
        file.seek(SeekFrom::Start(0))?;
        Ok(Self { file, place })
    }

    fn at(mut file: File, left: &Place) -> io::Result<Option<Self>> {
        if !left.is_of(&mut file)? {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(left.offset))?;
        let mut place = left.clone();
        if place.head.len() < HEAD_BYTES {
            place.head = head(&mut file)?;
            file.seek(SeekFrom::Start(left.offset))?;
        }
        Ok(Some(Self { file, place }))
    }

    /// What was in it is somewhere else now, and it holds something new, maybe as much.
    pub(super) fn is_begun_anew(&mut self) -> io::Result<bool> {
        let is_same = self.place.is_of(&mut self.file)?;
        self.file.seek(SeekFrom::Start(self.place.offset))?;
        Ok(!is_same)
    }

    /// The first bytes of a file that was empty when it was opened come later.
    pub(super) fn complete_head(&mut self) -> io::Result<()> {
        if self.place.head.len() < HEAD_BYTES {
            let at = self.file.stream_position()?;
            self.place.head = head(&mut self.file)?;
            self.file.seek(SeekFrom::Start(at))?;
        }
        Ok(())
    }
}

/// Under another name in the same folder, as a rotation leaves it.
fn moved_aside(path: &Path, left: &Place) -> Option<Opened> {
    let others = siblings(path);
    let same = others.into_iter().filter(|other| other.metadata().is_ok_and(|metadata| metadata.ino() == left.inode));
    same.filter_map(|other| Opened::at(File::open(other.path()).ok()?, left).ok().flatten()).next()
}

/// The oldest of the logs in that folder that is newer than this one, or the oldest at all; None where there is only the
/// current one. A file moved aside keeps the time of its last line.
fn newer(path: &Path, than: Option<&Metadata>) -> Option<Opened> {
    let current = fs::metadata(path).map(|metadata| metadata.ino()).ok();
    let time = |metadata: &Metadata| (metadata.mtime(), metadata.mtime_nsec());
    let stem = path.file_stem()?.to_string_lossy().into_owned();
    let is_log = |other: &DirEntry| {
        let (name, file) = (other.file_name(), path.file_name());
        let name = name.to_string_lossy();
        // `audit-2026-11-24T16-10-12.386.log`, `audit.log.1`
        let is_kin = |rest: &str| rest.starts_with('-') || rest.starts_with('.');
        let ends = name.ends_with(".log") || file.is_some_and(|file| name.starts_with(&*file.to_string_lossy()));
        let is_other = [".gz", ".audit-log-place", ".new"].iter().any(|end| name.ends_with(end));
        name.strip_prefix(&stem).is_some_and(is_kin) && ends && !is_other
    };
    let others = siblings(path).into_iter().filter(is_log).filter_map(|other| Some((other.metadata().ok()?, other)));
    let others = others.filter(|(metadata, _)| metadata.is_file() && Some(metadata.ino()) != current);
    let newer =
        others.filter(|(other, _)| than.is_none_or(|than| other.ino() != than.ino() && time(other) > time(than)));
    let (_, oldest) = newer.min_by_key(|(metadata, _)| time(metadata))?;
    Opened::from_start(&oldest.path()).ok()
}

fn siblings(path: &Path) -> Vec<DirEntry> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::read_dir(folder).map(|others| others.filter_map(Result::ok).collect()).unwrap_or_default()
}

fn head(file: &mut File) -> io::Result<String> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    file.seek(SeekFrom::Start(0))?;
    file.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}
