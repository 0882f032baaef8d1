//! Measurements of `overlapped` against bare io_uring loops and tokio.
//!
//! - `benches/budgets.rs`: what the framework itself costs, in process, without any kernel.
//! - `benches/echo.rs`, `benches/files.rs`: contestants in turn, each a process of its own, their
//!   CPU time read from outside. Samples go to `target/bench/*.jsonl`.
//! - `src/bin/peer-echo.rs`, `src/bin/peer-fileio.rs`: the contestants that are not ours.
//! - `src/bin/load.rs`: the load generator for the echo servers; it compares every byte.
//! - `src/bin/table.rs`: samples to the tables of `docs/benchmarks.md`.
//!
//! Ours are the examples `echo` and `fileio`, which have the same command line.

pub mod contest;
pub mod process;
pub mod ring;
