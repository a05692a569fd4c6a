//! `journal`: records of a running node by filter, or of the journal's file if no node runs.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use groundskeeper::admin::answers::{JournalPage, JournalPast};
use groundskeeper::admin::{ClientError, path_segment};
use groundskeeper::clock::{Clock as _, SystemClock};
use groundskeeper::journal::{ActionKind, JournalFilter, JournalHistory, ReadLimits, RecordPeer};
use groundskeeper_sdk::span::Span;

use super::{NodeArgs, answer, ask, data_dir, exit, load_config, show, without_manifests};

#[derive(Args, Debug)]
pub(super) struct JournalArgs {
    /// Records since this time, like 2026-03-01T10:20:30Z, or of this long, like 10m
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<u64>,
    /// Records by this phase or about it
    #[arg(long, value_name = "NAME")]
    phase: Option<String>,
    /// Records about this peer: its id, the beginning of it (at least 4 characters), ip:port or ip
    #[arg(long, value_name = "PEER")]
    peer: Option<String>,
    /// Records of these kinds, like disconnect,ban
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    what: Vec<ActionKind>,
    /// The newest of them, at most this many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    last: u32,
    #[command(flatten)]
    node: NodeArgs,
}

/// Milliseconds since 1970.
fn since(text: &str) -> Result<u64, String> {
    let at = match text.parse::<Span>() {
        Ok(ago) => SystemClock::new().unix().saturating_sub(Duration::from_millis(ago.as_millis())),
        Err(_) => humantime::parse_rfc3339_weak(text)
            .map_err(|_| "write it like 10m, 2h or 7d, or like 2026-03-01T10:20:30Z".to_owned())?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    };
    Ok(at.as_millis() as u64)
}

impl JournalArgs {
    fn filter(&self) -> Result<JournalFilter, String> {
        Ok(JournalFilter {
            since_unix_ms: self.since.unwrap_or_default(),
            phase: self.phase.as_deref().map(Into::into),
            peer: self.peer.as_deref().map(str::parse::<RecordPeer>).transpose()?,
            what: self.what.clone(),
        })
    }

    fn path(&self) -> String {
        let mut path =
            format!("/journal?limit={}&since_unix_ms={}", self.last, self.since.unwrap_or_default());
        for (key, value) in [("phase", &self.phase), ("peer", &self.peer)] {
            if let Some(value) = value {
                // Writing to a string does not fail.
                _ = write!(path, "&{key}={}", path_segment(value));
            }
        }
        if !self.what.is_empty() {
            let kinds: Vec<&str> = self.what.iter().map(|kind| kind.as_str()).collect();
            _ = write!(path, "&what={}", kinds.join(","));
        }
        path
    }
}

pub(super) fn journal(args: &JournalArgs, json: bool) -> anyhow::Result<ExitCode> {
    let filter = args.filter().map_err(anyhow::Error::msg)?;
    let page = match ask::ask(&args.node, async |client| client.get::<JournalPage>(&args.path()).await) {
        // A node of an older version does not know the filters.
        Ok(page) => JournalPage {
            records: page.records.into_iter().filter(|record| filter.matches(record)).collect(),
            ..page
        },
        Err(error) => match (error.downcast_ref(), file(&args.node)?) {
            (Some(ClientError::NoNode { .. }), Some(file)) => from_file(&file, args.last, &filter)?,
            _ => return Err(error),
        },
    };
    answer(&page, exit::DONE, json, show::journal)
}

/// The journal's file of a node that does not run; None if the flags or the config do not name one, or if there is none.
fn file(node: &NodeArgs) -> anyhow::Result<Option<PathBuf>> {
    if node.socket.is_some() {
        return Ok(None);
    }
    let config = load_config(node.config.as_deref(), &without_manifests(node.data_dir.clone()))?;
    let Some(file) = &config.journal.file else { return Ok(None) };
    Ok(Some(data_dir(&config)?.join(file)).filter(|file| file.symlink_metadata().is_ok()))
}

fn from_file(file: &std::path::Path, last: u32, filter: &JournalFilter) -> anyhow::Result<JournalPage> {
    let limits = ReadLimits { records: last as usize, ..ReadLimits::default() };
    let history = JournalHistory::read(file, limits, |record| filter.matches(record))
        .map_err(|error| anyhow::anyhow!("cannot read the journal {}: {error}", file.display()))?;
    let past = JournalPast {
        file: Some(file.display().to_string()),
        start_unix_ms: 0,
        from_unix_ms: history.from_unix_ms,
        unreadable: history.unreadable,
        lost: history.lost,
        trouble: history.cut.map(ToOwned::to_owned),
    };
    Ok(JournalPage { records: history.records, past: Some(past) })
}
