//! Checks a schedule, both in the config and in manifests.

use groundskeeper_base::problem::unknown_name_hint;
use groundskeeper_engine::schedule::{Cadence, MOST_TICKS, Schedule};

use super::document::Document;

/// Checks the schedule at `table`, such as `phases.reaper.schedule`. `known` lists the names that are allowed in
/// `after` and `before`; without it all names are allowed.
pub(super) fn check(document: &mut Document<'_>, table: &str, known: Option<&[&str]>, schedule: &Schedule) {
    let Schedule { cadence, offset, after, before, .. } = schedule;
    check_cadence(document, &format!("{table}.every_n_ticks"), cadence);
    let shortest = cadence.all().into_iter().min().unwrap_or(1);
    if *offset > 0 && *offset >= shortest && u64::from(*offset) <= MOST_TICKS {
        let message = format!("{offset} is not below every_n_ticks = {shortest}");
        document.report_at(&format!("{table}.offset"), message, None);
    }
    let Some(known) = known else { return };
    for (key, names) in [("after", after), ("before", before)] {
        for other in names.iter().filter(|name| !known.contains(&name.as_str())) {
            let hint = unknown_name_hint(other, known);
            let message = format!("no phase is called {other:?}");
            document.report_at(&format!("{table}.{key}"), message, Some(hint));
        }
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
