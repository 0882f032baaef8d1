//! Copying a cached file: CPU per chunk of 128 KiB, ours against a bare loop, plain system calls
//! and other runtimes. Every copy is compared.
//!
//! `cargo bench -p overlapped-benches --bench copy -- --reps 5`

use std::io;

use overlapped_benches::contest::{Contestant, Log, row, target};
use overlapped_benches::process::Running;
use overlapped_benches::settings::Settings;
use serde_json::{Value, json};

const SIZE: u64 = 256 << 20;

fn measure(contestant: &Contestant, pairs: &[(&str, String)]) -> io::Result<Value> {
    let line = Running::start(&contestant.with(pairs), None, false)?.line()?;
    let sample: Value = serde_json::from_str(&line)?;
    Ok(json!({
        "cpu_us": sample["cpu_us_per_chunk"],
        "per_sec": sample["chunks_per_sec"],
        "seconds": sample["seconds"],
        "allocations": sample["allocations_per_chunk"],
    }))
}

fn main() -> io::Result<()> {
    let settings = Settings::from_args();
    let peer = |name, runtime| {
        Contestant::new(name, env!("CARGO_BIN_EXE_peer-copy"), &["--runtime", runtime])
    };
    let contestants = settings.contestants(vec![
        peer("bare", "raw"),
        peer("bare-inline", "raw-inline"),
        peer("plain", "plain"),
        peer("tokio-fs", "tokio-fs"),
        settings.other("others-copy", "monoio"),
        settings.other("others-copy", "compio"),
        settings.other("others-copy", "glommio"),
        Contestant::new("overlapped", env!("CARGO_BIN_EXE_copy"), &[]),
    ]);
    let folder = target().join("bench");
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let mut log = Log::open("copy")?;
    // Lays the file out, and leaves it cached.
    let warm = Contestant::new("warm", env!("CARGO_BIN_EXE_peer-fileio"), &["--verify"]).with(&[
        ("--path", path("file.bin")),
        ("--rw", "read".to_owned()),
        ("--size", SIZE.to_string()),
        ("--seconds", "0.1".to_owned()),
    ]);
    Running::start(&warm, None, false)?.line()?;
    let pairs = [("--from", path("file.bin")), ("--to", path("copy.bin"))];
    let name = format!("copy-{}MiB", SIZE >> 20);
    let failures = row(&mut log, &name, &contestants, &settings, |c| measure(c, &pairs))?;
    std::fs::remove_file(path("copy.bin"))?;
    if failures > 0 {
        return Err(io::Error::other(format!("{failures} runs failed")));
    }
    Ok(())
}
