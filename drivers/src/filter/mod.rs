//! Filters: drivers to stack above a bottom.

mod later;
mod pass;
mod xor;

pub use later::Later;
pub use pass::{PassKind, pass};
pub use xor::Xor;
