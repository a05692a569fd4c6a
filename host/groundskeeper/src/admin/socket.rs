//! The admin socket: its path, who may use it, and the cleanup of a socket that a dead process left.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::unix::SocketAddr;
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
    #[error("cannot make the admin socket {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A bound admin socket. Dropping it removes its file.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    owner: Owner,
}

/// User and group that own the socket's file.
#[derive(Clone, Copy, Debug)]
struct Owner {
    uid: u32,
    gid: u32,
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
        let owner = Owner { uid: there.uid(), gid: there.gid() };
        Ok(Self { listener, path: path.to_owned(), inode: there.ino(), owner })
    }

    pub fn path(&self) -> &Path {
        &self.path
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

/// Allows the node's own user, root, and the group that owns the file.
fn may_talk(uid: u32, gid: u32, file: Owner) -> bool {
    uid == 0 || uid == file.uid || gid == file.gid
}

impl Listener for AdminSocket {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            let (stream, from) = Listener::accept(&mut self.listener).await;
            match stream.peer_cred() {
                Ok(cred) if may_talk(cred.uid(), cred.gid(), self.owner) => return (stream, from),
                Ok(cred) => tracing::warn!(uid = cred.uid(), pid = cred.pid(), "refused on the admin socket"),
                Err(error) => tracing::warn!(%error, "cannot tell who is at the admin socket"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_owner_root_and_group_may_connect() {
        let file = Owner { uid: 1000, gid: 100 };
        let may = |uid, gid| may_talk(uid, gid, file);
        assert_eq!([may(1000, 5), may(0, 0), may(7, 100), may(7, 7)], [true, true, true, false]);
    }

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
