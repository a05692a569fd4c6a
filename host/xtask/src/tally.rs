//! Summarizes a run of `cargo test` from the output of cargo and the test binaries. That output is for people and may
//! change: the summary omits what it does not understand, and the full output is still above.

use std::fmt::Write as _;

/// A failed test, or another failure that kept tests from passing.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    /// The arguments of `cargo test` that run it again, or what cargo named as running.
    target: String,
    what: String,
    reason: String,
}

/// The run of one binary, until it prints its result.
struct Run {
    tests: usize,
    lines: Vec<String>,
    /// It is printing the output of its failed tests, which may contain a whole run of other tests.
    is_telling: bool,
}

impl Run {
    /// Whether these counts belong to this run: the number of tests matches, and a failed one was seen failing.
    fn is_ended_by(&self, counts: [usize; 3]) -> bool {
        let failed = |name: &str| {
            let begun = format!("test {name} ");
            let mut told = self.lines.iter().take_while(|line| *line != "failures:");
            told.any(|line| line.starts_with(&begun) && line.ends_with(" ... FAILED"))
        };
        counts.iter().sum::<usize>() == self.tests
            && (!self.is_telling || listed(&self.lines).1.into_iter().any(failed))
    }
}

#[derive(Default)]
pub struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
    /// Binaries that ended without a result.
    lost: usize,
    failures: Vec<Failure>,
    /// The target that cargo last said it runs. None while it builds.
    target: Option<String>,
    /// Failures of the current target, which cargo names afterwards.
    fresh: usize,
    run: Option<Run>,
    /// The first error of a build before cargo reports its failure.
    error: Option<String>,
}

impl Tally {
    /// Processes the next line.
    pub fn line(&mut self, line: &str) {
        let line = plain(line);
        if let Some(run) = &mut self.run
            && (run.is_telling || failed_target(&line).is_none())
        {
            match counts(&line) {
                Some(counts) if run.is_ended_by(counts) => self.ended(counts),
                _ => {
                    run.is_telling |= line == "failures:";
                    run.lines.push(line);
                }
            }
        } else if let Some(target) = started(&line) {
            self.target = Some(target.to_owned());
            self.fresh = 0;
        } else if let Some(target) = failed_target(&line) {
            self.named(target);
        } else if let Some(how) = unsuccessful(&line) {
            // This line follows the one that names the target.
            if let Some(last) = self.failures.last_mut().filter(|last| last.reason == NO_RESULT) {
                last.reason = how.to_owned();
            }
        } else if self.target.is_none() {
            self.building(&line);
        } else if let Some(tests) = announced(&line) {
            self.run = Some(Run { tests, lines: Vec::new(), is_telling: false });
        }
    }

    fn building(&mut self, line: &str) {
        if let Some(what) = line.strip_prefix("error: could not compile ") {
            let reason = self.error.take().unwrap_or_else(|| "see above".to_owned());
            self.failures.push(Failure { target: "build".to_owned(), what: what.to_owned(), reason });
        } else if line.starts_with("error") && self.error.is_none() {
            self.error = Some(line.to_owned());
        }
    }

    fn ended(&mut self, [passed, failed, ignored]: [usize; 3]) {
        self.passed += passed;
        self.failed += failed;
        self.ignored += ignored;
        let (Some(run), Some(target)) = (self.run.take(), &self.target) else { return };
        let failures = failures(&run.lines);
        self.fresh += failures.len();
        self.failures.extend(failures.into_iter().map(|(test, reason)| Failure {
            target: target.clone(),
            what: test,
            reason,
        }));
    }

    /// Records that cargo named `target` as failed.
    fn named(&mut self, target: &str) {
        if self.fresh > 0 && self.run.is_none() {
            let first = self.failures.len() - self.fresh;
            self.failures[first..].iter_mut().for_each(|failure| failure.target = target.to_owned());
            return;
        }
        let run = self.run.take();
        let what = run.as_ref().map_or_else(String::new, |run| {
            let ended = |how| {
                run.lines.iter().filter(|line| line.starts_with("test ") && line.ends_with(how)).count()
            };
            let (passed, failed) = (ended(" ... ok"), ended(" ... FAILED"));
            self.passed += passed;
            self.failed += failed;
            format!(", {} of {} tests had ended", passed + failed, run.tests)
        });
        self.lost += 1;
        self.failures.push(Failure {
            target: target.to_owned(),
            what: format!("no result{what}"),
            reason: NO_RESULT.to_owned(),
        });
    }

