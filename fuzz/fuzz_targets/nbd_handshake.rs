//! The handshake of the example `nbd`: any bytes are an answer or the end of the connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    _ = overlapped_examples::nbd::fuzz_handshake(data);
});
