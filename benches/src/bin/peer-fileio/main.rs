//! The file benchmarks that are not ours: a bare io_uring loop, plain system calls, and tokio.
//!
//! `peer-fileio --runtime raw|raw-fixed|pread|tokio-fs|tokio-pread` and otherwise the options and
//! the line of JSON of our example `fileio`.

mod bare;
mod plain;
mod tokio_file;

use std::io;
use std::time::Instant;

use overlapped_benches::file::{Options, Tally};
use overlapped_examples::{Counting, cpu_us};

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
    options.lay_out()?;
    let (begin, cpu) = (Instant::now(), cpu_us());
    let tally = run(&options)?;
    let (seconds, cpu) = (begin.elapsed().as_secs_f64(), cpu_us() - cpu);
    let allocated = tally.allocations_per_op();
    if options.write && options.verify {
        options.check()?;
    }
    let ns = |q| tally.latencies.value_at_quantile(q);
    println!(
        "{}",
        serde_json::json!({
            "ops": tally.ops,
            "seconds": seconds,
            "ops_per_sec": tally.ops as f64 / seconds,
            "cpu_us_per_op": cpu / tally.ops.max(1) as f64,
            "p50_ns": ns(0.5),
            "p99_ns": ns(0.99),
            "p999_ns": ns(0.999),
            "errors": tally.errors,
            "allocations_per_op": allocated,
        })
    );
    if tally.errors > 0 {
        std::process::exit(1);
    }
    Ok(())
}
