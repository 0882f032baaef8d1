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
use std::mem::{self, ManuallyDrop};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::issue::{admit, begin, collect, collect_here, issue, prepare};
use super::{Extras, Operation, Request, State, Target};
use crate::file::FileObject;
use crate::irp::finish;
use crate::irp::slot::{Route, SlotPtr};
use crate::processor::{Core, Driven, Here};
use crate::status::Status;

impl<K: Operation> Future for Request<'_, K> {
    type Output = K::Output;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<K::Output> {
        if let State::Issued(_) = self.state { self.poll_issued(cx) } else { self.first_poll(cx) }
    }
}

impl<K: Operation> Request<'_, K> {
    #[inline]
    fn poll_issued(&mut self, cx: &Context<'_>) -> Poll<K::Output> {
        let State::Issued(slot) = self.state else { unreachable!("the caller has looked") };
        // SAFETY: an issued request holds the requester's reference.
        let done = unsafe { (*slot.0.as_ptr()).state.is_done() || watch(slot, cx) };
        if !done {
            return Poll::Pending;
        }
        self.state = State::Done;
        // SAFETY: it is done, and the requester's reference, which goes, is ours.
        Poll::Ready(unsafe { collect::<K>(slot) })
    }

    /// Issues the request.
    #[inline]
    fn first_poll(&mut self, cx: &Context<'_>) -> Poll<K::Output> {
        if !matches!(self.state, State::Ready(_)) {
            panic!("a request was polled after it had completed");
        }
        // Not by a closure: its result, if that may be this request's, would be copied several times.
        let core = match self.enter() {
            Ok(core) => core,
            Err(status) => return Poll::Ready(self.refused(status)),
        };
        let State::Ready(operation) = &self.state else { unreachable!("just looked") };
        let slot = match admit(&core, &self.file, operation, &self.extras) {
            Ok(slot) => slot,
            Err(status) => {
                drop(core);
                return Poll::Ready(self.refused(status));
            }
        };
        let operation = self.state.take();
        // SAFETY: the slot is new and ours, and the requester's reference the state's.
        let became = unsafe {
            prepare(slot, operation, || Route::Future(None));
            self.state = State::Issued(slot);
            issue_watched(&core, slot, &self.file, &mut self.extras, cx)
        };
        self.file.leave();
        // A plain thread's is locked here, which is not to last while the operation looks at its result.
        if matches!(became, Became::Complete) && core.driven() == Driven::Loop {
            self.state = State::Done;
            // SAFETY: complete; the requester's reference, which goes, is ours.
            return Poll::Ready(unsafe { collect_here::<K>(slot) });
        }
        drop(core);
        match became {
            Became::Complete => self.poll_issued(cx),
            Became::TooMany => {
                // The result waits here while the others have their turn.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Became::Pending => Poll::Pending,
        }
    }

    /// What comes before everything else: the file object, if it is still to be made, the event, and the
    /// processor.
    #[inline]
    fn enter(&mut self) -> Result<Here, Status> {
        if let Target::New(_) = *self.file {
            self.make()?;
        }
        begin(&self.file, &mut self.extras)?;
        Core::here_or_create()
    }

    /// The result of a request that is not issued. Its file object, if it has one of its own, is not kept.
    #[cold]
    fn refused(&mut self, status: Status) -> K::Output {
        self.file.leave();
        self.extras.tell = None;
        self.state.take().refuse(status)
    }

    /// Makes the file object of its own.
    #[cold]
    fn make(&mut self) -> Result<(), Status> {
        *self.file = mem::replace(&mut *self.file, Target::Gone).made()?;
        Ok(())
    }
}

/// What became of a request inside its issue.
enum Became {
    Complete,
    /// It is complete, as so many have been that the requester is to wait for a turn.
    TooMany,
    Pending,
}

/// Issues a request, and leaves the task's waker with it if it pends.
///
/// # Safety
/// The slot is prepared, the caller its requester; the file is alive, and the processor busy.
#[inline(always)]
unsafe fn issue_watched(
    core: &Core,
    slot: SlotPtr,
    file: &FileObject,
    extras: &mut Extras,
    cx: &Context<'_>,
) -> Became {
    let left = core.inline_left();
    // SAFETY: the caller's.
    unsafe {
        if issue(core, slot, file, extras) {
            return if core.was_inline(left) { Became::Complete } else { Became::TooMany };
        }
        core.pass_on();
        // It may have been completed by what others sent.
        if watch_here(slot, cx) { Became::Complete } else { Became::Pending }
    }
}

/// Gives the `WAKER` bit back if the waker's clone panics.
struct Unlock<'a>(&'a crate::irp::state::State);

impl Drop for Unlock<'_> {
    #[cold]
    fn drop(&mut self) {
        self.0.unlock_waker();
    }
}

/// Leaves the task's waker with the request. `true`: it is done instead.
///
/// # Safety
/// The caller is the slot's requester.
#[inline]
unsafe fn watch(slot: SlotPtr, cx: &Context<'_>) -> bool {
    // SAFETY: elsewhere than on the owner's thread the `WAKER` bit keeps the owner off `route`.
    unsafe {
        let header = slot.0.as_ptr();
        let core = (*header).core.as_ref();
        if core.is_current() {
            let _busy = core.busy();
            return watch_here(slot, cx);
        }
        if !(*header).state.lock_waker() {
            return true;
        }
        let old = (!wakes(slot, cx)).then(|| {
            // Foreign code, which may panic.
            let unlock = Unlock(&(*header).state);
            let waker = cx.waker().clone();
            mem::forget(unlock);
            mem::replace(&mut (*header).route, Route::Future(Some(waker)))
        });
        let done = (*header).state.unlock_waker();
        drop(old);
        done
    }
}

/// As [`watch`], on the owner's thread.
///
/// # Safety
/// As [`watch`]; the processor is busy.
#[inline]
unsafe fn watch_here(slot: SlotPtr, cx: &Context<'_>) -> bool {
    // SAFETY: nothing but foreign code that is called here can complete the request while we look.
    unsafe {
        let header = slot.0.as_ptr();
        let is_done = move || (*header).state.is_done();
        if is_done() {
            return true;
        }
        if !wakes(slot, cx) {
            // Foreign code, which may panic, or complete this very request. So may the old one's drop.
            let waker = cx.waker().clone();
            if is_done() {
                return true;
            }
            drop(mem::replace(&mut (*header).route, Route::Future(Some(waker))));
        }
        is_done()
    }
}

/// Whether the request has a waker of the task's.
///
/// # Safety
/// The caller may look at the route.
unsafe fn wakes(slot: SlotPtr, cx: &Context<'_>) -> bool {
    // SAFETY: the caller's.
    let route = unsafe { &(*slot.0.as_ptr()).route };
    matches!(route, Route::Future(Some(waker)) if waker.will_wake(cx.waker()))
}

impl<K> Drop for Request<'_, K> {
    #[inline]
    fn drop(&mut self) {
        if let State::Issued(slot) = self.state {
            // SAFETY: the requester's reference ends here.
            unsafe { finish::release(slot) };
        }
        let has_file = !matches!(*self.file, Target::Borrowed(_) | Target::Gone);
        if has_file || self.extras.tell.is_some() {
            self.drop_rest();
        }
    }
}

impl<K> Request<'_, K> {
    /// Only `Drop` calls this.
    #[cold]
    fn drop_rest(&mut self) {
        // SAFETY: dropped once, and not used any more. The file may be foreign code, which may panic.
        unsafe {
            let _extras = ManuallyDrop::take(&mut self.extras);
            ManuallyDrop::drop(&mut self.file);
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
