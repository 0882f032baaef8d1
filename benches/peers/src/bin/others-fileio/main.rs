//! The file benchmarks on other runtimes with a ring a thread.
//!
//! `others-fileio --runtime monoio|compio|glommio` and otherwise the options and the line of JSON of
//! our example `fileio`.

mod compio_file;
mod glommio_file;
mod monoio_file;

use std::io;

use overlapped_benches::file::{Options, Tally, report};
use overlapped_examples::Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn usage(error: &dyn std::fmt::Display) -> ! {
    eprintln!("{error}");
    std::process::exit(2);
}

fn main() -> io::Result<()> {
    let options = Options::from_args().unwrap_or_else(|error| usage(&error));
    let run: fn(&Options) -> io::Result<Tally> = match options.runtime.as_str() {
        "monoio" => monoio_file::run,
        "compio" => compio_file::run,
        "glommio" => glommio_file::run,
        other => usage(&format!("--runtime: monoio, compio or glommio, not '{other}'")),
    };
    report(&options, run)
}
