//! What the file benchmarks share: their command line, the file, its contents, the tally.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use overlapped_examples::{allocations, cpu_us};

/// The command line: that of our example `fileio`, and `--runtime`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which contestant.
    pub runtime: String,
    /// The file.
    pub path: String,
    /// Whether to write.
    pub write: bool,
    /// Whether in random order.
    pub random: bool,
    /// Bytes of a block.
    pub block: usize,
    /// Operations in flight.
    pub depth: usize,
    /// Length of the run.
    pub seconds: f64,
    /// Bytes of the file.
    pub size: u64,
    /// Whether around the page cache.
    pub direct: bool,
    /// Whether to check the blocks' contents.
    pub verify: bool,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// For what is not in it, or makes no sense.
    pub fn from_args() -> Result<Options, lexopt::Error> {
        use lexopt::prelude::*;
        let mut options = Options {
            runtime: "raw".into(),
            path: String::new(),
            write: false,
            random: false,
            block: 4096,
            depth: 1,
            seconds: 1.0,
            size: 256 << 20,
            direct: false,
            verify: false,
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("runtime") => options.runtime = parser.value()?.string()?,
                Long("path") => options.path = parser.value()?.string()?,
                Long("rw") => {
                    (options.write, options.random) = match parser.value()?.string()?.as_str() {
                        "read" => (false, false),
                        "write" => (true, false),
                        "randread" => (false, true),
                        "randwrite" => (true, true),
                        _ => return Err("--rw: expected read, write, randread, randwrite".into()),
                    }
                }
                Long("bs") => options.block = parser.value()?.parse()?,
                Long("depth") => options.depth = parser.value()?.parse()?,
                Long("seconds") => options.seconds = parser.value()?.parse()?,
                Long("size") => options.size = parser.value()?.parse()?,
                Long("direct") => options.direct = true,
                Long("verify") => options.verify = true,
                other => return Err(other.unexpected()),
            }
        }
        if options.path.is_empty() {
            return Err("--path is missing".into());
        }
        if options.block < 8 || options.block as u64 > options.size || options.depth == 0 {
            return Err("--bs must be 8 or more and at most --size, --depth 1 or more".into());
        }
        if !(0.0..1e6).contains(&options.seconds) {
            return Err("--seconds must be between 0 and a million".into());
        }
        Ok(options)
    }

    /// Blocks of the file.
    pub fn blocks(&self) -> u64 {
        self.size / self.block as u64
    }

    /// Where a block begins.
    pub fn offset(&self, number: u64) -> u64 {
        number * self.block as u64
    }

    /// Opens the file as asked for.
    ///
    /// # Errors
    /// Those of opening.
    pub fn open(&self) -> io::Result<File> {
        let mut how = File::options();
        how.read(true).write(self.write).custom_flags(self.flags()).open(&self.path)
    }

    /// The flags for opening it, next to those for reading and writing.
    pub fn flags(&self) -> i32 {
        if self.direct { libc::O_DIRECT } else { 0 }
    }

    /// Makes the file if it is missing, too short or (to verify) another's, and reads it once so
    /// that it is cached. In blocks of 4 KiB: a file written in large pieces is cached in large
    /// pieces, where each small write costs many times as much.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn lay_out(&self) -> io::Result<()> {
        let mut how = File::options();
        let file = how.read(true).write(true).create(true).truncate(false).open(&self.path)?;
        let mut block = vec![0; self.block];
        let mut is_good = file.metadata()?.len() >= self.offset(self.blocks());
        if is_good && self.verify {
            for number in [0, self.blocks() / 2, self.blocks() - 1] {
                file.read_exact_at(&mut block, self.offset(number))?;
                is_good &= is_filled(&block, number);
            }
        }
        if !is_good {
            for number in 0..self.blocks() {
                fill(&mut block, number);
                for (i, piece) in block.chunks(4096).enumerate() {
                    file.write_all_at(piece, self.offset(number) + (i * 4096) as u64)?;
                }
            }
            file.sync_all()?;
        }
        if !self.direct {
            let mut piece = [0; 4096];
            let mut at = 0;
            while at < self.size && file.read_at(&mut piece, at)? > 0 {
                at += 4096;
            }
        }
        Ok(())
    }

    /// Reads the whole file back: every block must hold its own number.
    ///
    /// # Errors
    /// For the first block that does not, and those of reading.
    pub fn check(&self) -> io::Result<()> {
        let file = File::open(&self.path)?;
        let mut block = vec![0; self.block];
        for number in 0..self.blocks() {
            file.read_exact_at(&mut block, self.offset(number))?;
            if !is_filled(&block, number) {
                let what = format!("block {number} does not hold what was written");
                return Err(io::Error::other(what));
            }
        }
        Ok(())
    }
}

