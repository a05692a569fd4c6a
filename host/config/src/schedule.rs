//! Schedules as they are written to schedules that are checked, for the config and for manifests alike. Knows no phase.

use groundskeeper_base::problem::unknown_name_hint;
use groundskeeper_engine::schedule::{Cadence, Schedule};

use super::bounds::MOST_TICKS;
use super::document::Document;
use super::phases::{self, EveryNTicks};

/// Checks what stands at `table`, like `phases.reaper.schedule`. `known` are the names that `after` and `before` may
/// give; without it any may be given.
pub(super) fn resolve(
    document: &mut Document<'_>,
    table: &str,
    known: Option<&[&str]>,
    raw: phases::Schedule,
) -> Schedule {
    let cadence = match raw.every_n_ticks {
        None => Cadence::Every(1),
        Some(EveryNTicks::Number(n)) => Cadence::Every(n),
        Some(EveryNTicks::Steps(steps)) => Cadence::Adaptive(steps),
    };
    check_cadence(document, &format!("{table}.every_n_ticks"), &cadence);
    let offset = raw.offset.unwrap_or(0);
    let shortest = cadence.all().into_iter().min().unwrap_or(1);
    if offset > 0 && offset >= shortest && u64::from(offset) <= MOST_TICKS {
        let message = format!("{offset} is not below every_n_ticks = {shortest}");
        document.report_at(&format!("{table}.offset"), message, None);
    }
    let mut names = |key: &str, names: Option<Vec<String>>| {
        let names = names.unwrap_or_default();
        for other in known.into_iter().flat_map(|known| names.iter().filter(|one| !known.contains(&&***one)))
        {
            let hint = unknown_name_hint(other, known.unwrap_or_default());
            document.report_at(
                &format!("{table}.{key}"),
                format!("no phase is called {other:?}"),
                Some(hint),
            );
        }
        names
    };
    let (after, before) = (names("after", raw.after), names("before", raw.before));
    Schedule {
        cadence,
        offset,
        run_on_start: raw.run_on_start.unwrap_or(false),
        wake_on: raw.wake_on.unwrap_or_default(),
        after,
        before,
    }
}

fn check_cadence(document: &mut Document<'_>, key: &str, cadence: &Cadence) {
    for n in cadence.all() {
        if n == 0 || u64::from(n) > MOST_TICKS {
            document.report_at(key, format!("{n} is out of range: 1 to {MOST_TICKS}"), None);
        }
    }
    let Cadence::Adaptive(steps) = cadence else { return };
    let bounds: Vec<Option<u32>> = steps.iter().map(|step| step.below_connections).collect();
    let rising = bounds.is_sorted_by(|a, b| match (a, b) {
        (Some(a), Some(b)) => a < b,
        (Some(_), None) => true,
        (None, _) => false,
    });
    if !rising {
        let message = "below_connections must rise from step to step, and only the last may leave it out";
        document.report_at(key, message.into(), None);
    } else if !matches!(bounds.last(), Some(None)) {
        let message = "the last step must leave below_connections out: it holds for every number above";
        document.report_at(key, message.into(), Some("add { every_n_ticks = 4 }".into()));
    }
}
