//! Shared by the examples: their command lines, and a counting allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::OsString;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use overlapped::driver::Driver;
use overlapped::driver::filter::{Pass, PassKind};

/// Counts heap allocations, so that the examples can say how many a request costs.
pub struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: passes everything on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(memory, layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Allocations of this process so far.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

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
        _ => Err("expected unhooked, skip or routine"),
    }
}

/// That many filters that change nothing.
pub fn filters(count: usize, kind: PassKind) -> Vec<Arc<dyn Driver>> {
    (0..count).map(|_| Arc::new(Pass::new(kind)) as Arc<dyn Driver>).collect()
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
