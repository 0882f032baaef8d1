//! What happened, in order: as a hash, and as text if somebody wants to read it.

use std::fmt::Write as _;

#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    text: Option<String>,
}

/// FNV-1a, eight bytes at a time: fast, and the same on every machine.
fn mix(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01B3);
    hash ^ hash >> 29
}

const START: u64 = 0xCBF2_9CE4_8422_2325;

/// Stands for the bytes in a trace.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    let mut hash = mix(START, bytes.len() as u64);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(hash, u64::from_le_bytes(last))
}

impl Trace {
    pub(super) fn new(keep_text: bool) -> Trace {
        Trace { hash: START, text: keep_text.then(String::new) }
    }

    /// Something happened at `time`.
    pub(super) fn note(&mut self, time: u64, what: &str, words: &[u64]) {
        self.hash = mix(mix(self.hash, time), digest(what.as_bytes()));
        self.hash = words.iter().fold(self.hash, |hash, &word| mix(hash, word));
        if let Some(text) = &mut self.text {
            let _ = write!(text, "{time} {what}");
            for &word in words {
                // Negative numbers are errnos.
                let _ = write!(text, " {}", word.cast_signed());
            }
            text.push('\n');
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_of_all_that_is_noted() {
        let hash = |notes: &[(u64, &str, &[u64])]| {
            let mut trace = Trace::new(false);
            notes.iter().for_each(|&(time, what, words)| trace.note(time, what, words));
            trace.hash()
        };
        let base = hash(&[(1, "a", &[2, 3]), (4, "b", &[])]);
        assert_eq!(base, hash(&[(1, "a", &[2, 3]), (4, "b", &[])]));
        let others: [&[(u64, &str, &[u64])]; 5] = [
            &[(1, "a", &[2, 3])],
            &[(4, "b", &[]), (1, "a", &[2, 3])],
            &[(2, "a", &[2, 3]), (4, "b", &[])],
            &[(1, "c", &[2, 3]), (4, "b", &[])],
            &[(1, "a", &[3, 2]), (4, "b", &[])],
        ];
        assert!(others.iter().all(|other| hash(other) != base));
        assert_ne!(digest(b"ab"), digest(b"ab\0"));
    }

    #[test]
    fn the_text_has_a_line_for_each() {
        let mut trace = Trace::new(true);
        trace.note(5, "done", &[1, (-11i64).cast_unsigned()]);
        trace.note(6, "jump", &[]);
        assert_eq!(trace.text(), Some("5 done 1 -11\n6 jump\n"));
    }
}
