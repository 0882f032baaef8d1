//! Stacks that have been replaced: when is the last request done that travels one?
//!
//! A stack may be that of many files, of which one changes to another: what is waited for is a file's
//! requests on a stack.
//!
//! Requests do not count on their stack: that would cost every one of them. When a stack is replaced,
//! every processor that has used the file is sent word instead. It looks through its requests for those
//! that travel the old stack, marks them, and counts them off as they leave. **Invariant:** a processor
//! reads its mail between requests, so when the word comes, a request of its own that was begun with the
//! old stack is there to be found, and later ones have the new one; only what a driver of the old stack
//! sends below itself starts there later, while a request that was found keeps it, and is counted on.
//!
//! A processor reports when none is left *and* none of its frames can be in a driver of the old stack:
//! when it is not busy. The last report drops the stack.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Core, Remote};
use crate::irp::slot::{Phase, SlotPtr, flags};
use crate::panics::{caught, log};
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
    after: Mutex<After>,
}

/// What waits for a replaced stack's last request.
enum After {
    Nothing,
    /// The file's next change: what that takes away, requests of before this one may still have.
    Change(Arc<Retired>),
    Done,
}

impl Retired {
    /// `file` is the id of the file that had it; `before`, that file's last change. No new request begins
    /// with it any more. `done` is set when the last one is done, on it and on those before.
    pub(crate) fn new(
        file: u64,
        stack: Arc<Stack>,
        before: Option<Arc<Retired>>,
        done: Event,
        then: impl FnOnce() + Send + 'static,
    ) -> Arc<Retired> {
        let retired = Arc::new(Retired {
            file,
            // One for `announce`.
            left: AtomicUsize::new(1),
            stack: Mutex::new(Some(stack)),
            then: Mutex::new(Some(Box::new(then))),
            done,
            after: Mutex::new(After::Nothing),
        });
        if let Some(before) = before {
            let mut after = before.after();
            if !matches!(*after, After::Done) {
                retired.left.fetch_add(1, Ordering::Relaxed);
                *after = After::Change(retired.clone());
            }
        }
        retired
    }

    /// Sends word of it to the processors that are to be asked. The event is set when the last request
    /// on it, and on those before it, is done.
    pub(crate) fn announce(self: Arc<Retired>, asked: impl Fn(&Remote) -> bool) -> Event {
        let mut all = Remote::all();
        all.retain(|remote| asked(remote));
        self.left.fetch_add(all.len(), Ordering::Relaxed);
        for remote in all {
            let this = self.clone();
            if remote.run(Box::new(move |core| core.drain(this))).is_err() {
                // It is gone, and its requests with it.
                self.report();
            }
        }
        self.report();
        self.done.clone()
    }

    fn after(&self) -> MutexGuard<'_, After> {
        self.after.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stack(&self) -> MutexGuard<'_, Option<Arc<Stack>>> {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) {
        // There may be many in a row: no recursion.
        let mut next = self.report_this();
        while let Some(retired) = next {
            next = retired.report_this();
        }
    }

    /// Returns the next change, if that waits for this one.
    fn report_this(&self) -> Option<Arc<Retired>> {
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return None;
        }
        let stack = self.stack().take();
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
            log(|| tracing::error!("a driver panicked while it was dropped"));
        }
        self.done.set();
        match std::mem::replace(&mut *self.after(), After::Done) {
            After::Change(next) => Some(next),
            After::Nothing | After::Done => None,
        }
    }

    /// As [`Retired::report`], of a processor that leaks requests.
    fn leak(&self) {
        // Others have yet to look for their requests on it.
        std::mem::forget(self.stack().clone());
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
        let stack =
            NonNull::from(&**retired.stack().as_ref().expect("this processor has not reported"));
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
