//! Which files of a folder have changed and are at rest. Reads no files: stamps in, names out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::data::FileStamp;

/// A file without a write for this long counts as complete, as far as that can be known without reading it.
pub const QUIET: Duration = Duration::from_millis(300);
/// A file that is written to without a pause is read after this time anyway.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The known state of one path.
struct TrackedPath {
    /// `None`: the file is gone.
    stamp: Option<FileStamp>,
    changed_at: Duration,
    /// Since when it differs from what was last read.
    dirty_since: Option<Duration>,
}

/// The known state of a folder.
#[derive(Default)]
pub struct FileTracker {
    seen: BTreeMap<PathBuf, TrackedPath>,
}

impl FileTracker {
    /// Updates the state of the folder. A path that appears, disappears or has another stamp is dirty from then on.
    pub fn update(&mut self, listed: Vec<(PathBuf, FileStamp)>, now: Duration) {
        let listed: BTreeMap<PathBuf, FileStamp> = listed.into_iter().collect();
        for (path, seen) in &mut self.seen {
            seen.note(listed.get(path).copied(), now);
        }
        for (path, stamp) in listed {
            self.seen.entry(path).or_insert(TrackedPath {
                stamp: Some(stamp),
                changed_at: now,
                dirty_since: Some(now),
            });
        }
        self.seen.retain(|_, seen| seen.stamp.is_some() || seen.dirty_since.is_some());
    }

    /// Every file that was there at the last scan.
    pub fn there(&self) -> impl Iterator<Item = &PathBuf> {
        self.seen.iter().filter(|(_, seen)| seen.stamp.is_some()).map(|(path, _)| path)
    }

    /// Updates the stamp of `path`. True if it has not changed since the last scan.
    pub fn confirm(&mut self, path: &Path, stamp: Option<FileStamp>, now: Duration) -> bool {
        let same = self.seen.get(path).and_then(|seen| seen.stamp) == stamp;
        if !same {
            let unseen = TrackedPath { stamp: None, changed_at: now, dirty_since: Some(now) };
            self.seen.entry(path.to_owned()).or_insert(unseen).note(stamp, now);
        }
        same
    }

    /// Whether `path` has changed since it was last read.
    pub fn is_dirty(&self, path: &Path) -> bool {
        self.seen.get(path).is_some_and(|seen| seen.dirty_since.is_some())
    }

    /// Whether `path` has had no write for a while, or has been written to for too long without a pause.
    pub fn is_at_rest(&self, path: &Path, now: Duration) -> bool {
        self.seen.get(path).is_none_or(|seen| seen.rests_at().is_none_or(|at| now >= at))
    }

    /// Paths that have changed and are at rest, existing or gone.
    pub fn dirty_at_rest(&self, now: Duration) -> Vec<PathBuf> {
        let rested = |seen: &TrackedPath| seen.rests_at().is_some_and(|at| now >= at);
        self.seen.iter().filter(|(_, seen)| rested(seen)).map(|(path, _)| path.clone()).collect()
    }

    /// `path` was read in its current state.
    pub fn settle(&mut self, path: &Path) {
        if let Some(seen) = self.seen.get_mut(path) {
            seen.dirty_since = None;
        }
    }

    /// Everything was read in its current state.
    pub fn settle_all(&mut self) {
        self.seen.values_mut().for_each(|seen| seen.dirty_since = None);
    }

    /// The time at which the first dirty path is at rest, if any is dirty.
    pub fn next(&self) -> Option<Duration> {
        self.seen.values().filter_map(TrackedPath::rests_at).min()
    }
}

impl TrackedPath {
    fn note(&mut self, stamp: Option<FileStamp>, now: Duration) {
        if self.stamp != stamp {
            self.stamp = stamp;
            self.changed_at = now;
            self.dirty_since.get_or_insert(now);
        }
    }

    fn rests_at(&self) -> Option<Duration> {
        let dirty_since = self.dirty_since?;
        Some((self.changed_at + QUIET).min(dirty_since + LONGEST_WAIT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn listed(files: &[(&str, u64)]) -> Vec<(PathBuf, FileStamp)> {
        files
            .iter()
            .map(|(path, size)| (path.into(), FileStamp { size: *size, ..FileStamp::default() }))
            .collect()
    }

    #[test]
    fn a_file_is_at_rest_after_a_while_without_writes() {
        let (mut tracker, path) = (FileTracker::default(), Path::new("a"));
        tracker.update(listed(&[("a", 1)]), ms(0));
        assert!(
            tracker.is_dirty(path) && !tracker.is_at_rest(path, ms(299)) && tracker.is_at_rest(path, ms(300))
        );
        tracker.update(listed(&[("a", 2)]), ms(200));
        assert_eq!((tracker.is_at_rest(path, ms(300)), tracker.next()), (false, Some(ms(500))));
        tracker.settle(path);
        assert!(!tracker.is_dirty(path) && tracker.is_at_rest(path, ms(201)) && tracker.next().is_none());
        tracker.update(listed(&[("a", 2)]), ms(900));
        assert!(!tracker.is_dirty(path));
    }

    #[test]
    fn a_file_that_never_rests_is_read_after_five_seconds() {
        let mut tracker = FileTracker::default();
        for n in 0..60 {
            tracker.update(listed(&[("a", n)]), ms(100 * n));
            assert_eq!(tracker.is_at_rest(Path::new("a"), ms(100 * n)), n >= 50, "look {n}");
        }
    }

    #[test]
    fn coming_and_going_are_changes() {
        let (mut tracker, path) = (FileTracker::default(), Path::new("a"));
        tracker.update(listed(&[("a", 1)]), ms(0));
        tracker.settle(path);
        tracker.update(Vec::new(), ms(1000));
        assert!(tracker.is_dirty(path) && tracker.there().next().is_none());
        tracker.settle(path);
        tracker.update(Vec::new(), ms(2000));
        assert!(!tracker.is_dirty(path) && tracker.seen.is_empty());
        tracker.update(listed(&[("a", 1)]), ms(3000));
        assert!(tracker.is_dirty(path), "the same again is looked at again");
        assert!(!tracker.confirm(path, Some(FileStamp { size: 9, ..FileStamp::default() }), ms(3100)));
        assert_eq!(tracker.next(), Some(ms(3400)));
    }
}
