//! Level-2 filters: behaviour written as `async fn`s.
//!
//! A [`Filter`] has a function for each kind of operation. It is called for a request on its way
//! down, sends it on with [`Next::forward`], as often as it likes, and returns its result, which the
//! drivers above see. Between the two it may wait for whatever a future can wait for.
//!
//! ```text
//!   dispatch ──▶ call: the filter's future, in a pooled chunk     `call/`
//!                  │ poll                                          
//!                  ├─ ended ────────────▶ complete                 `next.rs`, `io.rs`: what the
//!                  ├─ wants it below ───▶ forward … completed ─▶ poll again   future holds
//!                  └─ waits otherwise ──▶ hold … wake, cancel ─▶ poll again   `alarm.rs`
//! ```
//!
//! **Cancelling is a message.** A filter's future is never dropped before it has ended. When its
//! request is cancelled, what it has sent below comes back as cancelled, [`Next::sleep`] ends, and
//! whatever it sends below from then on is [`Status::CANCELLED`] at once; it decides what that means.
//! So no code of a filter needs to be safe against being dropped in the middle.
//!
//! Both levels mix in one stack: [`Filter::into_driver`] makes a [`Driver`] of a filter.
//!
//! ```
//! # mod overlapped {
//! #     pub use overlapped_iomgr::Status;
//! #     pub mod driver {
//! #         pub use overlapped_iomgr::filter::{Filter, Io, Next};
//! #         pub use overlapped_iomgr::{Driver, Major, MajorSet};
//! #     }
//! # }
//! use overlapped::Status;
//! use overlapped::driver::{Filter, Io, Major, MajorSet, Next};
//!
//! /// Reads once more what could not be read.
//! struct Retry;
//!
//! impl Filter for Retry {
//!     type Open = ();
//!     fn name(&self) -> &str {
//!         "retry"
//!     }
//!     fn hooks(&self) -> MajorSet {
//!         MajorSet::of(&[Major::Read])
//!     }
//!     async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
//!         match next.forward(&mut io).await {
//!             Err(Status::DATA_ERROR) => next.forward(&mut io).await,
//!             result => result,
//!         }
//!     }
//! }
//! let driver = Retry.into_driver();
//! assert_eq!(driver.name(), "retry");
//! ```

mod alarm;
mod align;
mod arena;
mod call;
mod children;
mod emulate;
mod fork;
mod io;
mod next;
mod own;
mod ranges;
mod selective;
mod settling;
mod split;

use std::any::TypeId;
use std::future::Future;
use std::mem;
use std::ptr::NonNull;
use std::sync::Arc;

pub use crate::processor::Settle;
pub(crate) use align::Align;
pub(crate) use arena::Arena;
pub use arena::heap_futures;
use call::{Call, Owned, Step};
pub(crate) use call::{tell, tell_above};
pub(crate) use emulate::Emulate;
pub use fork::{Fork, Outcomes};
pub use io::{Io, Shared, SharedMut};
pub use next::{Below, Forward, Lend, Next, Sleep};
pub use ranges::{RangeLock, RangeLocks};
pub(crate) use settling::Settling;

use crate::driver::{Class, Driver};
use crate::file::FileObject;
use crate::irp::{Completion, Disposition, Irp, Lower, On, Unwinding};
use crate::limits::{Group, Limits};
use crate::major::{Major, MajorSet};
use crate::status::Status;

