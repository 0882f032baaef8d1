//! Filters: drivers to stack above a bottom.

pub mod cache;
mod chance;
pub mod compare;
mod delay;
mod fault;
mod idle;
mod later;
#[cfg(feature = "luks")]
pub mod luks;
pub mod mirror;
mod opens;
mod parts;
mod pass;
mod ranges;
pub mod record;
mod side;
mod slice;
pub mod stats;
mod throttle;
#[cfg(feature = "tls")]
pub mod tls;
pub mod trace;
mod xor;

pub use cache::Cache;
pub use compare::Compare;
pub use delay::{BadLatency, BadLink, Delay, Latency, Line, Link};
pub use fault::{Broken, Fault, Kind, Rule, Step};
pub use idle::Idle;
pub use later::Later;
#[cfg(feature = "luks")]
pub use luks::Luks;
pub use mirror::Mirror;
pub use pass::{PassKind, pass};
pub use record::{Record, Replay};
pub use side::Side;
pub use slice::Slice;
pub use stats::Stats;
pub use throttle::{BadRates, Rates, Throttle};
pub use trace::Trace;
pub use xor::Xor;
