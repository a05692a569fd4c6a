//! Writes files so that a crash leaves either the old file or the new one, never a part.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Replaces `path` by a file that holds `bytes`, with permissions `mode`. Returns when the file is on the disk.
///
/// # Errors
/// Those of the file system. `path` is then unchanged, unless only the sync of its folder failed.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    write_whole_if(path, bytes, mode, &|| true)
}

/// [`write_whole`], unless `may_replace` returns false when the new content is on the disk and is about to replace `path`.
///
/// # Errors
/// As [`write_whole`]; [`ErrorKind::Interrupted`](io::ErrorKind::Interrupted) if `path` may not be replaced.
pub fn write_whole_if(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    may_replace: &dyn Fn() -> bool,
) -> io::Result<()> {
    let beside = beside(path);
    let written = write_synced(&beside, bytes, mode).and_then(|()| {
        if !may_replace() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "another thread has taken over the file"));
        }
        fs::rename(&beside, path)?;
        sync_folder_of(path)
    });
    if written.is_err() {
        // If this fails too, the next start of the node removes the temporary file.
        _ = fs::remove_file(&beside);
    }
    written
}

/// [`write_whole`] for several files. Syncs them in parallel, because waiting for the disk takes most of the time.
///
/// # Errors
/// Those of the file system. A prefix of the files may then have been replaced.
pub fn write_together(files: &[(PathBuf, Vec<u8>)], mode: u32) -> io::Result<()> {
    let besides: Vec<PathBuf> = files.iter().map(|(path, _)| beside(path)).collect();
    let written = std::thread::scope(|scope| {
        let writing = files.iter().zip(&besides);
        let writing = writing.map(|((_, bytes), beside)| scope.spawn(|| write_synced(beside, bytes, mode)));
        // Start all writes before waiting for the first, and wait for all before any rename.
        let writing: Vec<_> = writing.collect();
        let ended: Vec<_> = writing.into_iter().map(|one| one.join()).collect();
        ended
            .into_iter()
            .try_for_each(|one| one.unwrap_or_else(|_| Err(io::Error::other("a write panicked"))))
    });
    let renamed = written.and_then(|()| {
        files.iter().zip(&besides).try_for_each(|((path, _), beside)| fs::rename(beside, path))?;
        let mut synced: BTreeSet<Option<&Path>> = BTreeSet::new();
        for (path, _) in files {
            if synced.insert(path.parent()) {
                sync_folder_of(path)?;
            }
        }
        Ok(())
    });
    if renamed.is_err() {
        besides.iter().for_each(|beside| _ = fs::remove_file(beside));
    }
    renamed
}

/// Ends the names of temporary files.
const TEMPORARY: &str = "tmp";

/// The temporary file that is renamed to `path`. Its name is unique: two threads that write the same file do not mix their
/// content, even if one of them hangs for minutes in between.
fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{:08x}.{TEMPORARY}", rand::random::<u32>()));
    beside.into()
}

/// Removes the temporary files that a crash left in `folder`. Only for a folder to which no other process writes. Ignores
/// errors: such a file only takes space.
pub fn remove_temporary_files(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|end| end == TEMPORARY) {
            _ = fs::remove_file(path);
        }
    }
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = create(path, OpenOptions::new().write(true), mode)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Creates a file with permissions `mode`, whatever the umask. Follows no link.
fn create(path: &Path, options: &mut OpenOptions, mode: u32) -> io::Result<File> {
    let file = options.clone().create_new(true).mode(mode).open(path)?;
    // File systems without permissions refuse this, and are as they are.
    _ = file.set_permissions(Permissions::from_mode(mode));
    Ok(file)
}

/// Opens a file that only this node writes, or creates it with permissions `mode`, whatever the umask. Does not wait.
///
/// # Errors
/// Those of the file system. [`io::ErrorKind::InvalidInput`] if there is a link or no regular file, or a file that has
/// another name too: another user may have put it there, to have a file of this user written to.
pub fn open_own(path: &Path, options: &mut OpenOptions, mode: u32) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    options.custom_flags(flags.bits().cast_signed());
    match create(path, options, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        created => return created,
    }
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}; remove it"));
    let file = options.open(path).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => wrong("a link"),
        _ => error,
    })?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(wrong("no regular file"));
    }
    if meta.nlink() > 1 {
        return Err(wrong("the same file as another name"));
    }
    Ok(file)
}

