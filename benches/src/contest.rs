//! A contest: every contestant in turn, several times, in rotated order; ratios by repetition.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::settings::Settings;

/// One contestant: a name, and its command line.
#[derive(Clone, Debug)]
pub struct Contestant {
    /// Name in the tables.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether it takes part without having been asked for.
    pub is_usual: bool,
}

impl Contestant {
    /// A contestant.
    pub fn new(name: &str, program: impl AsRef<Path>, arguments: &[&str]) -> Contestant {
        let mut command = vec![program.as_ref().to_string_lossy().into_owned()];
        command.extend(arguments.iter().map(|a| (*a).to_owned()));
        Contestant { name: name.to_owned(), command, is_usual: true }
    }

    /// The same, but only if it is asked for by name.
    pub fn on_request(mut self) -> Contestant {
        self.is_usual = false;
        self
    }

    /// Whether its program has been built.
    pub fn exists(&self) -> bool {
        Path::new(&self.command[0]).exists()
    }

    /// Its command line with the arguments of a run, given as `--option value` pairs.
    pub fn with(&self, pairs: &[(&str, String)]) -> Vec<String> {
        let mut command = self.command.clone();
        for (option, value) in pairs {
            command.extend([(*option).to_owned(), value.clone()]);
        }
        command
    }
}

/// The folder of built programs: what the running one was built into, otherwise `target` at the
/// workspace's root.
pub fn target() -> PathBuf {
    let is_target = |folder: &&Path| folder.join("CACHEDIR.TAG").exists();
    std::env::current_exe()
        .ok()
        .and_then(|exe| exe.ancestors().find(is_target).map(Path::to_owned))
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"))
}

/// The samples of one kind of contest, as they come.
pub struct Log {
    file: File,
    /// Tells this run's samples from those of others, which are never compared to them.
    run: u64,
}

impl Log {
    /// Appends to `target/bench/NAME.jsonl`.
    ///
    /// # Errors
    /// Those of opening.
    pub fn open(name: &str) -> io::Result<Log> {
        let folder = target().join("bench");
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{name}.jsonl"));
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Log { file, run: since.as_secs() })
    }

    /// Appends one sample.
    ///
    /// # Errors
    /// Those of writing.
    pub fn add(&mut self, row: &str, who: &str, rep: usize, sample: &Value) -> io::Result<()> {
        let run = self.run;
        let line = json!({
            "run": run, "row": row, "contestant": who, "repetition": rep, "sample": sample,
        });
        writeln!(self.file, "{line}")
    }
}

/// Runs one row of a contest: every contestant in turn, in rotated order, `run` giving the sample
/// of one, with its cost under `cpu_us`. Prints medians and ratios to the base. A run that fails
/// counts as none; gives the number of those.
///
/// # Errors
/// When the samples cannot be written.
pub fn row(
    log: &mut Log,
    row: &str,
    contestants: &[Contestant],
    settings: &Settings,
    mut run: impl FnMut(&Contestant) -> io::Result<Value>,
) -> io::Result<usize> {
    let mut costs: Vec<Vec<f64>> = vec![Vec::new(); contestants.len()];
    let mut samples: Vec<Vec<Value>> = vec![Vec::new(); contestants.len()];
    let mut failures = 0;
    for repetition in 0..settings.repetitions {
        for turn in 0..contestants.len() {
            let at = (turn + repetition) % contestants.len();
            let (name, of) = (&contestants[at].name, settings.repetitions);
            progress(&format!("{row}: repetition {} of {of}, {name}", repetition + 1));
            let sample = run(&contestants[at]).unwrap_or_else(|error| {
                eprintln!("{row}, {name}: {error}");
                failures += 1;
                json!({ "cpu_us": null, "error": error.to_string() })
            });
            log.add(row, name, repetition, &sample)?;
            costs[at].push(sample["cpu_us"].as_f64().unwrap_or(f64::NAN));
            samples[at].push(sample);
        }
    }
    progress("");
    let named = contestants.iter().position(|c| Some(&c.name) == settings.base.as_ref());
    let base = named.unwrap_or(0);
    for (at, contestant) in contestants.iter().enumerate() {
        let (ratio, below, of) = ratio(&costs[at], &costs[base]);
        println!(
            "{row:<18} {:<15} {:>9} CPU  {ratio:>5.2} of {} ({below}/{of} below 1)  {}",
            contestant.name,
            time(median(&costs[at])),
            contestants[base].name,
            details(&samples[at]),
        );
    }
    Ok(failures)
}

/// Says on the terminal what is going on; nothing where there is none.
pub fn progress(what: &str) {
    if io::stderr().is_terminal() {
        eprint!("\r{what:<70}\r");
    }
}

fn details(samples: &[Value]) -> String {
    let of =
        |key: &str| median(&samples.iter().filter_map(|s| s[key].as_f64()).collect::<Vec<_>>());
    let mut text = String::new();
    for (key, name) in [("wall_us", "wall"), ("p50_us", "p50"), ("p99_us", "p99")] {
        if !of(key).is_nan() {
            text += &format!("{name} {:>9}  ", time(of(key)));
        }
    }
    for (key, name) in [("per_sec", "/s"), ("allocations", " allocations"), ("calls", " calls")] {
        if !of(key).is_nan() {
            text += &format!("{:.*}{name}  ", if key == "per_sec" { 0 } else { 3 }, of(key));
        }
    }
    text
}

/// A time given in microseconds, in the unit that fits.
pub fn time(us: f64) -> String {
    match us {
        us if us < 1.0 => format!("{:.1} ns", us * 1e3),
        us if us < 10_000.0 => format!("{us:.2} us"),
        us => format!("{:.1} ms", us / 1e3),
    }
}

/// The median of the ratios repetition by repetition, how many are below 1, and of how many.
pub fn ratio(costs: &[f64], base: &[f64]) -> (f64, usize, usize) {
    let ratios = costs.iter().zip(base).map(|(a, b)| a / b).filter(|r| r.is_finite());
    let ratios: Vec<f64> = ratios.collect();
    (median(&ratios), ratios.iter().filter(|r| **r < 1.0).count(), ratios.len())
}

/// The median; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}
