//! Echo: server CPU per echo, ours against a bare loop and other runtimes.
//!
//! `cargo bench -p overlapped-benches --bench echo -- --reps 5 --rows 64x64B`
//!
//! `bare` does the operations of `owned`, `bare-pooled` those of `leased`. Rows that begin with `2w`
//! have two workers, `udp` datagrams, `unix` stream sockets in the file system.

use std::io;
use std::path::PathBuf;

use overlapped_benches::contest::{Contestant, Log, row};
use overlapped_benches::process::Running;
use overlapped_benches::settings::Settings;
use overlapped_benches::syscalls::Counter;
use serde_json::{Value, json};

/// What is served, and by how many threads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Workers,
    Udp,
    Unix,
}

use Kind::{Tcp, Udp, Unix, Workers};

/// Name, kind, connections, bytes, messages in flight per connection.
type Row = (&'static str, Kind, usize, usize, usize);

const ROWS: [Row; 19] = [
    ("1x64B", Tcp, 1, 64, 1),
    ("64x64B", Tcp, 64, 64, 1),
    ("1000x64B", Tcp, 1000, 64, 1),
    ("64x64B-16deep", Tcp, 64, 64, 16),
    ("1x4K", Tcp, 1, 4096, 1),
    ("64x4K", Tcp, 64, 4096, 1),
    ("1000x4K", Tcp, 1000, 4096, 1),
    ("1x64K", Tcp, 1, 65536, 1),
    ("64x64K", Tcp, 64, 65536, 1),
    ("1000x64K", Tcp, 1000, 65536, 1),
    ("2w-64x64B", Workers, 64, 64, 1),
    ("2w-1000x64B", Workers, 1000, 64, 1),
    ("2w-64x4K", Workers, 64, 4096, 1),
    ("udp-1x64B", Udp, 1, 64, 1),
    ("udp-64x64B", Udp, 64, 64, 1),
    ("udp-64x1200B", Udp, 64, 1200, 1),
    ("unix-1x64B", Unix, 1, 64, 1),
    ("unix-64x64B", Unix, 64, 64, 1),
    ("unix-64x4K", Unix, 64, 4096, 1),
];

fn contestants(settings: &Settings, kind: Kind) -> Vec<Contestant> {
    let peer = |name, runtime: &str, more: &[&str]| {
        let runtime = ["--runtime", runtime];
        Contestant::new(name, env!("CARGO_BIN_EXE_peer-echo"), &[&runtime, more].concat())
    };
    let other = |runtime| settings.other("others-echo", runtime);
    let ours = |name, more: &[&str]| {
        settings.ours(name, "echo", &[&["--backend", "io_uring"], more].concat())
    };
    let sockets = |name, backend, more: &[&str]| {
        let runtime = ["--runtime", backend];
        Contestant::new(name, env!("CARGO_BIN_EXE_echo-sockets"), &[&runtime, more].concat())
    };
    let filters = ["--filters", "4", "--filter-kind", "routine"];
    let leased = ["--buffers", "leased"];
    let two = ["--workers", "2"];
    settings.contestants(match kind {
        Tcp => vec![
            peer("bare", "raw-oneshot", &[]),
            peer("bare-pooled", "raw", &[]),
            peer("bare-epoll", "raw-epoll", &[]).on_request(),
            peer("tokio", "tokio", &[]),
            peer("tokio-mt", "tokio-mt", &[]),
            other("monoio"),
            other("compio"),
            other("glommio"),
            ours("owned", &[]),
            ours("leased", &leased),
            ours("owned+4", &filters),
            ours("leased+4", &[&leased[..], &filters].concat()),
            ours("port", &["--api", "port"]),
            ours("port-leased", &[&["--api", "port"], &leased[..]].concat()).on_request(),
            settings.ours("epoll", "echo", &["--backend", "epoll"]),
        ],
        Workers => vec![
            peer("tokio-mt", "tokio-mt", &two),
            ours("owned", &two),
            ours("leased", &[&two[..], &leased].concat()),
            settings.ours("epoll", "echo", &["--backend", "epoll", "--workers", "2"]),
        ],
        Udp => vec![
            peer("tokio", "tokio", &[]),
            peer("tokio-mt", "tokio-mt", &[]),
            sockets("owned", "io_uring", &[]),
            sockets("owned x16", "io_uring", &["--workers", "16"]),
            sockets("epoll", "epoll", &[]),
        ],
        Unix => vec![
            peer("tokio", "tokio", &[]),
            peer("tokio-mt", "tokio-mt", &[]),
            other("monoio"),
            other("compio"),
            sockets("owned", "io_uring", &[]),
            sockets("epoll", "epoll", &[]),
        ],
    })
}

/// Where a server is told to listen. Only one does at a time.
fn listen(kind: Kind) -> String {
    match kind {
        Tcp | Workers => "127.0.0.1:0".to_owned(),
        Udp => "udp:127.0.0.1:0".to_owned(),
        Unix => {
            // The one before leaves its file.
            let _ = std::fs::remove_file(socket());
            format!("unix:{}", socket().display())
        }
    }
}

/// A short path: the kernel takes about a hundred bytes.
fn socket() -> PathBuf {
    std::env::temp_dir().join(format!("overlapped-echo-{}.sock", std::process::id()))
}

/// The core of server and of load: with two workers all share all cores.
fn cores(kind: Kind, settings: &Settings) -> (Option<usize>, Option<usize>) {
    let one = (Some(settings.server_core), Some(settings.load_core));
    if kind == Workers { (None, None) } else { one }
}

/// Starts a contestant, and gives it and its address.
fn serve(
    contestant: &Contestant,
    kind: Kind,
    settings: &Settings,
) -> io::Result<(Running, String)> {
    let command = contestant.with(&[("--listen", listen(kind))]);
    let mut server = Running::start(&command, cores(kind, settings).0, false)?;
    let line = server.line()?;
    let address = line.strip_prefix("listening ").ok_or_else(|| io::Error::other(line.clone()))?;
    Ok((server, address.to_owned()))
}

/// The load of a row.
fn load(row: Row, address: &str, settings: &Settings, warmup: f64) -> Vec<String> {
    let (_, _, connections, size, depth) = row;
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
    let (server, address) = serve(contestant, row.1, settings)?;
    let mut command = load(row, &address, settings, settings.warmup);
    command.extend(["--pid".to_owned(), server.id().to_string()]);
    let result = result(&mut Running::start(&command, cores(row.1, settings).1, false)?)?;
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
    let (server, address) = serve(contestant, row.1, settings)?;
    let mut command = load(row, &address, settings, 0.0);
    command.push("--wait".to_owned());
    let mut load = Running::start(&command, cores(row.1, settings).1, true)?;
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
    let names = ROWS.map(|(name, ..)| name.to_owned());
    let counter = if settings.syscalls { Counter::find() } else { None };
    if settings.syscalls && counter.is_none() {
        eprintln!("neither perf nor strace works here: system calls are not counted");
    }
    let (mut log, mut failures) = (Log::open("echo")?, 0);
    for the in ROWS.into_iter().filter(|(name, ..)| settings.wants_row(name, &names)) {
        let contestants = contestants(&settings, the.1);
        failures += row(&mut log, the.0, &contestants, &settings, |c| measure(c, the, &settings))?;
        let Some(counter) = counter else { continue };
        let mut log = Log::open("syscalls")?;
        for contestant in &contestants {
            match calls(contestant, the, &settings, counter) {
                Ok(sample) => {
                    log.add(the.0, &contestant.name, 0, &sample)?;
                    let of = |key: &str| sample[key].as_f64().unwrap_or(f64::NAN);
                    println!(
                        "{:<18} {:<15} {:>8.4} system calls an echo, {:.4} of them io_uring_enter",
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
    let _ = std::fs::remove_file(socket());
    if failures > 0 {
        return Err(io::Error::other(format!("{failures} runs failed")));
    }
    Ok(())
}
