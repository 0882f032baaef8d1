//! The file benchmarks that are not ours: a bare io_uring loop, plain system calls, and tokio.
//!
//! `peer-fileio --runtime raw|pread|tokio-fs|tokio-pread` and otherwise the options of our example
//! `fileio`; the file must be there (`fileio` lays it out).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use io_uring::{opcode, types};
use lexopt::prelude::*;
use overlapped_benches::ring;

#[derive(Clone)]
struct Options {
    runtime: String,
    path: String,
    write: bool,
    random: bool,
    block: usize,
    depth: usize,
    seconds: f64,
    size: u64,
    direct: bool,
}

fn options() -> Result<Options, lexopt::Error> {
    let mut options = Options {
        runtime: "raw".into(),
        path: String::new(),
        write: false,
        random: true,
        block: 4096,
        depth: 1,
        seconds: 1.0,
        size: 256 << 20,
        direct: false,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("runtime") => options.runtime = parser.value()?.string()?,
            Long("path") => options.path = parser.value()?.string()?,
            Long("rw") => {
                let rw = parser.value()?.string()?;
                options.random = rw.starts_with("rand");
                options.write = rw.ends_with("write");
            }
            Long("bs") => options.block = parser.value()?.parse()?,
            Long("depth") => options.depth = parser.value()?.parse()?,
            Long("seconds") => options.seconds = parser.value()?.parse()?,
            Long("size") => options.size = parser.value()?.parse()?,
            Long("direct") => options.direct = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

/// The blocks of one lane, in the order of our own example.
struct Blocks {
    state: u64,
    count: u64,
    random: bool,
    stride: u64,
}

impl Blocks {
    fn new(options: &Options, lane: usize) -> Blocks {
        let lane = lane as u64;
        let state = if options.random { lane.wrapping_mul(0x9E37_79B9) | 1 } else { lane };
        let count = options.size / options.block as u64;
        Blocks { state, count, random: options.random, stride: options.depth as u64 }
    }

    fn next(&mut self) -> u64 {
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

fn fill(block: &mut [u8], number: u64) {
    for (i, word) in block.chunks_mut(8).enumerate() {
        let value = (number ^ (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes();
        word.copy_from_slice(&value[..word.len()]);
    }
}

/// Page-aligned memory for all lanes. Never freed.
fn memory(options: &Options) -> Vec<&'static mut [u8]> {
    let size = options.block.next_multiple_of(4096);
    let layout = std::alloc::Layout::from_size_align(size * options.depth, 4096).expect("fits");
    // SAFETY: the size is not zero; the memory is zeroed and never freed.
    let all = unsafe {
        std::slice::from_raw_parts_mut(std::alloc::alloc_zeroed(layout), size * options.depth)
    };
    all.chunks_mut(size).map(|lane| &mut lane[..options.block]).collect()
}

struct Tally {
    ops: u64,
    errors: u64,
    latencies: Histogram<u64>,
}

impl Tally {
    fn new() -> Tally {
        let latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid");
        Tally { ops: 0, errors: 0, latencies }
    }

    fn count(&mut self, good: bool, took: Duration) {
        self.ops += 1;
        self.errors += u64::from(!good);
        self.latencies.saturating_record(took.as_nanos() as u64);
    }
}

fn open(options: &Options) -> io::Result<File> {
    let flags = if options.direct { libc::O_DIRECT } else { 0 };
    File::options().read(true).write(options.write).custom_flags(flags).open(&options.path)
}

fn plain(options: &Options) -> io::Result<Tally> {
    let (file, mut tally) = (open(options)?, Tally::new());
    let buffer = memory(options).swap_remove(0);
    let mut blocks = Blocks::new(options, 0);
    let end = Instant::now() + Duration::from_secs_f64(options.seconds);
    let mut now = Instant::now();
    while now < end {
        let number = blocks.next();
        let offset = number * options.block as u64;
        let n = if options.write {
            fill(buffer, number);
            file.write_at(buffer, offset)?
        } else {
            file.read_at(buffer, offset)?
        };
        let done = Instant::now();
        tally.count(n == options.block, done - now);
        now = done;
    }
    Ok(tally)
}

fn bare(options: &Options) -> io::Result<Tally> {
    let (file, mut tally) = (open(options)?, Tally::new());
    let mut ring = ring::new(256.max(options.depth as u32))?;
    let mut buffers = memory(options);
    let fd = types::Fd(file.as_raw_fd());
    let end = Instant::now() + Duration::from_secs_f64(options.seconds);
    let mut lanes: Vec<_> =
        (0..options.depth).map(|i| (Blocks::new(options, i), Instant::now())).collect();
    let mut batch = Vec::with_capacity(options.depth);
    batch.extend((0..options.depth).map(|i| (i as u64, -1, 0)));
    let mut live = options.depth;
    let mut first = true;
    while live > 0 {
        if !first {
            ring::turn(&mut ring, &mut batch)?;
        }
        for &(lane, result, _) in &batch {
            let (blocks, begin) = &mut lanes[lane as usize];
            let now = Instant::now();
            if !first {
                tally.count(result == options.block as i32, now - *begin);
                if now >= end {
                    live -= 1;
                    continue;
                }
            }
            let number = blocks.next();
            let offset = number * options.block as u64;
            let buffer = &mut buffers[lane as usize];
            *begin = now;
            let entry = if options.write {
                fill(buffer, number);
                opcode::Write::new(fd, buffer.as_ptr(), buffer.len() as u32).offset(offset).build()
            } else {
                let start = buffer.as_mut_ptr();
                opcode::Read::new(fd, start, buffer.len() as u32).offset(offset).build()
            };
            // SAFETY: the buffer is never freed, and its lane has one operation in flight.
            unsafe { ring::push(&mut ring, &entry.user_data(lane))? };
        }
        first = false;
    }
    Ok(tally)
}

fn tokio(options: &Options, whole_file: bool) -> io::Result<Tally> {
    use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut lanes = Vec::new();
        let shared = Arc::new(open(options)?);
        for lane in 0..options.depth {
            let (options, shared) = (options.clone(), shared.clone());
            lanes.push(tokio::spawn(async move {
                let mut tally = Tally::new();
                let mut blocks = Blocks::new(&options, lane);
                let mut buffer = vec![0; options.block];
                let mut own = tokio::fs::File::from_std(open(&options)?);
                let end = Instant::now() + Duration::from_secs_f64(options.seconds);
                let mut now = Instant::now();
                while now < end {
                    let number = blocks.next();
                    let offset = number * options.block as u64;
                    if options.write {
                        fill(&mut buffer, number);
                    }
                    let n = if whole_file {
                        own.seek(io::SeekFrom::Start(offset)).await?;
                        if options.write {
                            own.write_all(&buffer).await?;
                            own.flush().await?;
                            buffer.len()
                        } else {
                            own.read_exact(&mut buffer).await?
                        }
                    } else {
                        let file = shared.clone();
                        let write = options.write;
                        let (n, back) = tokio::task::spawn_blocking(move || {
                            let n = if write {
                                file.write_at(&buffer, offset)
                            } else {
                                file.read_at(&mut buffer, offset)
                            };
                            n.map(|n| (n, buffer))
                        })
                        .await??;
                        buffer = back;
                        n
                    };
                    let done = Instant::now();
                    tally.count(n == options.block, done - now);
                    now = done;
                }
                io::Result::Ok(tally)
            }));
        }
        let mut all = Tally::new();
        for lane in lanes {
            let tally = lane.await??;
            all.ops += tally.ops;
            all.errors += tally.errors;
            all.latencies.add(&tally.latencies).map_err(io::Error::other)?;
        }
        Ok(all)
    })
}

fn cpu_us() -> f64 {
    // SAFETY: `rusage` is plain numbers, and the call only fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let us = |t: libc::timeval| t.tv_sec as f64 * 1e6 + t.tv_usec as f64;
    us(usage.ru_utime) + us(usage.ru_stime)
}

fn main() -> io::Result<()> {
    let options = options().unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2);
    });
    let (begin, cpu) = (Instant::now(), cpu_us());
    let tally = match options.runtime.as_str() {
        "raw" => bare(&options)?,
        "pread" => plain(&options)?,
        "tokio-fs" => tokio(&options, true)?,
        "tokio-pread" => tokio(&options, false)?,
        _ => return Err(io::Error::other("--runtime: raw, pread, tokio-fs or tokio-pread")),
    };
    let (seconds, cpu) = (begin.elapsed().as_secs_f64(), cpu_us() - cpu);
    let ns = |q| tally.latencies.value_at_quantile(q);
    println!(
        "{}",
        serde_json::json!({
            "ops": tally.ops, "seconds": seconds, "ops_per_sec": tally.ops as f64 / seconds,
            "cpu_us_per_op": cpu / tally.ops.max(1) as f64,
            "p50_ns": ns(0.5), "p99_ns": ns(0.99), "p999_ns": ns(0.999), "errors": tally.errors,
        })
    );
    Ok(())
}
