//! Runs the example as a user would, and checks its output.

use std::process::Command;

#[test]
fn the_silent_node_is_reaped_and_explained() {
    let output = Command::new(env!("CARGO_BIN_EXE_own-connections")).output().expect("the example starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("2 connected"), "{text}");
    assert!(text.contains("by reaper") && text.contains("silent for"), "{text}");
}
