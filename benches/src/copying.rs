//! What the contestants in copying share: the command line, the check, the line of JSON.

use std::fs::File;
use std::io::{self, Read};
use std::time::Instant;

use overlapped_examples::{allocations, cpu_us};

/// Bytes of a chunk, for all contestants.
pub const CHUNK: usize = 128 << 10;

/// Chunks on their way at a time, for contestants that have several.
pub const DEPTH: usize = 8;

/// The command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which contestant.
    pub runtime: String,
    /// The file to copy.
    pub from: String,
    /// Its copy; written anew.
    pub to: String,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// For what is not in it, or missing.
    pub fn from_args() -> Result<Options, lexopt::Error> {
        use lexopt::prelude::*;
        let mut options = Options { runtime: "raw".into(), from: String::new(), to: String::new() };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("runtime") => options.runtime = parser.value()?.string()?,
                Long("from") => options.from = parser.value()?.string()?,
                Long("to") => options.to = parser.value()?.string()?,
                other => return Err(other.unexpected()),
            }
        }
        if options.from.is_empty() || options.to.is_empty() {
            return Err("--from or --to is missing".into());
        }
        Ok(options)
    }
}

/// Copies with `copy`, compares the files, and prints the line of JSON. The copy is flushed to the
/// disk after the measurement, so that its writing does not fall into the next one.
///
/// # Errors
/// Those of copying, and when the copy differs.
pub fn run(options: &Options, copy: impl FnOnce(&Options) -> io::Result<()>) -> io::Result<()> {
    match std::fs::remove_file(&options.to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (begin, cpu, before) = (Instant::now(), cpu_us(), allocations());
    copy(options)?;
    let (seconds, cpu) = (begin.elapsed().as_secs_f64(), cpu_us() - cpu);
    let allocated = allocations() - before;
    let bytes = compare(&options.from, &options.to)?;
    File::open(&options.to)?.sync_all()?;
    let chunks = bytes.div_ceil(CHUNK as u64).max(1) as f64;
    println!(
        "{}",
        serde_json::json!({
            "bytes": bytes,
            "seconds": seconds,
            "cpu_seconds": cpu / 1e6,
            "chunks_per_sec": chunks / seconds,
            "cpu_us_per_chunk": cpu / chunks,
            "allocations_per_chunk": allocated as f64 / chunks,
        })
    );
    Ok(())
}

fn compare(from: &str, to: &str) -> io::Result<u64> {
    let (mut from, mut to) = (File::open(from)?, File::open(to)?);
    let bytes = from.metadata()?.len();
    if to.metadata()?.len() != bytes {
        return Err(io::Error::other("the copy has another length"));
    }
    let (mut a, mut b) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    while at < bytes {
        let len = (bytes - at).min(CHUNK as u64) as usize;
        from.read_exact(&mut a[..len])?;
        to.read_exact(&mut b[..len])?;
        if a[..len] != b[..len] {
            return Err(io::Error::other(format!("the copy differs in the chunk at {at}")));
        }
        at += len as u64;
    }
    Ok(bytes)
}
