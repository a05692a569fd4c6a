//! Encodes tables as the difference from the previous beat: removed and new rows, and for each column the values that
//! could not be predicted. Exact for any tables; small for those of a real node.
//!
//! A row is recognized by its identity: the number of a connection, or the address of a book entry. If the row existed
//! before, a column's rule predicts its value from the previous one. A correct prediction is written as a zero, and
//! zeros compress to almost nothing.

use std::hash::Hash;

use groundskeeper_sdk::column::{AddressColumn, MOST, PeerColumn, UNKNOWN};
use hashbrown::HashMap;

use super::bytes::{ByteReader, CorruptBytes, put, unzigzag, zigzag};

/// Twice the maximum of a pool or a book. Tables with more rows are neither written nor read.
pub(super) const MOST_ROWS: usize = 1 << 21;

/// How a row's value is predicted from its previous one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Prediction {
    Same = 0,
    /// Grows with monotonic time, in seconds.
    GrowsMono = 1,
    /// Grows with wall time, in seconds.
    GrowsUnix = 2,
    /// Falls with monotonic time, to 0.
    FallsMono = 3,
}

/// What is written if the prediction is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MissEncoding {
    /// The distance from the prediction: for values that change a little.
    Distance = 0,
    /// The value itself: for values that restart, as a silence does when the peer speaks.
    Value = 1,
}

/// How one column is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rule {
    pub prediction: Prediction,
    pub missed: MissEncoding,
}

impl Rule {
    const USUAL: Self = Self { prediction: Prediction::Same, missed: MissEncoding::Distance };

    /// The best rule for a column of the peers. Any rule is exact for any column.
    pub fn of_peers(column: PeerColumn) -> Self {
        use PeerColumn::*;
        match column {
            Idle => Self { prediction: Prediction::GrowsMono, missed: MissEncoding::Value },
            Age => Self { prediction: Prediction::GrowsMono, missed: MissEncoding::Distance },
            Conn | Health | Rtt | PingsLost | KibIn | KibOut | KibQueued | Group | Inbound | Protected => {
                Self::USUAL
            }
        }
    }

    /// The best rule for a column of the address book.
    pub fn of_book(column: AddressColumn) -> Self {
        use AddressColumn::*;
        match column {
            Heard | Reached => Self { prediction: Prediction::GrowsUnix, missed: MissEncoding::Value },
            Wait => Self { prediction: Prediction::FallsMono, missed: MissEncoding::Value },
            Failures | Group => Self::USUAL,
        }
    }

    pub fn to_byte(self) -> u8 {
        self.prediction as u8 | (self.missed as u8) << 4
    }

    pub fn from_byte(byte: u8) -> Result<Self, CorruptBytes> {
        const FORETELL: [Prediction; 4] =
            [Prediction::Same, Prediction::GrowsMono, Prediction::GrowsUnix, Prediction::FallsMono];
        const MISSED: [MissEncoding; 2] = [MissEncoding::Distance, MissEncoding::Value];
        let rule = FORETELL.get(usize::from(byte & 0xf)).zip(MISSED.get(usize::from(byte >> 4)));
        let (&foretell, &missed) = rule.ok_or(CorruptBytes("a column has a rule that is not known"))?;
        Ok(Self { prediction: foretell, missed })
    }

    fn foretold(self, before: u32, elapsed: Elapsed) -> u32 {
        let grown = |by: u32| if before == UNKNOWN { UNKNOWN } else { before.saturating_add(by).min(MOST) };
        match self.prediction {
            Prediction::Same => before,
            Prediction::GrowsMono => grown(elapsed.mono_s),
            Prediction::GrowsUnix => grown(elapsed.unix_s),
            Prediction::FallsMono if before == UNKNOWN => UNKNOWN,
            Prediction::FallsMono => before.saturating_sub(elapsed.mono_s),
        }
    }

    /// 0 if the prediction is correct.
    fn code(self, foretold: u32, value: u32) -> u64 {
        let distance = zigzag(value.wrapping_sub(foretold) as i32);
        match self.missed {
            MissEncoding::Distance => distance.into(),
            // Rounding to whole seconds is off by one; this distance carries less information than the value.
            MissEncoding::Value if distance < NEAR => distance.into(),
            MissEncoding::Value => u64::from(value) + u64::from(NEAR),
        }
    }

    fn value(self, foretold: u32, code: u64) -> Result<u32, CorruptBytes> {
        let wrong = |_| CorruptBytes("a value is too large");
        let at_distance = |code: u32| foretold.wrapping_add(unzigzag(code) as u32);
        match self.missed {
            MissEncoding::Distance => Ok(at_distance(code.try_into().map_err(wrong)?)),
            MissEncoding::Value if code < NEAR.into() => Ok(at_distance(code as u32)),
            MissEncoding::Value => (code - u64::from(NEAR)).try_into().map_err(wrong),
        }
    }
}

/// Codes below this are distances of 0, -1 and 1.
const NEAR: u32 = 3;

/// Time between two recorded beats.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Elapsed {
    pub mono_s: u32,
    pub unix_s: u32,
}

