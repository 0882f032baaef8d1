//! TCP echo: server CPU per echo, ours against a bare loop and tokio.
//!
//! `cargo bench -p overlapped-benches --bench echo -- --reps 5 --rows 64x64B`
//!
//! `bare` does the operations of `owned`, `bare-pooled` those of `leased`.

use std::io;

use overlapped_benches::contest::{Contestant, Log, row};
use overlapped_benches::process::Running;
use overlapped_benches::settings::Settings;
use overlapped_benches::syscalls::Counter;
use serde_json::{Value, json};

/// Name, connections, bytes, messages in flight per connection.
type Row = (&'static str, usize, usize, usize);

const ROWS: [Row; 10] = [
    ("1x64B", 1, 64, 1),
    ("64x64B", 64, 64, 1),
    ("1000x64B", 1000, 64, 1),
    ("64x64B-16deep", 64, 64, 16),
    ("1x4K", 1, 4096, 1),
    ("64x4K", 64, 4096, 1),
    ("1000x4K", 1000, 4096, 1),
    ("1x64K", 1, 65536, 1),
    ("64x64K", 64, 65536, 1),
    ("1000x64K", 1000, 65536, 1),
];

fn contestants(settings: &Settings) -> Vec<Contestant> {
    let peer = |name, runtime| {
        Contestant::new(name, env!("CARGO_BIN_EXE_peer-echo"), &["--runtime", runtime])
    };
    let ours = |name, more: &[&str]| {
        settings.ours(name, "echo", &[&["--backend", "io_uring"], more].concat())
    };
    let filters = ["--filters", "4", "--filter-kind", "routine"];
    let leased = ["--buffers", "leased"];
    vec![
        peer("bare", "raw-oneshot"),
        peer("bare-pooled", "raw"),
        peer("bare-epoll", "raw-epoll").on_request(),
        peer("tokio", "tokio"),
        peer("tokio-mt", "tokio-mt"),
        ours("owned", &[]),
        ours("leased", &leased),
        ours("owned+4", &filters),
        ours("leased+4", &[&leased[..], &filters].concat()),
        ours("port", &["--api", "port"]),
        ours("port-leased", &[&["--api", "port"], &leased[..]].concat()).on_request(),
        settings.ours("epoll", "echo", &["--backend", "epoll"]),
    ]
}

/// Starts a contestant, and gives it and its address.
fn serve(contestant: &Contestant, settings: &Settings) -> io::Result<(Running, String)> {
    let command = contestant.with(&[("--listen", "127.0.0.1:0".to_owned())]);
    let mut server = Running::start(&command, Some(settings.server_core), false)?;
    let line = server.line()?;
    let address = line.strip_prefix("listening ").ok_or_else(|| io::Error::other(line.clone()))?;
    Ok((server, address.to_owned()))
}

/// The load of a row.
fn load(row: Row, address: &str, settings: &Settings, warmup: f64) -> Vec<String> {
    let (_, connections, size, depth) = row;
    Contestant::new("load", env!("CARGO_BIN_EXE_load"), &[]).with(&[
        ("--connect", address.to_owned()),
        ("--connections", connections.to_string()),
        ("--size", size.to_string()),
        ("--depth", depth.to_string()),
        ("--seconds", settings.seconds.to_string()),
        ("--warmup", warmup.to_string()),
    ])
}

/// What a load has printed, if nothing was wrong.
fn result(load: &mut Running) -> io::Result<Value> {
    let result: Value = serde_json::from_str(&load.line()?)?;
    if result["errors"].as_u64() != Some(0) {
        return Err(io::Error::other("not every byte came back right"));
    }
    Ok(result)
}

fn measure(contestant: &Contestant, row: Row, settings: &Settings) -> io::Result<Value> {
    let (server, address) = serve(contestant, settings)?;
    let mut command = load(row, &address, settings, settings.warmup);
    command.extend(["--pid".to_owned(), server.id().to_string()]);
    let result = result(&mut Running::start(&command, Some(settings.load_core), false)?)?;
    let last: Value = serde_json::from_str(&server.stop(libc::SIGTERM)?).unwrap_or_default();
    let number = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
    Ok(json!({
        "cpu_us": number("server_cpu_ns") / 1e3 / number("echoes"),
        "per_sec": result["echoes_per_sec"],
        "p50_us": number("p50_ns") / 1e3,
        "p99_us": number("p99_ns") / 1e3,
        "p999_us": number("p999_ns") / 1e3,
        "min_per_connection": result["min_per_connection"],
        "max_per_connection": result["max_per_connection"],
        "seconds": result["seconds"],
        "echoes": result["echoes"],
        "allocations": last["allocations_per_request"],
    }))
}

/// System calls per echo, from the first message to the last.
fn calls(
    contestant: &Contestant,
    row: Row,
    settings: &Settings,
    counter: Counter,
) -> io::Result<Value> {
    let (server, address) = serve(contestant, settings)?;
    let mut command = load(row, &address, settings, 0.0);
    command.push("--wait".to_owned());
    let mut load = Running::start(&command, Some(settings.load_core), true)?;
    load.line()?;
    let (result, counts) = counter.count(server.id(), || {
        load.go();
        result(&mut load)
    })?;
    let total = result["total"].as_f64().unwrap_or(f64::NAN);
    Ok(json!({
        "calls": counts.all as f64 / total,
        "enters": counts.enters as f64 / total,
        "counter": counter.name(),
    }))
}

fn main() -> io::Result<()> {
    let settings = Settings::from_args();
    let contestants = settings.contestants(contestants(&settings));
    let names = ROWS.map(|(name, ..)| name.to_owned());
    let counter = if settings.syscalls { Counter::find() } else { None };
    if settings.syscalls && counter.is_none() {
        eprintln!("neither perf nor strace works here: system calls are not counted");
    }
    let (mut log, mut failures) = (Log::open("echo")?, 0);
    for the in ROWS.into_iter().filter(|(name, ..)| settings.wants_row(name, &names)) {
        failures += row(&mut log, the.0, &contestants, &settings, |c| measure(c, the, &settings))?;
        let Some(counter) = counter else { continue };
        let mut log = Log::open("syscalls")?;
        for contestant in &contestants {
            match calls(contestant, the, &settings, counter) {
                Ok(sample) => {
                    log.add(the.0, &contestant.name, 0, &sample)?;
                    let of = |key: &str| sample[key].as_f64().unwrap_or(f64::NAN);
                    println!(
                        "{:<18} {:<14} {:>8.4} system calls an echo, {:.4} of them io_uring_enter",
                        the.0,
                        contestant.name,
                        of("calls"),
                        of("enters"),
                    );
                }
                Err(error) => {
                    eprintln!("{}: {error}", contestant.name);
                    failures += 1;
                }
            }
        }
    }
    if failures > 0 {
        return Err(io::Error::other(format!("{failures} runs failed")));
    }
    Ok(())
}
