//! Measurements of `overlapped` against bare io_uring loops and other runtimes.
//!
//! - `benches/budgets.rs`: what the framework itself costs, in process, without any kernel.
//! - `benches/echo.rs`, `files.rs`, `copy.rs`, `tasks.rs`, `ports.rs`: contestants in turn, each a
//!   process of its own. Samples go to `target/bench/*.jsonl`.
//! - `src/bin/peer-echo`, `src/bin/peer-fileio`, `src/bin/peer-copy.rs`: the contestants that are
//!   not ours. Those on monoio, compio and glommio are in `benches/peers`, a crate of its own.
//! - `src/bin/copy.rs`: our own way to copy a file, with the options of `peer-copy`.
//! - `src/bin/load`: the load generator for the echo servers; it compares every byte.
//! - `src/bin/tasks.rs`: what tasks and timers cost without I/O, ours and tokio's.
//! - `src/bin/ports`: a completion port and other queues between threads.
//! - `src/bin/table`: samples to the tables of `docs/benchmarks.md`.
//!
//! Ours are the examples `echo` and `fileio`, which have the same command line.

pub mod address;
pub mod contest;
pub mod copying;
pub mod cpu;
pub mod file;
pub mod memory;
pub mod pool;
pub mod process;
pub mod ring;
pub mod server;
pub mod settings;
pub mod syscalls;
pub mod tasks;
