//! Headers of LUKS volumes, of both versions.
#![no_main]

use overlapped::driver::filter::luks::Header;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Err(error) = Header::parse(data) {
        _ = error.to_string();
    }
});
