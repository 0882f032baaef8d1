//! The one source of chance: SplitMix64, from the seed.

use std::ops::Range;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// What another source of chance may begin with. Nothing is drawn from this one.
    pub(super) fn apart(&self) -> u64 {
        self.0 ^ 0xD1B5_4A32_D192_ED03
    }

    /// A number below `bound`; 0 below 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product: no bias that a test could see.
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Whether something happens that has this probability. What never happens draws nothing.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        const UNIT: f64 = 1.0 / (1u64 << 53) as f64;
        probability > 0.0 && ((self.next() >> 11) as f64 * UNIT) < probability
    }

    /// A part of `whole`: at least 1 and, if it can be, less than all.
    pub(super) fn part(&mut self, whole: usize) -> usize {
        if whole < 2 { whole } else { 1 + self.below(whole as u64 - 1) as usize }
    }

    /// Nanoseconds from the range.
    pub(super) fn nanoseconds(&mut self, range: &Range<Duration>) -> u64 {
        let nanoseconds = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let (low, high) = (nanoseconds(range.start), nanoseconds(range.end));
        low + self.below(high.saturating_sub(low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_of_the_seed_and_within_bounds() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| random.below(10)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!((0..10).all(|n| draw(1).contains(&n)) && draw(1).iter().all(|&n| n < 10));
        let mut random = Random::new(3);
        assert_eq!(random.below(0), 0);
        assert!((0..1000).all(|_| random.chance(1.0) && !random.chance(0.0)));
        let half = (0..10_000).filter(|_| random.chance(0.5)).count();
        assert!((4_500..5_500).contains(&half), "{half}");
        assert!((0..1000).all(|_| (1..5).contains(&random.part(5))));
        assert_eq!((random.part(0), random.part(1)), (0, 1));
    }
}
