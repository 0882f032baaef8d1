//! The numbers that are counted up: a copy of them for each processor, which its thread alone writes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use overlapped_iomgr::{Major, PerCore, Status, clock};

use super::Histogram;
use super::snapshot::{Aligned, OpStats, Shape, Snapshot};

/// A power of two is cut into so many parts: latencies are exact to 1/64.
const PARTS: usize = 32;
/// Longer latencies, above nine hours, count as this.
const LONGEST: u64 = (1 << 45) - 1;
/// Parts below 32 ns are nanoseconds; above, 32 for each doubling.
const BUCKETS: usize = PARTS + (45 - 5) * PARTS;

/// Sizes: none, and by their highest bit.
const SIZES: usize = 34;
/// Alignments of offsets, in bits; more count as the last.
const MOST_ALIGNED: usize = 20;
/// Of what has no offset.
const NOWHERE: usize = MOST_ALIGNED + 1;

fn bucket(nanos: u64) -> usize {
    let nanos = nanos.min(LONGEST);
    if nanos < PARTS as u64 {
        return nanos as usize;
    }
    let doubling = nanos.ilog2() as usize - 5;
    PARTS + doubling * PARTS + (nanos >> doubling) as usize - PARTS
}

/// The middle of a bucket.
fn nanos(bucket: usize) -> u64 {
    let Some(above) = bucket.checked_sub(PARTS) else { return bucket as u64 };
    let (doubling, part) = (above / PARTS, above % PARTS);
    (((PARTS + part) as u64) << doubling) + (1 << doubling) / 2
}

/// The counts of one operation.
pub(super) struct Op {
    begun: AtomicU64,
    ended: AtomicU64,
    errors: AtomicU64,
    cancelled: AtomicU64,
    bytes: AtomicU64,
    nanos: AtomicU64,
    latencies: [AtomicU64; BUCKETS],
    /// Bytes asked for, by size.
    asked: [AtomicU64; SIZES],
    /// Requests, by size and alignment.
    shapes: [[AtomicU64; NOWHERE + 1]; SIZES],
}

