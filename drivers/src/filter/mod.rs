//! Filters: drivers to stack above a bottom.

mod later;
mod opens;
mod pass;
pub mod stats;
pub mod trace;
mod xor;

pub use later::Later;
pub use pass::{PassKind, pass};
pub use stats::Stats;
pub use trace::Trace;
pub use xor::Xor;
