//! Replies.

use super::wire::{self, Put, chunk};
use super::{Errno, Session};

/// The number of `base:allocation`.
pub(super) const CONTEXT: u32 = 1;

/// Most bytes of an error's text: what the protocol allows for strings.
const MAX_TEXT: usize = 4096;

/// Bytes in a row that are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// How many.
    pub len: u32,
    /// `NBD_STATE_*`: 1 for a hole, 2 for zeroes.
    flags: u32,
}

impl Extent {
    /// Bytes that may be anything.
    pub fn data(len: u32) -> Extent {
        Extent { len, flags: 0 }
    }

    /// A hole, which reads as zeroes.
    pub fn hole(len: u32) -> Extent {
        Extent { len, flags: 1 | 2 }
    }

    /// Whether it is a hole.
    pub fn is_hole(self) -> bool {
        self.flags & 1 != 0
    }
}

fn simple(cookie: u64, errno: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    out.put_u32(wire::SIMPLE_REPLY);
    out.put_u32(errno);
    out.put_u64(cookie);
    out
}

/// The only chunk of a reply, up to its payload.
fn whole(cookie: u64, kind: u16, len: usize, room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(20 + room);
    out.put_u32(wire::CHUNK);
    out.put_u16(chunk::DONE);
    out.put_u16(kind);
    out.put_u64(cookie);
    out.put_u32(len as u32);
    out
}

impl Session {
    /// The reply to what was done, and yields nothing.
    pub fn done(&self, cookie: u64) -> Vec<u8> {
        // Also where structured replies were negotiated: only those that carry something must be.
        simple(cookie, 0)
    }

    /// The reply to what failed. The text is cut to what the protocol allows.
    pub fn failed(&self, cookie: u64, errno: Errno, text: &str) -> Vec<u8> {
        if !self.structured {
            return simple(cookie, errno.raw());
        }
        let text = &text[..text.floor_boundary(MAX_TEXT)];
        let len = 6 + text.len();
        let mut out = whole(cookie, chunk::ERROR, len, len);
        out.put_u32(errno.raw());
        out.put_u16(text.len() as u16);
        out.put(text.as_bytes());
        out
    }

    /// What comes before the `len` bytes of a read: all in one piece, as a client may ask for (`DF`).
    pub fn data(&self, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
        if !self.structured {
            return simple(cookie, 0);
        }
        if len == 0 {
            // A chunk of data is not empty.
            return whole(cookie, chunk::NONE, 0, 0);
        }
        let mut out = whole(cookie, chunk::OFFSET_DATA, 8 + len as usize, 8);
        out.put_u64(offset);
        out
    }

    /// The reply to a question for the block status: extents of the one context, at least one.
    pub fn extents(&self, cookie: u64, extents: &[Extent]) -> Vec<u8> {
        let len = 4 + 8 * extents.len();
        let mut out = whole(cookie, chunk::BLOCK_STATUS, len, len);
        out.put_u32(CONTEXT);
        for extent in extents {
            out.put_u32(extent.len);
            out.put_u32(extent.flags);
        }
        out
    }
}

trait FloorBoundary {
    /// At most `most`, and between two characters.
    fn floor_boundary(&self, most: usize) -> usize;
}

impl FloorBoundary for str {
    fn floor_boundary(&self, most: usize) -> usize {
        (0..=most.min(self.len())).rev().find(|&at| self.is_char_boundary(at)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!("aé".floor_boundary(9), 3);
        assert_eq!("aé".floor_boundary(2), 1);
        assert_eq!("é".floor_boundary(1), 0);
        assert_eq!("".floor_boundary(5), 0);
    }
}