/// Adds to a number of the calling thread's own.
fn add(to: &AtomicU64, n: u64) {
    to.store(to.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl Op {
    fn new() -> Box<Op> {
        Box::new(Op {
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            latencies: [const { AtomicU64::new(0) }; BUCKETS],
            asked: [const { AtomicU64::new(0) }; SIZES],
            shapes: [const { [const { AtomicU64::new(0) }; NOWHERE + 1] }; SIZES],
        })
    }

    /// What a request asks for.
    fn asked(&self, len: usize, offset: Option<u64>) {
        let size = len.checked_ilog2().map_or(0, |bits| bits as usize + 1).min(SIZES - 1);
        let aligned = match offset {
            Some(offset) => (offset.trailing_zeros() as usize).min(MOST_ALIGNED),
            None => NOWHERE,
        };
        add(&self.asked[size], len as u64);
        add(&self.shapes[size][aligned], 1);
    }

    /// What a request has come to.
    fn end(&self, status: Status, bytes: usize, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        add(&self.latencies[bucket(took)], 1);
        add(&self.nanos, took);
        add(&self.bytes, bytes as u64);
        if status == Status::CANCELLED {
            add(&self.cancelled, 1);
        } else if status.is_error() && status != Status::DATA_ABOVE {
            add(&self.errors, 1);
        }
        // Last: who sees it sees the rest.
        self.ended.store(self.ended.load(Ordering::Relaxed) + 1, Ordering::Release);
    }
}

/// The majors' codes are below this.
const MAJORS: usize = 64;

/// Of one processor.
struct Own([OnceLock<Box<Op>>; MAJORS]);

impl Default for Own {
    fn default() -> Own {
        Own([const { OnceLock::new() }; MAJORS])
    }
}

impl Own {
    #[inline]
    fn op(&self, major: Major) -> &Op {
        self.0[major as usize % MAJORS].get_or_init(Op::new)
    }
}

/// What a request that moves data asks for: how many bytes, and where, if there are offsets.
pub(super) type Asked = (usize, Option<u64>);

/// All counts of a filter.
#[derive(Default)]
pub(super) struct Counters {
    start: OnceLock<Instant>,
    own: PerCore<Own>,
}

impl Counters {
    #[inline]
    pub(super) fn begin(&self, major: Major, at: Instant, asked: Option<Asked>) {
        self.start.get_or_init(|| at);
        self.own.with(|own| {
            let op = own.op(major);
            add(&op.begun, 1);
            if let Some((len, offset)) = asked {
                op.asked(len, offset);
            }
        });
    }

    #[inline]
    pub(super) fn end(&self, major: Major, status: Status, bytes: usize, took: Duration) {
        self.own.with(|own| own.op(major).end(status, bytes, took));
    }

    pub(super) fn snapshot(&self, label: &str, files: usize) -> Snapshot {
        let since = |start: &Instant| clock::now().saturating_duration_since(*start);
        Snapshot {
            label: label.to_owned(),
            elapsed: self.start.get().map_or(Duration::ZERO, since),
            files,
            ops: Major::ALL.into_iter().filter_map(|major| self.sum(major)).collect(),
        }
    }

    fn sum(&self, major: Major) -> Option<OpStats> {
        let ops = || self.own.iter().filter_map(|own| own.0[major as usize].get());
        ops().next()?;
        // Ended before begun: so there are not more of them.
        let count: u64 = ops().map(|op| op.ended.load(Ordering::Acquire)).sum();
        let total = |of: fn(&Op) -> &AtomicU64| -> u64 {
            ops().map(|op| of(op).load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
        };
        let mut latency = Histogram::new_with_bounds(1, LONGEST + 1, 2).expect("fixed bounds");
        for i in 0..BUCKETS {
            let n: u64 = ops().map(|op| op.latencies[i].load(Ordering::Relaxed)).sum();
            if n > 0 {
                latency.record_n(nanos(i), n).expect("within the bounds");
            }
        }
        let shapes = (0..SIZES).filter_map(|size| {
            let at = |aligned: usize| -> u64 {
                ops().map(|op| op.shapes[size][aligned].load(Ordering::Relaxed)).sum()
            };
            let counts: Vec<u64> = (0..=NOWHERE).map(at).collect();
            let requests: u64 = counts.iter().sum();
            let with = |bits: usize| counts[bits..=MOST_ALIGNED].iter().sum::<u64>();
            let aligned = (0..=MOST_ALIGNED)
                .filter(|bits| counts[*bits] > 0)
                .map(|bits| Aligned { bits: bits as u32, requests: with(bits) });
            (requests > 0).then(|| Shape {
                bits: size.checked_sub(1).map(|bits| bits as u32),
                requests,
                bytes: ops().map(|op| op.asked[size].load(Ordering::Relaxed)).sum(),
                aligned: aligned.collect(),
            })
        });
        Some(OpStats {
            major,
            count,
            in_flight: total(|op| &op.begun).saturating_sub(count),
            errors: total(|op| &op.errors),
            cancelled: total(|op| &op.cancelled),
            bytes: total(|op| &op.bytes),
            busy: Duration::from_nanos(total(|op| &op.nanos)),
            latency,
            shapes: shapes.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_they_stand_for() {
        let mut before = 0;
        for value in (0..100_000).chain((17..60).map(|bits| (1u64 << bits) + 12_345)) {
            let bucket = bucket(value);
            assert!(bucket < BUCKETS && bucket >= before);
            before = bucket;
            let (value, middle) = (value.min(LONGEST), nanos(bucket));
            assert!(value.abs_diff(middle) <= value / 64 + 1, "{value} as {middle}");
        }
    }

    #[test]
    fn sizes_and_alignments() {
        let counters = Counters::default();
        for asked in [(4096, Some(0)), (4096, Some(4096)), (5000, Some(512)), (0, None)] {
            counters.begin(Major::Read, clock::now(), Some(asked));
        }
        let stats = counters.snapshot("", 0);
        let shapes = &stats.of(Major::Read).unwrap().shapes;
        let aligned = |bits, requests| Aligned { bits, requests };
        assert_eq!(shapes.len(), 2);
        assert_eq!((shapes[0].bits, shapes[0].requests, shapes[0].bytes), (None, 1, 0));
        assert_eq!((shapes[1].bits, shapes[1].requests, shapes[1].bytes), (Some(12), 3, 13_192));
        assert_eq!(shapes[1].aligned, [aligned(9, 3), aligned(12, 2), aligned(20, 1)]);
        assert_eq!(stats.of(Major::Read).unwrap().in_flight, 4);
    }
}