/// Index of each row in the previous beat's table; [`NEW`] if it was not there.
pub(super) type RowSources = Vec<u32>;

pub(super) const NEW: u32 = u32::MAX;

/// Rows that follow each other in both beats, with the removed rows before them and the new rows after them.
#[derive(Default)]
struct RowSpan {
    went: u64,
    stayed: u64,
    came: usize,
}

/// Writes which rows of `before` are still in `now`, and the identities of the new ones.
///
/// A row that changes its place in the order is written as removed and new. O(rows); builds an index of the rows only
/// if they changed.
pub(super) fn put_rows<I: Copy + Eq + Hash>(
    out: &mut Vec<u8>,
    before: &[I],
    now: &[I],
    put_identity: impl Fn(&mut Vec<u8>, I),
) -> RowSources {
    put(out, now.len() as u64);
    let mut sources = Vec::with_capacity(now.len());
    let mut index: Option<HashMap<I, usize>> = None;
    let mut next = 0;
    let mut step = RowSpan::default();
    let mut write = |step: &mut RowSpan, row: usize| {
        put(out, step.went);
        put(out, step.stayed);
        put(out, step.came as u64);
        now[row - step.came..row].iter().for_each(|identity| put_identity(out, *identity));
        *step = RowSpan::default();
    };
    for (row, identity) in now.iter().enumerate() {
        let found = if before.get(next) == Some(identity) {
            Some(next)
        } else {
            let index = index.get_or_insert_with(|| {
                before.iter().enumerate().map(|(at, identity)| (*identity, at)).collect()
            });
            index.get(identity).copied().filter(|at| *at >= next)
        };
        match found {
            Some(at) => {
                if step.came > 0 || at > next && step.stayed > 0 {
                    write(&mut step, row);
                }
                step.went += (at - next) as u64;
                step.stayed += 1;
                sources.push(at as u32);
                next = at + 1;
            }
            None => {
                step.came += 1;
                sources.push(NEW);
            }
        }
    }
    if !now.is_empty() {
        write(&mut step, now.len());
    }
    sources
}

/// Reads what [`put_rows`] wrote.
pub(super) fn take_rows<'b, I: Copy>(
    bytes: &mut ByteReader<'b>,
    before: &[I],
    take_identity: impl Fn(&mut ByteReader<'b>) -> Result<I, CorruptBytes>,
) -> Result<(Vec<I>, RowSources), CorruptBytes> {
    let count = bytes.number()?;
    // A new row takes at least one byte.
    if count > (before.len() + bytes.left()).min(MOST_ROWS) as u64 {
        return Err(CorruptBytes("there are more rows than there can be"));
    }
    let count = count as usize;
    let (mut rows, mut sources) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let mut next = 0_usize;
    while rows.len() < count {
        let went = bytes.number()?;
        let stayed = bytes.number()?;
        let came = bytes.number()?;
        let left = (count - rows.len()) as u64;
        if stayed > left || came > left - stayed || stayed + came == 0 {
            return Err(CorruptBytes("the rows do not add up to their count"));
        }
        let from = usize::try_from(went).ok().and_then(|went| next.checked_add(went));
        let from = from.filter(|from| *from <= before.len());
        let from = from.ok_or(CorruptBytes("a row stays that was not there"))?;
        next = from + stayed as usize;
        rows.extend_from_slice(before.get(from..next).ok_or(CorruptBytes("a row stays that was not there"))?);
        sources.extend(from as u32..next as u32);
        for _ in 0..came {
            rows.push(take_identity(bytes)?);
            sources.push(NEW);
        }
    }
    Ok((rows, sources))
}

/// Bytes of the largest code: a value of 32 bits plus `NEAR`.
const LARGEST_CODE: usize = 5;

/// Writes one column, given where its rows were before: the width of its largest code in bytes, then the lowest byte of
/// every code, then the next byte of every code. This groups similar bytes: upper bytes are mostly zeros, lower ones
/// noise. A column that was predicted correctly takes one byte. Adds to `seams` the position where each group ends.
pub(super) fn put_column(
    out: &mut Vec<u8>,
    seams: &mut Vec<usize>,
    rule: Rule,
    elapsed: Elapsed,
    sources: &[u32],
    before: &[u32],
    now: &[u32],
) {
    let code = |(&source, &value): (&u32, &u32)| {
        let foretold = if source == NEW { 0 } else { rule.foretold(before[source as usize], elapsed) };
        rule.code(foretold, value)
    };
    let codes: Vec<u64> = sources.iter().zip(now).map(code).collect();
    let all = codes.iter().fold(0, |all, code| all | code);
    let width = (u64::BITS - all.leading_zeros()).div_ceil(8);
    out.push(width as u8);
    for byte in 0..width {
        out.extend(codes.iter().map(|code| (code >> (8 * byte)) as u8));
        seams.push(out.len());
    }
}

