//! Encodes and decodes the runs of one beat: phases, inputs and outcomes. What has not changed since the previous beat
//! is not written again.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use groundskeeper_engine::beat::{AppliedPlan, AskOutcome, RecordedOutcome, RecordedRun, RunInfo};
use groundskeeper_engine::{Changes, FailureKind, GuestLimit};
use groundskeeper_sdk::host::{Ask, AskField, AskFieldMut, Metric, MetricChange, Saved, Test};
use groundskeeper_sdk::phase::Tick;

use super::bytes::{ByteReader, CorruptBytes, put, put_bytes, put_rows, put_text, unzigzag, zigzag};

/// What both writer and reader know from the beats since the last one in full.
#[derive(Default)]
pub(super) struct CodecState {
    /// A run refers to its phase by the index in this list.
    phases: Vec<Arc<RunInfo>>,
    /// The memory that the next run of each phase should find, by name.
    memories: BTreeMap<String, Option<Saved>>,
}

impl CodecState {
    fn place_of(&self, phase: &Arc<RunInfo>) -> Option<usize> {
        self.phases.iter().rposition(|known| Arc::ptr_eq(known, phase) || known == phase)
    }

    /// Notes the memory for the next run: a plan's new memory, or the memory that this run had.
    fn note(&mut self, run: &RecordedRun) {
        let stored = match &run.outcome {
            RecordedOutcome::Planned(AppliedPlan { memory: Some(memory), .. }) => Some(memory.clone()),
            RecordedOutcome::Planned(_) | RecordedOutcome::Failed { .. } => run.memory.clone(),
        };
        self.memories.insert(run.phase.name.clone(), stored);
    }

    pub fn put(&mut self, out: &mut Vec<u8>, runs: &[RecordedRun], after: &Arc<Changes>) {
        let known = self.phases.len();
        for run in runs {
            if self.place_of(&run.phase).is_none() {
                self.phases.push(Arc::clone(&run.phase));
            }
        }
        put(out, (self.phases.len() - known) as u64);
        self.phases[known..].iter().for_each(|phase| put_phase(out, phase));
        put(out, runs.len() as u64);
        let mut last = &Arc::default();
        for run in runs {
            let place = self.place_of(&run.phase).expect("unknown phases were added above");
            put(out, place as u64);
            put_tick(out, &run.tick);
            let expected = self.memories.get(&run.phase.name);
            match (&run.memory, expected == Some(&run.memory)) {
                (_, true) => out.push(MEMORY_AS_KNOWN),
                (memory, false) => put_memory(out, memory.as_ref()),
            }
            put_changes(out, last, &run.before);
            last = &run.before;
            put(out, run.took_us);
            put(out, run.fuel.map_or(0, |fuel| fuel.saturating_add(1)));
            put_came(out, &run.outcome);
            self.note(run);
        }
        put_changes(out, last, after);
    }

    pub fn take(
        &mut self,
        bytes: &mut ByteReader<'_>,
    ) -> Result<(Vec<RecordedRun>, Arc<Changes>), CorruptBytes> {
        for _ in 0..bytes.count()? {
            self.phases.push(Arc::new(take_phase(bytes)?));
        }
        let count = bytes.count()?;
        let mut runs: Vec<RecordedRun> = Vec::new();
        let mut last = Arc::default();
        for _ in 0..count {
            let place = bytes.number()? as usize;
            let phase =
                self.phases.get(place).ok_or(CorruptBytes("a run is of a phase that was not named"))?;
            let phase = Arc::clone(phase);
            let tick = take_tick(bytes)?;
            let memory = match bytes.byte()? {
                MEMORY_AS_KNOWN => {
                    let known = self.memories.get(&phase.name);
                    known.cloned().ok_or(CorruptBytes("a run has a memory that was not written"))?
                }
                kind => take_memory(bytes, kind)?,
            };
            let before = take_changes(bytes, &last)?;
            last = Arc::clone(&before);
            let took_us = bytes.number()?;
            let fuel = bytes.number()?.checked_sub(1);
            let came = take_came(bytes)?;
            let run = RecordedRun { phase, tick, memory, before, took_us, fuel, outcome: came };
            self.note(&run);
            runs.push(run);
        }
        let after = take_changes(bytes, &last)?;
        Ok((runs, after))
    }
}

