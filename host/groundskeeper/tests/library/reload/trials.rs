//! What a phase sees on trial: what it will see in its next run.

use std::sync::Arc;

use groundskeeper::data::DiskFileSystem;
use groundskeeper::reload::{ReloadOptions, ScanKind, StartFrom};
use groundskeeper_sdk::phase::Tick;

use super::world::{Hand, Process, Scripts, manifest, module};

#[test]
fn nothing_tells_a_phase_that_it_is_on_trial() {
    for every in [1, 4] {
        let home = tempfile::tempdir().unwrap();
        let (dir, data) = (home.path().join("phases.d"), home.path().join("data"));
        std::fs::create_dir(&dir).unwrap();
        let put = |version| {
            let schedule = format!("[schedule]\nevery_n_ticks = {every}");
            std::fs::write(dir.join("alpha.wasm"), module(version, "good")).unwrap();
            std::fs::write(dir.join("alpha.toml"), manifest("alpha", &schedule)).unwrap();
        };
        put(1);
        let (clock, scripts) = (Arc::new(Hand::default()), Scripts::default());
        let (options, files) = (ReloadOptions::trusting(dir.clone()), Arc::new(DiskFileSystem));
        let factory = scripts.clone().factory();
        let mut process = Process::start_with(&clock, &data, options, files, StartFrom::Folder, factory);
        // A first generation, then one that replaces another, in the middle of its period.
        for version in 1..=3 {
            if version > 1 {
                put(version);
                process.step(ScanKind::Ordered);
            }
            let ticks = std::mem::take(&mut *scripts.ticks.lock());
            let trials: Vec<Tick> =
                ticks.into_iter().filter(|(is_trial, _)| *is_trial).map(|(_, tick)| tick).collect();
            while scripts.ticks.lock().is_empty() {
                process.beat();
                process.step(ScanKind::Hint);
            }
            let (is_trial, run) = scripts.ticks.lock()[0];
            assert!(!is_trial);
            assert_eq!(trials, [run], "version {version}, every {every}");
            assert_ne!(run.seed, [0; 2]);
            assert_eq!(
                run.since_last_s,
                (version > 1).then_some(30 * every),
                "version {version}, every {every}"
            );
            process.beat();
        }
    }
}
