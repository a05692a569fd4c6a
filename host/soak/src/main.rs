//! `groundskeeper-soak paused|sockets --ticks N`: prints the samples, and fails if something has grown.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use groundskeeper_soak::meter::assert_flat;
use groundskeeper_soak::paused::Soaked;
use groundskeeper_soak::{paused, sockets};

/// Time between two ticks with real sockets: the shortest that the config allows.
const INTERVAL: Duration = Duration::from_millis(100);

/// Any other seed does.
const SEED: u64 = 11;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("groundskeeper-soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    let [kind, "--ticks", ticks] = *words else { bail!("say `paused --ticks N` or `sockets --ticks N`") };
    let ticks = ticks.parse().with_context(|| format!("{ticks} is no number of ticks"))?;
    let folder = tempfile::tempdir()?;
    let soaked = match kind {
        "paused" => paused::run(ticks, folder.path(), SEED)?,
        "sockets" => {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(sockets::run(ticks, INTERVAL, folder.path()))?
        }
        other => bail!("there is no soak {other:?}: say paused or sockets"),
    };
    let Soaked { samples, ended, reloads } = soaked;
    for sample in &samples {
        println!("{sample}");
    }
    println!("{ended} connections ended, {reloads} reloads were applied");
    assert_flat(&samples)
}
