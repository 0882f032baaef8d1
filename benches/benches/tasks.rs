//! Tasks, wakes and timers without I/O: CPU per operation, ours against other runtimes.
//!
//! `cargo bench -p overlapped-benches --bench tasks -- --reps 5 --rows timers --syscalls`
//!
//! What one thread does runs on one core; the two threads of `wake-threads` take a core each. `-mt`
//! has two workers, on all cores.

use std::io;

use overlapped_benches::contest::{Contestant, Log, row};
use overlapped_benches::process::Running;
use overlapped_benches::settings::Settings;
use overlapped_benches::syscalls::Counter;
use overlapped_benches::tasks::WORK;
use serde_json::{Value, json};

fn contestants(settings: &Settings, work: &str) -> Vec<Contestant> {
    let tasks = |name| Contestant::new(name, env!("CARGO_BIN_EXE_tasks"), &["--runtime", name]);
    let other = |name| settings.other("others-tasks", name);
    let mut all = vec![tasks("overlapped"), tasks("tokio")];
    match work {
        "wake-workers" | "wake-workers-busy" => all.clear(),
        // While they have work, monoio takes no wakes of other threads, glommio ten a second.
        "wake-threads-busy" => all.push(other("compio")),
        _ => all.extend(["monoio", "compio", "glommio"].map(other)),
    }
    if !work.starts_with("wake-threads") {
        all.extend(["overlapped-mt", "tokio-mt"].map(tasks));
    }
    settings.contestants(all)
}

fn start(
    contestant: &Contestant,
    work: &str,
    settings: &Settings,
    wait: bool,
) -> io::Result<Running> {
    let mut command = contestant.with(&[("--work", work.to_owned())]);
    command.extend(wait.then(|| "--wait".to_owned()));
    let needs_all = contestant.name.ends_with("-mt") || work.starts_with("wake-threads");
    Running::start(&command, (!needs_all).then_some(settings.server_core), wait)
}

fn sample(line: &str) -> io::Result<Value> {
    let result: Value = serde_json::from_str(line)?;
    let us = |key: &str| result[key].as_f64().map(|ns| ns / 1e3);
    Ok(json!({
        "cpu_us": us("cpu_ns"),
        "wall_us": us("wall_ns"),
        "p99_us": us("p99_late_ns"),
        "rounds": result["rounds"],
    }))
}

/// System calls per operation, in a batch of its own.
fn calls(
    contestant: &Contestant,
    work: &str,
    settings: &Settings,
    counter: Counter,
) -> io::Result<Value> {
    let mut running = start(contestant, work, settings, true)?;
    running.line()?;
    let (result, counts) = counter.count(running.id(), || {
        running.go();
        sample(&running.line()?)
    })?;
    let rounds = result["rounds"].as_f64().unwrap_or(f64::NAN);
    Ok(json!({
        "calls": counts.all as f64 / rounds,
        "enters": counts.enters as f64 / rounds,
        "counter": counter.name(),
    }))
}

fn main() -> io::Result<()> {
    let settings = Settings::from_args();
    let names = WORK.map(|(name, _)| name.to_owned());
    let counter = if settings.syscalls { Counter::find() } else { None };
    if settings.syscalls && counter.is_none() {
        eprintln!("neither perf nor strace works here: system calls are not counted");
    }
    let (mut log, mut failures) = (Log::open("tasks")?, 0);
    for work in names.iter().filter(|name| settings.wants_row(name, &names)) {
        let contestants = contestants(&settings, work);
        failures += row(&mut log, work, &contestants, &settings, |contestant| {
            sample(&start(contestant, work, &settings, false)?.line()?)
        })?;
        let Some(counter) = counter else { continue };
        let mut log = Log::open("tasks-syscalls")?;
        for contestant in &contestants {
            let name = &contestant.name;
            match calls(contestant, work, &settings, counter) {
                Ok(sample) => {
                    log.add(work, name, 0, &sample)?;
                    let calls = sample["calls"].as_f64().unwrap_or(f64::NAN);
                    println!("{work:<18} {name:<15} {calls:>9.5} system calls each");
                }
                Err(error) => {
                    eprintln!("{work}, {name}: {error}");
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
