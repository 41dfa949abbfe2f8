//! Fuzz target: see `fuzzing::vm` for what it does. Nothing else is here.
#![no_main]

#[path = "../../crates/script/tests/common/mod.rs"]
mod common;
#[path = "../../crates/script/tests/fuzzing/mod.rs"]
mod fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::vm(data));
