//! Counts per driver name: how many requests each driver has seen, finished and failed.
//!
//! A name has a number for as long as the process lives, and every processor an array of plain counts,
//! which only its thread touches. They are added up when somebody asks ([`driver_counts`]); those of a
//! processor that goes are kept in [`RETIRED`]. There are [`NAMES`] numbers: names beyond them are
//! counted together, so that a program that makes names up does not make this grow.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::census;
use crate::irp::slot::Phase;
use crate::processor::Core;
use crate::status::Status;

/// As many as a `u8` tells apart: no bound needs to be checked.
const NAMES: usize = 256;

/// The number of all names for which there was no number left.
const OTHERS: u8 = 255;

/// By number.
static KNOWN: Mutex<Vec<Box<str>>> = Mutex::new(Vec::new());

/// Driver bugs reported, by the name's number.
static BUGS: [AtomicU64; NAMES] = [const { AtomicU64::new(0) }; NAMES];

/// What processors that are gone have counted, and how many of them.
static RETIRED: Mutex<(u64, Vec<[u64; 3]>)> = Mutex::new((0, Vec::new()));

/// A driver name's number.
#[derive(Clone, Copy)]
pub(crate) struct Number(u8);

impl Number {
    /// The name's, which it gets if it has none.
    pub(crate) fn of(name: &str) -> Number {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = known.iter().position(|known| **known == *name) {
            return Number(at as u8);
        }
        if known.len() == usize::from(OTHERS) {
            return Number(OTHERS);
        }
        known.push(name.into());
        Number((known.len() - 1) as u8)
    }

    #[cold]
    pub(crate) fn count_bug(self) {
        BUGS[usize::from(self.0)].fetch_add(1, Ordering::Relaxed);
    }
}

/// One processor's counts: for each name those seen, completed and failed, side by side in a cache line.
pub(crate) struct Counts([Count; NAMES]);

#[derive(Default)]
#[repr(align(32))]
struct Count {
    seen: Cell<u64>,
    completed: Cell<u64>,
    failed: Cell<u64>,
}

impl Default for Counts {
    fn default() -> Self {
        Counts(std::array::from_fn(|_| Count::default()))
    }
}

fn add_one(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

impl Counts {
    /// A driver of that name is about to be called with a request that comes down to it.
    #[inline]
    pub(crate) fn saw(&self, name: Number) {
        add_one(&self.0[usize::from(name.0)].seen);
    }

    /// A driver of that name has completed a request.
    #[inline]
    pub(crate) fn finished(&self, name: Number, status: Status) {
        // That older bytes are above is no failure.
        let failed = status.is_error() && status != Status::DATA_ABOVE;
        let count = &self.0[usize::from(name.0)];
        add_one(if failed { &count.failed } else { &count.completed });
    }

    fn snapshot(&self) -> Vec<[u64; 3]> {
        let numbers = |of: &Count| [of.seen.get(), of.completed.get(), of.failed.get()];
        self.0.iter().map(numbers).collect()
    }

    /// The processor goes.
    pub(crate) fn retire(&self) {
        let mut retired = RETIRED.lock().unwrap_or_else(PoisonError::into_inner);
        retired.0 += 1;
        add(&mut retired.1, &self.snapshot());
    }
}

fn add(sum: &mut Vec<[u64; 3]>, more: &[[u64; 3]]) {
    sum.resize(NAMES, [0; 3]);
    for (sum, more) in sum.iter_mut().zip(more) {
        for (sum, more) in sum.iter_mut().zip(more) {
            *sum += more;
        }
    }
}

/// What the drivers of one name have done, in all stacks, since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DriverCounts {
    /// The drivers' name; `"(others)"` for all that came when there were 255 names.
    pub name: String,
    /// Requests that came down to one of them, one that is sent down again included.
    pub seen: u64,
    /// Requests that one of them has now: in its dispatch, held, split, or with its hardware.
    pub in_flight: u64,
    /// Requests that one of them has completed, and not with an error. For a bottom that is each that
    /// came; a filter completes those that it answers by itself, or has taken back on their way up.
    pub completed: u64,
    /// The same, with an error: for one that was cancelled too.
    pub failed: u64,
    /// Requests dropped, panics, and results that cannot be: [`Device::bugs`](crate::Device::bugs) of
    /// each.
    pub bugs: u64,
}

/// What the processors answered.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DriverCensus {
    /// One for each name that any stack has had, in the order of their appearance.
    pub drivers: Vec<DriverCounts>,
    /// Names of the threads whose processors did not answer in time, and whose counts are missing.
    pub silent: Vec<String>,
}

impl DriverCensus {
    /// The counts of one name; none if no stack has had it.
    pub fn of(&self, name: &str) -> DriverCounts {
        let found = self.drivers.iter().find(|counts| counts.name == name);
        found
            .cloned()
            .unwrap_or_else(|| DriverCounts { name: name.to_owned(), ..Default::default() })
    }
}

/// The counts of one processor, and what is in flight there.
fn look(core: &Core) -> (Vec<[u64; 3]>, Vec<u64>) {
    let mut in_flight = vec![0; NAMES];
    for slot in core.live_slots() {
        // SAFETY: owner's thread; a live slot that is not final is in flight, and its file keeps its
        // stack.
        unsafe {
            if (*slot.0.as_ptr()).phase != Phase::Final {
                in_flight[usize::from(slot.device().number().0)] += 1;
            }
        }
    }
    (core.driver_counts().snapshot(), in_flight)
}

/// What the drivers have done, by their names (S-19, T-121c), in all processors of the process, waiting
/// at most `patience` for those of other threads. What a processor has counted that goes in just this
/// moment may be missing. See also [`live_requests`](crate::live_requests).
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// let census = overlapped::driver_counts(std::time::Duration::from_millis(100));
/// assert!(census.drivers.is_empty());
/// ```
pub fn driver_counts(patience: Duration) -> DriverCensus {
    let retired = || RETIRED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let end = census::end_of(patience);
    let (mut before, mut answers, mut silent);
    loop {
        before = retired();
        (answers, silent) = census::ask(end.saturating_duration_since(Instant::now()), look);
        // Of a processor that went meanwhile nothing may be missing, nor be there twice. Where threads
        // always come and go, there is no such moment.
        if retired().0 == before.0 || Instant::now() >= end {
            break;
        }
    }
    let (mut sum, mut in_flight) = (before.1, vec![0; NAMES]);
    sum.resize(NAMES, [0; 3]);
    for (counts, flying) in answers {
        add(&mut sum, &counts);
        in_flight.iter_mut().zip(flying).for_each(|(sum, more)| *sum += more);
    }
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let named = known.iter().map(|name| name.to_string()).enumerate();
    let all = named.chain([(usize::from(OTHERS), "(others)".to_owned())]);
    let drivers = all.map(|(at, name)| DriverCounts {
        name,
        seen: sum[at][0],
        in_flight: in_flight[at],
        completed: sum[at][1],
        failed: sum[at][2],
        bugs: BUGS[at].load(Ordering::Relaxed),
    });
    // The others only if there are any.
    let any = |counts: &DriverCounts| counts.name != "(others)" || counts.seen + counts.bugs > 0;
    DriverCensus { drivers: drivers.filter(any).collect(), silent }
}
