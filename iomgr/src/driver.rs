//! Level-1 drivers: what a filter or a bottom implements.
//!
//! A driver sees a request twice: in [`Driver::dispatch`] on its way down, as an [`Irp`] it owns
//! and must pass on in one of the listed ways, and, if it asked for that, in
//! [`Driver::completed`] on its way up. The types make NT's classic mistakes impossible: an `Irp`
//! is moved by whatever ends the driver's turn, and only those calls yield the [`Disposition`]
//! that `dispatch` must return (I-12, I-14, I-21).
//!
//! The smallest useful filter:
//!
//! ```
//! use overlapped_iomgr::{Disposition, Driver, Irp, Lower, Major, MajorSet};
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! #[derive(Default)]
//! struct CountWrites(AtomicU64);
//!
//! impl Driver for CountWrites {
//!     fn name(&self) -> &str {
//!         "count-writes"
//!     }
//!     fn hooks(&self) -> MajorSet {
//!         MajorSet::of(&[Major::Write])
//!     }
//!     fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
//!         self.0.fetch_add(1, Ordering::Relaxed);
//!         lower.skip(irp)
//!     }
//! }
//! ```
//!
//! What does not compile:
//!
//! Completing twice (NT's MULTIPLE_IRP_COMPLETE_REQUESTS):
//!
//! ```compile_fail
//! # use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet, On, Status};
//! # struct Bad;
//! # impl Driver for Bad {
//! #     fn name(&self) -> &str { "bad" }
//! #     fn hooks(&self) -> MajorSet { MajorSet::ALL }
//! fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
//!     let _ = irp.complete(Status::SUCCESS, 0);
//!     irp.complete(Status::SUCCESS, 0)
//! }
//! # }
//! ```
//!
//! Touching the IRP after it was passed on (I-12):
//!
//! ```compile_fail
//! # use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet, On, Status};
//! # struct Bad;
//! # impl Driver for Bad {
//! #     fn name(&self) -> &str { "bad" }
//! #     fn hooks(&self) -> MajorSet { MajorSet::ALL }
//! fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
//!     let disposition = lower.forward(irp, On::ALL);
//!     let _ = irp.offset();
//!     disposition
//! }
//! # }
//! ```
//!
//! Returning without having done anything with it (V-9):
//!
//! ```compile_fail
//! # use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet, On, Status};
//! # struct Bad;
//! # impl Driver for Bad {
//! #     fn name(&self) -> &str { "bad" }
//! #     fn hooks(&self) -> MajorSet { MajorSet::ALL }
//! fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
//!     let _ = irp.offset();
//! }
//! # }
//! ```
//!
//! Saying "pending" without holding it (V-6, V-7):
//!
//! ```compile_fail
//! # use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet, On, Status};
//! # struct Bad;
//! # impl Driver for Bad {
//! #     fn name(&self) -> &str { "bad" }
//! #     fn hooks(&self) -> MajorSet { MajorSet::ALL }
//! fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
//!     std::mem::forget(irp);
//!     Disposition::Pended
//! }
//! # }
//! ```
//!
//! Keeping it beyond dispatch, or handing it to another thread:
//!
//! ```compile_fail
//! # use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet, On, Status};
//! # struct Bad;
//! # impl Driver for Bad {
//! #     fn name(&self) -> &str { "bad" }
//! #     fn hooks(&self) -> MajorSet { MajorSet::ALL }
//! fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
//!     std::thread::spawn(move || irp.complete(Status::SUCCESS, 0));
//!     unreachable!()
//! }
//! # }
//! ```
//!
//! The same drivers with these lines right do compile:
//!
//! ```
//! # use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet, On, Status};
//! # struct Bad;
//! # impl Driver for Bad {
//! #     fn name(&self) -> &str { "bad" }
//! #     fn hooks(&self) -> MajorSet { MajorSet::ALL }
//! fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
//!     let offset = irp.offset();
//!     if offset == 0 { irp.complete(Status::SUCCESS, 0) } else { lower.forward(irp, On::ALL) }
//! }
//! # }
//! ```

use crate::file::FileObject;
use crate::hal;
use crate::irp::{Completion, Disposition, Irp, Late, Lower, Unwinding};
use crate::limits::Group;
pub use crate::limits::{Capabilities, Limits};
use crate::major::MajorSet;
use crate::status::Status;

/// What a driver does with operations it does not hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Looks and passes on. Unknown operations pass.
    Observe,
    /// Sends requests to other places. Unknown operations pass.
    Router,
    /// Changes the data. Operations that carry data and that it does not hook are refused with
    /// [`Status::NOT_SUPPORTED`](crate::Status::NOT_SUPPORTED): letting them through would mix plain and transformed bytes.
    Transform,
}

