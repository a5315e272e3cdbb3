//! See `command` in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mahspeccy_bridge_fuzz::command(data));
