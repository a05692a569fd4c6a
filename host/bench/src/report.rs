//! The result type of every group: a figure, its comparison, and its goal. Measures nothing.

use std::ops::RangeInclusive;

use serde_json::json;

/// The goal of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Reach {
    /// At least this many times better than the baseline.
    Times(f64),
    /// At most this value, in the figure's own unit.
    AtMost(f64),
}

/// The baseline of a figure.
#[derive(Clone, Debug)]
struct Against {
    name: String,
    value: f64,
    /// The range of earlier measurements of this baseline on a similar machine.
    earlier: Option<RangeInclusive<f64>>,
}

/// One figure.
#[derive(Clone, Debug)]
pub struct Row {
    group: &'static str,
    measure: &'static str,
    subject: String,
    value: f64,
    unit: &'static str,
    more_is_better: bool,
    against: Option<Against>,
    reach: Option<Reach>,
    note: String,
}

impl Row {
    /// A figure for which less is better.
    pub fn cost(
        group: &'static str,
        measure: &'static str,
        subject: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) -> Self {
        let subject = subject.into();
        let (against, reach) = (None, None);
        Self {
            group,
            measure,
            subject,
            value,
            unit,
            more_is_better: false,
            against,
            reach,
            note: String::new(),
        }
    }

    /// A figure for which more is better.
    pub fn rate(
        group: &'static str,
        measure: &'static str,
        subject: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) -> Self {
        Self { more_is_better: true, ..Self::cost(group, measure, subject, value, unit) }
    }

    /// Adds the same measure of a baseline, taken in the same run.
    pub fn against(mut self, name: impl Into<String>, value: f64) -> Self {
        self.against = Some(Against { name: name.into(), value, earlier: None });
        self
    }

    /// Adds the range of earlier measurements. A baseline that differs by more than a factor of two is reported.
    pub fn earlier(mut self, range: RangeInclusive<f64>) -> Self {
        if let Some(against) = &mut self.against {
            against.earlier = Some(range);
        }
        self
    }

    pub fn reach(mut self, reach: Reach) -> Self {
        self.reach = Some(reach);
        self
    }

    pub fn note(mut self, note: impl AsRef<str>) -> Self {
        if !self.note.is_empty() && !note.as_ref().is_empty() {
            self.note.push_str("; ");
        }
        self.note.push_str(note.as_ref());
        self
    }

    /// How many times better than the baseline. Above 1 is better, for costs and for rates.
    fn ratio(&self) -> Option<f64> {
        let against = self.against.as_ref()?;
        let (better, worse) =
            if self.more_is_better { (self.value, against.value) } else { (against.value, self.value) };
        (worse > 0.0).then(|| better / worse)
    }

    fn reached(&self) -> Option<bool> {
        Some(match self.reach? {
            Reach::Times(least) => self.ratio()? >= least,
            Reach::AtMost(most) => self.value <= most,
        })
    }

    /// A text if the baseline differs from its earlier measurements by more than a factor of two.
    fn strays(&self) -> Option<String> {
        let against = self.against.as_ref()?;
        let earlier = against.earlier.as_ref()?;
        let low = against.value * 2.0 < *earlier.start();
        let high = against.value > *earlier.end() * 2.0;
        (low || high).then(|| {
            let (start, end) = (number(*earlier.start()), number(*earlier.end()));
            let earlier = if start == end { start } else { format!("{start} to {end}") };
            format!("baseline strays: {earlier} in earlier measurements")
        })
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "group": self.group,
            "measure": self.measure,
            "subject": self.subject,
            "value": self.value,
            "unit": self.unit,
            "more_is_better": self.more_is_better,
            "baseline": self.against.as_ref().map(|against| &against.name),
            "baseline_value": self.against.as_ref().map(|against| against.value),
            "ratio": self.ratio(),
        })
    }

    fn cells(&self) -> [String; 8] {
        let reach = match self.reach {
            None => String::new(),
            Some(Reach::Times(least)) => format!("{}x", number(least)),
            Some(Reach::AtMost(most)) => format!("<= {}", number(most)),
        };
        let reached = match self.reached() {
            None => "",
            Some(true) => "reached",
            Some(false) => "MISSED",
        };
        let notes: Vec<String> =
            self.strays().into_iter().chain([self.note.clone()]).filter(|note| !note.is_empty()).collect();
        [
            self.measure.to_owned(),
            self.subject.clone(),
            format!("{} {}", number(self.value), self.unit),
            self.against
                .as_ref()
                .map_or_else(String::new, |against| format!("{}: {}", against.name, number(against.value))),
            self.ratio().map_or_else(String::new, |ratio| format!("{}x", number(ratio))),
            reach,
            reached.to_owned(),
            notes.join("; "),
        ]
    }
}

