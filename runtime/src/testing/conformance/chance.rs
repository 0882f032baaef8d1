//! Chance, of a seed.

/// Numbers of a seed (SplitMix64).
pub(super) struct Chance(pub(super) u64);

impl Chance {
    /// A number below the bound; 0 if that is 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) % bound.max(1) as u64) as usize
    }

    /// One of these.
    pub(super) fn of(&mut self, all: &[usize]) -> usize {
        all[self.below(all.len())]
    }

    /// So many bytes.
    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}
