//! Who else can write to a file or a folder, judged by owner and mode. A node runs code and takes its identity from such
//! places, so it never trusts them silently.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{getegid, geteuid, getgroups};

/// Whether a folder can be trusted. The texts say why not, and how to mend that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FolderTrust {
    /// Only root, this user and the groups of this process can write to it.
    Trusted,
    /// It may be as the operator wants it: used with a warning.
    Doubtful(String),
    /// Not to be used.
    Untrusted(String),
}

/// Owner and mode of a file or a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Permissions with setgid and sticky.
    pub mode: u32,
    /// It is on a read-only mount: no user can write to it, whatever its mode.
    pub is_read_only: bool,
}

/// User and groups of this process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// Effective user.
    pub uid: u32,
    /// Effective and supplementary groups.
    pub gids: Vec<u32>,
}

const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;
const STICKY: u32 = 0o1000;
const SETGID: u32 = 0o2000;

impl Credentials {
    /// Those of this process.
    pub fn own() -> Self {
        let mut gids: Vec<u32> =
            getgroups().unwrap_or_default().into_iter().map(|gid| gid.as_raw()).collect();
        gids.push(getegid().as_raw());
        Self { uid: geteuid().as_raw(), gids }
    }

    /// Whether `uid` is trusted with everything: it is this user or root.
    pub fn trusts(&self, uid: u32) -> bool {
        uid == 0 || uid == self.uid
    }
}

impl Access {
    /// Those of `path`, with the metadata that were read from it.
    pub fn of(path: &Path, meta: &Metadata) -> Self {
        let is_read_only = statvfs(path).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY));
        Self { uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & 0o7777, is_read_only }
    }

    fn may(&self, bits: u32) -> bool {
        self.mode & bits == bits && !self.is_read_only
    }

    /// Whether it is a folder with the marks of Kubernetes' `fsGroup`: the group is one of this process, may write, and
    /// is handed down.
    pub fn has_fs_group(&self, own: &Credentials) -> bool {
        self.mode & (SETGID | GROUP_WRITES) == SETGID | GROUP_WRITES && own.gids.contains(&self.gid)
    }

    /// Judges a folder that only this node should write to.
    fn as_own_folder(&self, own: &Credentials) -> FolderTrust {
        let Self { uid, gid, mode, .. } = *self;
        let (is_ours, has_fs_group) = (own.trusts(uid), self.has_fs_group(own));
        if !is_ours && !has_fs_group {
            let why =
                format!("belongs to user {uid}, neither root nor the user of this process, {}", own.uid);
            return FolderTrust::Untrusted(format!("{why}; run as that user, or chown it"));
        }
        // An emptyDir of Kubernetes with an fsGroup has mode 2777 and belongs to root.
        if self.may(OTHERS_WRITE) && !(has_fs_group && uid == 0) {
            let why = format!("can be written to by any user (mode {mode:03o})");
            return FolderTrust::Untrusted(format!("{why}; chmod o-w it, or use a folder below it"));
        }
        if !is_ours {
            FolderTrust::Doubtful(format!(
                "belongs to user {uid}; it is used because group {gid} of this process owns it"
            ))
        } else if self.may(OTHERS_WRITE) {
            FolderTrust::Doubtful(format!(
                "can be written to by any user (mode {mode:03o}); use a folder below it"
            ))
        } else if self.may(GROUP_WRITES) && !own.gids.contains(&gid) {
            FolderTrust::Doubtful(format!("can be written to by group {gid} (mode {mode:03o}); chmod g-w it"))
        } else {
            FolderTrust::Trusted
        }
    }

    /// Why a folder of files that this node runs is not trusted. In a sticky folder, as /tmp, others can add files and
    /// replace none: their files are judged by their owner.
    fn distrust_as_shared_folder(&self, own: &Credentials) -> Option<String> {
        let mode =
            if self.mode & STICKY == 0 { self.mode } else { self.mode & !(OTHERS_WRITE | GROUP_WRITES) };
        match (Self { mode, ..*self }).as_own_folder(own) {
            FolderTrust::Untrusted(why) => Some(why),
            FolderTrust::Trusted | FolderTrust::Doubtful(_) => None,
        }
    }

    /// Why a file that this node runs is not trusted.
    fn distrust_as_file(&self, own: &Credentials) -> Option<String> {
        let Self { uid, gid, mode, .. } = *self;
        if !own.trusts(uid) {
            let why = format!("belongs to user {uid}, neither root nor the user of this node, {}", own.uid);
            Some(format!("{why}; chown it"))
        } else if self.may(OTHERS_WRITE) {
            Some(format!("can be written to by any user (mode {mode:03o}); chmod o-w it"))
        } else if self.may(GROUP_WRITES) && !own.gids.contains(&gid) {
            Some(format!("can be written to by group {gid} (mode {mode:03o}); chmod g-w it"))
        } else {
            None
        }
    }
}

