//! Filters that change nothing: for measuring what a layer costs.

use overlapped_iomgr::{Disposition, Driver, Irp, Lower, Major, MajorSet, On};

/// How a [`Pass`] takes part in reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PassKind {
    /// Does not hook them: it is not visited.
    Unhooked,
    /// Is visited, and skips.
    Skip,
    /// Forwards with a completion routine.
    Routine,
}

/// A filter that passes every request on unchanged.
#[derive(Debug)]
pub struct Pass(PassKind);

impl Pass {
    /// A filter of the given kind.
    pub fn new(kind: PassKind) -> Pass {
        Pass(kind)
    }
}

impl Driver for Pass {
    fn name(&self) -> &str {
        "pass"
    }

    fn hooks(&self) -> MajorSet {
        match self.0 {
            PassKind::Unhooked => MajorSet::NONE,
            PassKind::Skip | PassKind::Routine => MajorSet::of(&[Major::Read, Major::Write]),
        }
    }

    #[inline]
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        match self.0 {
            PassKind::Routine => lower.forward(irp, On::ALL),
            PassKind::Skip | PassKind::Unhooked => lower.skip(irp),
        }
    }
}
