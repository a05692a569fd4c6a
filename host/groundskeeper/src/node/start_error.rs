//! Errors of starting a node, for its operator.

use std::io;

#[cfg(feature = "telemetry")]
use crate::admin::AdminError;
#[cfg(feature = "config")]
use crate::config::Problem;
#[cfg(feature = "data")]
use crate::data::DataError;
use crate::registry::BadPhases;

/// Why a node did not start.
#[expect(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    #[error("a node runs on tokio and there is no runtime here; call `start` inside of one")]
    NoRuntime,
    #[error(
        "no data folder is named; give the node one with `data_dir`, or with node.data_dir in its config"
    )]
    NoFolder,
    #[cfg(feature = "config")]
    #[error("{}", lines(.0))]
    Settings(Vec<Problem>),
    #[cfg(feature = "data")]
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("the key in the data folder is damaged: {0}; restore node.key from a copy")]
    Key(String),
    #[error("cannot open the journal's file {path}: {source}; choose another place with journal.file")]
    Journal { path: String, source: io::Error },
    #[error("{source}; choose another address with net.listen")]
    Listen { listen: String, source: io::Error },
    #[error("no thread for the node: {0}")]
    Thread(io::Error),
    #[error(transparent)]
    Phases(#[from] BadPhases),
    #[cfg(feature = "telemetry")]
    #[error(transparent)]
    Admin(#[from] AdminError),
}

#[cfg(feature = "config")]
fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
