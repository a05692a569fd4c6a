//! The verb `replay` over a recording that this test makes itself.

use std::path::Path;
use std::sync::Arc;

use groundskeeper::engine::{PhaseCall, PhaseProgram, RunResult};

use crate::support::*;

/// What a reaper says it is, and does not do.
struct NoReaper;

impl PhaseProgram for NoReaper {
    fn summary(&self) -> &str {
        "weakens the first of all"
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    fn run(&self, job: &PhaseCall) -> RunResult {
        let first = closure("", 1, |_, view, plan| {
            view.peers().take(1).into_iter().for_each(|peer| plan.health(peer, -1, "no reason"));
            Ok(())
        });
        first.body.run(job)
    }

    fn settings(&self) -> Option<String> {
        serde_json::to_string(&groundskeeper_phases::Reaper::default()).ok()
    }
}

fn groundskeeper(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_groundskeeper"));
    let output = command.args(args).env_clear().current_dir(folder).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(start_paused = true)]
async fn the_verb_tells_what_differs_and_what_would_have_been() {
    let folder = tempfile::tempdir().unwrap();
    let mut phases = builtins();
    phases[0].body = Arc::new(NoReaper);
    let mut rig = Rig::recording(phases, recorder(&folder.path().join("hour.gkr")));
    (1..=3).for_each(|n| _ = rig.peer(n));
    rig.ticks(4).await;
    rig.stop().await;

    let (code, out, err) = groundskeeper(folder.path(), &["replay", "hour.gkr"]);
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    assert!(out.starts_with("hour.gkr: 4 beats; tick 1 to 4, 1m30s from 2023-11-14T22:13:50Z\n"), "{out}");
    assert!(out.contains("reaper             0.1.0    built-in  4     0          4          0\n"), "{out}");
    assert!(out.contains("  - health 0 -1: no reason  ["), "{out}");
    assert!(
        out.contains("  + ping-matching idle-s 25..=89\n") && out.ends_with("4 runs different\n"),
        "{out}"
    );

    let (code, out, _) = groundskeeper(folder.path(), &["replay", "hour.gkr", "--phase", "reaper"]);
    assert_eq!(code, 0);
    assert!(out.contains("reaper would have run 4 times, in the place of the recorded one\n"), "{out}");
    assert!(out.contains("ping-matching"), "{out}");
    let (code, out, _) = groundskeeper(folder.path(), &["replay", "hour.gkr", "--phase", "reaper", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["runs"], report["actions"].is_array()), (0, &4.into(), true));

    let (code, out, _) =
        groundskeeper(folder.path(), &["replay", "hour.gkr", "--dump", "2", "--seen-by", "reaper"]);
    let fixture = groundskeeper::record::Fixture::parse(&out, "view.json").unwrap();
    assert_eq!((code, fixture.tick.number, fixture.view().totals().connected), (0, 2, 3));

    std::fs::write(folder.path().join("notes.txt"), "not a recording").unwrap();
    for (args, says) in [
        (&["replay", "notes.txt"][..], "notes.txt is not a recording"),
        (&["replay", "nothing.gkr"], "cannot read nothing.gkr"),
        (
            &["replay", "hour.gkr", "--phase", "raeper"],
            "there is no phase \"raeper\"; there are reaper, reconnect",
        ),
        (&["replay", "hour.gkr", "--dump", "9"], "hour.gkr has no tick 9; it has ticks 1 to 4"),
        (&["run", "--ticks", "1", "--data-dir", "data", "--record", "notes.txt"], "it is left as it is"),
    ] {
        let (code, _, err) = groundskeeper(folder.path(), args);
        assert!(code == 1 && err.contains(says), "{args:?}: {code} {err}");
    }
}
