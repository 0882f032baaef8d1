//! Stacks as text: what can be read is printed so that it reads the same, and errors point into the
//! text. Nothing is built: paths in it would be opened.
#![no_main]

use overlapped::driver::text::Text;

libfuzzer_sys::fuzz_target!(|text: &str| {
    match text.parse::<Text>() {
        Ok(read) => {
            let printed = read.to_string();
            let again: Text = printed.parse().expect("what is printed can be read");
            assert_eq!(again.to_string(), printed);
        }
        Err(error) => {
            assert!(error.at().end <= text.len());
            _ = error.to_string();
        }
    }
});
