//! Receiving datagrams in batches into shared buffers. Looks into no datagram.

use std::io;

use bytes::{Bytes, BytesMut};
use socket2::Socket;

use crate::sys::{BATCH_MAX, RecvBatch};

/// Buffer from which short datagrams are cut. One that is kept pins the whole buffer, so it is small.
const SLAB_BYTES: usize = 16_384;
/// Longer datagrams get a buffer of their own.
const SHARED_BYTES_MAX: usize = SLAB_BYTES / 4;

/// Owned buffers without an allocation for each message: messages are cut from a slab, and the slab is used again when
/// all of them are gone.
#[derive(Default)]
pub(crate) struct Slab {
    current: BytesMut,
}

impl Slab {
    pub(crate) fn store(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > SHARED_BYTES_MAX {
            return Bytes::copy_from_slice(bytes);
        }
        if self.current.capacity() - self.current.len() < bytes.len() {
            // Takes the old memory back if nobody else holds a part of it.
            self.current.clear();
            if !self.current.try_reclaim(SLAB_BYTES) {
                self.current = BytesMut::with_capacity(SLAB_BYTES);
            }
        }
        self.current.extend_from_slice(bytes);
        self.current.split().freeze()
    }
}

/// What one call of [`DatagramReader::read`] brought.
pub(crate) enum Batch {
    /// This many; the socket may have more.
    Full(usize),
    /// This many (maybe none), and the socket is empty.
    Drained(usize),
    /// The system reported an error; there may be datagrams behind it.
    Failed,
}

/// The receive buffers of one worker.
pub(crate) struct DatagramReader {
    pub(crate) batch: RecvBatch,
    pub(crate) slab: Slab,
}

impl DatagramReader {
    pub(crate) fn new() -> Self {
        DatagramReader { batch: RecvBatch::new(), slab: Slab::default() }
    }

    pub(crate) fn read(&mut self, socket: &Socket, with_destination: bool) -> Batch {
        loop {
            match self.batch.receive(socket, with_destination) {
                Ok(count) if count == BATCH_MAX => return Batch::Full(count),
                Ok(count) => return Batch::Drained(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Batch::Drained(0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Mostly a pending error of an earlier send, which is cleared by reading it.
                    tracing::debug!(%error, "receiving datagrams");
                    return Batch::Failed;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_messages_keep_their_bytes_when_the_slab_is_used_again() {
        let mut slab = Slab::default();
        let kept: Vec<Bytes> = (0..200_u8).map(|value| slab.store(&[value; 1000])).collect();
        for (value, bytes) in (0..200_u8).zip(&kept) {
            assert_eq!(bytes.as_ref(), [value; 1000]);
        }
    }

    #[test]
    fn slab_memory_is_used_again_when_all_messages_are_gone() {
        let mut slab = Slab::default();
        let first = slab.store(&[1; 4000]).as_ptr();
        let mut returned = 0;
        for _ in 0..40 {
            if slab.store(&[2; 4000]).as_ptr() == first {
                returned += 1;
            }
        }
        assert_eq!(returned, 10, "four messages of 4000 bytes fit a slab");
    }
}
