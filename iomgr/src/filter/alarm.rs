//! How a sleeping call is woken: from any thread, for as long as anybody likes.
//!
//! Made when a call's waker is first cloned, or when it first waits for anything but its request. To
//! ring it is to send work to the request's processor; there, and only there, the call is looked up
//! and polled. **Invariant:** `call` is written on that processor's thread alone, and null once the
//! call is gone.

use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{RawWaker, RawWakerVTable, Waker};

use super::call::Call;
use crate::processor::Remote;

/// See the module's header.
pub(crate) struct Alarm {
    home: Arc<Remote>,
    call: AtomicPtr<Call>,
    rung: AtomicBool,
    shares: Mutex<Vec<(Range<usize>, Access)>>,
}

/// What a part of a request's data was handed out for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    Reading,
    Writing,
}

impl Alarm {
    pub(super) fn new(home: Arc<Remote>, call: NonNull<Call>) -> Arc<Alarm> {
        Arc::new(Alarm {
            home,
            call: AtomicPtr::new(call.as_ptr()),
            rung: AtomicBool::new(false),
            shares: Mutex::default(),
        })
    }

    /// Has the call polled soon. Anywhere.
    pub(crate) fn ring(self: &Arc<Self>) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = self.clone();
        // A processor that is gone has no calls.
        let _ = self.home.run(Box::new(move |_| this.answer()));
    }

    /// On the processor's thread.
    fn answer(&self) {
        // Before the poll: what happens from here on rings again.
        self.rung.swap(false, Ordering::AcqRel);
        if let Some(call) = NonNull::new(self.call.load(Ordering::Relaxed)) {
            // SAFETY: on the processor's thread, where it is set to null when the call goes.
            unsafe { Call::wake(call) };
        }
    }

    /// The call is going. On the processor's thread.
    pub(super) fn disconnect(&self) {
        self.call.store(ptr::null_mut(), Ordering::Relaxed);
    }

    fn shares(&self) -> MutexGuard<'_, Vec<(Range<usize>, Access)>> {
        // Nothing panics while it is locked.
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a part of the data is handed out. `false`: not beside what is out already.
    pub(super) fn share(&self, range: Range<usize>, access: Access) -> bool {
        let mut shares = self.shares();
        let clash = shares.iter().any(|(other, how)| {
            let meets = range.start < other.end && other.start < range.end;
            meets && (access == Access::Writing || *how == Access::Writing)
        });
        if !clash {
            shares.push((range, access));
        }
        !clash
    }

    /// A part has come back. Anywhere.
    pub(super) fn unshare(self: &Arc<Self>, range: &Range<usize>, access: Access) {
        let mut shares = self.shares();
        if let Some(at) = shares.iter().position(|(other, how)| other == range && *how == access) {
            shares.swap_remove(at);
        }
        let last = shares.is_empty();
        drop(shares);
        if last {
            self.ring();
        }
    }

    /// Whether parts are handed out, for writing or for anything.
    #[cold]
    pub(super) fn is_shared(&self, only_for_writing: bool) -> bool {
        self.shares().iter().any(|(_, how)| !only_for_writing || *how == Access::Writing)
    }
}

// Wakers: an `Arc` of the alarm, or, during a poll and not owned, the call's address.

// Statics, so that their addresses tell them apart.
static OWNED: RawWakerVTable = RawWakerVTable::new(clone_owned, wake_owned, ring_owned, drop_owned);
static BORROWED: RawWakerVTable =
    RawWakerVTable::new(clone_borrowed, ring_borrowed, ring_borrowed, |_| ());

/// The waker of a poll.
///
/// # Safety
/// The call outlives it; clones may outlive the call.
#[inline]
pub(super) unsafe fn borrowed(call: NonNull<Call>) -> Waker {
    // SAFETY: the caller's, for the functions of the table.
    unsafe { Waker::from_raw(RawWaker::new(call.as_ptr().cast_const().cast(), &BORROWED)) }
}

/// Whether it is the waker of that call's poll.
pub(super) fn is_borrowed(waker: &Waker, call: NonNull<Call>) -> bool {
    ptr::eq(waker.vtable(), &BORROWED) && ptr::eq(waker.data(), call.as_ptr().cast())
}

fn owned(alarm: Arc<Alarm>) -> RawWaker {
    RawWaker::new(Arc::into_raw(alarm).cast(), &OWNED)
}

unsafe fn clone_borrowed(call: *const ()) -> RawWaker {
    // SAFETY: a poll of the call is under way (`borrowed`); an alarm is made but once.
    owned(unsafe { Call::alarm(NonNull::new_unchecked(call.cast_mut().cast())) }.clone())
}

unsafe fn ring_borrowed(call: *const ()) {
    // SAFETY: as above.
    unsafe { Call::alarm(NonNull::new_unchecked(call.cast_mut().cast())) }.ring();
}

unsafe fn clone_owned(alarm: *const ()) -> RawWaker {
    // SAFETY: of `owned`, not dropped yet.
    let alarm = unsafe { std::mem::ManuallyDrop::new(Arc::from_raw(alarm.cast::<Alarm>())) };
    owned(Arc::clone(&alarm))
}

unsafe fn wake_owned(alarm: *const ()) {
    // SAFETY: of `owned`, and given up.
    unsafe { Arc::from_raw(alarm.cast::<Alarm>()) }.ring();
}

unsafe fn ring_owned(alarm: *const ()) {
    // SAFETY: of `owned`, not dropped yet.
    let alarm = unsafe { std::mem::ManuallyDrop::new(Arc::from_raw(alarm.cast::<Alarm>())) };
    alarm.ring();
}

unsafe fn drop_owned(alarm: *const ()) {
    // SAFETY: of `owned`, and given up.
    drop(unsafe { Arc::from_raw(alarm.cast::<Alarm>()) });
}
