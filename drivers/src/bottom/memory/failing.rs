//! Operations that fail, for seeing what happens above.

use overlapped_iomgr::{Disposition, Driver, Irp, Lower, Major, MajorSet, Status};

use super::{Null, answer, close};

/// Fails chosen operations with a status; does the others as [`Null`] does.
///
/// A close that fails has closed the file all the same, as the system's does.
#[derive(Debug)]
pub struct Failing {
    majors: MajorSet,
    status: Status,
}

impl Failing {
    /// Fails the operations in `majors`: [`MajorSet::ALL`] for each, opening too.
    pub fn new(majors: MajorSet, status: Status) -> Failing {
        Failing { majors, status }
    }
}

impl Driver for Failing {
    fn name(&self) -> &str {
        "failing"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        match irp.major() {
            major if !self.majors.contains(major) => answer(&Null, irp),
            Major::Close => close(irp, self.status),
            _ => irp.complete(self.status, 0),
        }
    }
}
