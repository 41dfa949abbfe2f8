//! The whole test run, as a person and CI start it.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::{compat, edges, root, tidy};

/// Programs the scenarios need, and the Debian package that has them.
const NEEDED: [(&str, &str); 5] = [
    ("sipp", "sip-tester"),
    ("mariadbd", "mariadb-server"),
    // The server itself is in a folder of its version.
    ("pg_lsclusters", "postgresql"),
    ("redis-server", "redis-server"),
    ("rtpengine", "rtpengine-daemon"),
];
/// Where servers lie, which is not in everybody's PATH.
const SERVER_FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// Runs everything; stops at the first failure.
pub(crate) fn run() -> anyhow::Result<()> {
    let start = Instant::now();
    install_missing()?;
    step("format", cargo(&["fmt", "--all", "--check"]))?;
    step("clippy", cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    edges::check(&root()?)?;
    tidy::check(&root()?)?;
    compat::check(&root()?)?;
    // Scenarios start the real program: build it before the clock of a test runs.
    step("program", cargo(&["build", "--package", "tandem"]))?;
    if has_program("cargo-nextest") {
        step("tests", cargo(&["nextest", "run", "--workspace", "--no-fail-fast"]))?;
    } else {
        step("tests", cargo(&["test", "--workspace", "--no-fail-fast"]))?;
    }
    println!("everything passed in {} s", start.elapsed().as_secs());
    Ok(())
}

fn step(name: &str, mut command: Command) -> anyhow::Result<()> {
    println!("== {name}");
    let status = command.status().with_context(|| format!("cannot run the step '{name}'"))?;
    if !status.success() {
        bail!("step '{name}' failed");
    }
    Ok(())
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    command.args(args);
    command
}

fn has_program(name: &str) -> bool {
    let is_in_path =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()));
    is_in_path || SERVER_FOLDERS.iter().any(|folder| Path::new(folder).join(name).is_file())
}

/// Installs Debian packages that the scenarios need, when this is possible.
fn install_missing() -> anyhow::Result<()> {
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(program, _)| !has_program(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("== installing {}", missing.join(" "));
    let mut update = Command::new("apt-get");
    update.args(["update", "-qq"]);
    step("package lists", update)?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // The tests start servers of their own: Debian's scripts start none in this run level.
        .env("RUNLEVEL", "1");
    step("packages", install).with_context(|| format!("install them by hand: {}", missing.join(" ")))
}
