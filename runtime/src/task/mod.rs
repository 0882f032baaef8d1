//! Tasks in groups, and what goes along with them: sets whose results are awaited together, values
//! that belong to a task, tokens that tell tasks to end, and an orderly end of many.
//!
//! [`spawn`](crate::spawn), [`spawn_local`](crate::spawn_local),
//! [`spawn_blocking`](crate::spawn_blocking), [`JoinHandle`](crate::JoinHandle) and
//! [`yield_now`](crate::yield_now) are at the crate's root.

mod finished;
mod graceful;
mod join_set;
mod local;
mod token;

pub use crate::executor::{AbortHandle, TaskId, id};
#[doc(inline)]
pub use crate::task_local;
pub use graceful::{Graceful, Tracked};
pub use join_set::JoinSet;
pub use local::{LocalKey, NotInScope, Scope};
pub use token::{CancellationToken, Cancelled, DropGuard};
