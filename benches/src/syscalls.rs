//! System calls of a process, counted from outside by `perf stat`, or by `strace -c` where perf
//! may not read the tracepoints. strace slows the process down, so that it finds more work at each
//! call: its figures are too low for whoever batches.

use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::contest::target;
use crate::process::Running;

const ALL: &str = "raw_syscalls:sys_enter";
const ENTER: &str = "syscalls:sys_enter_io_uring_enter";

/// Who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// `perf stat` with tracepoints.
    Perf,
    /// `strace -c`.
    Strace,
}

/// System calls in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub all: u64,
    /// `io_uring_enter` alone.
    pub enters: u64,
}

impl Counter {
    /// One that works here, if any does.
    pub fn find() -> Option<Counter> {
        let works = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        if works("perf", &["stat", "-e", ALL, "-e", ENTER, "true"]) {
            Some(Counter::Perf)
        } else if works("strace", &["-c", "-o", "/dev/null", "true"]) {
            Some(Counter::Strace)
        } else {
            None
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Counter::Perf => "perf",
            Counter::Strace => "strace",
        }
    }

    /// Counts the calls of all threads of a process while `work` runs.
    ///
    /// # Errors
    /// Those of `work` and of the counter.
    pub fn count<T>(
        self,
        pid: u32,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<(T, Counts)> {
        let output = target().join("bench/syscalls.txt");
        let (path, pid) = (output.to_string_lossy().into_owned(), pid.to_string());
        let words: Vec<&str> = match self {
            Counter::Perf => vec!["perf", "stat", "-x,", "-e", ALL, "-e", ENTER, "-o", &path, "-p"],
            Counter::Strace => vec!["strace", "-c", "-f", "-qq", "-o", &path, "-p"],
        };
        let mut command: Vec<String> = words.into_iter().map(str::to_owned).collect();
        command.push(pid);
        let counter = Running::start(&command, None, false)?;
        // Neither says when it has begun.
        sleep(Duration::from_millis(300));
        let result = work()?;
        counter.stop(libc::SIGINT)?;
        let text = fs::read_to_string(&output)?;
        let counts = match self {
            Counter::Perf => from_perf(&text),
            Counter::Strace => from_strace(&text),
        };
        let counts = counts.ok_or_else(|| io::Error::other("cannot read the counter's output"))?;
        Ok((result, counts))
    }
}

/// Lines of `count,unit,event,…`.
fn from_perf(text: &str) -> Option<Counts> {
    let of = |event: &str| {
        let line = text.lines().find(|line| line.split(',').nth(2) == Some(event))?;
        line.split(',').next()?.parse().ok()
    };
    Some(Counts { all: of(ALL)?, enters: of(ENTER)? })
}

/// Lines of `% time, seconds, usecs/call, calls, errors or nothing, name`.
fn from_strace(text: &str) -> Option<Counts> {
    let of = |name: &str| {
        let line = text.lines().find(|line| line.split_whitespace().last() == Some(name))?;
        line.split_whitespace().nth(3)?.parse().ok()
    };
    Some(Counts { all: of("total")?, enters: of("io_uring_enter").unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both() {
        let perf = "# started\n\n109,,raw_syscalls:sys_enter,1084008,100.00,,\n\
                    7,,syscalls:sys_enter_io_uring_enter,1084008,100.00,,\n";
        assert_eq!(from_perf(perf), Some(Counts { all: 109, enters: 7 }));
        let strace = "% time     seconds  usecs/call     calls    errors syscall\n\
                      ------ ----------- ----------- --------- --------- ----------------\n \
                      99.0    0.002          1      1189           io_uring_enter\n  \
                      1.0    0.000          1        11         3 read\n\
                      100.00    0.002          1      1200         3 total\n";
        assert_eq!(from_strace(strace), Some(Counts { all: 1200, enters: 1189 }));
    }
}
