//! See [`prepare_and_run::prepare_and_run`].

#![no_main]

#[path = "../prepare_and_run.rs"]
mod prepare_and_run;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prepare_and_run::prepare_and_run(bytes));
