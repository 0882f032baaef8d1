//! Filters: drivers to stack above a bottom.

mod chance;
mod delay;
mod fault;
mod idle;
mod later;
mod opens;
mod parts;
mod pass;
mod slice;
pub mod stats;
mod throttle;
#[cfg(feature = "tls")]
pub mod tls;
pub mod trace;
mod xor;

pub use delay::{BadLatency, BadLink, Delay, Latency, Line, Link};
pub use fault::{Broken, Fault, Kind, Rule, Step};
pub use idle::Idle;
pub use later::Later;
pub use pass::{PassKind, pass};
pub use slice::Slice;
pub use stats::Stats;
pub use throttle::{BadRates, Rates, Throttle};
pub use trace::Trace;
pub use xor::Xor;