/// Reads what [`put_column`] wrote.
pub(super) fn take_column(
    bytes: &mut ByteReader<'_>,
    rule: Rule,
    elapsed: Elapsed,
    sources: &[u32],
    before: &[u32],
) -> Result<Vec<u32>, CorruptBytes> {
    let width = usize::from(bytes.byte()?);
    if width > LARGEST_CODE {
        return Err(CorruptBytes("a column is wider than it can be"));
    }
    let planes = (0..width).map(|_| bytes.exactly(sources.len())).collect::<Result<Vec<_>, _>>()?;
    let value = |(row, &source): (usize, &u32)| {
        let foretold = match source {
            NEW => 0,
            source => {
                let before = before.get(source as usize).ok_or(CorruptBytes("a column is too short"))?;
                rule.foretold(*before, elapsed)
            }
        };
        let code = planes.iter().rev().fold(0, |code, plane| code << 8 | u64::from(plane[row]));
        rule.value(foretold, code)
    };
    sources.iter().enumerate().map(value).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_come_back_whatever_comes_goes_and_moves(
            before in proptest::collection::vec(0_u32..40, 0..60), now in proptest::collection::vec(0_u32..40, 0..60),
        ) {
            let mut out = Vec::new();
            let sources = put_rows(&mut out, &before, &now, |out, id| put(out, id.into()));
            let mut bytes = ByteReader(&out);
            let (rows, again) = take_rows(&mut bytes, &before, ByteReader::small).unwrap();
            prop_assert_eq!((&rows, &again, bytes.left()), (&now, &sources, 0));
            for (row, &source) in sources.iter().enumerate() {
                prop_assert!(source == NEW || before[source as usize] == now[row]);
            }
        }

        #[test]
        fn rows_that_keep_their_order_are_known_again(
            all in proptest::collection::btree_set(0_u32..500, 0..80), gone: u64, new: u64,
        ) {
            let pick = |bits: u64| all.iter().copied().filter(move |id| bits >> (id % 64) & 1 == 0).collect::<Vec<_>>();
            let (before, now) = (pick(new), pick(gone));
            let sources = put_rows(&mut Vec::new(), &before, &now, |_, _| {});
            for (row, &source) in sources.iter().enumerate() {
                prop_assert_eq!(source == NEW, !before.contains(&now[row]));
            }
        }

        #[test]
        fn columns_come_back_under_every_rule(
            pairs in proptest::collection::vec((proptest::option::of(any::<u32>()), any::<u32>()), 0..50),
            mono_s: u32, unix_s: u32, rule in 0_u8..32,
        ) {
            let Ok(rule) = Rule::from_byte(rule) else { return Ok(()) };
            prop_assert_eq!(Rule::from_byte(rule.to_byte()), Ok(rule));
            let elapsed = Elapsed { mono_s, unix_s };
            let before: Vec<u32> = pairs.iter().filter_map(|(before, _)| *before).collect();
            let mut kept = 0..;
            let place = |before: &Option<u32>| before.map_or(NEW, |_| kept.next().unwrap());
            let sources: Vec<u32> = pairs.iter().map(|(before, _)| before).map(place).collect();
            let now: Vec<u32> = pairs.iter().map(|(_, now)| *now).collect();
            let mut out = Vec::new();
            put_column(&mut out, &mut Vec::new(), rule, elapsed, &sources, &before, &now);
            let mut bytes = ByteReader(&out);
            prop_assert_eq!(take_column(&mut bytes, rule, elapsed, &sources, &before), Ok(now));
            prop_assert_eq!(bytes.left(), 0);
        }

        #[test]
        fn any_bytes_are_rows_and_columns_or_are_refused(noise: Vec<u8>, before in 0_u32..50) {
            let before: Vec<u32> = (0..before).collect();
            let mut bytes = ByteReader(&noise);
            if let Ok((rows, sources)) = take_rows(&mut bytes, &before, ByteReader::small) {
                prop_assert!(rows.len() <= before.len() + noise.len());
                _ = take_column(&mut bytes, Rule::of_peers(PeerColumn::Idle), Elapsed::default(), &sources, &before);
            }
        }
    }

    #[test]
    fn what_only_grows_older_is_one_byte() {
        let (ids, elapsed) = ([1, 2, 3], Elapsed { mono_s: 30, unix_s: 30 });
        let mut out = Vec::new();
        let sources = put_rows(&mut out, &ids, &ids, |out, id: u32| put(out, id.into()));
        assert_eq!(out, [3, 0, 3, 0]);
        out.clear();
        put_column(
            &mut out,
            &mut Vec::new(),
            Rule::of_peers(PeerColumn::Age),
            elapsed,
            &sources,
            &[5, UNKNOWN, 0],
            &[35, UNKNOWN, 30],
        );
        put_column(
            &mut out,
            &mut Vec::new(),
            Rule::of_book(AddressColumn::Wait),
            elapsed,
            &sources,
            &[45, 0, 3],
            &[15, 0, 0],
        );
        assert_eq!(out, [0; 2]);
        put_column(
            &mut out,
            &mut Vec::new(),
            Rule::of_peers(PeerColumn::Idle),
            elapsed,
            &sources,
            &[5, 90, 0],
            &[35, 2, 31],
        );
        assert_eq!(out[2..], [1, 0, 2 + NEAR as u8, 2]);
    }
}
