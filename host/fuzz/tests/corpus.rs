//! Runs every target over its committed corpus: what a fuzzer once needed hours to find stays found.

use std::fs;
use std::path::{Path, PathBuf};

use groundskeeper_fuzz::TARGETS;

fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn inputs_that_a_fuzzer_found_break_no_reader() {
    for target in TARGETS {
        let files = corpus(target.name);
        assert!(files.len() >= 10, "{}: a corpus of {} files", target.name, files.len());
        for file in files {
            println!("{}", file.display());
            target.read(&fs::read(&file).unwrap());
        }
    }
}
