//! Drivers for tests of other drivers: to be put below a filter, above a bottom, or around either.
//!
//! - [`Script`]: a bottom whose answers are written down beforehand;
//! - [`Log`]: what has passed a place in a stack, to be looked at by the test;
//! - [`Verifier`]: a pair around a filter, which finds what a driver may not do;
//! - [`each_failure`]: each request below fails once.
//!
//! The suites that use real files and sockets are in the crate `overlapped`, beside these.

mod each;
mod log;
mod script;
mod verifier;

pub use each::each_failure;
pub use log::{Log, Record};
pub use script::{Answer, Gate, Script};
pub use verifier::{Finding, Misdeed, Verifier};
