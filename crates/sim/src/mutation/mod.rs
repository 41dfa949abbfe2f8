//! Mutated packets for every decoder and for whole cores: bytes changed at random, from a seed. Not guided by coverage; judges
//! only that everything comes back and that memory stays bounded.

mod corpus;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::rng::SplitMix64;
use targets::target;

/// Names of all targets.
pub const TARGETS: [&str; 8] = ["frames", "internal", "extra", "receive", "tandem", "kv", "link", "token"];

/// Bytes of memory that one peer may cost, whatever it sends.
pub const PEER_BYTES_MAX: u64 = 1 << 20;

/// Longest mutated input in bytes.
const INPUT_LEN_MAX: usize = 70_000;
/// Inputs between two looks at the memory.
const LOOK_EVERY: u64 = 16_384;

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Inputs.
    pub inputs: u64,
    /// Of those, inputs that were taken for good in spite of their mutations.
    pub accepted: u64,
    /// Growth of the memory of the process after the first inputs, in bytes per peer; 0 where it cannot be told.
    pub peer_bytes: u64,
}

/// An input that panicked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked {
    /// Its number in the run.
    pub number: u64,
    /// Its bytes, hexadecimal.
    pub hex: String,
}

/// Runs so many inputs against a target; the same name and seed give the same inputs. `None` for an unknown name.
#[must_use]
pub fn mutate(name: &str, inputs: u64, seed: u64) -> Option<Result<Report, Box<Panicked>>> {
    let mut rng = SplitMix64::new(seed);
    let (mut target, corpus) = target(name)?;
    let (mut accepted, mut first, mut most) = (0, None, 0);
    // Buffers have their sizes by then.
    let warm = inputs / 10;
    for number in 0..inputs {
        let input = mutated(&mut rng, &corpus);
        match catch_unwind(AssertUnwindSafe(|| target.take(&input, &mut rng))) {
            Ok(is_accepted) => accepted += u64::from(is_accepted),
            Err(_) => {
                let hex = input.iter().map(|byte| format!("{byte:02x}")).collect();
                return Some(Err(Box::new(Panicked { number, hex })));
            }
        }
        if number >= warm && number % LOOK_EVERY == 0 {
            let bytes = resident_bytes();
            let first = *first.get_or_insert(bytes);
            most = most.max(bytes.saturating_sub(first));
        }
    }
    Some(Ok(Report { inputs, accepted, peer_bytes: most / target.peers() }))
}

/// Resident memory of this process (Linux); 0 elsewhere.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = status.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}

/// An input of the corpus with a few changes.
fn mutated(rng: &mut SplitMix64, corpus: &[Vec<u8>]) -> Vec<u8> {
    let pick = |rng: &mut SplitMix64| corpus.get(rng.index(corpus.len())).cloned().unwrap_or_default();
    let mut input = pick(rng);
    // Fields rather than headers, more often than not.
    let begin = if rng.below(4) == 0 { 0 } else { body_offset(&input) };
    for _ in 0..=rng.below(4) {
        let at = (begin + rng.index(input.len().saturating_sub(begin).max(1))).min(input.len());
        let len = rng.index(64).min(input.len() - at);
        match rng.below(9) {
            0 => drop(input.drain(at..at + len)),
            1 => {
                let copy = input.get(at..at + len).unwrap_or_default().to_vec();
                input.splice(at..at, copy);
            }
            2 => {
                let other = pick(rng);
                let from = rng.index(other.len());
                let piece = other.get(from..other.len().min(from + 80)).unwrap_or_default().to_vec();
                input.splice(at..at, piece);
            }
            3 => {
                let number = [0, 1, -1, i32::MAX, i32::MIN, 3, 64, 1_000, 65_535][rng.index(9)];
                overwrite(&mut input, at, &number.to_le_bytes());
            }
            4 => {
                let length = [0_u16, 1, 255, 256, 32_767, 32_768, 65_535][rng.index(7)];
                overwrite(&mut input, at, &length.to_le_bytes());
            }
            5 if rng.below(64) == 0 => {
                let piece = input.get(at..at + len).unwrap_or_default().repeat(rng.index(1_000));
                input.splice(at..at, piece);
            }
            6 => overwrite(&mut input, at, &[rng.next_bits().to_le_bytes()[0]]),
            7 => input.truncate(at),
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << rng.below(8);
                }
            }
        }
    }
    input.truncate(INPUT_LEN_MAX);
    // Otherwise nearly all would end at the length in the header.
    if rng.below(16) != 0 && input.starts_with(&tandem_bin::MARKER) {
        let length = u32::try_from(input.len()).unwrap_or(u32::MAX);
        overwrite(&mut input, 4, &length.to_le_bytes());
    }
    input
}

fn overwrite(input: &mut [u8], at: usize, with: &[u8]) {
    for (place, byte) in input.iter_mut().skip(at).zip(with) {
        *place = *byte;
    }
}

fn body_offset(input: &[u8]) -> usize {
    tandem_bin::Packet::parse(input).map_or(0, |packet| packet.body_offset())
}
