//! Ours against every peer, row by row, lost rows first.

use std::fmt::Write as _;
use std::io;

use overlapped_benches::contest::time;

use crate::samples::{Compared, Row, Samples, compared, find, of, read};

/// Who of a contest is compared to whom.
struct Match {
    log: &'static str,
    ours: &'static str,
    peers: &'static [&'static str],
    /// What can be had at all, next to the peers.
    floors: &'static [&'static str],
}

/// What most programs would use: not the best of our own variants, which have tables of their own.
const MATCHES: [Match; 6] = [
    Match {
        log: "echo",
        ours: "owned",
        peers: &["tokio", "tokio-mt", "monoio", "compio", "glommio"],
        floors: &["bare", "bare-pooled"],
    },
    Match {
        log: "files",
        ours: "overlapped",
        peers: &["tokio-fs", "tokio-pread", "monoio", "compio", "glommio"],
        floors: &["bare", "plain"],
    },
    Match {
        log: "copy",
        ours: "overlapped",
        peers: &["tokio-fs", "monoio", "compio", "glommio"],
        floors: &["bare", "plain"],
    },
    Match {
        log: "tasks",
        ours: "overlapped",
        peers: &["tokio", "monoio", "compio", "glommio"],
        floors: &[],
    },
    Match { log: "tasks", ours: "overlapped-mt", peers: &["tokio-mt"], floors: &[] },
    Match { log: "ports", ours: "overlapped", peers: &["crossbeam", "mutex"], floors: &["futex"] },
];

/// What is compared.
#[derive(Clone, Copy)]
struct Measure {
    name: &'static str,
    key: &'static str,
    /// Whether less is better.
    is_cost: bool,
}

const CPU: Measure = Measure { name: "CPU", key: "cpu_us", is_cost: true };
const TIME: Measure = Measure { name: "time", key: "wall_us", is_cost: true };
const P99: Measure = Measure { name: "p99", key: "p99_us", is_cost: true };
const PER_SECOND: Measure = Measure { name: "per second", key: "per_sec", is_cost: false };

/// What counts in a row: where several threads work, not the processor's time alone.
fn measures(log: &str, row: &str) -> &'static [Measure] {
    match log {
        "echo" if row.starts_with("2w-") => &[CPU, PER_SECOND, P99],
        "tasks" if row.starts_with("wake-") => &[CPU, TIME],
        "ports" => &[CPU, TIME],
        _ => &[CPU],
    }
}

impl Measure {
    /// Ours to another's, so that less than 1 is better for us.
    fn compare(self, ours: &Samples, other: &Samples) -> Option<Compared> {
        let (a, b) = if self.is_cost { (ours, other) } else { (other, ours) };
        compared(a, b, self.key)
    }

    fn value(self, samples: &Samples) -> String {
        let value = of(samples, self.key);
        if self.is_cost { time(value) } else { format!("{value:.0}") }
    }
}

/// A line of the table, and by what it is sorted.
struct Line {
    worst: f64,
    text: String,
}

/// The table of all contests that have samples.
pub fn all() -> io::Result<String> {
    let mut lines = Vec::new();
    for the in &MATCHES {
        for row in read(the.log).unwrap_or_default() {
            let measures = measures(the.log, &row.0).iter();
            lines.extend(measures.filter_map(|measure| line(the, &row, *measure)));
        }
    }
    if lines.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    lines.sort_by(|a, b| b.worst.total_cmp(&a.worst));
    let lost = lines.iter().filter(|line| line.worst > 1.0).count();
    let mut text = format!(
        "{lost} of {} comparisons are lost to the best peer, those first. A ratio is ours to the \
         other's, less is better for us; with it stands in how many repetitions it was below 1.\n\n\
         | | | ours | to the best peer | to all peers | to what can be had |\n|---|---|---|---|---|---|\n",
        lines.len(),
    );
    for line in lines {
        text += &line.text;
    }
    Ok(text)
}

fn line(the: &Match, row: &Row, measure: Measure) -> Option<Line> {
    let ours = find(row, the.ours)?;
    let to = |names: &[&'static str]| -> Vec<(&'static str, Compared)> {
        let compare = |name| Some((name, measure.compare(ours, find(row, name)?)?));
        names.iter().copied().filter_map(compare).collect()
    };
    let list = |all: &[(&str, Compared)]| {
        let all: Vec<String> = all.iter().map(|(name, ratio)| format!("{name} {ratio}")).collect();
        all.join(", ")
    };
    let (peers, floors) = (to(the.peers), to(the.floors));
    let (best, ratio) = *peers.iter().max_by(|a, b| a.1.ratio.total_cmp(&b.1.ratio))?;
    let verdict = if ratio.ratio > 1.0 { "**lost**, " } else { "" };
    let of_us = if the.ours == "overlapped-mt" { " (two workers)" } else { "" };
    let mut text = String::new();
    let _ = writeln!(
        text,
        "| {} {}{of_us} | {} | {} | {verdict}{best} {ratio} | {} | {} |",
        the.log,
        row.0,
        measure.name,
        measure.value(ours),
        list(&peers),
        list(&floors),
    );
    Some(Line { worst: ratio.ratio, text })
}
