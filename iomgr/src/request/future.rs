//! The future route.
//!
//! The first poll issues the request on the polling thread's processor; from then on the future is
//! an address and a mark. Dropping it asks for cancellation and detaches (X-1, C-41): the buffer
//! stays with the IRP until the hardware is done with it. `mem::forget` leaks one slot at worst.
//!
//! A request that is complete when it is issued (I-27) is ready at once, up to a number of them
//! between two turns of the processor. Beyond that it is pending once and ready then, so that a
//! task whose requests never pend starves neither other tasks nor I/O.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::issue::{admit, begin, collect, launch};
use super::{Operation, Request, State, Target};
use crate::irp::finish;
use crate::irp::slot::{Route, SlotPtr};
use crate::processor::Core;
use crate::status::Status;

impl<K: Operation> Future for Request<'_, K> {
    type Output = K::Output;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<K::Output> {
        let slot = match self.state {
            State::Issued(slot) => {
                // SAFETY: an issued request holds the requester's reference.
                unsafe {
                    if !(*slot.0.as_ptr()).state.is_done() && !watch(slot, cx) {
                        return Poll::Pending;
                    }
                }
                slot
            }
            _ => match self.state.start(cx) {
                Poll::Ready(Ok(slot)) => slot,
                Poll::Ready(Err(refused)) => return Poll::Ready(refused),
                Poll::Pending => return Poll::Pending,
            },
        };
        self.state = State::Done;
        // SAFETY: it is done, and the requester's reference, which goes, is ours.
        Poll::Ready(unsafe { collect::<K>(slot) })
    }
}

impl<K: Operation> State<'_, K> {
    /// The first poll: issues the request. Its slot, if it is complete; or the result of one that was
    /// refused.
    #[inline]
    fn start(&mut self, cx: &Context<'_>) -> Poll<Result<SlotPtr, K::Output>> {
        if matches!(self, State::Ready(Target::New(_), ..))
            && let Err(refused) = self.make()
        {
            return Poll::Ready(Err(refused));
        }
        let (slot, inline, too_many) = match self.issue() {
            Ok(issued) => issued,
            Err(status) => return Poll::Ready(Err(self.refuse(status))),
        };
        if inline && !too_many {
            return Poll::Ready(Ok(slot));
        }
        // Before foreign code, the waker's, may panic.
        *self = State::Issued(slot);
        if inline {
            // The result waits here while the others have their turn.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // SAFETY: the requester's reference is ours.
        if unsafe { watch(slot, cx) } { Poll::Ready(Ok(slot)) } else { Poll::Pending }
    }

    /// Issues what is ready: its slot, whether it is complete, and whether so many have been that the
    /// requester is to wait for a turn. On an error it still is ready.
    // The operation stays where it is until it goes into the IRP: moves are a good part of what a request
    // costs.
    #[inline]
    fn issue(&mut self) -> Result<(SlotPtr, bool, bool), Status> {
        let State::Ready(file, _, extras) = self else {
            panic!("a request was polled after it had completed");
        };
        begin(file, extras)?;
        Core::with_or_create(|core| {
            let State::Ready(file, operation, extras) = self else { unreachable!("just seen") };
            let slot = admit(core, file, operation, extras)?;
            // Its handle goes in here.
            let (file, operation, extras) = self.take();
            let left = core.inline_left();
            let inline = launch(core, slot, &file, operation, Route::Future(None), extras);
            if !inline {
                core.pass_on();
            }
            Ok((slot, inline, inline && !core.was_inline(left)))
        })?
    }

    /// Makes the file object of its own. Back, if that fails: the request's result.
    #[cold]
    fn make(&mut self) -> Result<(), K::Output> {
        let (file, operation, extras) = self.take();
        match file.made() {
            Ok(file) => *self = State::Ready(file, operation, extras),
            Err(status) => return Err(operation.refuse(status)),
        }
        Ok(())
    }

    /// The result of a request that is not issued.
    #[cold]
    fn refuse(&mut self, status: Status) -> K::Output {
        self.take().1.refuse(status)
    }
}

/// Gives the `WAKER` bit back if the waker's clone panics.
struct Unlock<'a>(&'a crate::irp::state::State, bool);

impl Drop for Unlock<'_> {
    #[cold]
    fn drop(&mut self) {
        if !self.1 {
            self.0.unlock_waker();
        }
    }
}

/// Leaves the task's waker with the request. `true`: it is done instead.
///
/// # Safety
/// The caller is the slot's requester.
#[inline]
unsafe fn watch(slot: SlotPtr, cx: &Context<'_>) -> bool {
    // SAFETY: on the owner's thread nothing can complete the request while we look; elsewhere the
    // `WAKER` bit keeps the owner off `route`.
    unsafe {
        let header = slot.0.as_ptr();
        let core = (*header).core.as_ref();
        let busy = core.is_current().then(|| core.busy());
        let here = busy.is_some();
        if here {
            if (*header).state.is_done() {
                return true;
            }
        } else if !(*header).state.lock_waker() {
            return true;
        }
        let old = match &(*header).route {
            Route::Future(Some(waker)) if waker.will_wake(cx.waker()) => None,
            _ => {
                // Foreign code, which may panic, or complete this very request.
                let unlock = Unlock(&(*header).state, here);
                let waker = cx.waker().clone();
                mem::forget(unlock);
                if here && (*header).state.is_done() {
                    return true;
                }
                Some(mem::replace(&mut (*header).route, Route::Future(Some(waker))))
            }
        };
        let done = !here && (*header).state.unlock_waker();
        drop(old);
        // Dropping the old waker may have completed it.
        done || here && (*header).state.is_done()
    }
}

impl<K> Drop for Request<'_, K> {
    fn drop(&mut self) {
        if let State::Issued(slot) = self.state {
            // SAFETY: the requester's reference ends here.
            unsafe { finish::release(slot) };
        }
    }
}

impl<K> std::fmt::Debug for Request<'_, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state {
            State::Ready(..) => "not issued",
            State::Issued(_) => "issued",
            State::Done => "done",
        };
        f.debug_tuple("Request").field(&state).finish()
    }
}
