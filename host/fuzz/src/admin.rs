//! Requests to the local API: the bytes of a connection, and names that a client puts into a path.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use groundskeeper::admin::answers::{ErrorBody, Explanation, JournalPage};
use groundskeeper::admin::{AdminState, fuzz_answer, path_segment};
use groundskeeper::clock::{Clock, TokioClock};
use groundskeeper::journal::{ActionKind, Initiator, NewRecord};
use groundskeeper::metrics::MetricSources;
use groundskeeper::node::{NodeLimits, NodeState};
use groundskeeper::peer::PeerId;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

/// Larger requests find nothing that smaller ones do not.
const MOST_INPUT: usize = 64 << 10;

/// Escaped, such a name still fits the head of a request.
const MOST_NAME: usize = 1000;

/// Every answer of a node this small, `/metrics` included.
const MOST_ANSWER: usize = 256 << 10;

/// A node without ticks, on a clock that only moves while the node waits.
struct QuietNode {
    runtime: Runtime,
    state: Arc<AdminState>,
}

static NODE: LazyLock<Mutex<QuietNode>> = LazyLock::new(|| Mutex::new(QuietNode::new()));

impl QuietNode {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without sockets starts");
        let state = runtime.block_on(async { Arc::new(state()) });
        Self { runtime, state }
    }

    fn answer(&self, request: &[u8]) -> Answer {
        let bytes = self.runtime.block_on(fuzz_answer(&self.state, request));
        assert!(bytes.len() <= MOST_ANSWER, "an answer of {} bytes", bytes.len());
        Answer::read(&bytes)
    }
}

fn state() -> AdminState {
    let clock = TokioClock::starting_at(Duration::from_secs(1_700_000_000)) as Arc<dyn Clock>;
    let state = NodeState::new(PeerId::from_bytes([1; 32]), NodeLimits::for_connections(8), clock, None);
    for (n, what) in [ActionKind::Ban, ActionKind::Dial, ActionKind::Late].into_iter().enumerate() {
        let peer = Some(PeerId::from_bytes([n as u8; 32]));
        let phase = Some("reaper".into());
        state.journal.record(NewRecord { peer, phase, ..NewRecord::new(Initiator::Host, what, "fuzz") });
    }
    let sources = MetricSources {
        traffic: None,
        state,
        phases: Arc::default(),
        pulse: Arc::default(),
        thresholds: Arc::default(),
        started: Duration::ZERO,
        reload: None,
        refusals: Some(Arc::default()),
        disk: Default::default(),
    };
    AdminState {
        sources,
        metrics: Arc::default(),
        network: "fuzz".into(),
        local_addrs: Vec::new(),
        ticker: None,
        reconfigure: None,
        past: Arc::default(),
    }
}

/// An answer as a client sees it.
struct Answer {
    /// 0 if there is no answer.
    status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self { status: 0, headers: Vec::new(), body: Vec::new() };
        }
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer has a head");
        let head = str::from_utf8(&bytes[..end]).expect("the head of an answer is text");
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let version = first.strip_prefix("HTTP/1.1 ").or_else(|| first.strip_prefix("HTTP/1.0 "));
        let status = version.and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        let status = status.unwrap_or_else(|| panic!("{first:?} is no status line"));
        Self { status, headers, body: bytes[end + 4..].to_vec() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn parse<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("status {}: {error}: {}", self.status, String::from_utf8_lossy(&self.body))
        })
    }
}

/// Bytes are answered as HTTP or not at all, in a bounded size. If the first byte is odd, the others are a name, and the
/// node gets it as its own client sends it.
pub(crate) fn admin(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let node = NODE.lock();
    if first.is_multiple_of(2) {
        request(&node, &rest[..rest.len().min(MOST_INPUT)]);
    } else if let Ok(name) = str::from_utf8(&rest[..rest.len().min(MOST_NAME)])
        && !name.is_empty()
    {
        named(&node, name);
    }
}

fn request(node: &QuietNode, bytes: &[u8]) {
    let answer = node.answer(bytes);
    // The answer to HEAD has the length of a body, and none.
    if let Some(length) = answer.header("content-length")
        && !answer.body.is_empty()
    {
        assert_eq!(length, answer.body.len().to_string());
    }
    if answer.header("content-type") == Some("application/json") && !answer.body.is_empty() {
        answer.parse::<serde_json::Value>();
    }
}

fn named(node: &QuietNode, name: &str) {
    let segment = path_segment(name);
    let ask = |method: &str, path: &str| node.answer(format!("{method} {path} HTTP/1.1\r\n\r\n").as_bytes());
    let explained = ask("GET", &format!("/explain/{segment}"));
    match explained.status {
        200 => drop(explained.parse::<Explanation>()),
        _ => assert_reason(&explained),
    }
    for verb in ["pause", "resume", "run"] {
        // No tick runs here, so that no phase can change.
        assert_reason(&ask("POST", &format!("/phases/{segment}/{verb}")));
    }
    for key in ["peer", "phase", "what"] {
        let found = ask("GET", &format!("/journal?{key}={segment}"));
        match found.status {
            200 => drop(found.parse::<JournalPage>()),
            _ => assert_reason(&found),
        }
    }
}

fn assert_reason(answer: &Answer) {
    let ErrorBody { error } = answer.parse();
    assert!(answer.status >= 400 && !error.is_empty(), "{} {error:?}", answer.status);
    assert!(!error.contains("there is nothing at this path"), "a name leads to no route");
}
