//! A value in a file that only its owner may read.
//!
//! A file appears whole or not at all: it is written and synced under another name first, then linked to its own. All of
//! this blocks, for some kilobytes: a read every few seconds, a write at start and when a certificate changes.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Far above a key or a few certificates; a bound on what a wrong path can make us read.
const BYTES_MAX: u64 = 64 * 1024;
const OTHERS: u32 = 0o077;

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(
        "{} may be used by others than its owner (mode {mode:04o}): accepted is 0600, as `chmod 600 {}` makes it",
        path.display(), path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },

    #[error("{} is {what}: accepted is a file of at most {BYTES_MAX} bytes", path.display())]
    Unfit { path: PathBuf, what: &'static str },

    #[error("{operation} {}: {}", path.display(), source.kind())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

pub(super) fn path(beside: &Path, item: &str) -> PathBuf {
    let mut name = beside.file_name().map_or_else(OsString::new, OsString::from);
    name.push(".");
    name.push(item);
    beside.with_file_name(name)
}

pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let failed = |source| FileError::Io { operation: "reading", path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(FileError::Unfit { path: path.to_owned(), what: "not a file" }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    let file = File::open(path).map_err(failed)?;
    // Of the open file, so that nobody can put another in its place between the look and the use.
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(FileError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(FileError::Unfit { path: path.to_owned(), what: "too large" });
    }
    Ok(Some(bytes))
}

pub(super) fn exchange(path: &Path, seen: Option<&[u8]>, new: &[u8]) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Io { operation: "writing", path: path.to_owned(), source };
    // A command may exchange while the server does. Some filesystems lock no folders: there the moment between the look
    // and the rename stays.
    let folder = File::open(folder(path)).map_err(failed)?;
    let _locked = folder.lock().map(|()| &folder);
    match read(path)? {
        Some(there) if seen != Some(there.as_slice()) => Ok(there),
        Some(_) => {
            let fresh = written(path, new).map_err(failed)?;
            fresh.persist(path).map_err(|error| failed(error.error))?;
            sync_folder(path).map_err(failed)?;
            Ok(new.to_vec())
        }
        None => match written(path, new).map_err(failed)?.persist_noclobber(path) {
            Ok(_) => {
                sync_folder(path).map_err(failed)?;
                Ok(new.to_vec())
            }
            // Another process was faster, and its file is whole.
            Err(lost) if lost.error.kind() == io::ErrorKind::AlreadyExists => {
                read(path)?.ok_or_else(|| failed(lost.error))
            }
            Err(lost) => Err(failed(lost.error)),
        },
    }
}

/// The content, synced, under a name of its own in the folder of `path`. `tempfile` makes files of mode 0600.
fn written(path: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new_in(folder(path))?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// A new name is durable once its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_value_lies_beside_the_database_and_only_its_owner_may_use_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(&folder.path().join("audit.db"), "redaction.key");
        assert_eq!(path, folder.path().join("audit.db.redaction.key"));
        assert_eq!(read(&path).unwrap(), None);
        assert_eq!(exchange(&path, None, b"first").unwrap(), b"first");
        assert_eq!(read(&path).unwrap().unwrap(), b"first");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left there");
    }

    #[test]
    fn a_value_is_replaced_only_by_who_has_seen_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        exchange(&path, None, b"first").unwrap();
        assert_eq!(exchange(&path, None, b"second").unwrap(), b"first");
        assert_eq!(exchange(&path, Some(b"other"), b"second").unwrap(), b"first");
        assert_eq!(exchange(&path, Some(b"first"), b"second").unwrap(), b"second");
        assert_eq!((read(&path).unwrap().unwrap(), mode(&path)), (b"second".to_vec(), 0o600));
    }

    #[test]
    fn of_many_who_start_at_once_all_get_the_same_value() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        let given: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8_u8)
                .map(|i| {
                    scope.spawn({
                        let path = &path;
                        move || exchange(path, None, &[i; 32]).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(given.iter().all(|value| *value == given[0]), "{given:?}");
    }

    #[test]
    fn a_file_that_is_not_safe_is_refused_with_its_path_and_what_is_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, mode) in [("group", 0o640), ("world", 0o604), ("writable", 0o622)] {
            fs::write(at(name), b"key").unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(at("folder")).unwrap();
        exchange(&at("large"), None, &vec![0; 70_000]).unwrap();
        symlink(at("group"), at("link")).unwrap();
        let cases = [
            ("group", "may be used by others than its owner (mode 0640): accepted is 0600"),
            ("world", "(mode 0604)"),
            ("writable", "(mode 0622)"),
            ("link", "(mode 0640)"),
            ("folder", "is not a file"),
            ("large", "is too large: accepted is a file of at most 65536 bytes"),
        ];
        for (name, told) in cases {
            let error = read(&at(name)).unwrap_err().to_string();
            assert!(error.starts_with(&at(name).display().to_string()) && error.contains(told), "{error}");
            exchange(&at(name), None, b"new").expect_err("nor is it written over");
        }
    }

    #[test]
    fn a_folder_that_is_missing_is_an_error_that_names_the_file() {
        let error = exchange(Path::new("/nonexistent/value"), None, b"x").unwrap_err();
        assert_eq!(error.to_string(), "writing /nonexistent/value: entity not found");
    }
}
