//! Lets health recover by half-lives, and lowers it while a peer leaves pings unanswered. Drops no peer.

#![forbid(unsafe_code)]

use groundskeeper_sdk::prelude::*;
use groundskeeper_sdk::rng::Rng;

/// Halves a peer's missing health every `half_life`. Takes `lost_points` per run from peers that do not answer pings.
///
/// Without this phase, one error of a peer counts as long as its connection lasts, and a peer that stopped answering
/// looks healthy until it is stale. The worst peers come first, at most `max_per_run` of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(crate = "groundskeeper_sdk::serde", default, deny_unknown_fields)]
pub struct HealthDecay {
    /// Time in which half of the health missing to 100 comes back; 1m to 30d.
    pub half_life: Span,
    /// This many unanswered pings in a row cost health and stop its recovery; 1 to 255.
    pub lost_after: u32,
    /// Points lost in each such run; 1 to 100.
    pub lost_points: u32,
    /// Peers with a change of health in one run; 1 to 4096. Each is a record in the journal.
    pub max_per_run: u32,
}

impl Default for HealthDecay {
    /// One hour: a peer at the threshold is back at two thirds after an hour, and the operator can still see a burst of
    /// errors. Every peer loses one ping now and then, but rarely two in a row.
    fn default() -> Self {
        HealthDecay { half_life: Span::hours(1), lost_after: 2, lost_points: 5, max_per_run: 256 }
    }
}

/// Full health.
const FULL: u32 = 100;

/// Recovery is computed in thousandths of a point.
const SCALE: u32 = 1_000;

impl HealthDecay {
    /// Points that a peer with `missing` points recovers in `elapsed`.
    ///
    /// Most runs recover a fraction of a point. Rounded down, health would never recover; rounded up, it would recover
    /// at once. So the fraction is drawn at random: it is right on average, and needs no memory.
    fn recovered(&self, missing: u32, elapsed: Span, rng: &mut Rng) -> u32 {
        let thousandths = missing * SCALE - decay(missing * SCALE, elapsed, self.half_life);
        let luck = rng.below(SCALE.into()) < u64::from(thousandths % SCALE);
        thousandths / SCALE + u32::from(luck)
    }
}

impl Phase for HealthDecay {
    const SUMMARY: &'static str = "health recovers by half-lives, and sinks with unanswered pings";

    fn check(&self) -> Result<(), String> {
        within("half_life", self.half_life, Span::mins(1)..=Span::days(30))?;
        within("lost_after", self.lost_after, 1..=255)?;
        within("lost_points", self.lost_points, 1..=FULL)?;
        within("max_per_run", self.max_per_run, 1..=4_096)
    }

    fn run(&self, now: &Tick, view: &View, plan: &mut Plan) -> Result {
        let silent = view.peers().at_least(peer::PINGS_LOST, self.lost_after).over(peer::HEALTH, 0);
        let silent = silent.most(peer::PINGS_LOST).take(self.max_per_run);
        for (peer, [lost]) in silent.iter().zip(view.facts(&silent, [peer::PINGS_LOST])) {
            plan.health(*peer, -(self.lost_points as i32), format!("{lost} pings unanswered in a row"));
        }

        // Before the first run the elapsed time is unknown.
        let Some(seconds) = now.since_last_s else { return Ok(()) };
        let hurt = view.peers().under(peer::PINGS_LOST, self.lost_after).under(peer::HEALTH, FULL);
        let hurt = hurt.least(peer::HEALTH).take(self.max_per_run - silent.len() as u32);
        let (elapsed, mut rng) = (Span::secs(seconds.into()), now.rng());
        for (peer, [health]) in hurt.iter().zip(view.facts(&hurt, [peer::HEALTH])) {
            let points = self.recovered(FULL - health, elapsed, &mut rng);
            if points > 0 {
                plan.health(*peer, points as i32, format!("recovers, half-life {}", self.half_life));
            }
        }
        Ok(())
    }
}

groundskeeper_sdk::export!(HealthDecay);

#[cfg(test)]
mod tests {
    use groundskeeper_sdk::host::Ask;
    use groundskeeper_sdk::testing::world;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_silent_sink_and_the_rest_recover() {
        let world = world()
            .peer(|p| {
                p.with(peer::HEALTH, 60).with(peer::PINGS_LOST, 2);
            })
            .peer(|p| {
                p.with(peer::HEALTH, 20).with(peer::PINGS_LOST, 1);
            })
            .peer(|_| {});
        let hour = world.tick(|tick| tick.since_last_s = Some(3_600));
        assert_eq!(
            hour.run(&HealthDecay::default()).unwrap(),
            "health 0 -5: 2 pings unanswered in a row\nhealth 1 +40: recovers, half-life 1h\n"
        );
        let first = hour.tick(|tick| tick.since_last_s = None);
        assert_eq!(first.run(&HealthDecay::default()).unwrap(), "health 0 -5: 2 pings unanswered in a row\n");
    }

    /// Runs every five minutes recover fractions of points, which must still add up to the half-life.
    #[test]
    fn many_short_runs_make_one_half_life() {
        let mut missing = [80u32; 50];
        for run in 0..12 {
            let world = missing.iter().fold(world(), |world, missing| {
                world.peer(|p| {
                    p.with(peer::HEALTH, FULL - missing);
                })
            });
            let world = world.seed([run, 7]).tick(|tick| tick.since_last_s = Some(300));
            for ask in world.plan(&HealthDecay::default()).unwrap().asks {
                let Ask::Health { peer, by, .. } = ask else { panic!("asked for {ask}") };
                missing[peer as usize] -= by as u32;
            }
        }
        let mean = missing.iter().sum::<u32>() / missing.len() as u32;
        assert!((38..=42).contains(&mean), "{mean} points are missing after a half-life, of 80");
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let phase = HealthDecay { lost_after: 0, ..HealthDecay::default() };
        assert_eq!(phase.check().unwrap_err(), "lost_after = 0 is out of range: 1 to 255");
    }

    proptest! {
        #[test]
        fn nobody_recovers_beyond_full_health(missing in 0u32..=100, seconds: u32, seed: [u32; 2]) {
            let mut rng = Tick { seed, ..Tick::default() }.rng();
            let points = HealthDecay::default().recovered(missing, Span::secs(seconds.into()), &mut rng);
            prop_assert!(points <= missing);
        }
    }
}