/// Judges a folder that only this node should write to.
///
/// # Errors
/// Those of the file system.
pub fn of_own_folder(folder: &Path) -> io::Result<FolderTrust> {
    Ok(Access::of(folder, &fs::metadata(folder)?).as_own_folder(&Credentials::own()))
}

/// Why a file must not be run: another user could have written it, or put it where it is. `None` also if it is missing.
pub fn distrust(file: &Path) -> Option<String> {
    let own = Credentials::own();
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let access = |path: &Path| Some(Access::of(path, &fs::metadata(path).ok()?));
    if let Some(why) = access(folder).and_then(|access| access.distrust_as_shared_folder(&own)) {
        return Some(format!("its folder {why}"));
    }
    // Who owns a link decides what it points to.
    let link = fs::symlink_metadata(file).ok()?;
    let why = if own.trusts(link.uid()) {
        access(file)?.distrust_as_file(&own)?
    } else {
        Access { mode: 0, ..Access::of(folder, &link) }.distrust_as_file(&own)?
    };
    Some(format!("it {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(uid: u32, gid: u32, mode: u32) -> Access {
        Access { uid, gid, mode, is_read_only: false }
    }

    #[test]
    fn folders_are_trusted_by_owner_and_mode() {
        let own = Credentials { uid: 1000, gids: vec![1000, 2000] };
        let verdict = |uid, gid, mode| match access(uid, gid, mode).as_own_folder(&own) {
            FolderTrust::Trusted => 'y',
            FolderTrust::Doubtful(_) => '?',
            FolderTrust::Untrusted(_) => 'n',
        };
        for (uid, gid, mode, expected) in [
            (1000, 1000, 0o750, 'y'),
            (1000, 1000, 0o775, 'y'),
            (0, 2000, 0o2770, 'y'),
            (1000, 5, 0o770, '?'),
            (1000, 5, 0o755, 'y'),
            (1000, 1000, 0o777, 'n'),
            (1000, 1000, 0o1777, 'n'),
            (0, 0, 0o777, 'n'),
            (0, 2000, 0o2777, '?'),
            (7, 2000, 0o2770, '?'),
            (7, 2000, 0o2777, 'n'),
            (7, 2000, 0o770, 'n'),
            (7, 7, 0o755, 'n'),
        ] {
            assert_eq!(verdict(uid, gid, mode), expected, "{uid} {gid} {mode:o}");
        }
        let config_map = Access { is_read_only: true, ..access(0, 0, 0o777) };
        assert_eq!(config_map.as_own_folder(&own), FolderTrust::Trusted);
        // Root trusts no other user either.
        let root = Credentials { uid: 0, gids: vec![0] };
        assert!(matches!(access(1000, 1000, 0o700).as_own_folder(&root), FolderTrust::Untrusted(_)));
    }

    #[test]
    fn files_of_others_are_not_run() {
        let own = Credentials { uid: 1000, gids: vec![1000] };
        let runs = |uid, gid, mode| access(uid, gid, mode).distrust_as_file(&own).is_none();
        assert!(runs(1000, 1000, 0o664) && runs(0, 0, 0o644) && runs(1000, 5, 0o644));
        assert!(
            !runs(7, 7, 0o644) && !runs(7, 1000, 0o644) && !runs(1000, 1000, 0o666) && !runs(1000, 5, 0o664)
        );
        let shared = |mode| access(0, 0, mode).distrust_as_shared_folder(&own).is_none();
        assert!(shared(0o755) && shared(0o1777) && !shared(0o777));
    }
}
