//! The samples of `target/bench` as Markdown tables, written into `docs/benchmarks.md` between its
//! markers: `<!-- bench:echo -->` … `<!-- /bench:echo -->`, and the same for `files` and `machine`.
//!
//! `cargo run --release -p overlapped-benches --bin table`

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use overlapped_benches::contest::{median, target};
use serde_json::Value;

/// Row → contestant → repetition → sample.
type Rows = Vec<(String, Vec<(String, BTreeMap<u64, Value>)>)>;

fn read(name: &str) -> io::Result<Rows> {
    let mut rows: Rows = Vec::new();
    for line in fs::read_to_string(target().join("bench").join(format!("{name}.jsonl")))?.lines() {
        let entry: Value = serde_json::from_str(line)?;
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let row = at(&mut rows, text("row"));
        let contestant = at(row, text("contestant"));
        // A later run of the same row replaces an earlier one.
        contestant.insert(entry["repetition"].as_u64().unwrap_or(0), entry["sample"].clone());
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

fn of(samples: &BTreeMap<u64, Value>, key: &str) -> f64 {
    median(&samples.values().filter_map(|s| s[key].as_f64()).collect::<Vec<_>>())
}

/// The median of the ratios repetition by repetition, and how many are below 1.
fn ratio(a: &BTreeMap<u64, Value>, b: &BTreeMap<u64, Value>) -> String {
    let ratios: Vec<f64> = a
        .iter()
        .filter_map(|(i, s)| Some(s["cpu_us"].as_f64()? / b.get(i)?["cpu_us"].as_f64()?))
        .collect();
    if ratios.is_empty() {
        return "-".to_owned();
    }
    let below = ratios.iter().filter(|r| **r < 1.0).count();
    format!("{:.2} ({below}/{})", median(&ratios), ratios.len())
}

fn table(rows: &Rows) -> String {
    let mut text = String::from(
        "| row | contestant | CPU, µs | to the first | to tokio | per second | p50, µs | p99, µs |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for (row, contestants) in rows {
        let tokio = contestants.iter().find(|(name, _)| name == "tokio" || name == "tokio-fs");
        for (name, samples) in contestants {
            text += &format!(
                "| {row} | {name} | {:.2} | {} | {} | {:.0} | {:.0} | {:.0} |\n",
                of(samples, "cpu_us"),
                ratio(samples, &contestants[0].1),
                tokio.map_or("-".to_owned(), |(_, t)| ratio(samples, t)),
                of(samples, "per_sec"),
                of(samples, "p50_us"),
                of(samples, "p99_us"),
            );
        }
    }
    text
}

fn machine() -> String {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = file("/proc/cpuinfo");
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name\t: ")).unwrap_or("unknown");
    let cores = cpu.lines().filter(|l| l.starts_with("processor")).count();
    let kernel = file("/proc/sys/kernel/osrelease");
    let tcp = file("/proc/sys/net/ipv4/tcp_congestion_control");
    let version = kernel.split('-').next().unwrap_or_default().trim();
    format!("{cores} cores of {model}, Linux {version}, TCP congestion control {}.\n", tcp.trim())
}

fn main() -> io::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
    let mut text = fs::read_to_string(&path)?;
    let parts = [
        ("machine", Ok(machine())),
        ("echo", read("echo").map(|rows| table(&rows))),
        ("files", read("files").map(|rows| table(&rows))),
    ];
    for (name, part) in parts {
        let part = match part {
            Ok(part) => part,
            Err(error) => {
                eprintln!("{name}: no samples ({error})");
                continue;
            }
        };
        let (open, close) = (format!("<!-- bench:{name} -->"), format!("<!-- /bench:{name} -->"));
        let (Some(begin), Some(end)) = (text.find(&open), text.find(&close)) else {
            eprintln!("{name}: the document has no markers for it");
            continue;
        };
        text.replace_range(begin + open.len()..end, &format!("\n{part}"));
    }
    fs::write(&path, text)
}
