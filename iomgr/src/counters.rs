//! Counts of finished requests, per processor and per major.

use std::cell::Cell;

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
