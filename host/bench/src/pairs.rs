//! Runs two builds of this program in turn and compares each figure of one with the same figure of the other. Measures
//! nothing itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::report::{number, table};
use crate::rounds::median;

/// Runs of one group by both programs.
pub struct Pairs<'a> {
    pub group: &'a str,
    pub is_quick: bool,
    /// The other build, from before a change.
    pub against: PathBuf,
    pub count: usize,
}

/// The result of one run for one measure.
struct Figure {
    value: f64,
    unit: String,
    more_is_better: bool,
}

/// By measure and by the measured thing.
type Figures = BTreeMap<(String, String), Figure>;

impl Pairs<'_> {
    /// Runs both programs, each first in half of the pairs. Prints for each figure the median, least and greatest ratio
    /// of costs: 1.1 means a tenth slower, larger or fewer than the other build.
    ///
    /// # Errors
    /// If a program cannot be run, fails, or shares no figure with the other.
    pub fn run(&self) -> Result<(), String> {
        let this = std::env::current_exe().map_err(|e| format!("this program has no path: {e}"))?;
        let mut ratios: BTreeMap<(String, String), (String, Vec<f64>)> = BTreeMap::new();
        for pair in 0..self.count {
            eprintln!("  pair {} of {}", pair + 1, self.count);
            let (after, before) = if pair % 2 == 0 {
                let before = self.figures(&self.against)?;
                (self.figures(&this)?, before)
            } else {
                (self.figures(&this)?, self.figures(&self.against)?)
            };
            for (name, figure) in after {
                let Some(before) = before.get(&name).filter(|before| before.value > 0.0) else { continue };
                let ratio = cost_ratio(&figure, before);
                ratios.entry(name).or_insert_with(|| (figure.unit, Vec::new())).1.push(ratio);
            }
        }
        if ratios.is_empty() {
            return Err(format!("{} has no figure in common with this build", self.against.display()));
        }
        let titles = ["measure", "of", "unit", "ratio", "least", "greatest"].map(str::to_owned);
        let mut lines = vec![titles];
        let mut medians = Vec::new();
        for ((measure, subject), (unit, ratios)) in ratios {
            let (least, greatest) = (min(&ratios), max(&ratios));
            let middle = median(ratios);
            medians.push(middle);
            lines.push([measure, subject, unit, number(middle), number(least), number(greatest)]);
        }
        table(&lines);
        println!("\n{} pairs, {} figures, median ratio {:.3}", self.count, medians.len(), median(medians));
        Ok(())
    }

    fn figures(&self, program: &Path) -> Result<Figures, String> {
        let mut run = Command::new(program);
        run.arg(self.group).arg("--json").args(self.is_quick.then_some("--quick")).stderr(Stdio::null());
        let output = run.output().map_err(|e| format!("{}: {e}", program.display()))?;
        if !output.status.success() {
            return Err(format!("{} {}: {}", program.display(), self.group, output.status));
        }
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| figure(line).ok_or_else(|| format!("{}: no figure: {line}", program.display())))
            .collect()
    }
}

fn figure(line: &str) -> Option<((String, String), Figure)> {
    let row: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| row[key].as_str().map(str::to_owned);
    let figure = Figure {
        value: row["value"].as_f64()?,
        unit: text("unit")?,
        // Older builds do not report it; the ratio uses the value of this build.
        more_is_better: row["more_is_better"].as_bool().unwrap_or_default(),
    };
    Some(((text("measure")?, text("subject")?), figure))
}

fn cost_ratio(after: &Figure, before: &Figure) -> f64 {
    if after.more_is_better { before.value / after.value } else { after.value / before.value }
}

fn min(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_costs_more_for_times_and_for_rates() {
        let line = |value: f64, more: &str| {
            format!(r#"{{"measure":"m","subject":"s","unit":"u","value":{value}{more}}}"#)
        };
        let of = |text: String| figure(&text).unwrap().1;
        let before = of(line(100.0, ""));
        assert!((cost_ratio(&of(line(110.0, "")), &before) - 1.1).abs() < 1e-9);
        let rate = of(line(50.0, r#","more_is_better":true"#));
        assert!((cost_ratio(&rate, &before) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_build_that_fails_or_tells_nothing_is_an_error() {
        let pairs =
            |against: &str| Pairs { group: "pool", is_quick: true, against: against.into(), count: 1 };
        for (program, problem) in
            [("/bin/false", "exit status"), ("/bin/echo", "no figure"), ("/no", "No such")]
        {
            let told = pairs(program).figures(Path::new(program)).err().unwrap();
            assert!(told.contains(problem) && told.contains(program), "{told}");
        }
    }
}
