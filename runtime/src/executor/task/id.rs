//! The number of a task.

use std::fmt;
use std::num::NonZeroUsize;

use super::worker;

/// Tells a task from all others that exist at the same time, of whatever runtime. A task that
/// begins when another's memory is free may get its number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(NonZeroUsize);

impl TaskId {
    /// Of the task at that address.
    pub(in super::super) fn of(address: NonZeroUsize) -> TaskId {
        TaskId(address)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId({self})")
    }
}

/// The number of the task that calls this; `None` outside tasks, also in `block_on`.
///
/// ```
/// # overlapped::block_on(async {
/// let task = overlapped::spawn(async { overlapped::task::id() });
/// let id = task.id();
/// assert_eq!(task.await.unwrap(), Some(id));
/// assert_eq!(overlapped::task::id(), None);
/// # });
/// ```
pub fn id() -> Option<TaskId> {
    worker::running().map(TaskId::of)
}
