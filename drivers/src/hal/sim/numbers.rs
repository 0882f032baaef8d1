//! A simulation's descriptors by their numbers.

use std::ffi::c_int;

use super::world::{Index, Outcome};
use crate::hal::system::SIMULATED;

/// Descriptors that one simulation has at the most.
const NUMBERS: i32 = 1 << 20;

/// Which descriptors are a simulation's: a range of its own, so that one of another simulation, or of
/// one that is over, is nobody's here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    first: c_int,
}

impl Numbers {
    /// Of the simulation with this number.
    pub(super) fn of(simulation: u32) -> Numbers {
        let ranges = SIMULATED / NUMBERS;
        Numbers { first: SIMULATED + (simulation % ranges as u32) as c_int * NUMBERS }
    }

    pub(super) fn index(self, fd: c_int) -> Outcome<Index> {
        let index = fd.checked_sub(self.first).filter(|index| (0..NUMBERS).contains(index));
        index.map(|index| index as Index).ok_or(libc::EBADF)
    }

    pub(super) fn fd(self, index: Index) -> c_int {
        debug_assert!(index < NUMBERS as usize, "memory is exhausted long before");
        self.first + index as c_int
    }

    /// Where relative paths start.
    pub(super) fn at(self, at: c_int) -> Outcome<Option<Index>> {
        if at == libc::AT_FDCWD { Ok(None) } else { self.index(at).map(Some) }
    }
}
