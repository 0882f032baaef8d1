//! Counts at one moment, and the table that is printed of them.

use std::fmt;
use std::time::Duration;

use overlapped_iomgr::Major;

use super::Histogram;
use crate::filter::trace::name_of;

/// What a [`Stats`](super::Stats) has counted. Printed, it is a table.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// The filter's name.
    pub label: String,
    /// Since the first request.
    pub elapsed: Duration,
    /// Files that are open.
    pub files: usize,
    /// The operations that there have been, in the order of their codes.
    pub ops: Vec<OpStats>,
}

/// The counts of one operation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OpStats {
    /// The operation.
    pub major: Major,
    /// Requests that have come back.
    pub count: u64,
    /// Requests that have not.
    pub in_flight: u64,
    /// Requests that have failed, but for those that were cancelled.
    pub errors: u64,
    /// Requests that were cancelled.
    pub cancelled: u64,
    /// Bytes that have gone in or out.
    pub bytes: u64,
    /// Their times together; more than the time that has passed where they overlap.
    pub busy: Duration,
    /// How long they took below this filter, in nanoseconds, to a sixty-fourth.
    pub latency: Histogram<u64>,
    /// Of which sizes they were, as they were asked for; smallest first.
    pub shapes: Vec<Shape>,
}

/// Requests of about the same size.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Shape {
    /// They ask for 2 to the power of this many bytes or more, and for less than twice that; `None`: for
    /// nothing.
    pub bits: Option<u32>,
    /// How many there were.
    pub requests: u64,
    /// Bytes that they have asked for together.
    pub bytes: u64,
    /// How their offsets are aligned; empty where bytes have none.
    pub aligned: Vec<Aligned>,
}

/// Requests whose offsets are multiples of 2 to the power of [`Aligned::bits`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Aligned {
    /// Bits; 20 stands for more, too.
    pub bits: u32,
    /// How many there were.
    pub requests: u64,
}

impl Snapshot {
    /// The counts of an operation, if there has been any.
    pub fn of(&self, major: Major) -> Option<&OpStats> {
        self.ops.iter().find(|op| op.major == major)
    }

    /// All requests that have come back.
    pub fn count(&self) -> u64 {
        self.ops.iter().map(|op| op.count).sum()
    }

    /// All bytes that have gone in or out.
    pub fn bytes(&self) -> u64 {
        self.ops.iter().map(|op| op.bytes).sum()
    }
}

/// Bytes, in the unit that suits them.
struct Bytes(f64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0;
        let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter().peekable();
        while value >= 1024.0 && units.len() > 1 {
            value /= 1024.0;
            units.next();
        }
        let unit = units.next().unwrap_or("EiB");
        if unit == "B" { write!(f, "{value:.0} B") } else { write!(f, "{value:.2} {unit}") }
    }
}

fn bytes(n: u64) -> Bytes {
    Bytes(n as f64)
}

fn rate(bytes: u64, time: Duration) -> Bytes {
    let seconds = time.as_secs_f64();
    Bytes(if seconds > 0.0 { bytes as f64 / seconds } else { 0.0 })
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, moved) = (self.count(), self.bytes());
        writeln!(
            f,
            "{}: {count} ops, {:.6} s, {}, {}/s",
            self.label,
            self.elapsed.as_secs_f64(),
            bytes(moved),
            rate(moved, self.elapsed),
        )?;
        self.ops.iter().try_for_each(|op| op.write(f, self.elapsed))
    }
}

impl OpStats {
    fn write(&self, f: &mut fmt::Formatter<'_>, elapsed: Duration) -> fmt::Result {
        write!(f, "{}: {} ops, {:.6} s", name_of(self.major), self.count, self.busy.as_secs_f64())?;
        if self.bytes > 0 {
            let (moved, busy) = (bytes(self.bytes), rate(self.bytes, self.busy));
            write!(f, ", {moved}, {busy}/s op, {}/s total", rate(self.bytes, elapsed))?;
        }
        let others =
            [(self.in_flight, "in flight"), (self.errors, "errors"), (self.cancelled, "cancelled")];
        for (n, what) in others.into_iter().filter(|(n, _)| *n > 0) {
            write!(f, ", {n} {what}")?;
        }
        writeln!(f)?;
        if self.count > 0 {
            let at = |quantile| Duration::from_nanos(self.latency.value_at_quantile(quantile));
            let (half, most, nearly_all) = (at(0.5), at(0.99), at(0.999));
            let longest = Duration::from_nanos(self.latency.max());
            writeln!(
                f,
                "  latency: p50 {half:.1?}, p99 {most:.1?}, p99.9 {nearly_all:.1?}, max {longest:.1?}"
            )?;
        }
        if self.shapes.is_empty() {
            return Ok(());
        }
        let all: u64 = self.shapes.iter().map(|shape| shape.requests).sum();
        writeln!(f, "  request size and alignment:")?;
        self.shapes.iter().try_for_each(|shape| shape.write(f, all))
    }
}

impl Shape {
    fn write(&self, f: &mut fmt::Formatter<'_>, all: u64) -> fmt::Result {
        match self.bits {
            Some(bits) => write!(f, "    {bits:2} bits")?,
            None => write!(f, "    nothing")?,
        }
        let part = percent(self.requests, all);
        writeln!(f, ": {part:5.1}% ({} reqs, {} total)", self.requests, bytes(self.bytes))?;
        for Aligned { bits, requests } in &self.aligned {
            let part = percent(*requests, self.requests);
            writeln!(f, "        {bits:2} bit aligned: {part:5.1}% ({requests})")?;
        }
        Ok(())
    }
}
