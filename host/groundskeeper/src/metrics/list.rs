//! The list of all metrics: name, kind, unit, labels, meaning. Holds no values.

use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

/// One metric, without the prefix `groundskeeper_` and the suffixes for unit and kind.
pub(super) struct MetricSpec {
    pub name: &'static str,
    pub kind: MetricType,
    pub seconds: bool,
    /// Label names. Their values come from closed sets: states, causes, results, and the names of configured phases.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

impl MetricSpec {
    pub fn unit(&self) -> Option<&'static Unit> {
        self.seconds.then_some(&Unit::Seconds)
    }

    /// The name used in queries.
    #[cfg(test)]
    pub fn full_name(&self) -> String {
        let unit = if self.seconds { "_seconds" } else { "" };
        let suffix = match self.kind {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            _ => "",
        };
        format!("groundskeeper_{}{unit}{suffix}", self.name)
    }
}

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal $(in $seconds:ident)? by [$($label:literal),*]: $help:literal;)*) => {
        $(pub(super) const $constant: MetricSpec = MetricSpec {
            name: $name,
            kind: MetricType::$kind,
            seconds: false $(|| metrics!(@ $seconds))?,
            labels: &[$($label),*],
            help: $help,
        };)*

        #[cfg(test)]
        pub(super) const ALL: &[MetricSpec] = &[$($constant),*];
    };
    (@ seconds) => { true };
}

