//! The generations of one phase as a state machine: the current one, the former one, probation, and the digests known to
//! be bad. Pure: the registry uses it in memory, the reloader on disk.

use serde::{Deserialize, Serialize};

use super::KeptPhase;

/// Digests remembered as bad, per phase.
const MOST_BAD: usize = 16;

/// Identifies a generation: the SHA-256 of everything that decides what it does.
pub type Digest = [u8; 32];

/// The generation before the current one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Former<G> {
    /// Names its file among the saved generations.
    pub digest: Digest,
    /// Its memory and quarantine when it stopped running. It gets them back after a rollback.
    pub kept: KeptPhase,
    /// The generation itself, if it is held in memory.
    pub held: G,
}

/// What runs after a generation has failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rollback<G> {
    /// The generation before it.
    ToFormer(Former<G>),
    /// No generation: it was the first one of its name.
    ToNothing,
}

/// See the module. `G` is what is held of a former generation besides its digest: nothing on disk, its spec in memory.
///
/// The order of the fields is the file format of the generation record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lineage<G> {
    current: Option<Digest>,
    former: Option<Former<G>>,
    on_probation: bool,
    /// Failed digests and the reason for each, newest last.
    bad: Vec<(Digest, String)>,
}

impl<G> Default for Lineage<G> {
    fn default() -> Self {
        Self { current: None, former: None, on_probation: false, bad: Vec::new() }
    }
}

impl<G> Lineage<G> {
    /// The generation that runs. `None` before the first one, and for host phases.
    pub fn current(&self) -> Option<Digest> {
        self.current
    }

    /// The target of a rollback, if there is one.
    pub fn former(&self) -> Option<&Former<G>> {
        self.former.as_ref()
    }

    /// Whether the current generation still needs good runs. The first one of its name has no former one.
    pub fn is_on_probation(&self) -> bool {
        self.on_probation
    }

    /// The current generation, or `None` while it is on probation: that one was never good.
    pub fn proven_current(&self) -> Option<Digest> {
        self.current.filter(|_| !self.on_probation)
    }

    /// The reason why this digest is known to be bad, if it is.
    pub fn known_bad(&self, digest: &Digest) -> Option<&str> {
        self.bad.iter().find(|(bad, _)| bad == digest).map(|(_, why)| why.as_str())
    }

    /// The former generation, if `digest` names it and the current one is on probation: the operator brings it back.
    pub fn taken_back(&self, digest: &Digest) -> Option<&Former<G>> {
        self.former.as_ref().filter(|former| self.on_probation && former.digest == *digest)
    }

    /// Whether `digest` is the current or the former generation.
    pub fn names(&self, digest: &Digest) -> bool {
        self.digests().any(|named| named == *digest)
    }

