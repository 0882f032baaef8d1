//! A filter that changes when, not what: nothing completes inside dispatch.

use overlapped_iomgr::{Disposition, Driver, Irp, Lower, Major, MajorSet, Status};

/// Keeps each request, and passes it on in the next turn of its processor: so it pends, whatever is
/// below (I-14). For tests of filters above it, which must work either way: a bottom that is memory
/// completes inside dispatch (I-27).
///
/// A request that was cancelled meanwhile goes no further.
#[derive(Debug, Default)]
pub struct Later;

/// It has waited: the request's scratch.
struct Waited;

impl Driver for Later {
    fn name(&self) -> &str {
        "later"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }
    fn dispatch(&self, mut irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        if irp.scratch::<Waited>().is_none() {
            irp.set_scratch(Waited);
            let (held, disposition) = irp.hold();
            held.redispatch_later();
            return disposition;
        }
        if irp.is_cancelled() && irp.major() != Major::Close {
            return irp.complete(Status::CANCELLED, 0);
        }
        lower.skip(irp)
    }
}
