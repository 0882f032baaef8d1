//! A file's bytes: pages that are there, and holes between them.

use std::collections::BTreeMap;

const PAGE: u64 = 4096;

/// The largest file there can be.
pub(super) const MOST: u64 = i64::MAX as u64;

type Page = Box<[u8; PAGE as usize]>;

#[derive(Default)]
pub(super) struct Content {
    len: u64,
    /// By number. Behind `len` they are zero.
    pages: BTreeMap<u64, Page>,
}

fn page() -> Page {
    Box::new([0; PAGE as usize])
}

/// Calls `f` for each page that the range touches: its number, and the part of it, as start and
/// length.
fn each(at: u64, len: u64, mut f: impl FnMut(u64, usize, usize)) {
    let (mut at, end) = (at, at + len);
    while at < end {
        let start = at % PAGE;
        let part = (PAGE - start).min(end - at);
        f(at / PAGE, start as usize, part as usize);
        at += part;
    }
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of the medium in use.
    pub(super) fn allocated(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    /// At most `most` bytes from `at` on; none at or behind the end.
    pub(super) fn read(&self, at: u64, most: usize) -> Vec<u8> {
        let len = self.len.saturating_sub(at).min(most as u64);
        let mut bytes = Vec::with_capacity(len as usize);
        each(at, len, |number, start, part| match self.pages.get(&number) {
            Some(page) => bytes.extend_from_slice(&page[start..start + part]),
            None => bytes.resize(bytes.len() + part, 0),
        });
        bytes
    }

    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        let mut left = bytes;
        each(at, bytes.len() as u64, |number, start, part| {
            let (now, later) = left.split_at(part);
            let page = self.pages.entry(number).or_insert_with(page);
            page[start..start + part].copy_from_slice(now);
            left = later;
        });
        self.len = self.len.max(at + bytes.len() as u64);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE));
            if let Some(last) = self.pages.get_mut(&(len / PAGE)) {
                last[(len % PAGE) as usize..].fill(0);
            }
        }
        self.len = len;
    }

    /// Makes a range zeroes and gives its pages back.
    pub(super) fn punch(&mut self, at: u64, len: u64) {
        let first = at / PAGE;
        let last = at.saturating_add(len).div_ceil(PAGE);
        let touched: Vec<u64> = self.pages.range(first..last).map(|(&number, _)| number).collect();
        for number in touched {
            let start = at.saturating_sub(number * PAGE).min(PAGE) as usize;
            let end = at.saturating_add(len).saturating_sub(number * PAGE).min(PAGE) as usize;
            if start == 0 && end == PAGE as usize {
                self.pages.remove(&number);
            } else if let Some(page) = self.pages.get_mut(&number) {
                page[start..end].fill(0);
            }
        }
    }

    /// Reserves the pages of a range.
    pub(super) fn reserve(&mut self, at: u64, len: u64) {
        each(at, len, |number, _, _| {
            self.pages.entry(number).or_insert_with(page);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::random::Random;
    use super::*;

    #[test]
    fn it_is_an_array_of_bytes() {
        let mut random = Random::new(1);
        let (mut content, mut model) = (Content::default(), Vec::<u8>::new());
        for step in 0..3000 {
            let (at, len) = (random.below(20_000) as usize, random.below(9_000) as usize);
            match random.below(6) {
                0 | 1 => {
                    let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
                    if len > 0 && model.len() < at + len {
                        model.resize(at + len, 0);
                    }
                    if len > 0 {
                        model[at..at + len].copy_from_slice(&bytes);
                        content.write(at as u64, &bytes);
                    }
                }
                2 => {
                    model.resize(at, 0);
                    content.set_len(at as u64);
                }
                3 => {
                    let end = (at + len).min(model.len());
                    if at < end {
                        model[at..end].fill(0);
                    }
                    content.punch(at as u64, len as u64);
                }
                4 => content.reserve(at as u64, len as u64),
                _ => {}
            }
            assert_eq!(content.len(), model.len() as u64, "step {step}");
            let end = (at + len).min(model.len());
            let expected = model.get(at..end.max(at)).unwrap_or_default();
            assert_eq!(content.read(at as u64, len), expected, "step {step}");
        }
    }

    #[test]
    fn holes_cost_nothing() {
        let mut content = Content::default();
        content.set_len(1 << 40);
        assert_eq!((content.len(), content.allocated()), (1 << 40, 0));
        content.write(1 << 39, b"x");
        assert_eq!(content.allocated(), PAGE);
        content.reserve(0, 3 * PAGE);
        assert_eq!(content.allocated(), 4 * PAGE);
        content.punch(0, MOST);
        assert_eq!((content.len(), content.allocated()), (1 << 40, 0));
    }
}
