//! Files: CPU per 4 KiB operation, ours against a bare loop, plain system calls and other runtimes.
//!
//! `cargo bench -p overlapped-benches --bench files -- --reps 5 --rows randread`
//!
//! Before a row, each contestant runs shortly with every byte compared.
//!
//! The contestants may use all cores: what the kernel's and tokio's helpers cost is counted too.

use std::io;

use overlapped_benches::contest::{Contestant, Log, progress, row, target};
use overlapped_benches::process::Running;
use overlapped_benches::settings::Settings;
use serde_json::{Value, json};

const SIZE: u64 = 256 << 20;
const BLOCK: usize = 4096;

fn contestants(settings: &Settings, direct: bool, depth: usize) -> Vec<Contestant> {
    let peer = |name, runtime| {
        Contestant::new(name, env!("CARGO_BIN_EXE_peer-fileio"), &["--runtime", runtime])
    };
    let ours = |name, more: &[&str]| {
        settings.ours(name, "fileio", &[&["--backend", "io_uring"], more].concat())
    };
    let mut all = vec![peer("bare", "raw"), peer("bare-fixed", "raw-fixed")];
    if depth == 1 {
        all.push(peer("plain", "pread"));
    }
    if !direct {
        all.push(peer("tokio-fs", "tokio-fs"));
    }
    all.extend([
        peer("tokio-pread", "tokio-pread"),
        settings.other("others-fileio", "monoio"),
        settings.other("others-fileio", "compio"),
        settings.other("others-fileio", "glommio"),
        ours("overlapped", &[]),
        ours("overlapped+4", &["--filters", "4", "--filter-kind", "routine"]),
        ours("port", &["--api", "port"]),
    ]);
    settings.contestants(all)
}

fn measure(
    contestant: &Contestant,
    settings: &Settings,
    rw: &str,
    direct: bool,
    depth: usize,
) -> io::Result<Value> {
    let mut command = contestant.with(&[
        ("--path", target().join("bench/file.bin").to_string_lossy().into_owned()),
        ("--bs", BLOCK.to_string()),
        ("--size", SIZE.to_string()),
        ("--rw", rw.to_owned()),
        ("--depth", depth.to_string()),
        ("--seconds", settings.seconds.to_string()),
    ]);
    if direct {
        command.push("--direct".to_owned());
    }
    let sample: Value = serde_json::from_str(&Running::start(&command, None, false)?.line()?)?;
    if sample["errors"].as_u64() != Some(0) {
        return Err(io::Error::other("operations failed"));
    }
    let us = |key: &str| sample[key].as_f64().unwrap_or(f64::NAN) / 1e3;
    Ok(json!({
        "cpu_us": sample["cpu_us_per_op"],
        "per_sec": sample["ops_per_sec"],
        "p50_us": us("p50_ns"),
        "p99_us": us("p99_ns"),
        "p999_us": us("p999_ns"),
        "seconds": sample["seconds"],
        "ops": sample["ops"],
        "allocations": sample["allocations_per_op"],
    }))
}

fn main() -> io::Result<()> {
    let settings = Settings::from_args();
    let mut rows = Vec::new();
    for direct in [false, true] {
        for rw in ["randread", "randwrite"] {
            for depth in [1, 8, 32, 128] {
                let name = format!("{rw}-{}{depth}", if direct { "direct-" } else { "" });
                rows.push((name, rw, direct, depth));
            }
        }
    }
    let names: Vec<String> = rows.iter().map(|(name, ..)| name.clone()).collect();
    rows.retain(|(name, ..)| settings.wants_row(name, &names));
    let (mut log, mut failures) = (Log::open("files")?, 0);
    // Lays the file out, so that no contestant has to.
    let warm = Contestant::new("warm", env!("CARGO_BIN_EXE_peer-fileio"), &["--verify"]);
    measure(&warm, &Settings { seconds: 0.1, ..settings.clone() }, "read", false, 1)?;
    for (name, rw, direct, depth) in rows {
        let mut contestants = contestants(&settings, direct, depth);
        contestants.retain(|contestant| {
            let mut checked = contestant.clone();
            checked.command.push("--verify".to_owned());
            let brief = Settings { seconds: 0.1, ..settings.clone() };
            progress(&format!("{name}: checking {}", contestant.name));
            let result = measure(&checked, &brief, rw, direct, depth);
            if let Err(error) = &result {
                eprintln!("{name}, {}, every byte compared: {error}", contestant.name);
                failures += 1;
            }
            result.is_ok()
        });
        failures += row(&mut log, &name, &contestants, &settings, |contestant| {
            measure(contestant, &settings, rw, direct, depth)
        })?;
    }
    if failures > 0 {
        return Err(io::Error::other(format!("{failures} runs failed")));
    }
    Ok(())
}
