//! A request's memory, between guards: what is written outside it, or after the request, shows.

use overlapped_iomgr::buf::{IoBufMut, Slice};

/// Bytes of each guard.
const GUARD: usize = 64;
/// What is in the guards.
const CANARY: u8 = 0xC5;
/// What is everywhere when the request has ended.
const POISON: u8 = 0xDE;

/// Memory for the data of one request, to be lent to the drivers below.
pub(super) fn guarded(data: &[u8]) -> Slice<Vec<u8>> {
    let mut memory = vec![CANARY; GUARD + data.len() + GUARD];
    memory[GUARD..][..data.len()].copy_from_slice(data);
    let end = GUARD + data.len();
    memory.slice_mut(GUARD..end)
}

/// The same memory when it has come back.
pub(super) struct Returned(Vec<u8>);

impl Returned {
    pub(super) fn new(lent: Slice<Vec<u8>>) -> Returned {
        Returned(lent.into_inner())
    }

    /// The data.
    pub(super) fn data(&self) -> &[u8] {
        &self.0[GUARD..self.0.len() - GUARD]
    }

    /// Whether somebody has written outside of it.
    pub(super) fn is_overrun(&self) -> bool {
        let guards = [&self.0[..GUARD], &self.0[self.0.len() - GUARD..]];
        guards.concat().iter().any(|&byte| byte != CANARY)
    }

    /// From here on nobody may write to it.
    pub(super) fn poisoned(mut self) -> Poisoned {
        self.0.fill(POISON);
        Poisoned(self.0)
    }
}

/// The memory of a request that has ended. It is kept for a while: memory that were freed would be some
/// other request's before long.
pub(super) struct Poisoned(Vec<u8>);

impl Poisoned {
    /// Whether somebody has written to it.
    pub(super) fn is_touched(&self) -> bool {
        self.0.iter().any(|&byte| byte != POISON)
    }
}
