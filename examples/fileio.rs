//! Reads or writes blocks of a file, many at a time, and reports what one costs.
//!
//! `cargo run --release --example fileio -- --path F --rw randread --bs 4096 --depth 32 --seconds 2`
//!
//! Prints one line of JSON.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use lexopt::prelude::*;
use overlapped::buf::{AlignedBuf, BufResult};
use overlapped::driver::filter::PassKind;
use overlapped::fs::{File, OpenOptions};
use overlapped::operation::{Read, Write};
use overlapped::{Backend, Builder, CompletionPort};
use overlapped_examples::{Api, Counting, allocations, cpu_us, filters, parse_kind, text, usage};

#[global_allocator]
static COUNTING: Counting = Counting;

const USAGE: &str = "fileio --path P --rw read|write|randread|randwrite --bs BYTES --depth N
     --seconds S [--size BYTES] [--direct] [--verify] [--api future|port] [--filters N]
     [--filter-kind unhooked|skip|routine|future] [--backend io_uring|epoll] [--workers N]";

#[derive(Clone)]
struct Options {
    path: PathBuf,
    write: bool,
    random: bool,
    block: usize,
    depth: usize,
    seconds: f64,
    size: u64,
    direct: bool,
    verify: bool,
    api: Api,
    filters: usize,
    kind: PassKind,
    backend: Option<Backend>,
    workers: usize,
}

fn options() -> Result<Options, lexopt::Error> {
    let mut options = Options {
        path: PathBuf::new(),
        write: false,
        random: false,
        block: 4096,
        depth: 1,
        seconds: 1.0,
        size: 256 << 20,
        direct: false,
        verify: false,
        api: Api::Future,
        filters: 0,
        kind: PassKind::Routine,
        backend: None,
        workers: 1,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("path") => options.path = parser.value()?.into(),
            Long("rw") => {
                (options.write, options.random) = match text(parser.value()?)?.as_str() {
                    "read" => (false, false),
                    "write" => (true, false),
                    "randread" => (false, true),
                    "randwrite" => (true, true),
                    _ => return Err("--rw: expected read, write, randread or randwrite".into()),
                }
            }
            Long("bs") => options.block = parser.value()?.parse()?,
            Long("depth") => options.depth = parser.value()?.parse()?,
            Long("seconds") => options.seconds = parser.value()?.parse()?,
            Long("size") => options.size = parser.value()?.parse()?,
            Long("direct") => options.direct = true,
            Long("verify") => options.verify = true,
            Long("api") => options.api = parser.value()?.parse()?,
            Long("filters") => options.filters = parser.value()?.parse()?,
            Long("filter-kind") => options.kind = parser.value()?.parse_with(parse_kind)?,
            Long("backend") => options.backend = Some(parser.value()?.parse()?),
            Long("workers") => options.workers = parser.value()?.parse()?,
            other => return Err(other.unexpected()),
        }
    }
    if options.path.as_os_str().is_empty() {
        return Err("--path is missing".into());
    }
    if options.block < 8 || options.block as u64 > options.size || options.depth == 0 {
        return Err("--bs must be 8 or more and at most --size, and --depth 1 or more".into());
    }
    if !(0.0..1e6).contains(&options.seconds) {
        return Err("--seconds must be between 0 and a million".into());
    }
    Ok(options)
}

