//! The requests of the example `nbd`: what is accepted lies inside the export.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| overlapped_examples::nbd::fuzz_requests(data));
