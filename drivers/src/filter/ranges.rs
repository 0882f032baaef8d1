//! Sets of bytes of a file.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// All bytes of a file.
pub(super) const ALL: Range<u64> = 0..u64::MAX;

fn meet(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// A set of bytes. Of many ranges only the hull is kept.
#[derive(Default)]
pub(super) struct Spans(Mutex<Vec<Range<u64>>>);

const MOST: usize = 64;

impl Spans {
    fn list(&self) -> MutexGuard<'_, Vec<Range<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, range: Range<u64>) {
        let mut list = self.list();
        if range.start < range.end {
            list.push(range);
        }
        if list.len() > MOST {
            let start = list.iter().map(|span| span.start).min().unwrap_or(0);
            let end = list.iter().map(|span| span.end).max().unwrap_or(0);
            list.clear();
            list.push(start..end);
        }
    }

    pub(super) fn remove(&self, range: &Range<u64>) {
        let mut list = self.list();
        let before = std::mem::take(&mut *list);
        for span in before {
            if !meet(&span, range) {
                list.push(span);
                continue;
            }
            let (head, tail) = (span.start..range.start, range.end..span.end);
            list.extend([head, tail].into_iter().filter(|part| part.start < part.end));
        }
    }

    /// Whether the set has the byte.
    pub(super) fn has(&self, byte: u64) -> bool {
        self.list().iter().any(|span| span.contains(&byte))
    }

    /// The ranges that meet this one.
    pub(super) fn meeting(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        self.list().iter().filter(|span| meet(span, range)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_a_set() {
        let spans = Spans::default();
        spans.add(10..20);
        spans.add(15..30);
        spans.add(5..5);
        spans.remove(&(12..17));
        let has: Vec<u64> = (0..40).filter(|&byte| spans.has(byte)).collect();
        assert_eq!(has, [10, 11].into_iter().chain(17..30).collect::<Vec<_>>());
        assert!(spans.meeting(&(0..10)).is_empty() && !spans.meeting(&(0..11)).is_empty());
        for i in 0..MOST as u64 * 2 {
            spans.add(i * 10..i * 10 + 1);
        }
        assert!(spans.has(0) && spans.has(1001), "never fewer than were added");
    }
}