fn put_phase(out: &mut Vec<u8>, phase: &RunInfo) {
    let RunInfo { name, version, kind, place, digest, settings } = phase;
    put_text(out, name);
    put_text(out, version);
    put_text(out, kind);
    put(out, (*place).into());
    out.push(digest.is_some().into());
    out.extend(digest.iter().flatten());
    out.push(settings.is_some().into());
    if let Some(settings) = settings {
        put_text(out, settings);
    }
}

fn take_phase(bytes: &mut ByteReader<'_>) -> Result<RunInfo, CorruptBytes> {
    Ok(RunInfo {
        name: bytes.text()?.to_owned(),
        version: bytes.text()?.to_owned(),
        kind: bytes.text()?.to_owned(),
        place: bytes.small()?,
        digest: if bytes.flag()? { Some(bytes.array()?) } else { None },
        settings: if bytes.flag()? { Some(bytes.text()?.to_owned()) } else { None },
    })
}

fn put_tick(out: &mut Vec<u8>, tick: &Tick) {
    let Tick { number, since_last_s, missed, late, unix_s, seed } = *tick;
    put(out, number.into());
    put(out, since_last_s.map_or(0, |s| u64::from(s) + 1));
    put(out, missed.into());
    out.push(late.into());
    put(out, unix_s.into());
    // Random bits do not compress.
    seed.iter().for_each(|half| out.extend(half.to_le_bytes()));
}

fn take_tick(bytes: &mut ByteReader<'_>) -> Result<Tick, CorruptBytes> {
    let number = bytes.small()?;
    let since_last_s = bytes.number()?.checked_sub(1);
    let since_last_s =
        since_last_s.map(u32::try_from).transpose().map_err(|_| CorruptBytes("a time is too long"))?;
    Ok(Tick {
        number,
        since_last_s,
        missed: bytes.small()?,
        late: bytes.flag()?,
        unix_s: bytes.small()?,
        seed: [u32::from_le_bytes(bytes.array()?), u32::from_le_bytes(bytes.array()?)],
    })
}

const MEMORY_AS_KNOWN: u8 = 0;
const MEMORY_NONE: u8 = 1;
const MEMORY_SAVED: u8 = 2;

fn put_memory(out: &mut Vec<u8>, memory: Option<&Saved>) {
    match memory {
        None => out.push(MEMORY_NONE),
        Some(Saved { version, bytes }) => {
            out.push(MEMORY_SAVED);
            put(out, (*version).into());
            put_bytes(out, bytes);
        }
    }
}

fn take_memory(bytes: &mut ByteReader<'_>, kind: u8) -> Result<Option<Saved>, CorruptBytes> {
    match kind {
        MEMORY_NONE => Ok(None),
        MEMORY_SAVED => Ok(Some(Saved { version: bytes.small()?, bytes: bytes.bytes()?.to_vec() })),
        _ => Err(CorruptBytes("a memory is written in a way that is not known")),
    }
}

fn put_changes(out: &mut Vec<u8>, last: &Arc<Changes>, now: &Arc<Changes>) {
    let same = last == now;
    out.push(same.into());
    if same {
        return;
    }
    let Changes { closed, health, protected, dialed } = &**now;
    for rows in [closed, protected, dialed] {
        put_rows(out, rows.iter().copied());
    }
    put_rows(out, health.keys().copied());
    out.extend(health.values());
}

fn take_changes(bytes: &mut ByteReader<'_>, last: &Arc<Changes>) -> Result<Arc<Changes>, CorruptBytes> {
    if bytes.flag()? {
        return Ok(Arc::clone(last));
    }
    let mut ascending = || {
        let rows = bytes.rows()?;
        let ascends = rows.is_sorted_by(|one, next| one < next);
        if ascends { Ok(rows) } else { Err(CorruptBytes("changed rows do not ascend")) }
    };
    let (closed, protected, dialed) = (ascending()?, ascending()?, ascending()?);
    let rows = ascending()?;
    let values = bytes.exactly(rows.len())?;
    Ok(Arc::new(Changes {
        closed: closed.into_iter().collect(),
        health: rows.into_iter().zip(values.iter().copied()).collect(),
        protected: protected.into_iter().collect(),
        dialed: dialed.into_iter().collect(),
    }))
}

const PLANNED: u8 = 0;

