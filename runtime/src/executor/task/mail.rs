//! Tasks on their way to the worker that alone may run them: an inbox of tasks.

use std::mem::ManuallyDrop;

use super::super::inbox::{AtomicPtr, Inbox, Linked};
use super::{Header, Runnable};

// SAFETY: the field.
unsafe impl Linked for Header {
    fn link(&self) -> &AtomicPtr<Header> {
        &self.link
    }
}

/// Tasks that must run on one worker, woken elsewhere. In a cache line of its own: the worker looks at
/// it before each poll.
#[repr(align(128))]
pub(in super::super) struct Mail(Inbox<Header>);

impl Default for Mail {
    fn default() -> Mail {
        Mail(Inbox::new())
    }
}

impl Mail {
    pub(in super::super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives the task back when the worker has gone.
    pub(in super::super) fn push(&self, task: Runnable) -> Result<(), Runnable> {
        let task = ManuallyDrop::new(task);
        // SAFETY: the executor's reference keeps the task, and stands for its one entry in a queue.
        if unsafe { self.0.push(task.0) } { Ok(()) } else { Err(ManuallyDrop::into_inner(task)) }
    }

    /// The worker takes what is there.
    #[inline]
    pub(in super::super) fn take(&self, mut f: impl FnMut(Runnable)) {
        self.0.take(|task| f(Runnable(task)));
    }

    /// The worker has gone: takes what is there, and refuses the rest.
    pub(in super::super) fn close(&self, mut f: impl FnMut(Runnable)) {
        self.0.close(|task| f(Runnable(task)));
    }
}
