//! The samples of `target/bench` as Markdown tables, written into `docs/benchmarks.md` between its
//! markers: `<!-- bench:echo -->` … `<!-- /bench:echo -->`, and so for the others. `verdict` is ours
//! against every peer, row by row, lost rows first.
//!
//! `cargo run --release -p overlapped-benches --bin table [-- --into FILE | --print]`

mod samples;
mod verdict;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use samples::{Row, Rows, Samples, compared, find, of, read};

/// A table with rows as columns and a line for each contestant; empty lines are left out.
fn matrix(title: &str, rows: &[&Row], cell: impl Fn(&Row, &Samples) -> Option<String>) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flat_map(|row| &row.1) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut lines = String::new();
    for name in names {
        let cells: Vec<Option<String>> = rows
            .iter()
            .map(|row| row.1.iter().find(|(n, _)| n == name).and_then(|(_, s)| cell(row, s)))
            .collect();
        if cells.iter().any(Option::is_some) {
            let cells = cells.into_iter().map(|c| c.unwrap_or_else(|| "-".to_owned()));
            let _ = writeln!(lines, "| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
    }
    if lines.is_empty() {
        return lines;
    }
    let heads: Vec<&str> = rows.iter().map(|row| row.0.as_str()).collect();
    let rule = "|---".repeat(heads.len() + 1);
    format!("{title}\n\n| | {} |\n{rule}|\n{lines}\n", heads.join(" | "))
}

/// How a cost is written: what it is of, and the unit.
struct Unit {
    per: &'static str,
    name: &'static str,
    /// Of a microsecond.
    scale: f64,
}

const fn us(per: &'static str) -> Unit {
    Unit { per, name: "µs", scale: 1.0 }
}

const fn ns(per: &'static str) -> Unit {
    Unit { per, name: "ns", scale: 1e3 }
}

/// The tables of one kind of contest, for one group of its rows.
fn tables(rows: &[&Row], unit: &Unit, bases: &[&str]) -> String {
    let number = |value: f64, digits: usize| (!value.is_nan()).then(|| format!("{value:.digits$}"));
    let digits = if unit.scale == 1.0 { 2 } else { 1 };
    let mut text = String::new();
    for (what, key) in [("CPU", "cpu_us"), ("Time", "wall_us")] {
        let title = format!("{what}, {} per {} (median).", unit.name, unit.per);
        text += &matrix(&title, rows, |_, s| number(of(s, key) * unit.scale, digits));
    }
    for base in bases {
        text += &matrix(&format!("CPU, ratio to `{base}`."), rows, |row, samples| {
            let base = find(row, base)?;
            let is_same = std::ptr::eq(base, samples);
            if is_same { None } else { compared(samples, base, "cpu_us").map(|r| r.to_string()) }
        });
    }
    text += &matrix("Thousands per second.", rows, |_, s| number(of(s, "per_sec") / 1e3, 1));
    text += &matrix("Latency, µs: p50 / p99 / p999.", rows, |_, s| {
        let us = |key| number(of(s, key), 0);
        Some(format!("{} / {} / {}", us("p50_us")?, us("p99_us")?, us("p999_us")?))
    });
    text + &matrix("Heap allocations per request.", rows, |_, s| number(of(s, "allocations"), 3))
}

/// The tables of several groups of rows, each under its name.
fn grouped(rows: &Rows, group: fn(&str) -> &str, table: impl Fn(&[&Row]) -> String) -> String {
    let mut groups: Vec<&str> = Vec::new();
    for row in rows {
        if !groups.contains(&group(&row.0)) {
            groups.push(group(&row.0));
        }
    }
    let mut text = String::new();
    for name in groups {
        let rows: Vec<&Row> = rows.iter().filter(|row| group(&row.0) == name).collect();
        let _ = write!(text, "#### {name}\n\n{}", table(&rows));
    }
    text
}

/// Echo: one worker, two, datagrams and Unix sockets.
fn echo(rows: &Rows) -> String {
    fn group(row: &str) -> &str {
        match row.split_once('-') {
            Some(("2w", _)) => "Two workers",
            Some(("udp", _)) => "UDP",
            Some(("unix", _)) => "Unix sockets",
            _ => "TCP",
        }
    }
    let bases = ["bare", "bare-pooled", "tokio", "tokio-mt"];
    grouped(rows, group, |rows| {
        // Where it is not the best that there is, it is no base.
        let has_tokio = rows.iter().any(|row| find(row, "tokio").is_some());
        tables(rows, &us("echo"), if has_tokio { &bases[..3] } else { &bases })
    })
}

/// Files: the depths of one way of access side by side.
fn files(rows: &Rows) -> String {
    fn group(row: &str) -> &str {
        row.rsplit_once('-').map_or("", |(group, _)| group)
    }
    let bases = ["bare", "plain", "tokio-fs", "tokio-pread"];
    grouped(rows, group, |rows| tables(rows, &us("operation"), &bases))
}

fn copy(rows: &Rows) -> String {
    let rows: Vec<&Row> = rows.iter().collect();
    tables(&rows, &us("chunk of 128 KiB"), &["bare", "tokio-fs"])
}

fn tasks(rows: &Rows) -> String {
    fn group(row: &str) -> &str {
        row.split('-').next().unwrap_or(row)
    }
    grouped(rows, group, |rows| {
        let late = |samples: &Samples| {
            let late = of(samples, "p99_us");
            (!late.is_nan()).then(|| format!("{late:.0}"))
        };
        tables(rows, &ns("operation"), &["tokio"])
            + &matrix("Lateness, µs, at the 99th percentile.", rows, |_, s| late(s))
    })
}

fn ports(rows: &Rows) -> String {
    let rows: Vec<&Row> = rows.iter().collect();
    tables(&rows, &ns("packet"), &["crossbeam"])
}

fn syscalls(rows: &Rows) -> String {
    let rows: Vec<&Row> = rows.iter().collect();
    matrix("System calls each, and `io_uring_enter` among them.", &rows, |_, s| {
        Some(format!("{:.3} / {:.3}", of(s, "calls"), of(s, "enters")))
    })
}

fn machine() -> String {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = file("/proc/cpuinfo");
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name\t: ")).unwrap_or("unknown");
    let cores = cpu.lines().filter(|l| l.starts_with("processor")).count();
    let is_virtual = cpu.lines().any(|l| l.starts_with("flags") && l.contains(" hypervisor"));
    let kernel = file("/proc/sys/kernel/osrelease");
    let tcp = file("/proc/sys/net/ipv4/tcp_congestion_control");
    let version = kernel.split('-').next().unwrap_or_default().trim();
    format!(
        "{cores} {}cores of {model}, Linux {version}, TCP congestion control {}, over loopback.\n",
        if is_virtual { "virtual " } else { "" },
        tcp.trim()
    )
}

fn options() -> Result<(PathBuf, bool), lexopt::Error> {
    use lexopt::prelude::*;
    let mut path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
    let (mut print, mut parser) = (false, lexopt::Parser::from_env());
    while let Some(argument) = parser.next()? {
        match argument {
            Long("into") => path = parser.value()?.into(),
            Long("print") => print = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok((path, print))
}

fn main() -> io::Result<()> {
    let (path, print) = options().unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2);
    });
    let mut text = if print { String::new() } else { fs::read_to_string(&path)? };
    let parts = [
        ("machine", Ok(machine())),
        ("echo", read("echo").map(|rows| echo(&rows))),
        ("syscalls", read("syscalls").map(|rows| syscalls(&rows))),
        ("files", read("files").map(|rows| files(&rows))),
        ("copy", read("copy").map(|rows| copy(&rows))),
        ("tasks", read("tasks").map(|rows| tasks(&rows))),
        ("tasks-syscalls", read("tasks-syscalls").map(|rows| syscalls(&rows))),
        ("ports", read("ports").map(|rows| ports(&rows))),
        ("verdict", verdict::all()),
    ];
    for (name, part) in parts {
        let part = match part {
            Ok(part) => part.trim_end().to_owned() + "\n",
            Err(error) => {
                eprintln!("{name}: no samples ({error})");
                continue;
            }
        };
        if print {
            println!("{part}");
            continue;
        }
        let (open, close) = (format!("<!-- bench:{name} -->"), format!("<!-- /bench:{name} -->"));
        let (Some(begin), Some(end)) = (text.find(&open), text.find(&close)) else {
            eprintln!("{name}: the document has no markers for it");
            continue;
        };
        text.replace_range(begin + open.len()..end, &format!("\n{part}"));
    }
    if print { Ok(()) } else { fs::write(&path, text) }
}
