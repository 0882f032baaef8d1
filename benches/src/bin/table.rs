//! The samples of `target/bench` as Markdown tables, written into `docs/benchmarks.md` between its
//! markers: `<!-- bench:echo -->` … `<!-- /bench:echo -->`, and so for `machine`, `files`, `copy`
//! and `syscalls`.
//!
//! `cargo run --release -p overlapped-benches --bin table [-- --into FILE | --print]`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use overlapped_benches::contest::{median, ratio, target};
use serde_json::Value;

/// Samples by run and repetition: only those of the same turn are compared.
type Samples = BTreeMap<(u64, u64), Value>;

/// Row → contestant → samples, in the order they came.
type Rows = Vec<(String, Vec<(String, Samples)>)>;

fn read(name: &str) -> io::Result<Rows> {
    let mut rows: Rows = Vec::new();
    for line in fs::read_to_string(target().join("bench").join(format!("{name}.jsonl")))?.lines() {
        let entry: Value = serde_json::from_str(line)?;
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| entry[key].as_u64().unwrap_or(0);
        let contestant = at(at(&mut rows, text("row")), text("contestant"));
        contestant.insert((number("run"), number("repetition")), entry["sample"].clone());
    }
    Ok(rows)
}

fn at<T: Default>(list: &mut Vec<(String, T)>, name: String) -> &mut T {
    let index = list.iter().position(|(n, _)| *n == name).unwrap_or_else(|| {
        list.push((name, T::default()));
        list.len() - 1
    });
    &mut list[index].1
}

fn of(samples: &Samples, key: &str) -> f64 {
    median(&samples.values().filter_map(|s| s[key].as_f64()).collect::<Vec<_>>())
}

/// The median of the ratios turn by turn, and how many are below 1.
fn compared(a: &Samples, b: &Samples) -> Option<String> {
    let cost = |sample: &Value| sample["cpu_us"].as_f64().unwrap_or(f64::NAN);
    let pairs = a.iter().filter_map(|(turn, sample)| Some((cost(sample), cost(b.get(turn)?))));
    let (own, base): (Vec<f64>, Vec<f64>) = pairs.unzip();
    let (median, below, of) = ratio(&own, &base);
    (of > 0).then(|| format!("{median:.2} ({below}/{of})"))
}

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

type Row = (String, Vec<(String, Samples)>);

fn find<'a>(row: &'a Row, name: &str) -> Option<&'a Samples> {
    row.1.iter().find(|(n, _)| n == name).map(|(_, samples)| samples)
}

/// The tables of one kind of contest, for one group of its rows.
fn tables(rows: &[&Row], unit: &str, bases: &[&str]) -> String {
    let number = |value: f64, digits: usize| (!value.is_nan()).then(|| format!("{value:.digits$}"));
    let mut text =
        matrix(&format!("CPU, µs per {unit} (median)."), rows, |_, s| number(of(s, "cpu_us"), 2));
    for base in bases {
        text += &matrix(&format!("CPU, ratio to `{base}`."), rows, |row, samples| {
            let base = find(row, base)?;
            if std::ptr::eq(base, samples) { None } else { compared(samples, base) }
        });
    }
    text += &matrix("Thousands per second.", rows, |_, s| number(of(s, "per_sec") / 1e3, 1));
    text += &matrix("Latency, µs: p50 / p99 / p999.", rows, |_, s| {
        let us = |key| number(of(s, key), 0);
        Some(format!("{} / {} / {}", us("p50_us")?, us("p99_us")?, us("p999_us")?))
    });
    text + &matrix("Heap allocations per request.", rows, |_, s| number(of(s, "allocations"), 3))
}

fn echo(rows: &Rows) -> String {
    let rows: Vec<&Row> = rows.iter().collect();
    tables(&rows, "echo", &["bare", "bare-pooled", "tokio"])
}

/// Files: the depths of one way of access side by side.
fn files(rows: &Rows) -> String {
    let group = |row: &Row| row.0.rsplit_once('-').map_or(String::new(), |(g, _)| g.to_owned());
    let mut groups: Vec<String> = Vec::new();
    for row in rows {
        if !groups.contains(&group(row)) {
            groups.push(group(row));
        }
    }
    let mut text = String::new();
    for name in groups {
        let rows: Vec<&Row> = rows.iter().filter(|row| group(row) == name).collect();
        let bases = ["bare", "plain", "tokio-fs", "tokio-pread"];
        let _ = write!(text, "#### {name}\n\n{}", tables(&rows, "operation", &bases));
    }
    text
}

fn copy(rows: &Rows) -> String {
    let rows: Vec<&Row> = rows.iter().collect();
    tables(&rows, "chunk of 128 KiB", &["bare", "tokio-fs"])
}

fn syscalls(rows: &Rows) -> String {
    let rows: Vec<&Row> = rows.iter().collect();
    matrix("System calls per echo, and `io_uring_enter` among them.", &rows, |_, s| {
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