/// A filter written as `async fn`s, one for each kind of operation; those that are left out forward.
/// Written as `async fn name(&self, open: &Self::Open, next: Next<'_>, mut io: Io<'_>) ->
/// Result<usize, Status>`.
///
/// A function's result is the request's, for the drivers above: the information (bytes transferred,
/// of reads and writes), or the status that it failed with. It runs on the thread of the request's
/// processor and must not block. A panic in it completes the request with
/// [`Status::DRIVER_INTERNAL_ERROR`], marks the device as faulted, and leaves every other request
/// alone.
///
/// # Cancel safety
/// None is needed: see the [module](self).
pub trait Filter: Send + Sync + 'static {
    /// What the filter keeps for each open file, made when it first sees a request on it, dropped when
    /// the file is closed, or the filter detached from it. `()` if nothing.
    type Open: Default + Send + Sync + 'static;

    /// A short name, for listings and reports. Asked when the filter is put into a stack.
    fn name(&self) -> &str;

    /// The majors whose functions are called. For the others the filter costs nothing.
    fn hooks(&self) -> MajorSet;

    /// What becomes of operations outside [`Filter::hooks`].
    fn class(&self) -> Class {
        Class::Observe
    }

    /// As [`Driver::limits`].
    fn limits(&self, below: Limits) -> Limits {
        below
    }

    /// As [`Driver::group`].
    fn group(&self) -> Option<Group> {
        None
    }

    /// As [`Driver::may_stand_on`].
    ///
    /// # Errors
    /// Why not.
    fn may_stand_on(&self, below: Limits) -> Result<(), Status> {
        let _ = below;
        Ok(())
    }

    /// As [`Driver::may_attach`].
    ///
    /// # Errors
    /// Why not.
    fn may_attach(&self, file: &FileObject) -> Result<(), Status> {
        let _ = file;
        Ok(())
    }

    /// As [`Driver::may_detach`].
    ///
    /// # Errors
    /// Why not.
    fn may_detach(&self, file: &FileObject) -> Result<(), Status> {
        let _ = file;
        Ok(())
    }

    /// [`Major::Read`]. See [`Filter`].
    fn read<'a>(
        &'a self,
        open: &'a Self::Open,
        next: Next<'a>,
        io: Io<'a>,
    ) -> impl Future<Output = Result<usize, Status>> + Send + 'a {
        let _ = open;
        forward(next, io)
    }

    /// [`Major::Write`]. See [`Filter`].
    fn write<'a>(
        &'a self,
        open: &'a Self::Open,
        next: Next<'a>,
        io: Io<'a>,
    ) -> impl Future<Output = Result<usize, Status>> + Send + 'a {
        let _ = open;
        forward(next, io)
    }

    /// [`Major::Flush`]. See [`Filter`].
    fn flush<'a>(
        &'a self,
        open: &'a Self::Open,
        next: Next<'a>,
        io: Io<'a>,
    ) -> impl Future<Output = Result<usize, Status>> + Send + 'a {
        let _ = open;
        forward(next, io)
    }

    /// Every other major. See [`Filter`].
    fn other<'a>(
        &'a self,
        open: &'a Self::Open,
        next: Next<'a>,
        io: Io<'a>,
    ) -> impl Future<Output = Result<usize, Status>> + Send + 'a {
        let _ = open;
        forward(next, io)
    }

    /// The filter as a driver for stacks.
    fn into_driver(self) -> Arc<dyn Driver>
    where
        Self: Sized,
    {
        Arc::new(Level2(self))
    }
}

async fn forward<'a>(next: Next<'a>, mut io: Io<'a>) -> Result<usize, Status> {
    next.forward(&mut io).await
}

/// A filter as a driver.
struct Level2<F>(F);