/// Creates a folder and those above it with permissions `mode`, whatever the umask. Leaves alone what exists.
///
/// # Errors
/// Those of the file system.
pub fn make_folder(folder: &Path, mode: u32) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_folder(above, mode)?;
    }
    match DirBuilder::new().mode(mode).create(folder) {
        Ok(()) => {
            _ = fs::set_permissions(folder, Permissions::from_mode(mode));
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Syncs the folder of `path`: a rename is on the disk only after that.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

/// Creates `folder` with mode 0700 unless it exists. The node runs code from it, so no other user may write to it.
///
/// # Errors
/// A message that says what is wrong and how to fix it.
pub fn private_folder(folder: &Path) -> Result<(), String> {
    make_folder(folder, 0o700).map_err(|error| error.to_string())?;
    let meta = fs::metadata(folder).map_err(|error| error.to_string())?;
    if meta.permissions().mode() & 0o022 != 0 || meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(
            "other users can write to it, and the node runs code from it; own it and chmod it 700".to_owned()
        );
    }
    Ok(())
}

/// Whether `folder` exists and belongs to the user of this process.
pub fn is_own_folder(folder: &Path) -> bool {
    let is_own = |meta: fs::Metadata| meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw();
    fs::metadata(folder).is_ok_and(is_own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_somebody_planted_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("victim"), "precious").unwrap();
        std::os::unix::fs::symlink(at("victim"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("nowhere"), at("dangling")).unwrap();
        fs::hard_link(at("victim"), at("hard")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        let open = |name: &str| open_own(&at(name), OpenOptions::new().append(true), 0o640);
        for (name, what) in
            [("link", "a link"), ("dangling", "a link"), ("hard", "the same file as another name")]
        {
            assert_eq!(open(name).unwrap_err().to_string(), format!("it is {what}; remove it"));
        }
        assert!(open("folder").is_err());
        write_whole(&at("link"), b"new", 0o600).unwrap();
        assert_eq!(
            (fs::read(at("victim")).unwrap(), fs::read(at("link")).unwrap()),
            (b"precious".into(), b"new".into())
        );
        assert!(!at("nowhere").exists());
        open("own").unwrap();
        assert_eq!(fs::metadata(at("own")).unwrap().permissions().mode() & 0o777, 0o640);
        open("own").unwrap();
    }

    #[test]
    fn files_that_are_written_together_are_all_new_or_the_first_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let names = || {
            let entries = fs::read_dir(folder.path()).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        fs::write(at("b"), "old").unwrap();
        let files = |text: &str| [(at("a"), text.into()), (at("b"), text.into())];
        write_together(&files("new"), 0o640).unwrap();
        assert_eq!((fs::read(at("a")).unwrap(), fs::read(at("b")).unwrap()), (b"new".into(), b"new".into()));
        assert_eq!(names(), ["a", "b"]);

        fs::write(at("a.0.tmp"), "left by a crash").unwrap();
        remove_temporary_files(folder.path());
        assert_eq!(names(), ["a", "b"]);

        // The second file cannot be created: no file has changed, and no temporary file is left.
        let files = [(at("a"), b"newer".to_vec()), (at("none/b"), b"newer".to_vec())];
        write_together(&files, 0o640).unwrap_err();
        assert_eq!((fs::read(at("a")).unwrap(), names()), (b"new".to_vec(), vec!["a".into(), "b".into()]));
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        // There is room for this name, and none for that of the temporary file.
        let path = folder.path().join("x".repeat(250));
        fs::write(&path, "old").unwrap();
        write_whole(&path, b"new", 0o640).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn a_writer_that_was_replaced_while_it_hung_does_not_overwrite_the_newer_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let newer_came_first = || {
            write_whole(&path, b"newer", 0o640).unwrap();
            false
        };
        let error = write_whole_if(&path, b"older", 0o640, &newer_came_first).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }
}
