//! Shared by the examples, and by those they are measured against: command lines, a counting
//! allocator, what a server has done.

use std::ffi::OsString;
use std::str::FromStr;
use std::sync::Arc;

use overlapped::driver::Driver;
use overlapped::driver::filter::{PassKind, pass};

mod counting;
pub mod nbd;
mod stop;
mod totals;

pub use counting::{Counting, allocations};
pub use stop::Stop;
pub use totals::Totals;

/// How the result of a request is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Api {
    /// Awaited.
    Future,
    /// Reaped from a completion port.
    Port,
}

impl FromStr for Api {
    type Err = &'static str;
    fn from_str(name: &str) -> Result<Api, &'static str> {
        match name {
            "future" => Ok(Api::Future),
            "port" => Ok(Api::Port),
            _ => Err("expected future or port"),
        }
    }
}

/// The filter kind of `--filter-kind`.
///
/// # Errors
/// What was expected.
pub fn parse_kind(name: &str) -> Result<PassKind, &'static str> {
    match name {
        "unhooked" => Ok(PassKind::Unhooked),
        "skip" => Ok(PassKind::Skip),
        "routine" => Ok(PassKind::Routine),
        "future" => Ok(PassKind::Future),
        _ => Err("expected unhooked, skip, routine or future"),
    }
}

/// That many filters that change nothing.
pub fn filters(count: usize, kind: PassKind) -> Vec<Arc<dyn Driver>> {
    (0..count).map(|_| pass(kind)).collect()
}

/// User and system time of this process, in microseconds.
pub fn cpu_us() -> f64 {
    // SAFETY: `rusage` is plain numbers, and the call only fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let us = |t: libc::timeval| t.tv_sec as f64 * 1e6 + t.tv_usec as f64;
    us(usage.ru_utime) + us(usage.ru_stime)
}

/// Ends the process with a message for a bad command line.
pub fn usage(error: impl std::fmt::Display, text: &str) -> ! {
    eprintln!("{error}\n\n{text}");
    std::process::exit(2);
}

/// An option's value as text.
///
/// # Errors
/// When it is not UTF-8.
pub fn text(value: OsString) -> Result<String, lexopt::Error> {
    value.into_string().map_err(lexopt::Error::NonUnicodeValue)
}