impl<F: Filter> Level2<F> {
    /// Makes the call of a request that has just come down.
    #[inline]
    fn begin(&self, irp: &mut Irp<'_>) -> NonNull<Call> {
        // SAFETY: the filter lives as long as the stack, and that, as the file's state for the filter
        // does, until the request has left its file, after it has unwound past this location, which
        // keeps the call.
        unsafe {
            let filter: &F = &*std::ptr::from_ref(&self.0);
            let open: &F::Open = if TypeId::of::<F::Open>() == TypeId::of::<()>() {
                // Most filters keep nothing, and need not look for it: one `()` is as good as another.
                NonNull::dangling().as_ref()
            } else {
                &*std::ptr::from_ref(irp.open_state::<F::Open>())
            };
            let slot = irp.slot();
            let (next, io) = (call::next, Io::new);
            let owned = match irp.major() {
                Major::Read => Owned::new(slot, |c| filter.read(open, next(c), io(c))),
                Major::Write => Owned::new(slot, |c| filter.write(open, next(c), io(c))),
                Major::Flush => Owned::new(slot, |c| filter.flush(open, next(c), io(c))),
                _ => Owned::new(slot, |c| filter.other(open, next(c), io(c))),
            };
            let call = owned.call();
            irp.set_scratch(owned);
            call
        }
    }

    /// Goes on with a request in hand. `back`: it has been below.
    ///
    /// # Safety
    /// On the thread of the request's processor, whose call it is; no poll of that is under way.
    // Always: each frame more on the way down is a return more, and processors foresee but sixteen.
    #[inline(always)]
    unsafe fn go_on(
        call: NonNull<Call>,
        mut irp: Irp<'_>,
        lower: Lower<'_>,
        back: bool,
    ) -> Disposition {
        // SAFETY: the caller's. Nothing touches the call after the request has been passed on.
        unsafe {
            match Call::step(call) {
                Step::Down => {
                    if back {
                        irp.forget_lease();
                    }
                    Call::equip(call, || irp.next());
                    lower.forward(irp, On::ALL)
                }
                Step::Done => {
                    let result = call.as_ref().outcome();
                    irp.complete(result.status, result.info)
                }
                Step::Wait => {
                    let (held, disposition) = irp.hold();
                    mem::forget(held);
                    Call::wait(call);
                    disposition
                }
            }
        }
    }

    /// Not in `dispatch`, which is what most requests meet but once.
    ///
    /// # Safety
    /// As [`Level2::go_on`].
    #[cold]
    unsafe fn resume(call: NonNull<Call>, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        // SAFETY: the caller's.
        unsafe { Self::go_on(call, irp, lower, true) }
    }
}

impl<F: Filter> Driver for Level2<F> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn hooks(&self) -> MajorSet {
        self.0.hooks()
    }

    fn class(&self) -> Class {
        self.0.class()
    }

    fn limits(&self, below: Limits) -> Limits {
        self.0.limits(below)
    }

    fn group(&self) -> Option<Group> {
        self.0.group()
    }

    fn may_stand_on(&self, below: Limits) -> Result<(), Status> {
        self.0.may_stand_on(below)
    }

    fn may_attach(&self, file: &FileObject) -> Result<(), Status> {
        self.0.may_attach(file)
    }

    fn may_detach(&self, file: &FileObject) -> Result<(), Status> {
        self.0.may_detach(file)
    }

    fn dispatch(&self, mut irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        // SAFETY: on the thread of the request's processor; its driver side is ours, so no poll is
        // under way.
        unsafe {
            match call::of(&irp) {
                None => Self::go_on(self.begin(&mut irp), irp, lower, false),
                Some(call) => Self::resume(call, irp, lower),
            }
        }
    }

    fn completed(&self, mut irp: Unwinding<'_>) -> Completion {
        let Some(call) = irp.scratch::<Owned>().map(Owned::call) else { return irp.proceed() };
        // SAFETY: as in `dispatch`; `came_back` says whether a poll is under way.
        unsafe {
            let step = if Call::came_back(call) { Call::step(call) } else { Step::Wait };
            match step {
                Step::Done => {
                    let result = call.as_ref().outcome();
                    irp.set_result(result.status, result.info);
                    irp.proceed()
                }
                Step::Down => {
                    Call::equip(call, || irp.next());
                    irp.retry(On::ALL)
                }
                Step::Wait => {
                    let (held, completion) = irp.reclaim();
                    mem::forget(held);
                    Call::wait(call);
                    completion
                }
            }
        }
    }
}
