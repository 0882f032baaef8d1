//! A completion port beside other queues between threads.
//!
//! `ports --queue overlapped|overlapped-many|crossbeam|mutex|futex --work one|1p1c|2p2c|round-trip|
//! round-trip-asleep [--rounds N]`
//!
//! `one`: a thread posts and removes. `1p1c`, `2p2c`: that many threads post, that many remove.
//! `round-trip`: two threads on two cores, each posts when it has removed; `-asleep` gives the other
//! time to fall asleep first. Prints a line of JSON with the nanoseconds a packet (a round trip).
//!
//! `ports --queue overlapped --work issuer-waits|issuer-computes [--rounds N]`: see `busy.rs`.

mod busy;
mod queues;

use std::io;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use busy::Issuer;
use overlapped_benches::contest::median;
use overlapped_benches::cpu::{ProcessClock, pin};
use queues::{Crossbeam, Futex, Locked, Many, One, Queue};

struct Options {
    queue: String,
    work: String,
    rounds: u64,
}

fn options() -> Result<Options, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options { queue: String::new(), work: String::new(), rounds: 100_000 };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("queue") => options.queue = parser.value()?.string()?,
            Long("work") => options.work = parser.value()?.string()?,
            Long("rounds") => options.rounds = parser.value()?.parse()?,
            other => return Err(other.unexpected()),
        }
    }
    // Two producers share them.
    options.rounds = options.rounds.max(2).next_multiple_of(2);
    Ok(options)
}

fn usage(error: &dyn std::fmt::Display) -> ! {
    eprintln!("{error}");
    std::process::exit(2);
}

fn main() -> io::Result<()> {
    let options = options().unwrap_or_else(|error| usage(&error));
    match options.queue.as_str() {
        "overlapped" if options.work == "issuer-waits" => strand(Issuer::Waits, &options),
        "overlapped" if options.work == "issuer-computes" => strand(Issuer::Computes, &options),
        "overlapped" => run::<One>(&options),
        "overlapped-many" => run::<Many>(&options),
        "crossbeam" => run::<Crossbeam>(&options),
        "mutex" => run::<Locked>(&options),
        "futex" if !options.work.starts_with("round-trip") => {
            usage(&"futex: holds one packet, for round trips")
        }
        "futex" => run::<Futex>(&options),
        other => usage(&format!(
            "--queue: overlapped, overlapped-many, crossbeam, mutex or futex, not '{other}'"
        )),
    }
}

fn strand(issuer: Issuer, options: &Options) -> io::Result<()> {
    let clock = ProcessClock::of(std::process::id())?;
    let before = clock.ns()?;
    let mut times = busy::latencies(issuer, options.rounds)?;
    let cpu = (clock.ns()? - before) as f64 / options.rounds as f64;
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{}",
        serde_json::json!({
            "rounds": options.rounds,
            "wall_ns": median(&times),
            "p99_ns": at(0.99),
            "most_ns": at(1.0),
            "cpu_ns": cpu,
        })
    );
    Ok(())
}

/// Batches that count, after one that does not.
const BATCHES: usize = 3;

fn run<Q: Queue>(options: &Options) -> io::Result<()> {
    let rounds = options.rounds;
    let batch: fn(u64) -> io::Result<Duration> = match options.work.as_str() {
        "one" => one::<Q>,
        "1p1c" => |rounds| threads::<Q>(1, rounds),
        "2p2c" => |rounds| threads::<Q>(2, rounds),
        "round-trip" => |rounds| round_trip::<Q>(rounds, Duration::ZERO),
        "round-trip-asleep" => |rounds| round_trip::<Q>(rounds, Duration::from_micros(200)),
        other => usage(&format!(
            "--work: one, 1p1c, 2p2c, round-trip or round-trip-asleep, not '{other}'"
        )),
    };
    let clock = ProcessClock::of(std::process::id())?;
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    batch(rounds)?;
    for _ in 0..BATCHES {
        let before = clock.ns()?;
        wall.push(batch(rounds)?.as_nanos() as f64 / rounds as f64);
        cpu.push((clock.ns()? - before) as f64 / rounds as f64);
    }
    println!(
        "{}",
        serde_json::json!({
            "rounds": rounds,
            "wall_ns": median(&wall),
            "cpu_ns": median(&cpu),
        })
    );
    Ok(())
}

/// Posts and removes on one thread.
fn one<Q: Queue>(rounds: u64) -> io::Result<Duration> {
    let queue = Q::default();
    let mut remove = queue.remover();
    let begin = Instant::now();
    for i in 0..rounds {
        queue.post(i);
        assert_eq!(remove(), i);
    }
    Ok(begin.elapsed())
}

/// The last packet.
const STOP: u64 = u64::MAX;

/// That many threads post, and that many remove, side by side on two cores.
fn threads<Q: Queue>(each: u64, rounds: u64) -> io::Result<Duration> {
    let (queue, share) = (Q::default(), rounds / each);
    let ready = Barrier::new(each as usize * 2);
    let produce = |i: u64| {
        let pinned = pin(i as usize % 2);
        ready.wait();
        let begin = Instant::now();
        (i * share..(i + 1) * share).for_each(|value| queue.post(value));
        pinned.map(|()| begin)
    };
    let consume = |i: u64| {
        let pinned = pin((i as usize + 1) % 2);
        let mut remove = queue.remover();
        ready.wait();
        let sum = std::iter::from_fn(|| Some(remove()).filter(|v| *v != STOP)).sum::<u64>();
        let end = Instant::now();
        // For the next one: who removes many may have had more than one.
        queue.post(STOP);
        pinned.map(|()| (end, sum))
    };
    std::thread::scope(|scope| {
        let (produce, consume) = (&produce, &consume);
        let producers: Vec<_> = (0..each).map(|i| scope.spawn(move || produce(i))).collect();
        let consumers: Vec<_> = (0..each).map(|i| scope.spawn(move || consume(i))).collect();
        let begun = producers.into_iter().map(|p| p.join().expect("does not panic"));
        let begun = begun.collect::<io::Result<Vec<_>>>();
        queue.post(STOP);
        let ended = consumers.into_iter().map(|c| c.join().expect("does not panic"));
        let (ended, sums): (Vec<_>, Vec<_>) =
            ended.collect::<io::Result<Vec<_>>>()?.into_iter().unzip();
        let sum: u64 = sums.iter().sum();
        assert_eq!(sum, rounds * (rounds - 1) / 2, "each packet was removed once");
        let (begin, end) = (begun?.into_iter().min(), ended.into_iter().max());
        Ok(end.expect("a consumer") - begin.expect("a producer"))
    })
}

/// There and back, with a pause before each.
fn round_trip<Q: Queue>(rounds: u64, pause: Duration) -> io::Result<Duration> {
    let (there, back) = (Q::default(), Q::default());
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            pin(1)?;
            let mut remove = there.remover();
            (0..rounds).for_each(|_| back.post(remove() + 1));
            io::Result::Ok(())
        });
        let here = scope.spawn(|| {
            pin(0)?;
            let mut remove = back.remover();
            let mut time = Duration::ZERO;
            for i in 0..rounds {
                if !pause.is_zero() {
                    std::thread::sleep(pause);
                }
                let begin = Instant::now();
                there.post(i);
                assert_eq!(remove(), i + 1);
                time += begin.elapsed();
            }
            io::Result::Ok(time)
        });
        other.join().expect("does not panic")?;
        here.join().expect("does not panic")
    })
}
