//! Filters that change nothing: for measuring what a layer costs.

use std::sync::Arc;

use overlapped_iomgr::filter::{Filter, Io, Next};
use overlapped_iomgr::{Disposition, Driver, Irp, Lower, Major, MajorSet, On, Status};

/// How a filter of [`pass`] takes part in reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PassKind {
    /// Does not hook them: it is not visited.
    Unhooked,
    /// Is visited, and skips.
    Skip,
    /// Forwards with a completion routine.
    Routine,
    /// Level 2: awaits what comes back.
    Future,
}

/// A filter that passes every request on unchanged.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; } }
/// use overlapped::driver::filter::{PassKind, pass};
/// assert_eq!(pass(PassKind::Skip).name(), "pass");
/// ```
pub fn pass(kind: PassKind) -> Arc<dyn Driver> {
    match kind {
        PassKind::Future => Awaiting.into_driver(),
        kind => Arc::new(Pass(kind)),
    }
}

const HOOKS: MajorSet = MajorSet::of(&[Major::Read, Major::Write]);

struct Pass(PassKind);

impl Driver for Pass {
    fn name(&self) -> &str {
        "pass"
    }

    fn hooks(&self) -> MajorSet {
        if self.0 == PassKind::Unhooked { MajorSet::NONE } else { HOOKS }
    }

    #[inline]
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        if self.0 == PassKind::Routine { lower.forward(irp, On::ALL) } else { lower.skip(irp) }
    }
}

struct Awaiting;

impl Filter for Awaiting {
    type Open = ();

    fn name(&self) -> &str {
        "pass"
    }

    fn hooks(&self) -> MajorSet {
        HOOKS
    }

    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        next.forward(&mut io).await
    }

    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        next.forward(&mut io).await
    }
}
