//! Writes files so that a crash leaves either the old file or the new one, never a part.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Replaces `path` by a file that holds `bytes`, with permissions `mode`. Returns when the file is on the disk.
///
/// # Errors
/// Those of the file system. `path` is then unchanged, unless only the sync of its folder failed.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = beside(path);
    let written = write_synced(&beside, bytes, mode).and_then(|()| {
        fs::rename(&beside, path)?;
        sync_folder_of(path)
    });
    if written.is_err() {
        // If this fails too, the next write removes the temporary file.
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

/// The temporary file that is renamed to `path`.
fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    beside.into()
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // A crash may have left this file with other permissions; `mode` only applies to a file that is created.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
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
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| error.to_string())?;
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
        fs::write(at("a.tmp"), "left by a crash").unwrap();
        let files = |text: &str| [(at("a"), text.into()), (at("b"), text.into())];
        write_together(&files("new"), 0o640).unwrap();
        assert_eq!((fs::read(at("a")).unwrap(), fs::read(at("b")).unwrap()), (b"new".into(), b"new".into()));
        assert_eq!(names(), ["a", "b"]);

        // The second file cannot be created: no file has changed, and no temporary file is left.
        let files = [(at("a"), b"newer".to_vec()), (at("none/b"), b"newer".to_vec())];
        write_together(&files, 0o640).unwrap_err();
        assert_eq!((fs::read(at("a")).unwrap(), names()), (b"new".to_vec(), vec!["a".into(), "b".into()]));
    }
}