/// A level-1 driver. All methods may run on any processor's thread, several at once; they must not
/// block.
///
/// A panic in any of them completes the request with [`Status::DRIVER_INTERNAL_ERROR`](crate::Status::DRIVER_INTERNAL_ERROR), marks the
/// device as faulted, and leaves every other request alone.
pub trait Driver: Send + Sync + 'static {
    /// A short name, for listings and reports. Asked when the driver is put into a stack.
    fn name(&self) -> &str;

    /// The majors this driver wants to see. For the others it costs nothing.
    fn hooks(&self) -> MajorSet;

    /// What becomes of operations outside [`Driver::hooks`].
    fn class(&self) -> Class {
        Class::Observe
    }

    /// What it takes in reads and writes, and what it can do beside them, given what the driver below
    /// does. Where this forbids something beside that, requests that it would not take are made to fit
    /// right above it; what it takes away is done there in its place, or refused ([`Capabilities`]). The
    /// default is what the driver below takes and can: of a driver that passes requests on as they are. A
    /// bottom's `below` is [`Limits::NONE`].
    fn limits(&self, below: Limits) -> Limits {
        below
    }

    /// What it is for; see [`Group`]. `None`: anything.
    fn group(&self) -> Option<Group> {
        None
    }

    /// Whether it can work above drivers of these limits: a filter of streams cannot where messages are.
    /// The default: yes. Asked whenever a stack is made.
    ///
    /// # Errors
    /// Why not: there is no such stack ([`StackError::Refused`](crate::StackError::Refused)).
    fn may_stand_on(&self, below: Limits) -> Result<(), Status> {
        let _ = below;
        Ok(())
    }

    /// Whether it may be put into the stack of a file that is open and in use. The default: yes. Asked again
    /// when somebody else has changed the stack meanwhile.
    ///
    /// # Errors
    /// Why not: the change is then refused.
    fn may_attach(&self, file: &FileObject) -> Result<(), Status> {
        let _ = file;
        Ok(())
    }

    /// Whether it may be taken out of the stack of a file that is open and in use. The default: yes. A
    /// filter that cannot end in the middle (TLS on a stream) says no.
    ///
    /// # Errors
    /// Why not: the change is then refused.
    fn may_detach(&self, file: &FileObject) -> Result<(), Status> {
        let _ = file;
        Ok(())
    }

    /// Handles a request on its way down. See [`Irp`] for what may be done with it.
    ///
    /// The driver below gets what is passed on when this has returned: calls do not nest (Z-13). If another
    /// request is passed on or issued here before that, a [held](crate::Held) one for instance, the first
    /// goes first all the same.
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition;

    /// The completion routine (I-22 to I-24): runs when a request this driver forwarded with
    /// [`Lower::forward`] comes back up with an outcome the driver selected. It runs on the
    /// thread of the processor that owns the request.
    fn completed(&self, irp: Unwinding<'_>) -> Completion {
        irp.proceed()
    }

    /// Bottom drivers: the hardware has finished the operation given to [`Irp::submit`]. The
    /// default turns the result into a status: negative is an errno, anything else is the number
    /// of bytes. A driver whose requests may outlive their thread submits again what is
    /// [given back](Irp::is_given_back).
    fn hardware(&self, irp: Irp<'_>, done: hal::Completion) -> Disposition {
        irp.complete(done.status(), done.info())
    }

    /// Bottom drivers: a request ended after its requester had left, and not because it was
    /// cancelled (X-35). What the result
    /// owns is put back or disposed of here, so that nothing is lost. The payload is dropped
    /// afterwards.
    fn abandoned(&self, file: &FileObject, late: Late<'_>) {
        let _ = (file, late);
    }

    /// Bottom drivers: a request for which [`Irp::notify_settled`] was called has its final result:
    /// either its requester has it, or [`Driver::abandoned`] has run. Runs on the thread of the
    /// processor that owns the request.
    fn settled(&self, file: &FileObject) {
        let _ = file;
    }

    /// Bottom drivers: what a file object is, for listings ([`crate::live_requests`]): its name, unless
    /// the driver knows better, a socket's addresses for instance. Called on the thread of the processor
    /// that owns a request on it.
    fn describe(&self, file: &FileObject) -> String {
        file.name().to_owned()
    }

    /// Bottom drivers: closes what the file object's descriptor stands for, at once and without a
    /// processor. Called when the processor that would do it is gone.
    fn close_now(&self, file: &FileObject) {
        let _ = file;
    }
}
