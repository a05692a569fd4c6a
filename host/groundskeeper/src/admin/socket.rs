//! The admin socket: its path, who may use it, and the cleanup of a socket that a dead process left.
//!
//! The system decides who may connect, by the file's mode, owner, group and access list: a user needs the right to write.
//! A second check here would have to repeat all of that, supplementary groups included.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// For owner and group of the file.
const MODE: u32 = 0o660;

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    #[error("another process answers on {}; stop it or set another [admin] socket", .0.display())]
    InUse(PathBuf),
    #[error("{} is there and is not a socket; remove it or set another [admin] socket", .0.display())]
    NotASocket(PathBuf),
    #[error("cannot make the admin socket {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
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
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(SocketError::InUse(path.to_owned()));
            }
            _ => {}
        }
        // Bound next to it and renamed, so that it never appears with other permissions.
        let beside = path.with_extension("new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&beside).map_err(cannot)?;
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
        if fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            // A file that cannot be removed is replaced at the next start.
            _ = fs::remove_file(&self.path);
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
        let nowhere = folder.path().join("none/admin.sock");
        assert!(matches!(AdminSocket::bind(&nowhere), Err(SocketError::Io { .. })));
    }
}
