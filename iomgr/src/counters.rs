//! Counts of finished requests, per processor and per major; and of IRPs, per size class (I-5).

use std::cell::Cell;

use crate::irp::slot::CLASS_LOCATIONS;
use crate::major::Major;
use crate::status::Status;

/// Plain numbers: each processor counts its own, on its own thread.
pub(crate) struct Counters {
    completed: [Cell<u64>; Major::COUNT],
    failed: [Cell<u64>; Major::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            completed: [const { Cell::new(0) }; Major::COUNT],
            failed: [const { Cell::new(0) }; Major::COUNT],
        }
    }
}

impl Counters {
    #[inline]
    pub(crate) fn count(&self, major: Major, status: Status) {
        let list = if status.is_error() { &self.failed } else { &self.completed };
        let cell = &list[major as usize];
        cell.set(cell.get() + 1);
    }

    pub(crate) fn snapshot(&self) -> MajorCounts {
        let mut counts = MajorCounts::default();
        for major in Major::ALL {
            counts.completed[major as usize] = self.completed[major as usize].get();
            counts.failed[major as usize] = self.failed[major as usize].get();
        }
        counts
    }
}

/// How many requests have finished, by major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MajorCounts {
    completed: [u64; Major::COUNT],
    failed: [u64; Major::COUNT],
}

impl Default for MajorCounts {
    fn default() -> Self {
        MajorCounts { completed: [0; Major::COUNT], failed: [0; Major::COUNT] }
    }
}

impl MajorCounts {
    /// Requests that ended with a success, informational or warning status.
    pub fn completed(&self, major: Major) -> u64 {
        self.completed[major as usize]
    }

    /// Requests that ended with an error, cancelled ones included.
    pub fn failed(&self, major: Major) -> u64 {
        self.failed[major as usize]
    }

    /// All requests that ended.
    pub fn total(&self) -> u64 {
        self.completed.iter().chain(&self.failed).sum()
    }

    /// Adds another processor's counts.
    pub fn add(&mut self, other: &MajorCounts) {
        for i in 0..Major::COUNT {
            self.completed[i] += other.completed[i];
            self.failed[i] += other.failed[i];
        }
    }
}

/// One size class of IRPs (I-5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SizeClass {
    /// Drivers that a request of this class can pass.
    pub locations: usize,
    /// IRPs that were asked for and given.
    pub allocations: u64,
    /// Those for which the free list was empty, and more memory was taken.
    pub misses: u64,
    /// IRPs that were given back, all to the free list: their memory stays with their processor.
    pub frees: u64,
}

impl SizeClass {
    /// IRPs in use.
    pub fn in_use(&self) -> u64 {
        self.allocations - self.frees
    }
}

/// The three size classes, the smallest first: of one processor, or of several together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrpCounts([SizeClass; CLASS_LOCATIONS.len()]);

impl Default for IrpCounts {
    fn default() -> Self {
        IrpCounts(CLASS_LOCATIONS.map(|locations| SizeClass { locations, ..SizeClass::default() }))
    }
}

impl IrpCounts {
    /// Of one processor: allocations, misses and frees of the class with that index.
    pub(crate) fn new(of: impl Fn(usize) -> (u64, u64, u64)) -> IrpCounts {
        let mut counts = IrpCounts::default();
        for (index, class) in counts.0.iter_mut().enumerate() {
            (class.allocations, class.misses, class.frees) = of(index);
        }
        counts
    }

    /// The classes, the smallest first.
    pub fn classes(&self) -> &[SizeClass] {
        &self.0
    }

    /// Adds another processor's counts.
    pub fn add(&mut self, other: &IrpCounts) {
        for (sum, class) in self.0.iter_mut().zip(&other.0) {
            sum.allocations += class.allocations;
            sum.misses += class.misses;
            sum.frees += class.frees;
        }
    }

    /// IRPs in use, of all classes.
    pub fn in_use(&self) -> u64 {
        self.0.iter().map(SizeClass::in_use).sum()
    }
}
