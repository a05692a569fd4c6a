//! Selecting rows by their columns: the one implementation for built-ins, `.so` and guests. Changes nothing.
//!
//! Tests run block by block as plain loops over column slices, which compilers turn into vector code. A block without
//! remaining rows is skipped. So a selective query costs one pass over its columns and little else.

use std::borrow::Cow;
use std::fmt;

use crate::column::{MOST, Table, UNKNOWN};
use crate::contract::{ROWS, TESTS};
use crate::host::{Frozen, RuleBroken};

/// Keeps a row when at_least <= column <= at_most. [`UNKNOWN`] passes no test.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Test {
    /// Name of the column.
    pub column: Cow<'static, str>,
    /// Smallest value that passes.
    pub at_least: u32,
    /// Largest value that passes; [`UNKNOWN`] means there is none.
    pub at_most: u32,
}

/// As the journal shows it: `idle-s 25..=89`.
impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}..", self.column, self.at_least)?;
        if self.at_most == UNKNOWN { Ok(()) } else { write!(f, "={}", self.at_most) }
    }
}

/// Sorts rows by one column. Not known comes last in both directions; the lower row wins a tie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// Name of the column.
    pub column: Cow<'static, str>,
    /// Largest first.
    pub descending: bool,
}

/// Rows that pass every test, sorted (by row if no order), cut to `limit`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    /// At most [`TESTS`].
    pub tests: Vec<Test>,
    /// By row if `None`.
    pub sort_by: Option<Order>,
    /// 1 to [`ROWS`].
    pub limit: u32,
}

/// The rows that `query` selects. O(rows x tests), and O(passing) to sort and cut.
///
/// A broken rule unwinds; see [`try_select`].
pub fn select(view: &dyn Frozen, table: Table, query: &Query) -> Vec<u32> {
    try_select(view, table, query).unwrap_or_else(|broken| broken.unwind())
}

/// How many rows pass every test. O(rows x tests), no allocation. A broken rule unwinds; see [`try_count`].
pub fn count(view: &dyn Frozen, table: Table, tests: &[Test]) -> u32 {
    try_count(view, table, tests).unwrap_or_else(|broken| broken.unwind())
}

/// Calls `each` with every passing row, lowest first, without a limit. A broken rule unwinds; see [`try_matching`].
pub fn matching(view: &dyn Frozen, table: Table, tests: &[Test], each: &mut dyn FnMut(u32)) {
    try_matching(view, table, tests, each).unwrap_or_else(|broken| broken.unwind());
}

/// [`select`], for hosts that turn a broken rule into a trap.
///
/// # Errors
/// [`RuleBroken`] for too many tests, a limit out of range, or a column that the host does not know.
pub fn try_select(view: &dyn Frozen, table: Table, query: &Query) -> Result<Vec<u32>, RuleBroken> {
    let call = match table {
        Table::Peers => "peers.select",
        Table::Book => "book.select",
    };
    let limit = query.limit as usize;
    if query.limit == 0 || query.limit > ROWS {
        return Err(RuleBroken { call, rule: format!("limit {} is not within 1 to {ROWS}", query.limit) });
    }
    let scan = Scan::new(call, view, table, &query.tests)?;
    let Some(order) = &query.sort_by else {
        let mut rows = Vec::new();
        scan.blocks(|first, keep, hits| {
            push_kept(&mut rows, first, keep, hits);
            rows.len() < limit
        });
        rows.truncate(limit);
        return Ok(rows);
    };

    let by = column(call, view, table, &order.column)?;
    // Value in the upper half, row in the lower: one comparison sorts by value and breaks ties by row. UNKNOWN is the
    // largest value: ascending order puts it last anyway, and descending order must not mirror it.
    let mut keys: Vec<u64> = Vec::new();
    let mut rows = Vec::new();
    scan.blocks(|first, keep, hits| {
        rows.clear();
        push_kept(&mut rows, first, keep, hits);
        keys.extend(rows.iter().map(|&row| {
            let value = by[row as usize];
            let value = if order.descending && value != UNKNOWN { MOST - value } else { value };
            u64::from(value) << 32 | u64::from(row)
        }));
        true
    });
    if keys.len() > limit {
        keys.select_nth_unstable(limit - 1);
        keys.truncate(limit);
    }
    keys.sort_unstable();
    Ok(keys.into_iter().map(|key| key as u32).collect())
}

/// [`count`], for hosts that turn a broken rule into a trap.
///
/// # Errors
/// [`RuleBroken`] for too many tests or a column that the host does not know.
pub fn try_count(view: &dyn Frozen, table: Table, tests: &[Test]) -> Result<u32, RuleBroken> {
    let call = match table {
        Table::Peers => "peers.count",
        Table::Book => "book.count",
    };
    let mut sum = 0;
    Scan::new(call, view, table, tests)?.blocks(|_, _, hits| {
        sum += hits;
        true
    });
    Ok(sum)
}

