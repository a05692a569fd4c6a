//! Opens and reads regular files only: never waits for the other end of a pipe, and never reads more than a limit.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::bytes::ByteSize;

/// The content of the regular file at `path`, at most `most` bytes. Follows links.
///
/// Looks at the size before it reads, and allocates at most `most` + 1 bytes. A file system that does not answer still
/// blocks the caller: do not call this on a thread that others wait for.
///
/// # Errors
/// Those of the file system; [`ErrorKind::InvalidInput`] with the kind of the file if it is not a regular one;
/// [`ErrorKind::FileTooLarge`] with size and limit; [`ErrorKind::OutOfMemory`].
pub fn read_regular(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, meta) = open_regular(path, OpenOptions::new().read(true))?;
    let size = meta.len();
    if size > most {
        return Err(too_large(ByteSize(size), most));
    }
    let mut bytes = Vec::new();
    read_more(&file, size, &mut bytes)?;
    if bytes.len() as u64 == size {
        // Files of /proc have size 0, and a file may grow while it is read.
        let mut probe = [0];
        if (&file).read(&mut probe)? == 1 {
            bytes.try_reserve_exact(reservation(most - size + 1)?)?;
            bytes.extend(probe);
            read_more(&file, most - size, &mut bytes)?;
        }
    }
    if bytes.len() as u64 > most {
        return Err(too_large("more", most));
    }
    Ok(bytes)
}

/// As [`read_regular`], for text.
///
/// # Errors
/// Also [`ErrorKind::InvalidData`] if the content is not UTF-8.
pub fn read_regular_text(path: &Path, most: u64) -> io::Result<String> {
    let bytes = read_regular(path, most)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error.utf8_error()))
}

/// Opens `path` if it is a regular file, or creates it if `options` say so. Does not wait: a pipe, a socket or a device is
/// refused without an effect on it.
///
/// # Errors
/// As [`read_regular`].
pub fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<(File, Metadata)> {
    // Opening a device can have an effect, such as starting a watchdog.
    if let Ok(meta) = fs::metadata(path) {
        must_be_regular(meta.file_type())?;
    }
    // It may have been replaced since: without O_NONBLOCK the open of a pipe waits for its other end.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    let meta = file.metadata()?;
    must_be_regular(meta.file_type())?;
    Ok((file, meta))
}

/// Appends up to `count` bytes of `file` to `bytes`, without allocating more than that.
fn read_more(file: &File, count: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.try_reserve_exact(reservation(count)?)?;
    file.take(count).read_to_end(bytes)?;
    Ok(())
}

fn reservation(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(|_| ErrorKind::OutOfMemory.into())
}

fn must_be_regular(kind: FileType) -> io::Result<()> {
    let name = if kind.is_file() {
        return Ok(());
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_dir() {
        "a folder"
    } else {
        "a device"
    };
    Err(io::Error::new(ErrorKind::InvalidInput, format!("it is {name}, not a regular file")))
}

fn too_large(size: impl std::fmt::Display, most: u64) -> io::Error {
    let most = ByteSize(most);
    io::Error::new(ErrorKind::FileTooLarge, format!("it is too large: {size}, and at most {most} are read"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn refused(path: &Path) -> String {
        read_regular(path, 10).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_regular_file_is_refused_by_name_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        assert_eq!(refused(&at("pipe")), "it is a named pipe, not a regular file");
        assert_eq!(refused(&at("socket")), "it is a socket, not a regular file");
        assert_eq!(refused(folder.path()), "it is a folder, not a regular file");
        assert_eq!(refused(Path::new("/dev/zero")), "it is a device, not a regular file");
        // Also for writing: without a reader this open would wait forever.
        let error = open_regular(&at("pipe"), OpenOptions::new().append(true).create(true)).unwrap_err();
        assert_eq!(error.to_string(), "it is a named pipe, not a regular file");
    }

    #[test]
    fn a_large_file_is_refused_before_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = read_regular(&path, 64 << 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert_eq!(error.to_string(), "it is too large: 1 TiB, and at most 64 KiB are read");
    }

    #[test]
    fn a_file_of_the_limit_is_read_and_one_byte_more_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ten");
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(read_regular(&path, 10).unwrap(), b"0123456789");
        assert_eq!(read_regular(&path, 11).unwrap().capacity(), 10);
        assert!(read_regular(&path, 9).is_err());
    }

    #[test]
    fn a_file_without_a_size_is_read_up_to_the_limit() {
        let status = Path::new("/proc/self/status");
        let whole = read_regular_text(status, 1 << 20).unwrap();
        assert!(whole.contains("VmRSS"));
        let error = read_regular(status, 100).unwrap_err();
        assert_eq!(error.to_string(), "it is too large: more, and at most 100 B are read");
    }
}