/// Only append: the index plus 1 is the number in the file.
const FAILURES: [FailureKind; 11] = [
    FailureKind::Transient,
    FailureKind::Permanent,
    FailureKind::Rule,
    FailureKind::Panicked,
    FailureKind::Trapped,
    FailureKind::Overran,
    FailureKind::Cut(GuestLimit::Fuel),
    FailureKind::Cut(GuestLimit::Wall),
    FailureKind::Cut(GuestLimit::Memory),
    FailureKind::Cut(GuestLimit::Stack),
    FailureKind::Shortage,
];

fn put_came(out: &mut Vec<u8>, came: &RecordedOutcome) {
    let AppliedPlan { asks, memory, metrics, ask_outcomes: fates } = match came {
        RecordedOutcome::Planned(planned) => planned,
        RecordedOutcome::Failed { how, text } => {
            let place =
                FAILURES.iter().position(|known| known == how).expect("a test goes through all of them");
            out.push(place as u8 + 1);
            put_text(out, text);
            return;
        }
    };
    out.push(PLANNED);
    put(out, asks.len() as u64);
    asks.iter().for_each(|ask| put_ask(out, ask));
    let all_applied = fates.len() == asks.len() && fates.iter().all(|fate| *fate == AskOutcome::Applied);
    out.push(all_applied.into());
    if !all_applied {
        put(out, fates.len() as u64);
        out.extend(fates.iter().map(fate_number));
        for fate in fates {
            if let AskOutcome::Partial { granted } = fate {
                put(out, (*granted).into());
            }
        }
    }
    put_memory(out, memory.as_ref());
    put(out, metrics.len() as u64);
    for Metric { name, change } in metrics {
        put_text(out, name);
        match change {
            MetricChange::Add(by) => {
                out.push(0);
                put(out, (*by).into());
            }
            MetricChange::Set(value) => {
                out.push(1);
                out.extend(value.to_bits().to_le_bytes());
            }
        }
    }
}

/// Only append: these are the numbers in the file.
fn fate_number(fate: &AskOutcome) -> u8 {
    match fate {
        AskOutcome::Applied => 0,
        AskOutcome::Void => 1,
        AskOutcome::Refused => 2,
        AskOutcome::Shadow => 3,
        AskOutcome::Partial { .. } => 4,
    }
}

/// The outcome with this number; its data is read from `bytes`.
fn take_fate(bytes: &mut ByteReader<'_>, number: u8) -> Result<AskOutcome, CorruptBytes> {
    Ok(match number {
        0 => AskOutcome::Applied,
        1 => AskOutcome::Void,
        2 => AskOutcome::Refused,
        3 => AskOutcome::Shadow,
        4 => AskOutcome::Partial { granted: bytes.small()? },
        _ => return Err(CorruptBytes("the outcome of an ask is not known")),
    })
}

fn take_came(bytes: &mut ByteReader<'_>) -> Result<RecordedOutcome, CorruptBytes> {
    let kind = bytes.byte()?;
    if kind != PLANNED {
        let how = FAILURES.get(usize::from(kind) - 1);
        let how = *how.ok_or(CorruptBytes("a run ended in a way that is not known"))?;
        return Ok(RecordedOutcome::Failed { how, text: bytes.text()?.to_owned() });
    }
    let asks = (0..bytes.count()?).map(|_| take_ask(bytes)).collect::<Result<Vec<_>, _>>()?;
    let fates = if bytes.flag()? {
        vec![AskOutcome::Applied; asks.len()]
    } else {
        let numbers = bytes.bytes()?;
        numbers.iter().map(|number| take_fate(bytes, *number)).collect::<Result<_, _>>()?
    };
    let kind = bytes.byte()?;
    let memory = take_memory(bytes, kind)?;
    let metrics = (0..bytes.count()?).map(|_| take_metric(bytes)).collect::<Result<_, _>>()?;
    Ok(RecordedOutcome::Planned(AppliedPlan { asks, memory, metrics, ask_outcomes: fates }))
}

fn take_metric(bytes: &mut ByteReader<'_>) -> Result<Metric, CorruptBytes> {
    let name = bytes.text()?.to_owned();
    let change = match bytes.byte()? {
        0 => MetricChange::Add(bytes.small()?),
        1 => MetricChange::Set(f64::from_bits(u64::from_le_bytes(bytes.array()?))),
        _ => return Err(CorruptBytes("a metric changes in a way that is not known")),
    };
    Ok(Metric { name, change })
}

