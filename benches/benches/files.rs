//! Files: CPU per 4 KiB operation, ours against a bare loop, plain system calls and tokio.
//!
//! `cargo bench -p overlapped-benches --bench files -- --reps 5 --rows randread`

use std::io;

use overlapped_benches::contest::{Contestant, Settings, row, target};
use overlapped_benches::process::Running;
use serde_json::{Value, json};

fn main() -> io::Result<()> {
    let settings = Settings::from_args().unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2);
    });
    std::fs::create_dir_all(target().join("bench"))?;
    let path = target().join("bench/file.bin").to_string_lossy().into_owned();
    let size = (64u64 << 20).to_string();
    let file = ["--path", path.as_str(), "--bs", "4096", "--size", size.as_str()];
    let peer = |name, runtime| {
        Contestant::new(name, "peer-fileio", &[&["--runtime", runtime], &file[..]].concat())
    };
    let ours = |name, more: &[&str]| {
        let all = [&file[..], &["--backend", "io_uring"], more].concat();
        Contestant::new(name, "examples/fileio", &all)
    };
    let filters = ["--filters", "4", "--filter-kind", "routine"];
    // Lays the file out and fills the page cache.
    let warm = ours("warm", &["--rw", "read", "--depth", "1", "--seconds", "0.1"]);
    Running::start(&warm.command, 0, false)?.line()?;

    for (rw, direct) in
        [("randread", false), ("randwrite", false), ("randread", true), ("randwrite", true)]
    {
        for depth in [1, 8, 32, 128] {
            let mut contestants = vec![peer("bare", "raw")];
            if depth == 1 {
                // At depth 1 without O_DIRECT the plain call is what there is to beat.
                contestants.insert(usize::from(direct), peer("plain", "pread"));
            }
            if !direct {
                contestants.push(peer("tokio-fs", "tokio-fs"));
                contestants.push(peer("tokio-pread", "tokio-pread"));
            }
            contestants.push(ours("overlapped", &[]));
            contestants.push(ours("overlapped+4", &filters));
            contestants.push(ours("port", &["--api", "port"]));
            let name = format!("{rw}-{}{depth}", if direct { "direct-" } else { "" });
            row("files", &name, &contestants, &settings, |contestant| {
                let mut command = contestant.command.clone();
                for (option, value) in [
                    ("--rw", rw.to_owned()),
                    ("--depth", depth.to_string()),
                    ("--seconds", settings.seconds.to_string()),
                ] {
                    command.extend([option.to_owned(), value]);
                }
                if direct {
                    command.push("--direct".to_owned());
                }
                // Helpers of tokio's and the kernel's own threads may use the other core.
                let sample: Value =
                    serde_json::from_str(&Running::start(&command, 0, false)?.line()?)?;
                if sample["errors"].as_u64() != Some(0) {
                    return Err(io::Error::other("operations failed"));
                }
                let us = |key: &str| sample[key].as_f64().unwrap_or(f64::NAN) / 1e3;
                Ok(json!({
                    "cpu_us": sample["cpu_us_per_op"], "per_sec": sample["ops_per_sec"],
                    "p50_us": us("p50_ns"), "p99_us": us("p99_ns"), "p999_us": us("p999_ns"),
                    "allocations": sample["allocations_per_op"],
                }))
            })?;
        }
    }
    Ok(())
}
