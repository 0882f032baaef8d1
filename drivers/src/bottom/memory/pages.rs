//! Sparse bytes: pages that exist once something was written to them.

use std::collections::BTreeMap;

use overlapped_iomgr::Status;

pub(super) const PAGE: usize = 4096;

const LARGEST: u64 = i64::MAX as u64;

/// A file's bytes. What no page has is zero; so is what a page has beyond the length.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pages: BTreeMap<u64, Box<[u8]>>,
    len: u64,
}

/// The part of a range that lies in one page: the page's number, and the range inside.
fn part(at: u64, most: usize) -> (u64, usize, usize) {
    let within = (at % PAGE as u64) as usize;
    (at / PAGE as u64, within, most.min(PAGE - within))
}

impl Pages {
    pub(super) fn of_len(len: u64) -> Pages {
        Pages { pages: BTreeMap::new(), len: len.min(LARGEST) }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of memory that hold data.
    pub(super) fn allocated(&self) -> u64 {
        self.pages.len() as u64 * PAGE as u64
    }

    /// Gives `out` the bytes from `at` on, at most `wanted` of them and up to the end, piece by piece;
    /// `None` for a piece of so many zeroes.
    pub(super) fn read(
        &self,
        at: u64,
        wanted: usize,
        mut out: impl FnMut(usize, Option<&[u8]>, usize),
    ) -> usize {
        let wanted = self.len.saturating_sub(at).min(wanted as u64) as usize;
        let mut done = 0;
        while done < wanted {
            let (page, within, n) = part(at + done as u64, wanted - done);
            let bytes = self.pages.get(&page).map(|page| &page[within..][..n]);
            out(done, bytes, n);
            done += n;
        }
        wanted
    }

    /// Takes bytes to `at`; how many, if memory runs short.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let (number, within, n) = part(at + done as u64, bytes.len() - done);
            let page = match self.pages.get_mut(&number) {
                Some(page) => page,
                None => match empty_page() {
                    Some(page) => self.pages.entry(number).or_insert(page),
                    None => break,
                },
            };
            page[within..][..n].copy_from_slice(&bytes[done..][..n]);
            done += n;
        }
        if done > 0 {
            self.len = self.len.max(at + done as u64);
        }
        done
    }

    pub(super) fn set_len(&mut self, len: u64) -> Result<(), Status> {
        if len > LARGEST {
            return Err(Status::OFFSET_OVERFLOW);
        }
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE as u64));
            // What the last page has beyond the length must be zero when the file grows again.
            self.clear_within(len, PAGE);
        }
        self.len = len;
        Ok(())
    }

    /// Makes a range zeroes and lets go of its whole pages. The length stays.
    pub(super) fn zero(&mut self, at: u64, len: u64) {
        let end = at.saturating_add(len).min(self.len);
        if at >= end {
            return;
        }
        let (first, last) = (at.div_ceil(PAGE as u64), end / PAGE as u64);
        if first < last {
            let mut later = self.pages.split_off(&first);
            let mut behind = later.split_off(&last);
            self.pages.append(&mut behind);
        }
        let head = (end - at).min(PAGE as u64) as usize;
        self.clear_within(at, head);
        if last >= first {
            self.clear_within(last * PAGE as u64, (end - last * PAGE as u64) as usize);
        }
    }

    /// Clears bytes of one page: from `at` on, at most `most`, not beyond the page.
    fn clear_within(&mut self, at: u64, most: usize) {
        let (number, within, n) = part(at, most);
        if let Some(page) = self.pages.get_mut(&number) {
            page[within..][..n].fill(0);
        }
    }
}

fn empty_page() -> Option<Box<[u8]>> {
    let mut page = Vec::new();
    page.try_reserve_exact(PAGE).ok()?;
    page.resize(PAGE, 0);
    Some(page.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pages: &Pages) -> Vec<u8> {
        let mut bytes = Vec::new();
        pages.read(0, usize::MAX, |_, part, n| match part {
            Some(part) => bytes.extend_from_slice(part),
            None => bytes.resize(bytes.len() + n, 0),
        });
        bytes
    }

    #[test]
    fn what_was_cut_off_is_zero_when_it_grows_again() {
        let mut pages = Pages::default();
        assert_eq!(pages.write(10, &[7; 10_000]), 10_000);
        pages.set_len(4_100).unwrap();
        pages.set_len(12_000).unwrap();
        let bytes = all(&pages);
        assert!(bytes[10..4_100].iter().all(|&b| b == 7));
        assert!(bytes.len() == 12_000 && bytes[4_100..].iter().all(|&b| b == 0));
        assert_eq!(pages.allocated(), 2 * PAGE as u64);
    }

    #[test]
    fn a_hole_gives_its_whole_pages_back_and_no_byte_beside_it() {
        for (at, len) in [(0, 1), (1, 4_095), (1, 4_096), (4_096, 4_096), (5, 30_000), (9_000, 100)]
        {
            let mut pages = Pages::default();
            pages.write(0, &[1; 20_000]);
            pages.zero(at, len);
            let bytes = all(&pages);
            assert_eq!(bytes.len(), 20_000);
            for (i, &byte) in (0..).zip(&bytes) {
                assert_eq!(byte == 0, (at..at + len).contains(&i), "{i} of {at}, {len}");
            }
        }
        let mut pages = Pages::default();
        pages.write(0, &[1; 5 * PAGE]);
        pages.zero(1, 4 * PAGE as u64);
        assert_eq!(pages.allocated(), 2 * PAGE as u64);
    }
}