/// [`matching`], for hosts that turn a broken rule into a trap.
///
/// # Errors
/// [`RuleBroken`] for too many tests or a column that the host does not know.
pub fn try_matching(
    view: &dyn Frozen,
    table: Table,
    tests: &[Test],
    each: &mut dyn FnMut(u32),
) -> Result<(), RuleBroken> {
    // Only a ping matches rows without a limit.
    let call = "ping.matching";
    let mut rows = Vec::new();
    Scan::new(call, view, table, tests)?.blocks(|first, keep, hits| {
        rows.clear();
        push_kept(&mut rows, first, keep, hits);
        rows.iter().for_each(|row| each(*row));
        true
    });
    Ok(())
}

/// A column by name, or the broken rule that it does not exist.
pub(crate) fn column<'v>(
    call: &'static str,
    view: &'v dyn Frozen,
    table: Table,
    name: &str,
) -> Result<&'v [u32], RuleBroken> {
    let values = view.column(table, name).ok_or_else(|| no_column(call, view, table, name))?;
    assert_eq!(values.len(), view.rows(table) as usize, "a host's column {name} has one value per row");
    Ok(values)
}

/// The broken rule that a column does not exist.
pub(crate) fn no_column(call: &'static str, view: &dyn Frozen, table: Table, name: &str) -> RuleBroken {
    let known = view.columns(table).join(", ");
    let shown: String = crate::host::clean(name).chars().take(40).collect();
    RuleBroken { call, rule: format!("no column {shown:?}; this host knows {known}") }
}

/// Rows per block: its marks are 2 KiB, which stay in the first-level cache next to the columns' lines.
const BLOCK: usize = 512;

/// `values[row] - least <= width`, with wrapping subtraction, checks both ends in one comparison.
struct Range<'v> {
    values: &'v [u32],
    least: u32,
    width: u32,
}

struct Scan<'v> {
    rows: usize,
    ranges: Vec<Range<'v>>,
}

impl<'v> Scan<'v> {
    fn new(
        call: &'static str,
        view: &'v dyn Frozen,
        table: Table,
        tests: &[Test],
    ) -> Result<Self, RuleBroken> {
        if tests.len() > TESTS {
            return Err(RuleBroken { call, rule: format!("{} tests are more than {TESTS}", tests.len()) });
        }
        let mut scan = Scan { rows: view.rows(table) as usize, ranges: Vec::with_capacity(tests.len()) };
        for test in tests {
            let values = column(call, view, table, &test.column)?;
            match test.at_most.min(MOST).checked_sub(test.at_least) {
                Some(width) => scan.ranges.push(Range { values, least: test.at_least, width }),
                None => scan.rows = 0,
            }
        }
        Ok(scan)
    }

    /// Calls `each(first row, marks, number of marks)` for every block with a mark, until it returns false.
    fn blocks(&self, mut each: impl FnMut(u32, &[u32], u32) -> bool) {
        let mut marks = [1u32; BLOCK];
        for first in (0..self.rows).step_by(BLOCK) {
            let end = self.rows.min(first + BLOCK);
            let marks = &mut marks[..end - first];
            let mut hits = marks.len() as u32;
            for (i, range) in self.ranges.iter().enumerate() {
                let values = &range.values[first..end];
                hits = if i == 0 { mark(marks, values, range) } else { keep(marks, values, range) };
                if hits == 0 {
                    break;
                }
            }
            if hits > 0 && !each(first as u32, marks, hits) {
                return;
            }
        }
    }
}

fn mark(marks: &mut [u32], values: &[u32], range: &Range<'_>) -> u32 {
    let mut hits = 0;
    for (mark, value) in marks.iter_mut().zip(values) {
        *mark = u32::from(value.wrapping_sub(range.least) <= range.width);
        hits += *mark;
    }
    hits
}

fn keep(marks: &mut [u32], values: &[u32], range: &Range<'_>) -> u32 {
    let mut hits = 0;
    for (mark, value) in marks.iter_mut().zip(values) {
        *mark &= u32::from(value.wrapping_sub(range.least) <= range.width);
        hits += *mark;
    }
    hits
}

/// Marks that are checked together: in a block with few hits most of these groups have none.
const GROUP: usize = 32;

/// Appends the marked rows. In a group with a mark it writes every row, but advances only after a marked one: no branch
/// that the CPU can mispredict.
fn push_kept(rows: &mut Vec<u32>, first: u32, marks: &[u32], hits: u32) {
    if hits as usize == marks.len() {
        rows.extend(first..first + hits);
        return;
    }
    for (group, marks) in marks.chunks(GROUP).enumerate() {
        if marks.iter().sum::<u32>() == 0 {
            continue;
        }
        let first = first + (group * GROUP) as u32;
        let mut kept = [0u32; GROUP];
        let mut next = 0usize;
        for (i, mark) in marks.iter().enumerate() {
            // `next` never passes `i`, which is below GROUP: the remainder only avoids a bounds check.
            kept[next % GROUP] = first + i as u32;
            next += *mark as usize;
        }
        rows.extend_from_slice(&kept[..next]);
    }
}
