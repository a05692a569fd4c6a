//! The builder for queries. Evaluates nothing: the host does, and natively `query`.

use std::marker::PhantomData;

use crate::backend::{Order, Test};
use crate::column::{Amount, Column, MOST, Row, UNKNOWN, Unit};
use crate::view::View;

/// A selection of rows of one table. It ends in [`count`](Select::count) or [`take`](Select::take).
///
/// Values that are not known pass no comparison. Comparisons are exact: in a column of whole seconds, `over` 1.5 s
/// starts at 2 and `under` 1.5 s ends at 1. At most 8 different columns may be compared.
#[derive(Clone, Debug)]
#[must_use = "nothing is read before count or take"]
pub struct Select<'v, T: Row> {
    view: &'v View,
    tests: Vec<Test>,
    sort_by: Option<Order>,
    of: PhantomData<fn() -> T>,
}

/// Both ends of a test, in a column's units; `None` where no value can pass.
type RangeEnds = Option<(u64, u64)>;

#[cfg_attr(
    target_arch = "wasm32",
    expect(clippy::useless_conversion, reason = "natively a name becomes a Cow")
)]
impl<'v, T: Row> Select<'v, T> {
    pub(crate) fn new(view: &'v View) -> Self {
        Select { view, tests: Vec::new(), sort_by: None, of: PhantomData }
    }

    /// Keeps rows with a value above this.
    pub fn over<U: Unit>(self, column: Column<T, U>, amount: impl Amount<U>) -> Self {
        self.test(column, amount.whole().0.checked_add(1).map(|least| (least, u64::MAX)))
    }

    /// Keeps rows with a value below this.
    pub fn under<U: Unit>(self, column: Column<T, U>, amount: impl Amount<U>) -> Self {
        self.test(column, amount.whole().1.checked_sub(1).map(|most| (0, most)))
    }

    /// Keeps rows with this value or more.
    pub fn at_least<U: Unit>(self, column: Column<T, U>, amount: impl Amount<U>) -> Self {
        self.test(column, Some((amount.whole().1, u64::MAX)))
    }

    /// Keeps rows with this value or less.
    pub fn at_most<U: Unit>(self, column: Column<T, U>, amount: impl Amount<U>) -> Self {
        self.test(column, Some((0, amount.whole().0)))
    }

    /// Keeps rows with exactly this value.
    pub fn is<U: Unit>(self, column: Column<T, U>, amount: impl Amount<U>) -> Self {
        let (down, up) = amount.whole();
        self.test(column, Some((up, down)))
    }

    /// Keeps rows with a known value.
    pub fn known<U: Unit>(self, column: Column<T, U>) -> Self {
        self.test(column, Some((0, u64::MAX)))
    }

    /// Largest value first, not known last, ties by row. If several orders are given, the last one counts.
    pub fn most<U: Unit>(mut self, column: Column<T, U>) -> Self {
        self.sort_by = Some(Order { column: column.name().into(), descending: true });
        self
    }

    /// Smallest value first, not known last, ties by row. If several orders are given, the last one counts.
    pub fn least<U: Unit>(mut self, column: Column<T, U>) -> Self {
        self.sort_by = Some(Order { column: column.name().into(), descending: false });
        self
    }

    /// How many rows pass. Costs one pass over the compared columns.
    pub fn count(&self) -> u32 {
        self.view.reads.count::<T>(&self.tests)
    }

    /// The first `limit` rows that pass, in order; none for 0. A limit above 16384 ends the run.
    pub fn take(self, limit: u32) -> Vec<T> {
        if limit == 0 {
            return Vec::new();
        }
        let rows = self.view.reads.select::<T>(self.tests, self.sort_by, limit);
        rows.into_iter().map(T::at).collect()
    }

    pub(crate) fn view(&self) -> &'v View {
        self.view
    }

    /// The tests alone, for an ask that takes a whole selection.
    pub(crate) fn into_tests(self) -> Vec<Test> {
        self.tests
    }

    /// Compares a column. A second comparison of the same column narrows the existing test, so both count as one.
    fn test<U: Unit>(mut self, column: Column<T, U>, ends: RangeEnds) -> Self {
        let (at_least, at_most) = match ends {
            Some((least, most)) if least <= most && least <= u64::from(MOST) => {
                (least as u32, u32::try_from(most).unwrap_or(UNKNOWN))
            }
            _ => (1, 0),
        };
        match self.tests.iter_mut().find(|test| test.column == column.name()) {
            Some(test) => {
                test.at_least = test.at_least.max(at_least);
                test.at_most = test.at_most.min(at_most);
            }
            None => self.tests.push(Test { column: column.name().into(), at_least, at_most }),
        }
        self
    }
}
