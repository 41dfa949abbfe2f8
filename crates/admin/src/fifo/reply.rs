//! Writing into a client's pipe without ever waiting longer than allowed, and into nothing but a pipe.

use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;
use tokio::time::Instant;

/// Pause between two looks whether the client has opened its pipe.
const RETRY: Duration = Duration::from_millis(10);

/// Longest name of a reply pipe, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Writes `bytes` into the pipe `name` in `folder`, within `timeout`.
pub(super) async fn write(folder: &Path, name: &str, bytes: &[u8], timeout: Duration) -> io::Result<()> {
    if !is_plain(name) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name of the reply pipe is no plain file name"));
    }
    let path = folder.join(name);
    let deadline = Instant::now() + timeout;
    let written = tokio::time::timeout_at(deadline, async {
        let mut sender = loop {
            match open(&path) {
                Ok(file) => break Sender::from_file(file)?,
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENXIO as i32) => {
                    tokio::time::sleep(RETRY).await
                }
                Err(error) => return Err(error),
            }
        };
        sender.write_all(bytes).await
    });
    written.await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads it")))
}

/// Opens a pipe for writing; ENXIO when nobody reads.
pub(super) fn open(path: &Path) -> io::Result<std::fs::File> {
    // Looked at before opening, since opening a device may have effects. `O_NOFOLLOW` and the check on the open file in
    // `Sender::from_file` close the gap between.
    if !std::fs::symlink_metadata(path)?.file_type().is_fifo() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no named pipe"));
    }
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    std::fs::OpenOptions::new().write(true).custom_flags(flags.bits()).open(path)
}

/// Names that stay inside the folder.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name != "." && name != ".." && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["", ".", "..", "a/b", "/etc/passwd", "../x", "a\0b", &"x".repeat(300)] {
            assert!(!is_plain(name), "{name:?}");
        }
        assert!(is_plain("opensips_fifo_reply_123"));
    }
}