fn word(number: u64, i: usize) -> [u8; 8] {
    (number ^ (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes()
}

/// Fills a block with what names it, the same as in our own example.
pub fn fill(block: &mut [u8], number: u64) {
    for (i, part) in block.chunks_mut(8).enumerate() {
        part.copy_from_slice(&word(number, i)[..part.len()]);
    }
}

/// Whether a block holds what `fill` writes.
pub fn is_filled(block: &[u8], number: u64) -> bool {
    block.chunks(8).enumerate().all(|(i, part)| *part == word(number, i)[..part.len()])
}

/// The blocks of one lane, in the order of our own example.
#[derive(Clone, Debug)]
pub struct Blocks {
    state: u64,
    count: u64,
    random: bool,
    stride: u64,
}

impl Blocks {
    /// Those of a lane.
    pub fn new(options: &Options, lane: usize) -> Blocks {
        let lane = lane as u64;
        let state = if options.random { lane.wrapping_mul(0x9E37_79B9) | 1 } else { lane };
        let stride = options.depth as u64;
        Blocks { state, count: options.blocks(), random: options.random, stride }
    }

    /// The number of the next one.
    pub fn step(&mut self) -> u64 {
        if self.random {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            self.state % self.count
        } else {
            let number = self.state % self.count;
            self.state += self.stride;
            number
        }
    }
}

/// When to stop, and when the steady state begins.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    mark: Instant,
    /// No operation begins from here on.
    pub end: Instant,
}

impl Clock {
    /// Begins now.
    pub fn new(seconds: f64) -> Clock {
        let begin = Instant::now();
        let at = |part: f64| begin + Duration::from_secs_f64(seconds * part);
        Clock { mark: at(0.1), end: at(1.0) }
    }
}

/// What the operations of a run did.
pub struct Tally {
    /// Operations.
    pub ops: u64,
    /// Those that failed, were short, or read other bytes than they should.
    pub errors: u64,
    /// How long they took, in nanoseconds.
    pub latencies: Histogram<u64>,
    /// Operations and allocations when the steady state began.
    mark: Option<(u64, u64)>,
}

impl Default for Tally {
    fn default() -> Tally {
        let latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds");
        Tally { ops: 0, errors: 0, latencies, mark: None }
    }
}

impl Tally {
    /// Counts an operation that has ended now.
    pub fn count(&mut self, clock: Clock, is_good: bool, begun: Instant, now: Instant) {
        self.ops += 1;
        self.errors += u64::from(!is_good);
        self.latencies.saturating_record((now - begun).as_nanos() as u64);
        if self.mark.is_none() && now >= clock.mark {
            self.mark = Some((self.ops, allocations()));
        }
    }

    /// Allocations per operation in the steady state.
    pub fn allocations_per_op(&self) -> f64 {
        let Some((ops, before)) = self.mark else { return 0.0 };
        (allocations() - before) as f64 / (self.ops - ops).max(1) as f64
    }
}

/// Whether an operation did what it should: `result` bytes of a block that was read or written.
pub fn is_good(options: &Options, result: Option<usize>, block: &[u8], number: u64) -> bool {
    let needs_check = options.verify && !options.write;
    result == Some(options.block) && (!needs_check || is_filled(block, number))
}

/// Lays the file out, runs a contestant, and prints its line of JSON. Ends the process with status 1
/// if an operation was not good.
///
/// # Errors
/// Those of the file and of the contestant, and when what was written is not in the file.
pub fn report(
    options: &Options,
    run: impl FnOnce(&Options) -> io::Result<Tally>,
) -> io::Result<()> {
    options.lay_out()?;
    let (begin, cpu) = (Instant::now(), cpu_us());
    let tally = run(options)?;
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