/// Three significant digits, with separators: 1,234,000 and 0.0123.
pub fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude == 0.0 {
        return "0".to_owned();
    }
    if magnitude < 100.0 {
        let decimals = (2 - magnitude.log10().floor() as i32).clamp(0, 6) as usize;
        let text = format!("{value:.decimals$}");
        return match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text,
        };
    }
    let digits = format!("{magnitude:.0}");
    let mut grouped = String::from(if value < 0.0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Prints lines of cells, each column as wide as its widest cell.
pub fn table<const N: usize>(lines: &[[String; N]]) {
    let widths: [usize; N] =
        std::array::from_fn(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0));
    for line in lines {
        let cells: Vec<String> =
            line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
    }
}

/// Collects the rows of a run: one JSON line each, or one table at the end.
pub struct Report {
    json: bool,
    rows: Vec<Row>,
}

impl Report {
    pub fn new(json: bool) -> Self {
        Self { json, rows: Vec::new() }
    }

    pub fn push(&mut self, row: Row) {
        if self.json {
            println!("{}", row.json());
        } else {
            // Shows progress during a long run.
            eprintln!("  {}", row.cells().join("  "));
        }
        self.rows.push(row);
    }

    /// Prints the table, unless every row was printed as JSON already.
    pub fn finish(self, how: &str) {
        if self.json {
            return;
        }
        let titles = ["measure", "of", "ours", "baseline", "ratio", "reach", "", "note"].map(str::to_owned);
        let lines: Vec<[String; 8]> =
            std::iter::once(titles).chain(self.rows.iter().map(Row::cells)).collect();
        println!("{how}\n");
        table(&lines);
        let missed = self.rows.iter().filter(|row| row.reached() == Some(false)).count();
        println!("\n{missed} missed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_is_above_one_when_ours_is_better_for_costs_and_for_rates() {
        let cost = Row::cost("pool", "m", "s", 2.0, "ns").against("b", 100.0).reach(Reach::Times(50.0));
        let rate = Row::rate("pool", "m", "s", 100.0, "ops/s").against("b", 200.0).reach(Reach::Times(2.0));
        assert_eq!((cost.ratio(), cost.reached()), (Some(50.0), Some(true)));
        assert_eq!((rate.ratio(), rate.reached()), (Some(0.5), Some(false)));
    }

    #[test]
    fn a_baseline_more_than_twice_off_is_told() {
        let row = |value| Row::cost("pool", "m", "s", 1.0, "ns").against("b", value).earlier(100.0..=200.0);
        assert!(row(51.0).strays().is_none() && row(399.0).strays().is_none());
        assert!(row(49.0).strays().is_some() && row(401.0).strays().is_some());
    }

    #[test]
    fn numbers_show_three_digits_that_count() {
        let shown: Vec<_> = [0.0, 0.01234, 1.0, 12.34, 99.96, 123.4, 1_234_567.0].map(number).into();
        assert_eq!(shown, ["0", "0.0123", "1", "12.3", "100", "123", "1,234,567"]);
    }
}
