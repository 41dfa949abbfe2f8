//! The demonstration is the end-to-end test of the first milestone: three real processes, real sockets, every step checked.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

#[test]
fn the_talking_cluster_holds_all_its_checks() {
    let output = Command::new(env!("CARGO_BIN_EXE_tandem")).arg("demo").output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("checks held"), "{text}");
    assert!(!text.contains("FAIL"), "{text}");
}
