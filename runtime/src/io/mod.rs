//! Descriptors that are neither files nor sockets: pipes, counters, standard input and output, and
//! the readiness of any other.
//!
//! - [`pipe`]: an anonymous pipe; [`PipeReader`], [`PipeWriter`], which FIFOs are too.
//! - [`EventFd`]: a counter that one side adds to and the other takes from. [`TimerFd`]: the system's
//!   timers as one.
//! - [`Readiness`]: waits until a descriptor of others is ready.
//! - [`stdin`], [`stdout`], [`stderr`].
//!
//! All are file objects and requests; [`pipe_stack_of`] makes stacks of filters for them.

mod counter;
mod pipe;
mod readiness;
mod stdio;

use std::io;
use std::sync::{Arc, OnceLock};

use overlapped_drivers::bottom::PipeDriver;
use overlapped_iomgr::{Driver, Stack};

pub use counter::{Clock, EventFd, TimerFd};
pub use pipe::{PipeReader, PipeWriter, pipe, pipe_with};
pub use readiness::{Events, Poll, Readiness};
pub use stdio::{Stderr, Stdin, Stdout, stderr, stdin, stdout};

/// A stack of filters, top first, on the driver of pipes, counters, and standard input and output.
///
/// # Errors
/// `InvalidInput` for more filters than a stack holds.
pub fn pipe_stack_of(filters: impl IntoIterator<Item = Arc<dyn Driver>>) -> io::Result<Arc<Stack>> {
    Ok(Stack::new(filters, Arc::new(PipeDriver))?)
}

fn plain_stack() -> Arc<Stack> {
    static STACK: OnceLock<Arc<Stack>> = OnceLock::new();
    STACK.get_or_init(|| pipe_stack_of([]).expect("one driver is not too deep")).clone()
}
