//! TCP echo: server CPU per echo, ours against a bare loop and tokio.
//!
//! `cargo bench -p overlapped-benches --bench echo -- --reps 5 --rows 64x64B`

use std::io;

use overlapped_benches::contest::{Contestant, Settings, row};
use overlapped_benches::process::Running;
use serde_json::Value;

/// Connections, bytes, messages in flight per connection.
const ROWS: [(&str, usize, usize, usize); 10] = [
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

fn main() -> io::Result<()> {
    let settings = Settings::from_args().unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2);
    });
    let listen = ["--listen", "127.0.0.1:0"];
    let peer = |name, runtime| {
        Contestant::new(name, "peer-echo", &[&["--runtime", runtime], &listen[..]].concat())
    };
    let ours = |name, more: &[&str]| {
        let all = [&listen[..], &["--backend", "io_uring"], more].concat();
        Contestant::new(name, "examples/echo", &all)
    };
    let contestants = [
        peer("bare", "raw"),
        peer("bare-pooled", "raw-pooled"),
        peer("tokio", "tokio"),
        peer("tokio-mt", "tokio-mt"),
        ours("owned", &[]),
        ours("leased", &["--buffers", "leased"]),
        ours("owned+4", &["--filters", "4", "--filter-kind", "routine"]),
        ours("port", &["--api", "port"]),
        Contestant::new("epoll", "examples/echo", &[&listen[..], &["--backend", "epoll"]].concat()),
    ];
    let load = Contestant::new("load", "load", &[]);
    for (name, connections, size, depth) in ROWS {
        row("echo", name, &contestants, &settings, |contestant| {
            let mut server = Running::start(&contestant.command, 0, false)?;
            let line = server.line()?;
            let address = line.strip_prefix("listening ").ok_or(io::ErrorKind::InvalidData)?;
            let mut command = load.command.clone();
            for (option, value) in [
                ("--connect", address.to_owned()),
                ("--connections", connections.to_string()),
                ("--size", size.to_string()),
                ("--depth", depth.to_string()),
                ("--seconds", settings.seconds.to_string()),
            ] {
                command.extend([option.to_owned(), value]);
            }
            let mut load = Running::start(&command, 1, true)?;
            load.line()?;
            let before = server.cpu_ns()?;
            load.go();
            let result = load.line()?;
            let cpu = server.cpu_ns()? - before;
            let mut sample: Value = serde_json::from_str(&result)?;
            if sample["errors"].as_u64() != Some(0) {
                return Err(io::Error::other("bytes came back wrong"));
            }
            let echoes = sample["echoes"].as_f64().unwrap_or(f64::NAN);
            sample["cpu_us"] = (cpu as f64 / 1e3 / echoes).into();
            Ok(sample)
        })?;
    }
    Ok(())
}
