//! Nothing: see `tests/loom.rs`.
