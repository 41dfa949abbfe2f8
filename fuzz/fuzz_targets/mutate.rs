//! The fuzz targets on a stable toolchain: inputs of the corpora, mutated at random for so many seconds. Not guided by coverage.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../../crates/script/tests/common/mod.rs"]
mod common;
#[path = "../../crates/script/tests/fuzzing/mod.rs"]
mod fuzzing;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest input in bytes.
const INPUT_BYTES_MAX: usize = 20_000;
/// An input that takes longer is reported as a hang.
const INPUT_TIME_MAX: Duration = Duration::from_secs(5);

/// Words that random bytes would hardly ever make.
const WORDS: &[&str] = &[
    "route",
    "if (",
    "else",
    "while (",
    "for ($var(i) in $(avp(x)[*])) {",
    "switch ($var(x)) {",
    "case 1:",
    "default:",
    "break;",
    "return(",
    "exit;",
    "drop;",
    "async(yields(1), x);",
    "launch(yields(1), x);",
    "assert(",
    "xlog(\"",
    "$var(x)",
    "$avp(x)",
    "$(avp(x)[*])",
    "$(var(x){s.substr,1,",
    "{s.eval}",
    "{re.subst,/a/b/g}",
    "{uri.user}",
    "{csv.count}",
    "{s.encode.hexa}",
    "$ru",
    "$param(1)",
    "$return(0)",
    "$rc",
    "NULL",
    " = ",
    " == ",
    " =~ ",
    " && ",
    " || ",
    "!",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    ";",
    "\"",
    "'",
    "-2147483648",
    "0x7fffffff",
    "10.0.0.0/8",
    "route[x] {",
    "branch_route[x] {",
    "timer_route[x, 1] {",
    "event_route[E_X] {",
    "error_route {",
    "failure_route[x] {",
    "loadmodule \"m.so\"\n",
    "modparam(\"m\", \"p\", 1)\n",
    "socket=udp:127.0.0.1:5060\n",
    "dst_blacklist = x : {(udp, 10.0.0.0/8, 1, \"*\")}\n",
    "/*",
    "*/",
    "#",
    "\\",
    "+=",
    "<<",
    "~",
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        let (from, to) = (random.below(input.len() + 1), random.below(input.len() + 1));
        let (from, to) = (from.min(to), from.max(to));
        match random.below(7) {
            0 => drop(input.drain(from..to.min(from + 40))),
            1 => {
                let copy = input[from..to.min(from + 200)].to_vec();
                let at = random.below(input.len() + 1);
                input.splice(at..at, copy);
            }
            2 => {
                let other = &corpus[random.below(corpus.len())];
                let at = random.below(other.len() + 1);
                let piece = other[at..other.len().min(at + random.below(300))].to_vec();
                input.splice(from..from, piece);
            }
            3 if from < input.len() => input[from] = random.next() as u8,
            4 if from < input.len() => input[from] ^= 1 << random.below(8),
            5 => {
                let piece = input[from..to.min(from + 60)].repeat(random.below(50));
                input.splice(from..from, piece);
            }
            _ => {
                let word = WORDS[random.below(WORDS.len())].bytes();
                input.splice(from..from, word);
            }
        }
        input.truncate(INPUT_BYTES_MAX);
    }
    input
}

fn main() {
    let mut args = std::env::args().skip(1);
    let target = args.next().expect("script or vm");
    let seconds = args.next().map_or(60, |text| text.parse().expect("seconds"));
    let seed = args.next().map_or(0x9e37_79b9_7f4a_7c15, |text| text.parse().expect("a seed"));
    let run = match target.as_str() {
        "script" => fuzzing::script,
        "vm" => fuzzing::vm,
        other => panic!("there is no target {other}"),
    };
    let corpus = corpus(&target);
    // A stack overflow or an abort leaves its input there; a panic ends the process, too.
    let last = std::env::temp_dir().join(format!("tandem-fuzz-{target}-{seed}"));
    let (mut random, start, mut count) = (Random(seed.max(1)), Instant::now(), 0u64);
    while start.elapsed() < Duration::from_secs(seconds) {
        let input = mutate(&mut random, &corpus);
        std::fs::write(&last, &input).unwrap();
        let begin = Instant::now();
        run(&input);
        assert!(begin.elapsed() < INPUT_TIME_MAX, "{} took {:?}", last.display(), begin.elapsed());
        count += 1;
    }
    println!("{target}: {count} inputs in {seconds} s, nothing found");
}
