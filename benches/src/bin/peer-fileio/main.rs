//! The file benchmarks that are not ours: a bare io_uring loop, plain system calls, and tokio.
//!
//! `peer-fileio --runtime raw|raw-fixed|pread|tokio-fs|tokio-pread` and otherwise the options and
//! the line of JSON of our example `fileio`.

mod bare;
mod plain;
mod tokio_file;

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
        "raw" => |options| bare::run(options, false),
        "raw-fixed" => |options| bare::run(options, true),
        "pread" if options.depth > 1 => usage(&"pread: has one operation in flight, --depth 1"),
        "pread" => plain::run,
        // Its buffers are its own, and not aligned.
        "tokio-fs" if options.direct => usage(&"tokio-fs: cannot do direct I/O"),
        "tokio-fs" => |options| tokio_file::run(options, true),
        "tokio-pread" => |options| tokio_file::run(options, false),
        other => usage(&format!(
            "--runtime: raw, raw-fixed, pread, tokio-fs or tokio-pread, not '{other}'"
        )),
    };
    report(&options, run)
}
