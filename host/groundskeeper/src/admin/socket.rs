//! The admin socket: its path, who may use it, and the cleanup of a socket that a dead process left.
//!
//! The system decides who may connect, by the file's mode, owner, group and access list: a user needs the right to write.
//! A second check here would have to repeat all of that, supplementary groups included.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use tokio::net::{UnixListener, UnixStream};

/// For owner and group of the file.
const MODE: u32 = 0o660;

/// How long the end of a socket waits for the removal of its file.
const REMOVAL: Duration = Duration::from_millis(300);

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    #[error("another process answers on {}; stop it or set another [admin] socket", .0.display())]
    InUse(PathBuf),
    #[error("{} is there and is not a socket; remove it or set another [admin] socket", .0.display())]
    NotASocket(PathBuf),
    #[error("cannot make the admin socket {}: {source}; set another [admin] socket", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The longest path that every system takes for a socket: `sockaddr_un` has 108 bytes with the final zero, or 104.
const LONGEST_PATH: usize = 103;

/// A path that the system takes for a socket at a longer path, as long as this value lives.
struct ShortPath {
    path: PathBuf,
    /// The folder that `path` goes through.
    _folder: Option<File>,
}

impl ShortPath {
    /// # Errors
    /// If the folder of a long path cannot be opened, or the name in it is too long.
    fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= LONGEST_PATH {
            return Ok(Self { path: path.to_owned(), _folder: None });
        }
        let (folder, name) = match (path.parent(), path.file_name()) {
            (Some(folder), Some(name)) if folder != Path::new("") => (File::open(folder)?, name),
            _ => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "its name is too long for a socket"));
            }
        };
        let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        Ok(Self { path, _folder: Some(folder) })
    }
}

/// Connects to the socket at `path`, which may be longer than the system takes.
pub(super) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let short = ShortPath::of(path)?;
    UnixStream::connect(&short.path).await
}

/// Whether a process listens on the socket at `path`. Does not wait for that process to accept.
fn is_answered(path: &Path) -> io::Result<bool> {
    let short = ShortPath::of(path)?;
    let address = SocketAddrUnix::new(&short.path)?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )?;
    // A listener with a full queue is busy, or hangs: it is there.
    Ok(matches!(rustix::net::connect(&socket, &address), Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS)))
}

/// A bound admin socket. Dropping it removes its file.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    owner: u32,
}

impl AdminSocket {
    /// Binds the socket. Replaces a socket that no process listens on. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// [`SocketError::InUse`] if a process listens there, [`SocketError::NotASocket`] if it is another kind of file.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let cannot = |source| SocketError::Io { path: path.to_owned(), source };
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(SocketError::NotASocket(path.to_owned()));
            }
            Ok(_) if is_answered(path).map_err(cannot)? => {
                return Err(SocketError::InUse(path.to_owned()));
            }
            _ => {}
        }
        // Bound next to it and renamed, so that it never appears with other permissions.
        let beside = path.with_extension("new");
        match fs::symlink_metadata(&beside) {
            Ok(there) if !there.file_type().is_socket() => return Err(SocketError::NotASocket(beside)),
            Ok(_) => fs::remove_file(&beside).map_err(cannot)?,
            Err(_) => {}
        }
        let listener =
            ShortPath::of(&beside).and_then(|short| UnixListener::bind(&short.path)).map_err(cannot)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(MODE)).map_err(cannot)?;
        fs::rename(&beside, path).map_err(cannot)?;
        let there = fs::symlink_metadata(path).map_err(cannot)?;
        Ok(Self { listener, path: path.to_owned(), inode: there.ino(), owner: there.uid() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The user who owns the socket's file.
    pub(super) fn owner(&self) -> u32 {
        self.owner
    }

    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let (path, inode) = (std::mem::take(&mut self.path), self.inode);
        let (removed_tx, removed) = channel::<()>();
        let remove = move || {
            if fs::symlink_metadata(&path).is_ok_and(|there| there.ino() == inode) {
                // A file that cannot be removed is replaced at the next start.
                _ = fs::remove_file(&path);
            }
            drop(removed_tx);
        };
        // On a thread: the disk may hang, and this one may be the runtime's.
        if std::thread::Builder::new().name("gk-socket".into()).spawn(remove).is_ok() {
            // Ends when the sender is dropped.
            _ = removed.recv_timeout(REMOVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves the file, as a killed process does");
        let first = AdminSocket::bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(AdminSocket::bind(&path), Err(SocketError::InUse(_))));
        drop(first);
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        // Nor is a file removed that has the name beside it.
        let other = folder.path().join("other.sock");
        fs::write(other.with_extension("new"), "mine").unwrap();
        assert!(matches!(AdminSocket::bind(&other), Err(SocketError::NotASocket(_))));
        let nowhere = folder.path().join("none/admin.sock");
        assert!(matches!(AdminSocket::bind(&nowhere), Err(SocketError::Io { .. })));
    }

    #[tokio::test]
    async fn a_path_longer_than_the_system_takes_is_bound_and_reached() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d".repeat(120)).join("e".repeat(120));
        fs::create_dir_all(&path).unwrap();
        let path = path.join("admin.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(SocketError::InUse(_))));
        let (connected, accepted) = tokio::join!(connect(&path), socket.accept());
        connected.unwrap();
        accepted.unwrap();
        drop(socket);
        assert!(!path.exists());
        let long = folder.path().join("f".repeat(150));
        assert!(matches!(AdminSocket::bind(&long), Err(SocketError::Io { .. })));
    }
}
