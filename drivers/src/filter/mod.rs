//! Filters: drivers to stack above a bottom.

mod pass;
mod xor;

pub use pass::{Pass, PassKind};
pub use xor::Xor;
