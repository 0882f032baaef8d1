//! A contest: every contestant in turn, several times, in rotated order; ratios by repetition.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// One contestant: a name, and its command line.
#[derive(Clone, Debug)]
pub struct Contestant {
    /// Name in the tables.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
}

impl Contestant {
    /// A contestant whose program is one of this workspace's release binaries.
    pub fn new(name: &str, program: &str, arguments: &[&str]) -> Contestant {
        let program = target().join("release").join(program);
        let mut command = vec![program.to_string_lossy().into_owned()];
        command.extend(arguments.iter().map(|a| (*a).to_owned()));
        Contestant { name: name.to_owned(), command }
    }

    /// Whether its program has been built.
    pub fn exists(&self) -> bool {
        Path::new(&self.command[0]).exists()
    }
}

/// The folder of built programs: `CARGO_TARGET_DIR`, or `target` at the workspace's root.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
}

/// What the command line of a bench may change.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Repetitions of each row.
    pub repetitions: usize,
    /// Length of one run, in seconds.
    pub seconds: f64,
    /// Only rows whose name contains this.
    pub rows: String,
    /// Only contestants whose name contains one of these; empty for all.
    pub only: Vec<String>,
}

impl Settings {
    /// Reads `--reps N --seconds S --rows TEXT --only A,B`; ignores `--bench`, which cargo adds.
    ///
    /// # Errors
    /// For anything else.
    pub fn from_args() -> Result<Settings, lexopt::Error> {
        use lexopt::prelude::*;
        let mut settings =
            Settings { repetitions: 3, seconds: 1.0, rows: String::new(), only: Vec::new() };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("bench") => {}
                Long("reps") => settings.repetitions = parser.value()?.parse()?,
                Long("seconds") => settings.seconds = parser.value()?.parse()?,
                Long("rows") => settings.rows = parser.value()?.string()?,
                Long("only") => {
                    let names = parser.value()?.string()?;
                    settings.only = names.split(',').map(str::to_owned).collect();
                }
                other => return Err(other.unexpected()),
            }
        }
        Ok(settings)
    }
}

/// Runs one row of a contest: every contestant in turn, in rotated order, `run` giving the sample
/// of one. Prints medians and ratios to the first contestant, and appends the samples to
/// `target/bench/NAME.jsonl`.
///
/// # Errors
/// When the samples cannot be written.
pub fn row(
    name: &str,
    row: &str,
    contestants: &[Contestant],
    settings: &Settings,
    mut run: impl FnMut(&Contestant) -> io::Result<Value>,
) -> io::Result<()> {
    if !row.contains(&settings.rows) {
        return Ok(());
    }
    let wanted = |c: &&Contestant| {
        settings.only.is_empty() || settings.only.iter().any(|o| c.name.contains(o.as_str()))
    };
    let present: Vec<&Contestant> =
        contestants.iter().filter(wanted).filter(|c| c.exists()).collect();
    for missing in contestants.iter().filter(wanted).filter(|c| !c.exists()) {
        eprintln!("{}: not built, left out ({})", missing.name, missing.command[0]);
    }
    let folder = target().join("bench");
    fs::create_dir_all(&folder)?;
    let mut log =
        File::options().create(true).append(true).open(folder.join(format!("{name}.jsonl")))?;
    let mut costs: Vec<Vec<f64>> = vec![Vec::new(); present.len()];
    let mut samples: Vec<Vec<Value>> = vec![Vec::new(); present.len()];
    for repetition in 0..settings.repetitions {
        for turn in 0..present.len() {
            let at = (turn + repetition) % present.len();
            eprint!(
                "\r{row}: repetition {} of {}, {:<16}",
                repetition + 1,
                settings.repetitions,
                present[at].name
            );
            let sample = match run(present[at]) {
                Ok(sample) => sample,
                Err(error) => {
                    eprintln!("\n{}: {error}", present[at].name);
                    json!({ "cpu_us": null })
                }
            };
            writeln!(
                log,
                "{}",
                json!({ "row": row, "contestant": present[at].name, "repetition": repetition, "sample": sample })
            )?;
            costs[at].push(sample["cpu_us"].as_f64().unwrap_or(f64::NAN));
            samples[at].push(sample);
        }
    }
    eprintln!("\r{:60}", "");
    for (at, contestant) in present.iter().enumerate() {
        let ratios: Vec<f64> = costs[at].iter().zip(&costs[0]).map(|(a, b)| a / b).collect();
        let below = ratios.iter().filter(|r| **r < 1.0).count();
        println!(
            "{row:<18} {:<16} {:>8.3} us CPU  ratio {:>5.2} ({below}/{} below 1)  {}",
            contestant.name,
            median(&costs[at]),
            median(&ratios),
            ratios.len(),
            details(&samples[at]),
        );
    }
    Ok(())
}

fn details(samples: &[Value]) -> String {
    let of =
        |key: &str| median(&samples.iter().filter_map(|s| s[key].as_f64()).collect::<Vec<_>>());
    format!("{:>10.0}/s  p50 {:>8.1} us  p99 {:>8.1} us", of("per_sec"), of("p50_us"), of("p99_us"))
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
