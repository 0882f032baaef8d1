//! Testing filters and bottoms; see [`driver::testing`](crate::driver::testing).

pub mod conformance;
mod stream;

pub use overlapped_drivers::testing::{
    Answer, Finding, Gate, Log, Misdeed, Record, Script, Verifier, each_failure,
};
pub use stream::Stream;
