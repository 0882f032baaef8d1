//! A call's future: its type, which only functions in a table know, and its memory.

use std::cell::{Cell, UnsafeCell};
use std::future::Future;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU16;
use std::task::{Context, Poll};

use super::{Call, Outcome, POLLED, mark};
use crate::buf::Payload;
use crate::filter::alarm;
use crate::filter::arena::Size;
use crate::irp::slot::SlotPtr;
use crate::panics::caught;

/// What a future's type is needed for.
pub(super) struct Table {
    pub(super) poll: unsafe fn(NonNull<Call>),
    pub(super) drop: unsafe fn(NonNull<Call>),
    size: Size,
}

/// A call and its future.
#[repr(C)]
struct Body<F> {
    call: Call,
    future: ManuallyDrop<F>,
}

impl<F: Future<Output = Outcome>> Body<F> {
    const TABLE: &'static Table =
        &Table { poll: poll::<F>, drop: drop_future::<F>, size: Size::of::<Body<F>>() };
}

/// Polls the future once, and drops it when it has ended: `ENDED` is set then, and `DROPPED`. All that
/// a poll takes is in this one function, for it costs as much as what most futures do.
///
/// # Safety
/// The call is that of a `Body<F>`, pinned where it is, whose future has not ended; on its thread, and no
/// poll of it is under way.
unsafe fn poll<F: Future<Output = Outcome>>(this: NonNull<Call>) {
    // SAFETY: the caller's. `ManuallyDrop` is transparent; of the call beside the future nothing is
    // borrowed for writing.
    unsafe {
        let call = this.as_ref();
        call.polling.set(true);
        let outer = POLLED.replace(this.as_ptr());
        let waker = ManuallyDrop::new(alarm::borrowed(this));
        let polled = caught(|| {
            let future = &raw mut (*this.cast::<Body<F>>().as_ptr()).future;
            let polled =
                Pin::new_unchecked(&mut *future.cast::<F>()).poll(&mut Context::from_waker(&waker));
            if let Poll::Ready(outcome) = polled {
                call.end(outcome, mark::DROPPED);
                ManuallyDrop::drop(&mut *future);
            }
        });
        POLLED.set(outer);
        call.polling.set(false);
        if polled.is_none() {
            call.panicked();
        }
    }
}

/// # Safety
/// As [`poll`]; the future is not used afterwards.
unsafe fn drop_future<F>(call: NonNull<Call>) {
    // SAFETY: the caller's.
    unsafe { ManuallyDrop::drop(&mut (*call.cast::<Body<F>>().as_ptr()).future) };
}

/// Owns a call. Kept in its driver's stack location.
pub(in crate::filter) struct Owned(NonNull<Call>);

// SAFETY: an address. It is used on the thread of the request's processor, as the location is; that
// may be another thread from one use to the next, which is why the futures are `Send`.
unsafe impl Send for Owned {}

impl Owned {
    /// Makes a call for the request: its future, made by `make`, is not polled yet.
    ///
    /// # Safety
    /// The caller owns the request's driver side. Whatever the future borrows lives until the request
    /// has unwound past the current location, which keeps what is returned here.
    #[inline]
    pub(in crate::filter) unsafe fn new<'a, F: Future<Output = Outcome> + Send + 'a>(
        slot: SlotPtr,
        make: impl FnOnce(NonNull<Call>) -> F,
    ) -> Owned {
        let table = Body::<F>::TABLE;
        // SAFETY: the request lives; the memory is right for the body, and ours.
        unsafe {
            let call = (*slot.0.as_ptr()).core.as_ref().arena().take(table.size).cast::<Call>();
            call.write(Call {
                slot,
                device: NonNull::from(slot.device()),
                table,
                marks: AtomicU16::new(0),
                refusals: Cell::new(0),
                polling: Cell::new(false),
                offset: Cell::new(0),
                len: Cell::new(0),
                outcome: Cell::new(MaybeUninit::uninit()),
                lent: UnsafeCell::new(Payload::empty()),
                memory: Cell::new(MaybeUninit::uninit()),
                waiter: UnsafeCell::new(None),
                alarm: OnceLock::new(),
            });
            // Foreign code, which may hand parts of the data out: what panics here is the call's end too.
            match caught(|| make(call)) {
                Some(future) => {
                    let place = &raw mut (*call.cast::<Body<F>>().as_ptr()).future;
                    place.write(ManuallyDrop::new(future));
                }
                None => {
                    call.as_ref().set(mark::DROPPED);
                    call.as_ref().panicked();
                }
            }
            Owned(call)
        }
    }

    pub(in crate::filter) fn call(&self) -> NonNull<Call> {
        self.0
    }
}

impl Drop for Owned {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: ours, on the call's thread; the request, whose location had this, lives.
        unsafe {
            Call::drop_future(self.0);
            let call = self.0.as_ref();
            if call.alarm.get().is_some()
                || (*call.waiter.get()).is_some()
                || !(*call.lent.get()).is_empty()
            {
                Call::leave_rest(self.0);
            }
            let core = (*call.slot.0.as_ptr()).core;
            core.as_ref().arena().give(self.0.cast(), call.table.size);
        }
    }
}
