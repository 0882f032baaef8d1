//! The load generator: a closed loop on every connection, every byte compared.
//!
//! `load --connect ADDR --connections C --size BYTES --depth D --seconds S [--warmup S] [--pid PID]
//! [--wait]`
//!
//! ADDR is `HOST:PORT`, `udp:HOST:PORT` (a message is a datagram, and a lost one fails the run) or
//! `unix:PATH`.
//!
//! Each connection has D messages in flight; one that has come back is followed by the next. Prints
//! one line of JSON; exit status 1 if anything was wrong. `--pid` also reads the CPU time of the
//! server's process at the ends of the measured window. `--wait` prints `connected` and begins when
//! the standard input ends.

mod connection;
mod pattern;

use std::io::{self, Read};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use io_uring::{cqueue, opcode, types};
use lexopt::prelude::*;
use overlapped_benches::address::Address;
use overlapped_benches::cpu::{ProcessClock, raise_descriptor_limit};
use overlapped_benches::pool::Pool;
use overlapped_benches::ring::{Done, Ring};

use connection::Connection;
use pattern::Pattern;

struct Options {
    connect: Address,
    connections: usize,
    size: usize,
    depth: usize,
    seconds: f64,
    warmup: f64,
    pid: Option<u32>,
    wait: bool,
}

fn options() -> Result<Options, lexopt::Error> {
    let mut options = Options {
        connect: "127.0.0.1:7777".parse().expect("an address"),
        connections: 1,
        size: 64,
        depth: 1,
        seconds: 1.0,
        warmup: 0.2,
        pid: None,
        wait: false,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("connect") => options.connect = parser.value()?.parse()?,
            Long("connections") => options.connections = parser.value()?.parse()?,
            Long("size") => options.size = parser.value()?.parse()?,
            Long("depth") => options.depth = parser.value()?.parse()?,
            Long("seconds") => options.seconds = parser.value()?.parse()?,
            Long("warmup") => options.warmup = parser.value()?.parse()?,
            Long("pid") => options.pid = Some(parser.value()?.parse()?),
            Long("wait") => options.wait = true,
            other => return Err(other.unexpected()),
        }
    }
    if options.connections == 0 || options.size == 0 || options.depth == 0 {
        return Err("--connections, --size and --depth must be 1 or more".into());
    }
    if matches!(options.connect, Address::Udp(_)) && options.size > DATAGRAM {
        return Err(format!("a datagram holds at most {DATAGRAM} bytes").into());
    }
    if !(0.0..1e6).contains(&options.seconds) || !(0.0..1e6).contains(&options.warmup) {
        return Err("--seconds and --warmup must be between 0 and a million".into());
    }
    Ok(options)
}

/// The most that fits one datagram.
const DATAGRAM: usize = 65_507;

const TIMER: u64 = u64::MAX;

/// How long the last messages may take to come back.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measured,
    Draining,
}

/// A run, and what it has seen.
struct Run {
    options: Options,
    ring: Ring,
    pool: Pool,
    pattern: Pattern,
    connections: Vec<Connection>,
    phase: Phase,
    /// When the phase ends.
    until: Instant,
    busy: usize,
    errors: u64,
    /// All messages, those outside the window included.
    total: u64,
    latencies: Histogram<u64>,
}

/// Points of time, kept for the kernel to read.
type Times = [types::Timespec; 3];

impl Run {
    fn failed(&mut self, what: &str) {
        self.errors += 1;
        if self.errors <= 10 {
            eprintln!("{what}");
        }
    }

    /// A time-out, so that a server that stalls cannot hold us.
    fn alarm(&mut self, time: &types::Timespec) -> io::Result<()> {
        let entry = opcode::Timeout::new(time).build().user_data(TIMER);
        // SAFETY: the time lives in `main` until the end.
        unsafe { self.ring.push(&entry) }
    }

    fn received(&mut self, done: Done, now: Instant) -> io::Result<()> {
        let connection = &mut self.connections[(done.data >> 1) as usize];
        // An empty pool ends a receive without a message, also that of a connection that is done.
        let was_idle = connection.is_idle();
        if let Some(id) = cqueue::buffer_select(done.flags) {
            let bytes = &self.pool.get(id)[..done.result.max(0) as usize];
            let result = connection.has_received(bytes, &self.pattern);
            self.pool.taken();
            self.pool.give(id);
            if let Err(what) = result {
                self.failed(&what);
                return Err(io::Error::other("stopped at the first wrong byte"));
            }
        }
        if done.result <= 0 && done.result != -libc::ENOBUFS {
            let error = io::Error::from_raw_os_error(-done.result);
            let why = if done.result == 0 { "closed".to_owned() } else { error.to_string() };
            return Err(io::Error::other(format!("the server ended a connection: {why}")));
        }
        let mut began = false;
        while let Some(begun) = connection.take_finished() {
            self.total += 1;
            if self.phase == Phase::Measured {
                connection.echoes += 1;
                self.latencies.saturating_record((now - begun).as_nanos() as u64);
            }
            if self.phase != Phase::Draining {
                connection.begin(now);
                began = true;
            }
        }
        self.busy -= usize::from(!was_idle && connection.is_idle());
        if began {
            connection.send(&mut self.ring, &self.pattern)?;
        }
        if cqueue::more(done.flags) || connection.is_idle() {
            return Ok(());
        }
        connection.receive(&mut self.ring)
    }

