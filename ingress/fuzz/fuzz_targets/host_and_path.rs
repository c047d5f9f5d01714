#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::host_and_path(data));
