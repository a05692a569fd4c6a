//! `bench <group> [--quick] [--json]`: our pool, tick and timer compared with the designs they replace, in one run.
//! `bench <group> --against PROGRAM [--pairs N]`: this build compared with another build of the same program, in pairs.
//!
//! Results are figures, not tests: a slow machine makes nothing fail.

#![deny(unsafe_code)]

use std::process::ExitCode;

#[expect(unsafe_code, reason = "a global allocator cannot be written without it")]
mod alloc;
mod engine;
mod flow;
mod idle;
mod masks;
mod net;
mod nodes;
mod ours;
mod pairs;
mod pool;
mod record;
mod reload;
mod report;
mod rounds;
mod seeds;
mod tick;

use pairs::Pairs;
use report::Report;

/// Odd, so that the median is one of the pairs.
const PAIRS: usize = 5;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

/// One set of measures: its name, its method, and its function.
struct Group {
    name: &'static str,
    how: &'static str,
    run: fn(&Effort, &mut Report),
}

const GROUPS: &[Group] = &[
    Group { name: "pool", how: pool::HOW, run: pool::run },
    Group { name: "tick", how: tick::HOW, run: tick::run },
    Group { name: "idle", how: idle::HOW, run: idle::run },
    Group { name: "net", how: net::HOW, run: net::run },
    Group { name: "flow", how: flow::HOW, run: flow::run },
    Group { name: "engine", how: engine::HOW, run: engine::run },
    Group { name: "record", how: record::HOW, run: record::run },
    Group { name: "reload", how: reload::HOW, run: reload::run },
];

/// How long a run may take.
pub struct Effort {
    quick: bool,
}

impl Effort {
    /// `full`, or `quick` where a first look is enough.
    pub fn choose<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn usage(problem: &str) -> ExitCode {
    let names: Vec<_> = GROUPS.iter().map(|group| group.name).collect();
    eprintln!(
        "{problem}\nusage: bench {} [--quick] [--json | --against PROGRAM [--pairs N]]",
        names.join("|")
    );
    ExitCode::from(2)
}

fn main() -> ExitCode {
    let mut name = None;
    let (mut json, mut quick) = (false, false);
    let (mut against, mut pairs) = (None, PAIRS);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, variant, amount] = &arguments[..] {
        match word.as_str() {
            idle::CHILD => return idle::child(variant, amount),
            net::live::CHILD => return net::live::child(variant, amount),
            engine::loaded::CHILD => return engine::loaded::tell(variant, amount),
            net::overload::CHILD => return net::overload::child(variant, amount),
            nodes::FAR => return nodes::far(variant, amount),
            _ => {}
        }
    }
    let mut words = arguments.iter();
    while let Some(argument) = words.next() {
        match argument.as_str() {
            "--json" => json = true,
            "--quick" => quick = true,
            "--against" => match words.next() {
                Some(program) => against = Some(program),
                None => return usage("--against takes the path of another build of this program"),
            },
            "--pairs" => match words.next().and_then(|count| count.parse().ok()).filter(|count| *count > 0) {
                Some(count) => pairs = count,
                None => return usage("--pairs takes a number above 0"),
            },
            group if !group.starts_with('-') && name.is_none() => name = Some(group),
            other => return usage(&format!("unexpected {other:?}")),
        }
    }
    let Some(name) = name else { return usage("which group?") };
    let Some(group) = GROUPS.iter().find(|group| group.name == name) else {
        return usage(&format!("no group {name:?}"));
    };
    if let Some(against) = against {
        let pairs = Pairs { group: group.name, is_quick: quick, against: against.into(), count: pairs };
        return match pairs.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                eprintln!("{problem}");
                ExitCode::FAILURE
            }
        };
    }
    let mut report = Report::new(json);
    (group.run)(&Effort { quick }, &mut report);
    report.finish(group.how);
    ExitCode::SUCCESS
}
