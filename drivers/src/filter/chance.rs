//! Chance from a seed that a filter keeps, so that the same order of requests has the same chances.

use std::sync::atomic::{AtomicU64, Ordering};

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The number that belongs to a state (SplitMix64).
pub(super) fn mix(state: u64) -> u64 {
    let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

/// A random number as one from 0 up to, but not, 1.
pub(super) fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// Numbers of a seed, one after the other, for all who ask.
#[derive(Debug)]
pub(super) struct Chance(AtomicU64);

impl Chance {
    pub(super) fn new(seed: u64) -> Chance {
        Chance(AtomicU64::new(seed))
    }

    /// The next number, all equally likely.
    pub(super) fn draw(&self) -> u64 {
        mix(self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP))
    }

    /// The next number below a bound, which is not 0.
    pub(super) fn below(&self, bound: u64) -> u64 {
        self.draw() % bound
    }
}