    /// The count of each kind.
    pub fn total(&self) -> String {
        let lost = match self.lost {
            0 => String::new(),
            1 => ", 1 binary without a result".to_owned(),
            lost => format!(", {lost} binaries without a result"),
        };
        format!("{} passed, {} failed, {} ignored{lost}", self.passed, self.failed, self.ignored)
    }

    /// Each failure with the first line of its reason, and the total. None if no failure was recognized.
    pub fn failures(&self) -> Option<String> {
        if self.failures.is_empty() {
            return None;
        }
        let mut text = "these failed:\n".to_owned();
        for Failure { target, what, reason } in &self.failures {
            _ = write!(text, "\n  {what}  [{target}]\n      {reason}\n");
        }
        Some(format!("{text}\n{}", self.total()))
    }
}

const NO_RESULT: &str = "it ended without one";

/// The line without colours.
fn plain(line: &str) -> String {
    let mut pieces = line.split('\u{1b}');
    let first = pieces.next().unwrap_or_default().to_owned();
    first + &pieces.map(|piece| piece.split_once('m').map_or("", |(_, rest)| rest)).collect::<String>()
}

/// The target that cargo starts.
fn started(line: &str) -> Option<&str> {
    let word = line.strip_prefix("  ")?.trim_start();
    word.strip_prefix("Running ").or_else(|| word.starts_with("Doc-tests ").then_some(word))
}

/// The arguments that cargo suggests for running only the failed tests.
fn failed_target(line: &str) -> Option<&str> {
    let test = line.strip_prefix("error: test failed, to rerun pass `");
    test.or_else(|| line.strip_prefix("error: doctest failed, to rerun pass `"))?.strip_suffix('`')
}

/// How a process ended.
fn unsuccessful(line: &str) -> Option<&str> {
    let (_, how) = line.strip_prefix("  process didn't exit successfully: `")?.split_once("` (")?;
    how.strip_suffix(')')
}

fn announced(line: &str) -> Option<usize> {
    let number = line.strip_prefix("running ")?;
    number.strip_suffix(" tests").or_else(|| number.strip_suffix(" test"))?.parse().ok()
}

/// Passed, failed, ignored.
fn counts(line: &str) -> Option<[usize; 3]> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |word: &str| counts.split("; ").find_map(|part| part.strip_suffix(word)?.parse().ok());
    Some([count(" passed")?, count(" failed")?, count(" ignored")?])
}

/// The names of the failed tests, and the index where their list begins.
fn listed(lines: &[String]) -> (usize, Vec<&str>) {
    let list = lines.iter().rposition(|line| line == "failures:").unwrap_or(lines.len());
    (list, lines[list..].iter().filter_map(|line| line.strip_prefix("    ")).collect())
}

/// The failed tests of a run, each with the first line of its reason.
fn failures(lines: &[String]) -> Vec<(String, String)> {
    let (list, names) = listed(lines);
    let heads: Vec<String> = names.iter().map(|name| format!("---- {name} stdout ----")).collect();
    let reason = |name: &str, head: &String| {
        let block = lines[..list].iter().skip_while(|line| *line != head).skip(1);
        let block: Vec<&str> = block.take_while(|line| !heads.contains(line)).map(String::as_str).collect();
        reason(name, &block)
    };
    names.iter().zip(&heads).map(|(name, head)| ((*name).to_owned(), reason(name, head))).collect()
}