/// A block's contents: its number, over and over, so that any block read back names itself.
fn fill(block: &mut [u8], number: u64) {
    for (i, word) in block.chunks_mut(8).enumerate() {
        let value = (number ^ (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes();
        word.copy_from_slice(&value[..word.len()]);
    }
}

fn is_filled(block: &[u8], number: u64) -> bool {
    block.chunks(8).enumerate().all(|(i, word)| {
        let value = (number ^ (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes();
        *word == value[..word.len()]
    })
}

/// Makes the file, block by block, and reads it once so that it is cached.
fn lay_out(options: &Options) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&options.path)?;
    let blocks = options.size / options.block as u64;
    let mut block = vec![0; options.block];
    let is_complete = file.metadata()?.len() >= blocks * options.block as u64;
    let is_ours = || -> io::Result<bool> {
        let mut seen = vec![0; options.block];
        for number in [0, blocks / 2, blocks - 1] {
            file.read_exact_at(&mut seen, number * options.block as u64)?;
            if !is_filled(&seen, number) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    if !is_complete || (options.verify && !is_ours()?) {
        eprintln!("laying out {} MiB in {}", options.size >> 20, options.path.display());
        for number in 0..blocks {
            fill(&mut block, number);
            file.write_all_at(&block, number * options.block as u64)?;
        }
        file.sync_all()?;
    }
    if !options.direct {
        for number in 0..blocks {
            file.read_exact_at(&mut block, number * options.block as u64)?;
        }
    }
    Ok(())
}

/// Which block comes next: in order, or by a generator.
struct Blocks {
    state: u64,
    count: u64,
    random: bool,
}

impl Blocks {
    fn new(options: &Options, lane: usize) -> Blocks {
        let count = options.size / options.block as u64;
        let lane = lane as u64;
        let state = if options.random { lane.wrapping_mul(0x9E37_79B9) | 1 } else { lane };
        Blocks { state, count, random: options.random }
    }

    fn next(&mut self, stride: u64) -> u64 {
        if self.random {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            self.state % self.count
        } else {
            let number = self.state % self.count;
            self.state += stride;
            number
        }
    }
}

struct Tally {
    ops: u64,
    errors: u64,
    latencies: Histogram<u64>,
    /// Operations and allocations when the first tenth of the time had passed: the steady state.
    mark: Option<(u64, u64)>,
}

impl Tally {
    fn new() -> Tally {
        let latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds");
        Tally { ops: 0, errors: 0, latencies, mark: None }
    }

    fn count(&mut self, options: &Options, number: u64, n: Option<usize>, block: &[u8], ns: u64) {
        self.ops += 1;
        self.latencies.saturating_record(ns);
        let good = n == Some(options.block)
            && (!options.verify || options.write || is_filled(block, number));
        self.errors += u64::from(!good);
    }

    fn merge(&mut self, other: &Tally) {
        self.ops += other.ops;
        self.errors += other.errors;
        self.latencies.add(&other.latencies).expect("same bounds");
    }
}

/// When to stop, and when the steady state begins.
#[derive(Clone, Copy)]
struct Clock {
    begin: Instant,
    mark: Instant,
    end: Instant,
}

impl Clock {
    fn new(seconds: f64) -> Clock {
        let begin = Instant::now();
        let at = |part: f64| begin + Duration::from_secs_f64(seconds * part);
        Clock { begin, mark: at(0.1), end: at(1.0) }
    }
}

fn open(options: &Options) -> OpenOptions {
    let open = OpenOptions::new().read(true).write(options.write).direct(options.direct);
    filters(options.filters, options.kind).into_iter().fold(open, OpenOptions::filter)
}

fn buffer(options: &Options) -> AlignedBuf {
    AlignedBuf::new(options.block, 4096)
}

fn parts(result: BufResult<usize, AlignedBuf>) -> (Option<usize>, AlignedBuf) {
    match result {
        Ok((n, buf)) => (Some(n), buf),
        Err(error) => (None, error.into_buf()),
    }
}

// The future route: a task for each lane.

async fn lane(
    options: Rc<Options>,
    file: Rc<File>,
    lane: usize,
    clock: Clock,
    tally: Rc<RefCell<Tally>>,
) {
    let mut blocks = Blocks::new(&options, lane);
    let mut buf = buffer(&options);
    let mut now = Instant::now();
    while now < clock.end {
        let number = blocks.next(options.depth as u64);
        let offset = number * options.block as u64;
        let result = if options.write {
            fill(&mut buf, number);
            file.write_at(buf, offset).await
        } else {
            file.read_at(buf, offset).await
        };
        let n;
        (n, buf) = parts(result);
        let end = Instant::now();
        let mut tally = tally.borrow_mut();
        tally.count(&options, number, n, &buf, (end - now).as_nanos() as u64);
        if tally.mark.is_none() && end >= clock.mark {
            tally.mark = Some((tally.ops, allocations()));
        }
        now = end;
    }
}

fn futures(options: &Options) -> io::Result<Tally> {
    let mut builder = Builder::new();
    if let Some(backend) = options.backend {
        builder = builder.backend(backend);
    }
    let runtime = builder.build_local()?;
    runtime.block_on(async {
        let file = Rc::new(open(options).open(&options.path).await?);
        let shared = Rc::new(options.clone());
        let tally = Rc::new(RefCell::new(Tally::new()));
        let clock = Clock::new(options.seconds);
        let lanes: Vec<_> = (0..options.depth)
            .map(|i| {
                let task = lane(shared.clone(), file.clone(), i, clock, tally.clone());
                overlapped::spawn_local(task)
            })
            .collect();
        for lane in lanes {
            lane.await?;
        }
        let Ok(tally) = Rc::try_unwrap(tally) else { unreachable!("all lanes have ended") };
        Ok(tally.into_inner())
    })
}

// The port route: one thread issues and reaps.

fn ports(options: &Options) -> io::Result<Tally> {
    let file = open(options).open_wait(&options.path)?;
    let port = CompletionPort::new();
    let clock = Clock::new(options.seconds);
    let mut tally = Tally::new();
    let mut lanes: Vec<(Blocks, u64, Instant)> =
        (0..options.depth).map(|i| (Blocks::new(options, i), 0, clock.begin)).collect();
    let issue = |lane: &mut (Blocks, u64, Instant), key: usize, mut buf: AlignedBuf| {
        lane.1 = lane.0.next(options.depth as u64);
        lane.2 = Instant::now();
        let offset = lane.1 * options.block as u64;
        let posted = if options.write {
            fill(&mut buf, lane.1);
            file.write_at(buf, offset).post(&port, key as u64).map_err(drop)
        } else {
            file.read_at(buf, offset).post(&port, key as u64).map_err(drop)
        };
        posted.is_ok()
    };
    let mut in_flight = 0;
    for (key, lane) in lanes.iter_mut().enumerate() {
        if issue(lane, key, buffer(options)) {
            in_flight += 1;
        } else {
            tally.errors += 1;
        }
    }
    let mut packets = Vec::with_capacity(options.depth);
    while in_flight > 0 {
        packets.clear();
        port.remove_many(&mut packets, options.depth, None)?;
        for packet in packets.drain(..) {
            in_flight -= 1;
            let key = packet.key() as usize;
            let (n, buf) = parts(if options.write {
                packet.into_output::<Write<AlignedBuf>>()
            } else {
                packet.into_output::<Read<AlignedBuf>>()
            });
            let lane = &mut lanes[key];
            let now = Instant::now();
            tally.count(options, lane.1, n, &buf, (now - lane.2).as_nanos() as u64);
            if tally.mark.is_none() && now >= clock.mark {
                tally.mark = Some((tally.ops, allocations()));
            }
            if now < clock.end {
                if issue(lane, key, buf) {
                    in_flight += 1;
                } else {
                    tally.errors += 1;
                }
            }
        }
    }
    Ok(tally)
}

fn run(options: &Options) -> io::Result<Tally> {
    match options.api {
        Api::Future => futures(options),
        Api::Port => ports(options),
    }
}

fn main() -> io::Result<()> {
    let options = options().unwrap_or_else(|error| usage(error, USAGE));
    if let (Api::Port, Some(backend)) = (options.api, options.backend) {
        // A plain thread's processor asks the environment.
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("OVERLAPPED_BACKEND", backend.to_string()) };
    }
    lay_out(&options)?;
    let (begin, cpu) = (Instant::now(), cpu_us());
    let tally = if options.workers <= 1 {
        run(&options)?
    } else {
        // One runtime a worker, each with its own lanes.
        let threads: Vec<_> = (0..options.workers)
            .map(|_| {
                let options = options.clone();
                std::thread::spawn(move || run(&options))
            })
            .collect();
        let mut all = Tally::new();
        for thread in threads {
            let tally = thread.join().map_err(|_| io::Error::other("a worker panicked"))??;
            all.mark = all.mark.or(tally.mark);
            all.merge(&tally);
        }
        all
    };
    let (seconds, cpu) = (begin.elapsed().as_secs_f64(), cpu_us() - cpu);
    if options.write && options.verify {
        verify(&options)?;
    }
    let per_op = |n: f64, ops: u64| n / ops.max(1) as f64;
    let (mark_ops, mark_allocations) = tally.mark.unwrap_or((0, 0));
    let allocated = if mark_ops == 0 { 0 } else { allocations() - mark_allocations };
    println!(
        "{}",
        serde_json::json!({
            "ops": tally.ops,
            "seconds": seconds,
            "ops_per_sec": tally.ops as f64 / seconds,
            "cpu_us_per_op": per_op(cpu, tally.ops),
            "p50_ns": tally.latencies.value_at_quantile(0.5),
            "p99_ns": tally.latencies.value_at_quantile(0.99),
            "p999_ns": tally.latencies.value_at_quantile(0.999),
            "errors": tally.errors,
            "allocations_per_op": per_op(allocated as f64, tally.ops - mark_ops),
        })
    );
    if tally.errors > 0 {
        std::process::exit(1);
    }
    Ok(())
}

/// Reads the whole file back: every block must hold its own number.
fn verify(options: &Options) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(&options.path)?;
    let mut block = vec![0; options.block];
    for number in 0..options.size / options.block as u64 {
        file.read_exact_at(&mut block, number * options.block as u64)?;
        if !is_filled(&block, number) {
            return Err(io::Error::other(format!("block {number} does not hold what was written")));
        }
    }
    Ok(())
}
