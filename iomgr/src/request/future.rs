//! The future route.
//!
//! The first poll issues the request on the polling thread's processor; from then on the future is
//! an address and a mark. Dropping it asks for cancellation and detaches (X-1, C-41): the buffer
//! stays with the IRP until the hardware is done with it. `mem::forget` leaks one slot at worst.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{Operation, Request, State, admit, collect, launch};
use crate::irp::dispatch;
use crate::irp::slot::{Route, SlotPtr};
use crate::processor::{Core, Driven};
use crate::status::Status;

impl<K: Operation> Future for Request<'_, K> {
    type Output = K::Output;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<K::Output> {
        if let State::Issued(slot) = self.state {
            // SAFETY: an issued request holds the requester's reference.
            unsafe {
                if !(*slot.0.as_ptr()).state.is_done() && !watch(slot, cx) {
                    return Poll::Pending;
                }
                self.state = State::Done;
                return Poll::Ready(collect::<K>(slot));
            }
        }
        let State::Ready { file, operation, deadline } =
            std::mem::replace(&mut self.state, State::Done)
        else {
            panic!("a request was polled after it had completed");
        };
        let admitted = Core::with_current(|core| {
            // Otherwise nothing would ever drive the request.
            if core.driven() != Driven::Loop {
                return Err(Status::NOT_IN_RUNTIME);
            }
            let slot = admit(core, &file, &operation)?;
            Ok((core as *const Core, slot))
        });
        let (core, slot) = match admitted.unwrap_or(Err(Status::NOT_IN_RUNTIME)) {
            Ok(admitted) => admitted,
            Err(status) => return Poll::Ready(operation.refuse(status)),
        };
        // SAFETY: the thread's processor, which does not end while code of ours runs on the thread.
        let core = unsafe { &*core };
        let inline = launch(core, slot, &file, operation, Route::Future(None), deadline);
        // SAFETY: the requester's reference is ours.
        unsafe {
            if inline {
                return Poll::Ready(collect::<K>(slot));
            }
            // Before foreign code, the waker's, may panic.
            self.state = State::Issued(slot);
            if watch(slot, cx) {
                self.state = State::Done;
                return Poll::Ready(collect::<K>(slot));
            }
        }
        Poll::Pending
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
        let here = (*header).core.as_ref().is_current();
        if here {
            if (*header).state.is_done() {
                return true;
            }
        } else if !(*header).state.lock_waker() {
            return true;
        }
        match &mut (*header).route {
            Route::Future(Some(waker)) if waker.will_wake(cx.waker()) => {}
            route => *route = Route::Future(Some(cx.waker().clone())),
        }
        !here && (*header).state.unlock_waker()
    }
}

impl<K: Operation> Drop for Request<'_, K> {
    fn drop(&mut self) {
        if let State::Issued(slot) = self.state {
            // SAFETY: the requester's reference ends here.
            unsafe { dispatch::release(slot) };
        }
    }
}

impl<K: Operation> std::fmt::Debug for Request<'_, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state {
            State::Ready { .. } => "not issued",
            State::Issued(_) => "issued",
            State::Done => "done",
        };
        f.debug_tuple("Request").field(&state).finish()
    }
}
