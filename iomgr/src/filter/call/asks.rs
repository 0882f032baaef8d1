//! What a future asks of its call: the functions of `Next`, `Io` and what they give, during a poll of it.
//! Nothing moves before the poll has returned: they leave marks.

use std::mem::{self, MaybeUninit};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;

use super::{Call, Outcome, mark};
use crate::buf::Payload;
use crate::filter::{Next, alarm};
use crate::irp::finish;
use crate::irp::slot::flags;
use crate::processor::Settle;

impl Call {
    /// Whether the request is with the drivers below, or about to be.
    pub(in crate::filter) fn is_away(&self) -> bool {
        self.has(mark::BELOW | mark::WANTED)
    }

    /// Asks for the request to be sent below. `false`: it is there already, for somebody who has given
    /// it up since.
    pub(in crate::filter) fn ask(&self, shift: Option<(u64, u32)>) -> bool {
        let mut marks = self.marks.load(Ordering::Relaxed);
        if marks & (mark::BELOW | mark::WANTED) != 0 {
            return false;
        }
        marks &= !(mark::CAME_BACK | mark::MOVED | mark::LENT);
        if let Some((offset, len)) = shift {
            self.offset.set(offset);
            self.len.set(len);
            marks |= mark::MOVED;
        }
        self.marks.store(marks | mark::WANTED, Ordering::Relaxed);
        true
    }

    /// The result of what was asked for, if it is there.
    pub(in crate::filter) fn answer(&self) -> Option<Outcome> {
        self.has(mark::CAME_BACK).then(|| {
            // SAFETY: it has come back, so it is in hand.
            let result = unsafe { (*self.slot.0.as_ptr()).result };
            if result.status.is_success() { Ok(result.info) } else { Err(result.status) }
        })
    }

    /// Leaves word whom to wake, unless that is the call itself.
    pub(in crate::filter) fn watch(&self, this: NonNull<Call>, cx: &Context<'_>) {
        if alarm::is_borrowed(cx.waker(), this) {
            return;
        }
        let waker = cx.waker().clone();
        // SAFETY: on the call's thread; nothing else is done meanwhile.
        drop(unsafe { (*self.waiter.get()).replace(waker) });
    }

    /// Whoever asked does not want it any more.
    pub(in crate::filter) fn give_up(&self) {
        if !self.take(mark::WANTED) && self.has(mark::BELOW) {
            // It comes back, here or later, and the call goes on.
            // SAFETY: on the call's thread; the request is there, for it is below.
            unsafe { finish::cancel(self.slot) };
        }
    }

    /// Whoever asked wants it to end early, and waits for it.
    pub(in crate::filter) fn cancel(&self) {
        // SAFETY: on the call's thread; the request is there, below or in hand.
        unsafe { finish::cancel(self.slot) };
    }

    /// Lends a buffer to the drivers below, for what is asked for next.
    ///
    /// # Safety
    /// The request is not below. `memory` says where the buffer's bytes are, which are initialised.
    pub(in crate::filter) unsafe fn lend<B: Send + 'static>(
        &self,
        buffer: B,
        memory: impl FnOnce(&mut B) -> (*mut u8, usize),
    ) {
        // SAFETY: not below, so that nobody has what is replaced; on the call's thread.
        unsafe {
            drop(mem::replace(&mut *self.lent.get(), Payload::new(buffer)));
            let lent = (*self.lent.get()).get_mut::<B>().expect("just stored");
            let (start, len) = memory(lent);
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            self.memory.set(MaybeUninit::new((start, len)));
            self.set(mark::LENT);
        }
    }

    /// Takes the buffer back.
    ///
    /// # Safety
    /// The request is not below.
    pub(in crate::filter) unsafe fn take_lent<B: 'static>(&self) -> B {
        // SAFETY: as in `lend`.
        unsafe { &mut *self.lent.get() }.take().expect("what was lent")
    }

    /// Whether a part of the future is being polled that a fork has called off.
    pub(in crate::filter) fn is_called_off(&self) -> bool {
        self.has(mark::CALLED_OFF)
    }

    /// Until what is returned is dropped, what is polled is a part of the future that a fork has called
    /// off; or, unless a fork around that one has, it is none.
    ///
    /// # Panics
    /// When the calling thread does not poll the call.
    pub(in crate::filter) fn called_off(next: Next<'_>, off: bool) -> impl Drop {
        struct Until<'a>(Next<'a>, bool);
        impl Drop for Until<'_> {
            fn drop(&mut self) {
                if !self.1 {
                    self.0.polled().clear(mark::CALLED_OFF);
                }
            }
        }
        let was_off = next.polled().is_called_off();
        if off {
            next.polled().set(mark::CALLED_OFF);
        }
        Until(next, was_off)
    }

    /// See [`Next::random`].
    pub(in crate::filter) fn random(&self) -> u64 {
        self.core().random()
    }

    /// See [`Io::until_settled`](crate::filter::Io::until_settled).
    pub(in crate::filter) fn tell_when_settled(&self, driver: Arc<dyn Settle>) {
        // SAFETY: the request is in hand, on its processor's thread.
        unsafe { (*self.slot.0.as_ptr()).flags.set(flags::HOOKED) };
        self.core().hook(self.slot, driver);
    }
}
