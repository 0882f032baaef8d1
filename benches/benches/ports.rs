//! Completion ports: time per packet, against other queues that threads sleep at.
//!
//! `cargo bench -p overlapped-benches --bench ports -- --reps 5`

use std::io;

use overlapped_benches::contest::{Contestant, Log, row};
use overlapped_benches::process::Running;
use overlapped_benches::settings::Settings;
use serde_json::{Value, json};

/// Name, and packets of a batch.
const ROWS: [(&str, u64); 7] = [
    ("one", 1_000_000),
    ("1p1c", 1_000_000),
    ("2p2c", 1_000_000),
    ("round-trip", 5_000),
    ("round-trip-asleep", 2_000),
    ("issuer-waits", 200),
    ("issuer-computes", 200),
];

fn main() -> io::Result<()> {
    let settings = Settings::from_args();
    let names = ROWS.map(|(name, _)| name.to_owned());
    let (mut log, mut failures) = (Log::open("ports")?, 0);
    for (work, rounds) in ROWS.into_iter().filter(|(name, _)| settings.wants_row(name, &names)) {
        let queue = |name| Contestant::new(name, env!("CARGO_BIN_EXE_ports"), &["--queue", name]);
        let mut all = vec![queue("overlapped")];
        if !work.starts_with("issuer") {
            all.extend(["overlapped-many", "crossbeam", "mutex"].map(queue));
        }
        if work.starts_with("round-trip") {
            all.push(queue("futex"));
        }
        let contestants = settings.contestants(all);
        failures += row(&mut log, work, &contestants, &settings, |contestant| {
            let pairs = [("--work", work.to_owned()), ("--rounds", rounds.to_string())];
            let core = (work == "one").then_some(settings.server_core);
            let line = Running::start(&contestant.with(&pairs), core, false)?.line()?;
            let result: Value = serde_json::from_str(&line)?;
            let us = |key: &str| result[key].as_f64().map(|ns| ns / 1e3);
            Ok(json!({ "cpu_us": us("cpu_ns"), "wall_us": us("wall_ns") }))
        })?;
    }
    if failures > 0 {
        return Err(io::Error::other(format!("{failures} runs failed")));
    }
    Ok(())
}