    fn sent(&mut self, done: Done) -> io::Result<()> {
        if done.result <= 0 {
            let error = io::Error::from_raw_os_error(-done.result);
            return Err(io::Error::other(format!("cannot send: {error}")));
        }
        let connection = &mut self.connections[(done.data >> 1) as usize];
        connection.has_sent(done.result as usize);
        connection.send(&mut self.ring, &self.pattern)
    }

    /// Runs until all messages are back; gives the measured time and the server's CPU time in it.
    fn run(&mut self, clock: Option<ProcessClock>, times: &Times) -> io::Result<(f64, u64)> {
        let server = || clock.map_or(Ok(0), ProcessClock::ns);
        let begin = Instant::now();
        self.until = begin + Duration::from_secs_f64(self.options.warmup);
        self.alarm(&times[0])?;
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            (0..self.options.depth).for_each(|_| connection.begin(begin));
            connection.send(&mut self.ring, &self.pattern)?;
            connection.receive(&mut self.ring)?;
        }
        self.busy = self.connections.len();
        let (mut batch, mut cpu, mut seconds) = (Vec::with_capacity(32768), 0, 0.0);
        let mut window = begin;
        while self.busy > 0 {
            self.ring.turn(true, &mut batch)?;
            let now = Instant::now();
            if now >= self.until {
                match self.phase {
                    Phase::WarmUp => {
                        (cpu, window) = (server()?, now);
                        self.phase = Phase::Measured;
                        self.until = now + Duration::from_secs_f64(self.options.seconds);
                        self.alarm(&times[1])?;
                    }
                    Phase::Measured => {
                        (cpu, seconds) = (server()? - cpu, (now - window).as_secs_f64());
                        self.phase = Phase::Draining;
                        self.until = now + PATIENCE;
                        self.alarm(&times[2])?;
                    }
                    Phase::Draining => {
                        return Err(io::Error::other(format!(
                            "{} connections got no answer in {PATIENCE:?}",
                            self.busy
                        )));
                    }
                }
            }
            for &done in &batch {
                match done.data {
                    TIMER => {}
                    data if data & 1 == 0 => self.received(done, now)?,
                    _ => self.sent(done)?,
                }
            }
        }
        Ok((seconds, cpu))
    }
}

fn main() -> io::Result<()> {
    let options = options().unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2);
    });
    raise_descriptor_limit();
    let clock = options.pid.map(ProcessClock::of).transpose()?;
    let open = |i| Connection::open(&options.connect, i, options.size, options.depth);
    let connections = (0..options.connections).map(open).collect::<io::Result<Vec<_>>>()?;
    let ring = Ring::new(4096)?;
    let pool = Pool::new(&ring, 32, 64 << 10)?;
    if options.wait {
        println!("connected");
        io::stdin().read_to_end(&mut Vec::new())?;
    }
    let time =
        |time: Duration| types::Timespec::new().sec(time.as_secs()).nsec(time.subsec_nanos());
    let seconds = Duration::from_secs_f64;
    let times = [seconds(options.warmup), seconds(options.seconds), PATIENCE].map(time);
    let mut run = Run {
        options,
        ring,
        pool,
        pattern: Pattern::new(),
        connections,
        phase: Phase::WarmUp,
        until: Instant::now(),
        busy: 0,
        errors: 0,
        total: 0,
        latencies: Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid"),
    };
    let (seconds, cpu) = run.run(clock, &times).unwrap_or_else(|error| {
        run.failed(&error.to_string());
        (0.0, 0)
    });
    report(&run, seconds, clock.map(|_| cpu));
    // Messages may still be on their way into memory that is ours: end without freeing it.
    std::process::exit(i32::from(run.errors > 0));
}

fn report(run: &Run, seconds: f64, cpu: Option<u64>) {
    let echoes: u64 = run.connections.iter().map(|c| c.echoes).sum();
    let each = || run.connections.iter().map(|c| c.echoes);
    println!(
        "{}",
        serde_json::json!({
            "echoes": echoes,
            "bytes": echoes * run.options.size as u64,
            "seconds": seconds,
            "echoes_per_sec": echoes as f64 / seconds.max(1e-9),
            "p50_ns": run.latencies.value_at_quantile(0.5),
            "p99_ns": run.latencies.value_at_quantile(0.99),
            "p999_ns": run.latencies.value_at_quantile(0.999),
            "errors": run.errors,
            "min_per_connection": each().min(),
            "max_per_connection": each().max(),
            "total": run.total,
            "server_cpu_ns": cpu,
        })
    );
}