/// The first line of the reason from a failed test's output: from its last panic, because it has caught earlier ones.
fn reason(test: &str, shown: &[&str]) -> String {
    let panics = || {
        shown.iter().enumerate().filter_map(|(at, line)| {
            let (thread, rest) = line.strip_prefix("thread '")?.split_once('\'')?;
            let place = rest.split_once("panicked at ")?.1.strip_suffix(':')?;
            let words = shown[at + 1..].iter().find(|line| !line.trim().is_empty())?;
            Some((thread, format!("{place}: {words}")))
        })
    };
    let own = panics().rfind(|(thread, _)| *thread == test);
    if let Some((_, words)) = own.or_else(|| panics().next_back()) {
        return words;
    }
    let said = |start: &str| shown.iter().find(|line| line.starts_with(start));
    let words = said("Error: ").or_else(|| said("error")).or_else(|| said("note: test did not panic"));
    let words = words.or_else(|| shown.iter().find(|line| !line.trim().is_empty()));
    words.map_or_else(|| "it says nothing".to_owned(), |words| (*words).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(text: &str) -> Tally {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.line(line));
        tally
    }

    /// Output of two packages: failures of all kinds, a failed test that prints a whole run, an abort, doc tests.
    const FAILED: &str = include_str!("tally/failed.txt");

    #[test]
    fn each_failure_is_told_with_the_first_line_of_its_reason() {
        assert_eq!(
            tally(FAILED).failures().unwrap(),
            "\
these failed:

  tests::it_opens_twice  [-p gate --lib]
      gate/src/lib.rs:34:9: assertion `left == right` failed: twice

  tests::it_says_much  [-p gate --lib]
      gate/src/lib.rs:52:9: first line

  tests::it_says_why  [-p gate --lib]
      Error: \"the hinge is gone\"

  tests::it_sticks  [-p gate --lib]
      note: test did not panic as expected at gate/src/lib.rs:43:8

  alone  [-p gate --test again]
      gate/tests/again.rs:5:9: the inner reason

  no result, 1 of 2 tests had ended  [-p shed --lib]
      signal: 6, SIGABRT: process abort signal

  gate/src/lib.rs - open (line 13)  [-p gate --doc]
      error[E0425]: cannot find function `shut` in crate `gate`

  gate/src/lib.rs - open (line 5)  [-p gate --doc]
      gate/src/lib.rs:5:1: assertion `left == right` failed: it opens by two

5 passed, 7 failed, 1 ignored, 1 binary without a result"
        );
    }

    #[test]
    fn a_build_that_fails_is_told_with_its_first_error() {
        assert_eq!(
            tally(include_str!("tally/uncompiled.txt")).failures().unwrap(),
            "\
these failed:

  `bad` (lib) due to 1 previous error  [build]
      error[E0308]: mismatched types

  `bad` (lib test) due to 1 previous error  [build]
      see above

0 passed, 0 failed, 0 ignored"
        );
    }

    #[test]
    fn a_binary_that_is_no_test_harness_is_told_with_how_it_ended() {
        let tally = tally(include_str!("tally/own.txt"));
        assert_eq!(tally.total(), "2 passed, 0 failed, 0 ignored, 2 binaries without a result");
        assert_eq!(
            tally.failures[0],
            Failure {
                target: "-p plain --test own".to_owned(),
                what: "no result".to_owned(),
                reason: "exit status: 3".to_owned(),
            }
        );
    }

    #[test]
    fn what_passes_is_counted_and_colours_are_seen_through() {
        let text = "\u{1b}[1m\u{1b}[92m     Running\u{1b}[0m unittests src/lib.rs (target/debug/deps/shed-80)\n\n\
                    running 2 tests\ntest a ... ok\ntest b ... ignored\n\n\
                    test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s\n";
        let tally = tally(text);
        assert_eq!((tally.total().as_str(), tally.failures()), ("1 passed, 0 failed, 1 ignored", None));
    }

    #[test]
    fn a_run_of_cargo_in_what_a_failed_test_shows_is_no_run_of_ours() {
        let shown = FAILED.lines().map(|line| format!("{line}\n")).collect::<String>();
        let text = format!(
            "     Running tests/a.rs (target/debug/deps/a-1)\n\nrunning 2 tests\ntest a ... FAILED\ntest b ... ok\n\nfailures:\n\n\
             ---- a stdout ----\nthread 'a' (1) panicked at a.rs:1:1:\nit did not pass: {shown}\n\nfailures:\n    a\n\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\n\
             error: test failed, to rerun pass `-p x --test a`\n"
        );
        let tally = tally(&text);
        assert_eq!((tally.total().as_str(), tally.failures.len()), ("1 passed, 1 failed, 0 ignored", 1));
        assert_eq!(
            (tally.failures[0].target.as_str(), tally.failures[0].reason.as_str()),
            (
                "-p x --test a",
                "a.rs:1:1: it did not pass:    Compiling gate v0.1.0 (/home/somebody/sheds/gate)"
            )
        );
    }

    #[test]
    fn a_run_that_is_cut_off_is_no_failure_by_itself() {
        let half: String = FAILED.split_inclusive('\n').take(12).collect();
        assert_eq!(tally(&half).failures(), None);
    }
}
