//! One phase of the drop-in folder: which generation runs, and what lies in the folder in its place.

use std::time::Duration;

use crate::data::Head;
use crate::registry::RejectedPhase;

/// Half a file is looked at again so many times, each time after a longer wait, before it counts as broken.
const TRIES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// How long until something is tried again that failed for a reason of the machine's.
const AGAIN: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Default)]
pub(super) struct Unit {
    /// As it is on disk, or is to be.
    pub head: Head,
    /// The generation that runs.
    pub running: Option<[u8; 32]>,
    /// `head` is not on disk: the disk refused it.
    pub is_unsaved: bool,
    /// Its last good generation could not be read, and so does not run.
    pub is_unread: bool,
    /// What lies in the folder and does not run.
    pub candidate: Option<Candidate>,
    /// When the files were first seen to be gone.
    pub missing_since: Option<Duration>,
}

/// What lies in the folder and does not run.
pub(super) struct Candidate {
    pub told: RejectedPhase,
    pub tries: usize,
    pub again_at: Option<Duration>,
}

/// Why a candidate does not run.
pub(super) enum Refusal {
    /// The rest of it may be on its way.
    Unfinished(String),
    /// It does not run until its bytes change.
    Bad(String),
    /// Nothing is wrong with it that is known of.
    Machine(String),
}

impl Refusal {
    pub fn words(&self) -> &str {
        match self {
            Self::Unfinished(why) | Self::Bad(why) | Self::Machine(why) => why,
        }
    }
}

impl Unit {
    /// Notes why a candidate does not run; true if that is news.
    pub fn refuse(&mut self, refusal: Refusal, mut told: RejectedPhase, now: Duration) -> bool {
        let before = self.candidate.take();
        let same = before.as_ref().filter(|before| before.told.digest == told.digest);
        let tries = same.map_or(0, |before| before.tries);
        let (why, wait) = match refusal {
            Refusal::Unfinished(why) => (why, TRIES.get(tries).copied()),
            Refusal::Bad(why) => (why, None),
            Refusal::Machine(why) => (why, Some(AGAIN)),
        };
        (told.problem, told.is_pending) = (why, wait.is_some());
        if let Some(before) = same.filter(|before| before.told.problem == told.problem) {
            told.since_unix_s = before.told.since_unix_s;
        }
        let is_news = before.as_ref().is_none_or(|before| {
            (&before.told.problem, before.told.is_pending, before.told.digest)
                != (&told.problem, told.is_pending, told.digest)
        });
        self.candidate = Some(Candidate { told, tries: tries + 1, again_at: wait.map(|wait| now + wait) });
        is_news
    }

    /// Whether these bytes were refused before and nothing has happened since that could change that.
    pub fn was_refused(&self, digest: [u8; 32], now: Duration) -> bool {
        self.candidate.as_ref().is_some_and(|candidate| {
            candidate.told.digest == Some(digest) && candidate.again_at.is_none_or(|at| now < at)
        })
    }

    /// When to look again though no file changes.
    pub fn again_at(&self) -> Option<Duration> {
        self.candidate.as_ref()?.again_at
    }
}
