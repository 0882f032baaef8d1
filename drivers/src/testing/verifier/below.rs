//! The verifier's lower driver: looks at what is asked of those below.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use overlapped_iomgr::{
    Completion, Disposition, Driver, Irp, Lower, Major, MajorSet, On, Unwinding, View,
};

use super::{Misdeed, Shared};
use crate::testing::Record;

pub(super) struct Below {
    pub(super) shared: Arc<Shared>,
    /// Names.
    pub(super) tested: Arc<str>,
}

/// A write's bytes as they were on the way down, as a number: a request's scratch.
struct Sent(u64);

fn hash(request: &View) -> u64 {
    let mut hasher = DefaultHasher::new();
    request.segments().for_each(|bytes| hasher.write(bytes));
    hasher.finish()
}

impl Driver for Below {
    fn name(&self) -> &str {
        "verifier (below)"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }

    fn dispatch(&self, mut irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        let request = Record::of(&irp);
        let most = i64::MAX as u64;
        if request.offset.is_some_and(|at| at.checked_add(request.len as u64) > Some(most)) {
            self.shared.found(&self.tested, request, Misdeed::OutOfRange);
        }
        if irp.major() != Major::Write {
            return lower.skip(irp);
        }
        let sent = Sent(hash(&irp));
        irp.set_scratch(sent);
        lower.forward(irp, On::ALL)
    }

    fn completed(&self, irp: Unwinding<'_>) -> Completion {
        let &Sent(sent) = irp.scratch().expect("set on the way down");
        if hash(&irp) != sent {
            self.shared.found(&self.tested, Record::of(&irp), Misdeed::ChangedWrite);
        }
        irp.proceed()
    }
}