metrics! {
    BUILD = Info "build" by ["version"]: "The version that runs";
    UPTIME = Gauge "uptime" in seconds by []: "Time since the node started";
    TICKS = Counter "ticks" by []: "Ticks that ended";
    TICKS_SKIPPED = Counter "ticks_skipped" by []: "Grid points without a tick";
    TICKS_LATE = Counter "ticks_late" by []: "Ticks after skipped grid points or a suspend";
    URGENT_BEATS = Counter "urgent_beats" by []: "Beats between ticks, while no peer was connected";
    TICK = Gauge "tick" by []: "Number of the last tick that has begun";
    INTERVAL = Gauge "tick_interval" in seconds by []: "Time from one tick to the next";
    TICK_LATENESS = Histogram "tick_lateness" in seconds by []: "How long after its grid point a tick began";
    TICK_DURATION = Histogram "tick_duration" in seconds by []: "How long a beat took, all phases together";
    PHASE_RUNS = Counter "phase_runs" by ["phase", "result"]: "Runs by result: ok, failed, rule, panicked, trapped, cut, overran, shortage";
    PHASE_DURATION = Histogram "phase_duration" in seconds by ["phase"]: "How long one run took";
    PHASE_FUEL = Counter "phase_fuel" by ["phase"]: "Fuel used by all runs, where it is measured";
    PHASE_STATE = Gauge "phase_state" by ["phase", "state"]: "1 for the state a phase is in: active, probation, tripped, stuck, quarantined, compiling, pending, rejected, paused, off";
    PHASE_FILES_UNUSED = Gauge "phase_files_unused" by ["state"]: "Files of the drop-in folder that do not run: rejected, pending. Only the first 16 have series of their own in phase_state";
    PHASE_MISSED = Counter "phase_missed" by ["phase"]: "Due runs that did not happen";
    PHASE_PUT_OFF = Counter "phase_put_off" by ["phase"]: "Due runs of guests that waited for the next tick because the budget was used up";
    PHASE_SKIPPED = Counter "phase_skipped" by ["phase"]: "Due runs that the machine could not carry out, for want of memory, threads or descriptors";
    PHASE_LOG_DROPPED = Counter "phase_log_dropped" by ["phase"]: "Log lines dropped because all guests together wrote more than guests.log_bytes_per_tick";
    PHASE_REFUSED = Counter "phase_refused" by ["phase", "grant"]: "Asks that were refused, by the grant they need";
    PHASE_MEMORY = Gauge "phase_memory_peak_bytes" by ["phase"]: "The most linear memory that a run had, where it is measured";
    PHASE_FAILURES_IN_ROW = Gauge "phase_failures_in_row" by ["phase"]: "Failures since the last run that ended well";
    PHASE_LAST_SUCCESS = Gauge "phase_last_success_timestamp" in seconds by ["phase"]: "When a run last ended well, in seconds since 1970; absent before the first";
    PHASE_METRIC = Gauge "phase_metric" by ["phase", "name", "mode"]: "What a phase last set by metrics.set; at most 16 names a phase";
    PHASE_METRIC_ADDED = Counter "phase_metric_added" by ["phase", "name", "mode"]: "What a phase has added by metrics.add; at most 16 names a phase";
    RELOADS = Counter "reloads" by ["result"]: "Changes of dropped-in phases: applied, removed, rejected, pending, compiling, returned, proven";
    RELOAD_SUCCESSFUL = Gauge "config_last_reload_successful" by []: "1 if the running phases match the drop-in folder, else 0";
    RELOAD_SUCCESS = Gauge "config_last_reload_success_timestamp" in seconds by []: "When a change last made the running phases match the drop-in folder, in seconds since 1970; 0 if none did";
    GENERATIONS = Gauge "phase_generations" by []: "Generations of dropped-in phases in memory: those that run, and those that could return";
    LIBRARIES = Gauge "phase_libraries" by []: "Shared libraries of native phases loaded; none is ever unloaded";
    RELOAD_LOOKS = Counter "reload_looks" by []: "Scans of the drop-in folder";
    RELOAD_DIGESTS = Counter "reload_digests" by []: "Modules read and hashed";
    DISK_TROUBLE = Gauge "disk_trouble" in seconds by ["user"]: "How long a file operation has not returned or saves have failed, for state, phases, config, journal; 0 if the disk works";
    SAVES = Counter "saves" by ["result"]: "Writes of state files: saved, failed, abandoned (did not return in time)";
    POOL_CONNECTIONS = Gauge "pool_connections" by ["state"]: "Connections by state: live, handshaking, closing";
    POOL_DIRECTION = Gauge "pool_live_connections" by ["direction"]: "Live connections by who opened them: inbound, outbound";
    POOL_HEALTHY = Gauge "pool_healthy_connections" by []: "Live connections with health above the node's threshold";
    POOL_STALE = Gauge "pool_stale_connections" by []: "Live connections that have been silent for too long";
    POOL_CAPACITY = Gauge "pool_capacity" by []: "Connections that the pool has room for";
    POOL_ABORTED = Counter "pool_aborted" by []: "Closing connections aborted because their owner did not close them in time";
    BANS = Gauge "bans" by []: "Bans in force";
    DISCONNECTS = Counter "disconnects" by ["cause"]: "Live connections that ended, by cause";
    DIALS = Counter "dials" by ["kind", "result"]: "Dials and probes that ended, by result: connected, failed, refused, void";
    BOOK_ADDRESSES = Gauge "book_addresses" by []: "Addresses known";
    BOOK_DIALING = Gauge "book_dialing" by []: "Dials under way";
    NEWCOMERS_REFUSED = Counter "newcomers_refused" by ["reason"]: "Incoming connections that did not become live, by reason: limit, timed-out, garbage, key, other-network, hello, closed, denied, shortage (of descriptors or memory)";
    KEY_CONFLICTS = Counter "key_conflicts" by []: "Signs that another process runs with this node's key: it has proven the key to this node, or peers say so";
    QUEUED = Gauge "send_queue_bytes" by []: "Bytes that wait to be sent, over all connections";
    QUEUE_BUDGET = Gauge "send_queue_budget_bytes" by []: "Bytes that may wait to be sent, over all connections";
    RECEIVING = Gauge "receive_bytes" by []: "Bytes of large frames that are being received or handled, over all connections";
    RECEIVE_BUDGET = Gauge "receive_budget_bytes" by []: "Bytes of large frames that may be received or handled at once, over all connections";
    RECEIVE_PAUSES = Counter "receive_pauses" by []: "How often a connection was not read because there was no room for its frame";
    RECEIVE_GIVEN_UP = Counter "receive_given_up" by []: "Connections ended because of an unfinished frame: it came too slowly, held room that others waited for, or found no room";
    FRAMES = Counter "frames" by ["priority", "fate"]: "Frames by priority and outcome: sent, full (its connection's queue), refused (by the budget), shed (when memory was short)";
    FRAMES_EXPIRED = Counter "frames_expired" by []: "Frames dropped because they had expired before they could be sent";
    REQUESTS_OPEN = Gauge "requests_open" by []: "Requests of this node that wait for an answer";
    REQUESTS = Counter "requests" by ["kind", "result"]: "Attempts at requests by kind, at most 65, and by result: answered, failed, busy, timed-out, refused (by a breaker), lost, dropped";
    REQUEST_LATENCY = Gauge "request_latency" in seconds by ["kind", "quantile"]: "How long answers took in the last one to two minutes, right to 6 %; absent if there were none";
    REQUEST_TIMEOUT = Gauge "request_timeout" in seconds by ["kind"]: "The time-out in force for a peer that has not answered this kind yet; others have their own, by their own times";
    REQUEST_SLOT_WAIT = Gauge "request_slot_wait" in seconds by ["quantile"]: "How long requests of peers waited for a worker in the last one to two minutes; absent if none did";
    FRAME_WAIT = Gauge "frame_wait" in seconds by ["priority", "quantile"]: "How long frames waited, at most, for a connection that took no more, in the last one to two minutes; absent if none did";
    REQUESTS_RETRIED = Counter "requests_retried" by []: "Second and further attempts at requests";
    REQUESTS_HEDGED = Counter "requests_hedged" by []: "Second attempts sent because the first one took long";
    ANSWERS_BAD = Counter "answers_bad" by []: "Answers that were too large or given twice";
    DELIVERIES_DROPPED = Counter "deliveries_dropped" by ["limit"]: "Broadcasts and one-way messages of peers that were dropped, by limit: number, time";
    BREAKERS = Gauge "breakers" by ["state"]: "Circuit breakers of connected peers that are not closed: open, half-open";
    BREAKERS_OPENED = Counter "breakers_opened" by []: "Circuit breakers that have opened";
    BROADCASTS_HELD = Gauge "broadcasts_held" by []: "Broadcasts remembered";
    JOURNAL_RECORDS = Gauge "journal_records" by ["ring"]: "Records in memory: notable (rooms disconnects, dials, refusals, changes), chatter (phases, others)";
    JOURNAL_OVERWRITTEN = Counter "journal_overwritten" by ["room"]: "Records dropped from memory for newer ones, by room: disconnects, dials, refusals, changes, phases, others";
    JOURNAL_LINES_LOST = Counter "journal_lines_lost" by []: "Lines that could not be written to the journal's file";
    LOCK_CONTENDED = Counter "lock_contended" by ["lock"]: "Times that a lock was held by another user: pool, book, journal";
    LOCK_WAIT = Counter "lock_wait" in seconds by ["lock"]: "Time that users waited for a lock, all together";
    LOCK_WAIT_LONGEST = Gauge "lock_wait_longest" in seconds by ["lock"]: "The longest wait for a lock since the start";
    LOCAL_API_REFUSED = Counter "local_api_refused" by ["listener", "reason"]: "Clients of the admin socket and of the telemetry listener that got no answer, by reason: busy (their share of places was taken), slow (no request in time, or an answer that was not read), shortage (of descriptors)";
    CLOCK_JUMPS = Counter "clock_jumps" by ["kind"]: "Jumps of the clocks: suspend, wall-forward, wall-back";
}
