//! Stacks that have been replaced: when is the last request done that travels one?
//!
//! A stack may be that of many files, of which one changes to another: what is waited for is a file's
//! requests on a stack.
//!
//! Requests do not count on their stack: that would cost every one of them. When a stack is replaced,
//! every processor that has used the file is sent word instead. It looks through its requests for those that travel the old
//! stack, marks them, and counts them off as they leave. **Invariant:** a processor reads its mail
//! between requests, so when the word comes, a request of its own that was begun with the old stack is
//! there to be found, and later ones have the new one; only what a driver of the old stack sends below
//! itself starts there later, while a request that was found keeps it, and is counted on.
//!
//! A processor reports when none is left *and* none of its frames can be in a driver of the old stack:
//! when it is not busy. The last report drops the stack.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Core, Remote};
use crate::irp::slot::{Phase, SlotPtr, flags};
use crate::panics::caught;
use crate::stack::Stack;
use crate::wait::Event;

/// A stack that has been replaced.
pub(crate) struct Retired {
    /// The id of the file.
    file: u64,
    /// Processors that have not reported.
    left: AtomicUsize,
    stack: Mutex<Option<Arc<Stack>>>,
    /// Called, once, when it is dropped.
    then: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    done: Event,
}

impl Retired {
    /// `file` is the id of the file that had it. Sends word of it to the processors that are to be asked. The event is set when the last request
    /// on it is done.
    ///
    /// No new request begins with it any more.
    pub(crate) fn announce(
        file: u64,
        stack: Arc<Stack>,
        asked: impl Fn(&Remote) -> bool,
        then: impl FnOnce() + Send + 'static,
    ) -> Event {
        let mut all = Remote::all();
        all.retain(|remote| asked(remote));
        let done = Event::manual(false);
        let retired = Arc::new(Retired {
            file,
            // One for this function.
            left: AtomicUsize::new(all.len() + 1),
            stack: Mutex::new(Some(stack)),
            then: Mutex::new(Some(Box::new(then))),
            done: done.clone(),
        });
        for remote in all {
            let this = retired.clone();
            if remote.run(Box::new(move |core| core.drain(this))).is_err() {
                // It is gone, and its requests with it.
                retired.report();
            }
        }
        retired.report();
        done
    }

    fn take(&self) -> Option<Arc<Stack>> {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn report(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let stack = self.take();
        let then = self.then.lock().unwrap_or_else(PoisonError::into_inner).take();
        let end = || {
            // What a driver keeps for the file goes before the driver.
            if let Some(then) = then {
                then();
            }
            drop(stack);
        };
        // Drivers' code.
        if caught(end).is_none() {
            tracing::error!("a driver panicked while it was dropped");
        }
        self.done.set();
    }

    /// As [`Retired::report`], of a processor that leaks requests.
    fn leak(&self) {
        std::mem::forget(self.take());
        std::mem::forget(self.then.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.report();
    }
}

/// One that this processor has, or has had, requests on.
pub(super) struct Drain {
    file: u64,
    stack: NonNull<Stack>,
    requests: usize,
    retired: Arc<Retired>,
}

/// Puts a finished request, which meets no filter any more, on its file's present stack.
///
/// # Safety
/// Owner's thread; the request is in its final completion, or beyond that and counts on its file.
unsafe fn change_over(slot: SlotPtr) {
    // SAFETY: the caller's.
    unsafe {
        let header = slot.0.as_ptr();
        let Some(file) = (*header).file else { return (*header).stack = None };
        let stack = file.as_ref().stack_here();
        (*header).stack = Some(NonNull::from(stack));
        (*header).devices = stack.route((*header).major).as_ptr();
        (*slot.location(0)).level = 0;
    }
}

impl Core {
    /// Looks for requests on a stack that has been replaced.
    fn drain(&self, retired: Arc<Retired>) {
        let stack = {
            let stack = retired.stack.lock().unwrap_or_else(PoisonError::into_inner);
            NonNull::from(&**stack.as_ref().expect("this processor has not reported"))
        };
        let mut requests = 0;
        self.slab.borrow().for_each_live(|slot| {
            // SAFETY: owner's thread; live slots.
            unsafe {
                let header = slot.0.as_ptr();
                if (*header).stack != Some(stack) || slot.file_id() != Some(retired.file) {
                    return;
                }
                if (*header).phase == Phase::Final {
                    change_over(slot);
                } else {
                    (*header).flags.set(flags::DRAINS);
                    requests += 1;
                }
            }
        });
        self.drains.borrow_mut().push(Drain { file: retired.file, stack, requests, retired });
        self.due.set(true);
    }

    /// Calls `change` with the entry that waits for the request's file and stack, if there is one.
    ///
    /// # Safety
    /// Owner's thread; the request counts on its file.
    unsafe fn waited_for(&self, slot: SlotPtr, change: impl FnOnce(&mut Drain)) {
        // SAFETY: the caller's.
        let (stack, file) = unsafe { ((*slot.0.as_ptr()).stack, slot.file_id()) };
        let mut drains = self.drains.borrow_mut();
        let is_it = |drain: &&mut Drain| Some(drain.stack) == stack && Some(drain.file) == file;
        if let Some(drain) = drains.iter_mut().find(is_it) {
            change(drain);
        }
    }

    /// A driver's own request starts below it.
    ///
    /// # Safety
    /// Owner's thread; the slot is new, its stack and its file set.
    pub(crate) unsafe fn starts_below(&self, slot: SlotPtr) {
        // SAFETY: the caller's.
        unsafe {
            self.waited_for(slot, |drain| {
                (*slot.0.as_ptr()).flags.set(flags::DRAINS);
                drain.requests += 1;
            });
        }
    }

    /// A marked request is done. Its requester may leave it for long.
    ///
    /// # Safety
    /// Owner's thread; it counts on its file, and its final completion has begun, or it has never been
    /// issued.
    #[cold]
    pub(crate) unsafe fn done_on_stack(&self, slot: SlotPtr) {
        // SAFETY: the caller's.
        unsafe {
            (*slot.0.as_ptr()).flags.clear(flags::DRAINS);
            self.waited_for(slot, |drain| drain.requests -= 1);
            self.due.set(true);
            change_over(slot);
        }
    }

    /// Reports what is done. No driver's frame is on the stack.
    pub(super) fn report_drains(&self) {
        let done: Vec<Drain> =
            self.drains.borrow_mut().extract_if(.., |drain| drain.requests == 0).collect();
        for drain in done {
            drain.retired.report();
        }
    }

    /// The processor ends; `leaked`: with requests that may be on them.
    pub(super) fn end_drains(&self, leaked: bool) {
        for drain in self.drains.take() {
            if leaked && drain.requests > 0 { drain.retired.leak() } else { drain.retired.report() }
        }
    }
}
