//! The `-p` preprocessor: pipes the flattened script through a command (m4, for example).

use std::io::Write as _;
use std::process::{Command, Stdio};

/// The output of the command for `text`.
///
/// # Errors
/// What went wrong, in one line.
pub(crate) fn run(command: &str, text: Vec<u8>) -> Result<Vec<u8>, String> {
    let mut words = command.split_whitespace();
    let program = words.next().ok_or("-p: the command is empty")?;
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("-p: cannot run '{program}': {error}"))?;
    let mut input = child.stdin.take().ok_or_else(|| format!("-p: no pipe to '{program}'"))?;
    // From a thread of its own, so that a command that writes before it has read everything cannot stop us.
    let writer = std::thread::spawn(move || input.write_all(&text));
    let output = child.wait_with_output().map_err(|error| format!("-p: '{program}' failed: {error}"))?;
    let _ = writer.join();
    if !output.status.success() {
        return Err(format!("-p: '{command}' ended with {}", output.status));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::run;

    #[test]
    fn the_text_goes_through_and_failures_are_named() {
        let long = b"route { exit; }\n".repeat(20_000);
        assert_eq!(run("cat", long.clone()), Ok(long));
        for (command, what) in [("", "empty"), ("/no/such/program", "/no/such/program"), ("false", "exit status: 1")] {
            let error = run(command, Vec::new()).err().unwrap_or_default();
            assert!(error.starts_with("-p: ") && error.contains(what), "{error}");
        }
    }
}