/// Writes the ask's number, its index in `KINDS`, and then its fields in their order in the contract.
fn put_ask(out: &mut Vec<u8>, ask: &Ask) {
    out.push(ask.number() as u8);
    ask.fields().for_each(|field| match field {
        AskField::Peer(&number)
        | AskField::Address(&number)
        | AskField::Lasting(&number)
        | AskField::Age(&number)
        | AskField::Ticks(&number) => put(out, number.into()),
        AskField::Peers(rows) => put_rows(out, rows.iter().copied()),
        AskField::Tests(tests) => {
            put(out, tests.len() as u64);
            for Test { column, at_least, at_most } in tests {
                put_text(out, column);
                put(out, (*at_least).into());
                put(out, (*at_most).into());
            }
        }
        AskField::Points(&by) => put(out, zigzag(by).into()),
        AskField::Reason(reason) => put_text(out, reason),
    });
}

fn take_ask(bytes: &mut ByteReader<'_>) -> Result<Ask, CorruptBytes> {
    let mut ask = Ask::empty(bytes.byte()?.into()).ok_or(CorruptBytes("the kind of an ask is not known"))?;
    for field in ask.fields_mut() {
        match field {
            AskFieldMut::Peer(number)
            | AskFieldMut::Address(number)
            | AskFieldMut::Lasting(number)
            | AskFieldMut::Age(number)
            | AskFieldMut::Ticks(number) => *number = bytes.small()?,
            AskFieldMut::Peers(rows) => *rows = bytes.rows()?,
            AskFieldMut::Tests(tests) => {
                *tests = (0..bytes.count()?).map(|_| take_test(bytes)).collect::<Result<_, _>>()?;
            }
            AskFieldMut::Points(by) => *by = unzigzag(bytes.small()?),
            AskFieldMut::Reason(reason) => *reason = bytes.text()?.to_owned(),
        }
    }
    Ok(ask)
}

fn take_test(bytes: &mut ByteReader<'_>) -> Result<Test, CorruptBytes> {
    let column = Cow::Owned(bytes.text()?.to_owned());
    Ok(Test { column, at_least: bytes.small()?, at_most: bytes.small()? })
}

#[cfg(test)]
mod tests {
    use groundskeeper_sdk::contract::KINDS;

    use super::*;

    /// One of each kind, in the order of `KINDS`.
    fn asks() -> Vec<Ask> {
        let reason = || "why".to_owned();
        vec![
            Ask::Disconnect { peer: 1, reason: reason() },
            Ask::DisconnectIfSilent { peer: 2, reason: reason() },
            Ask::Health { peer: 3, by: i32::MIN, reason: reason() },
            Ask::Ping { peers: vec![4, 2, u32::MAX] },
            Ask::PingMatching {
                tests: vec![Test { column: "idle-s".into(), at_least: 25, at_most: u32::MAX }],
            },
            Ask::Dial { address: 5, reason: reason() },
            Ask::Probe { address: 6 },
            Ask::Protect { peer: 7, for_s: 60, reason: reason() },
            Ask::Ban { peer: 8, for_s: u32::MAX, reason: reason() },
            Ask::ForgetBroadcasts { older_than_s: 9 },
            Ask::ForgetAddresses { not_heard_for_s: 10 },
            Ask::AgainIn { ticks: 11 },
        ]
    }

    /// Old recordings must stay readable, so these bytes must not change.
    #[test]
    fn asks_are_written_as_ever() {
        let mut out = Vec::new();
        asks().iter().for_each(|ask| put_ask(&mut out, ask));
        let expected = "0001037768790102037768790203ffffffff0f03776879030308030504010669646c652d7319ffffffff0f\
                        050503776879060607073c037768790808ffffffff0f0377687909090a0a0b0b";
        assert_eq!(data_encoding::HEXLOWER.encode(&out), expected);
    }

    #[test]
    fn every_kind_of_ask_and_of_failure_comes_back() {
        assert!(asks().iter().map(Ask::kind).eq(KINDS.iter().map(|kind| kind.name)));
        for ask in asks() {
            let mut out = Vec::new();
            put_ask(&mut out, &ask);
            let mut bytes = ByteReader(&out);
            assert_eq!((take_ask(&mut bytes), bytes.left()), (Ok(ask), 0));
        }
        for how in FAILURES {
            let (mut out, came) = (Vec::new(), RecordedOutcome::Failed { how, text: "why".into() });
            put_came(&mut out, &came);
            assert_eq!(take_came(&mut ByteReader(&out)), Ok(came));
        }
    }
}