    /// The current generation, then the former one.
    pub fn digests(&self) -> impl Iterator<Item = Digest> + '_ {
        self.current.into_iter().chain(self.former.as_ref().map(|former| former.digest))
    }

    /// `digest` runs, is trusted, and has no former generation.
    pub fn started(&mut self, digest: Option<Digest>) {
        self.current = digest;
        self.former = None;
        self.on_probation = false;
    }

    /// `digest` runs where no generation did. It is on probation, unless it has passed one.
    pub fn began(&mut self, digest: Digest) {
        self.on_probation = self.proven_current() != Some(digest);
        self.current = Some(digest);
        self.former = None;
    }

    /// `digest` replaces the current generation, which leaves `kept` and is held as `held`. It is on probation. If this
    /// takes the current generation back, returns the former one, which runs again.
    pub fn offered(&mut self, digest: Digest, kept: KeptPhase, held: G) -> Option<Former<G>> {
        if self.taken_back(&digest).is_some() {
            return self.reverted();
        }
        let old = self.current.replace(digest);
        // A generation that was never good is no target for a rollback.
        if !self.on_probation {
            self.former = old.map(|digest| Former { digest, kept, held });
        }
        self.on_probation = true;
        None
    }

    /// The current generation, started by an earlier process, is on probation again.
    pub fn probation_resumed(&mut self, former: Option<Former<G>>) {
        self.former = former;
        self.on_probation = true;
    }

    /// The former generation is gone. The current one stays, even if it fails.
    pub fn former_lost(&mut self) {
        self.former = None;
        self.on_probation = false;
    }

    /// The current generation has passed its probation.
    pub fn proven(&mut self) {
        self.on_probation = false;
    }

    /// The current generation is bad: the former one runs again, or none if the current one is the first and on
    /// probation. `None`, and no change, if the current one is trusted and has no former one.
    pub fn failed(&mut self, why: String) -> Option<Rollback<G>> {
        let failed = self.current?;
        let rollback = match self.reverted() {
            Some(former) => Rollback::ToFormer(former),
            None if self.on_probation => {
                self.current = None;
                self.on_probation = false;
                Rollback::ToNothing
            }
            None => return None,
        };
        self.bad.retain(|(bad, _)| *bad != failed);
        self.bad.push((failed, why));
        let over = self.bad.len().saturating_sub(MOST_BAD);
        self.bad.drain(..over);
        Some(rollback)
    }

    /// The former generation runs again. The current one is not marked as bad.
    pub fn reverted(&mut self) -> Option<Former<G>> {
        let former = self.former.take()?;
        self.current = Some(former.digest);
        self.on_probation = false;
        Some(former)
    }

    /// Forgets all bad digests, so that they may run again. True if there were any.
    pub fn forgiven(&mut self) -> bool {
        !std::mem::take(&mut self.bad).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::KeptMemory;
    use proptest::prelude::*;

    fn digest(n: u8) -> Digest {
        [n; 32]
    }

    fn kept(n: u8) -> KeptPhase {
        KeptPhase { memory: Some(KeptMemory { version: n.into(), bytes: vec![n] }), ..KeptPhase::default() }
    }

    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Event {
        Offered(u8),
        Proven,
        Failed,
        Reverted,
        FormerLost,
        Forgiven,
    }
    use Event::{Failed, Forgiven, FormerLost, Offered, Proven, Reverted};

    /// A running generation stores its own number, so that memory shows who wrote it.
    fn apply<G: Clone>(lineage: &mut Lineage<G>, event: Event, held: G) -> Option<Former<G>> {
        match event {
            Offered(n) => {
                let current = lineage.current().map_or(0, |digest| digest[0]);
                return lineage.offered(digest(n), kept(current), held);
            }
            Failed => {
                return match lineage.failed("failed".to_owned()) {
                    Some(Rollback::ToFormer(former)) => Some(former),
                    Some(Rollback::ToNothing) | None => None,
                };
            }
            Reverted => return lineage.reverted(),
            Proven => lineage.proven(),
            FormerLost => lineage.former_lost(),
            Forgiven => drop(lineage.forgiven()),
        }
        None
    }

    /// Events; then expected: current, former, on probation, bad.
    type Life = (&'static [Event], Option<u8>, Option<u8>, bool, &'static [u8]);

    #[test]
    fn a_table_of_lives() {
        let table: [Life; 14] = [
            (&[Offered(1)], Some(1), None, true, &[]),
            (&[Offered(1), Proven], Some(1), None, false, &[]),
            (&[Offered(1), Failed], None, None, false, &[1]),
            (&[Offered(1), Proven, Failed], Some(1), None, false, &[]),
            // 1 was never good.
            (&[Offered(1), Offered(2), Failed], None, None, false, &[2]),
            (&[Offered(1), Proven, Offered(2)], Some(2), Some(1), true, &[]),
            (&[Offered(1), Proven, Offered(2), Proven], Some(2), Some(1), false, &[]),
            (&[Offered(1), Proven, Offered(2), Failed], Some(1), None, false, &[2]),
            // 2 was never good.
            (&[Offered(1), Proven, Offered(2), Offered(3)], Some(3), Some(1), true, &[]),
            (&[Offered(1), Proven, Offered(2), Offered(3), Failed], Some(1), None, false, &[3]),
            (&[Offered(1), Proven, Offered(2), Offered(1)], Some(1), None, false, &[]),
            // Once 2 is good, 1 is a new generation like any other.
            (&[Offered(1), Proven, Offered(2), Proven, Offered(1)], Some(1), Some(2), true, &[]),
            (&[Offered(1), Proven, Offered(2), FormerLost, Failed], Some(2), None, false, &[]),
            (&[Offered(1), Proven, Offered(2), Failed, Forgiven, Offered(2)], Some(2), Some(1), true, &[]),
        ];
        for (events, current, former, on_probation, bad) in table {
            let mut lineage = Lineage::default();
            for event in events {
                apply(&mut lineage, *event, ());
            }
            assert_eq!(lineage.current(), current.map(digest), "{events:?}");
            assert_eq!(lineage.former().map(|former| former.digest), former.map(digest), "{events:?}");
            assert_eq!(lineage.is_on_probation(), on_probation, "{events:?}");
            let is_bad = |n: &u8| lineage.known_bad(&digest(*n)).is_some();
            assert_eq!((1..=3).filter(is_bad).collect::<Vec<_>>(), bad, "{events:?}");
        }
    }

    #[test]
    fn a_generation_gets_its_own_memory_back() {
        for back in [Failed, Offered(1), Reverted] {
            let mut lineage = Lineage::default();
            for event in [Offered(1), Proven, Offered(2), Offered(3)] {
                apply(&mut lineage, event, ());
            }
            let former = apply(&mut lineage, back, ()).expect("1 is back");
            assert_eq!((former.digest, former.kept), (digest(1), kept(1)), "{back:?}");
        }
    }

    #[test]
    fn a_resumed_probation_ends_like_another() {
        let mut lineage = Lineage::default();
        lineage.started(Some(digest(2)));
        lineage.probation_resumed(Some(Former { digest: digest(1), kept: kept(1), held: "one" }));
        assert!(lineage.is_on_probation() && lineage.proven_current().is_none());
        let Some(Rollback::ToFormer(former)) = lineage.failed("boom".to_owned()) else { panic!() };
        assert_eq!(former.held, "one");
        assert_eq!(
            (lineage.proven_current(), lineage.known_bad(&digest(2))),
            (Some(digest(1)), Some("boom"))
        );
    }

    #[test]
    fn a_generation_that_begins_again_is_on_probation_unless_it_has_passed_one() {
        for (is_proven, again, on_probation) in [(true, 1, false), (false, 1, true), (true, 2, true)] {
            let mut lineage: Lineage<()> = Lineage::default();
            lineage.began(digest(1));
            assert!(lineage.is_on_probation());
            if is_proven {
                lineage.proven();
            }
            lineage.began(digest(again));
            assert_eq!(lineage.is_on_probation(), on_probation, "{is_proven}, {again}");
        }
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            5 => (1..40u8).prop_map(Offered),
            3 => (1..4u8).prop_map(Offered),
            3 => Just(Proven),
            4 => Just(Failed),
            1 => Just(Reverted),
            1 => Just(FormerLost),
            1 => Just(Forgiven),
        ];
        proptest::collection::vec(event, 0..80)
    }

    proptest! {
        #[test]
        fn a_rollback_target_was_good_and_both_sides_agree(events in events()) {
            let (mut on_disk, mut in_memory) = (Lineage::default(), Lineage::default());
            // Generations that passed a probation, or lost their former one.
            let mut good = Vec::new();
            for event in events {
                let before = on_disk.current();
                let back = apply(&mut on_disk, event, ());
                let name = before.map_or(0, |digest| digest[0]);
                let back_in_memory = apply(&mut in_memory, event, name);
                prop_assert_eq!(on_disk.digests().collect::<Vec<_>>(), in_memory.digests().collect::<Vec<_>>());
                prop_assert_eq!(on_disk.is_on_probation(), in_memory.is_on_probation());
                prop_assert_eq!(&on_disk.bad, &in_memory.bad);
                if let Some(former) = &back_in_memory {
                    prop_assert_eq!([former.held; 32], former.digest, "what was held is what it names");
                }
                if let Some(former) = &back {
                    prop_assert_eq!(&former.kept, &kept(former.digest[0]));
                    prop_assert!(good.contains(&former.digest), "{:?} was never good", former.digest);
                    prop_assert!(on_disk.former().is_none() && !on_disk.is_on_probation());
                }
                if event == Failed && before != on_disk.current() {
                    prop_assert!(on_disk.known_bad(&before.expect("it failed")).is_some());
                }
                good.extend(on_disk.proven_current());
                prop_assert!(on_disk.bad.len() <= MOST_BAD);
                let bytes = postcard::to_stdvec(&on_disk).unwrap();
                prop_assert_eq!(&postcard::from_bytes::<Lineage<()>>(&bytes).unwrap(), &on_disk);
            }
        }
    }
}
