//! Waiting for the requests on a stack that has been replaced: put on top of the new one, by the I/O
//! manager, when what wrote parts of blocks has come, gone, or changed.
//!
//! Such a write reads a block and writes it back, and knows only of requests of its own stack. So those of
//! the new stack begin when those of the old one are done: all of them, for a filter may write for any. They
//! wait on top, where they hold nothing that an old one may need.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use super::selective::{Selective, Selects};
use super::{Filter, Io, Next};
use crate::driver::Driver;
use crate::irp::View;
use crate::major::{Major, MajorSet};
use crate::status::Status;
use crate::wait::Event;

/// See the module's header.
pub(crate) struct Settling(Event);

impl Settling {
    /// Until the event is set.
    pub(crate) fn driver(event: Event) -> Arc<dyn Driver> {
        Selective::driver(Settling(event))
    }

    /// # Errors
    /// [`Status::CANCELLED`].
    async fn wait<'a>(&self, next: Next<'a>, mut io: Io<'a>) -> Result<usize, Status> {
        let mut signalled = self.0.signalled();
        poll_fn(|cx| match Pin::new(&mut signalled).poll(cx) {
            Poll::Pending if next.is_cancelled() => Poll::Ready(Err(Status::CANCELLED)),
            polled => polled.map(Ok),
        })
        .await?;
        next.forward(&mut io).await
    }
}

impl Selects for Settling {
    /// What has no offsets has no blocks. Requests of a synchronous file object are beside nobody, and take
    /// their turns whatever stack they are on: none may wait for one that has its turn later.
    fn concerns(&self, request: &View) -> bool {
        let file = request.file();
        file.is_seekable() && !file.is_synchronous() && !self.0.is_set()
    }
}

impl Filter for Settling {
    type Open = ();

    fn name(&self) -> &str {
        "settling"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[
            Major::Read,
            Major::Write,
            Major::Flush,
            Major::SetInformation,
            Major::FileSystemControl,
            Major::DeviceControl,
            Major::Private,
        ])
    }

    async fn read(&self, (): &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.wait(next, io).await
    }

    async fn write(&self, (): &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.wait(next, io).await
    }

    async fn flush(&self, (): &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.wait(next, io).await
    }

    async fn other(&self, (): &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.wait(next, io).await
    }
}
