//! Removing in a task.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::inner::{Waiter, Who};
use super::{CompletionPort, NoPacket, Packet, Rights};

/// The future of [`CompletionPort::next`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct Next<'a> {
    port: &'a CompletionPort,
    id: Option<u64>,
}

impl<'a> Next<'a> {
    pub(super) fn new(port: &'a CompletionPort) -> Next<'a> {
        Next { port, id: None }
    }
}

impl Future for Next<'_> {
    type Output = Result<Packet, NoPacket>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.port.check(Rights::MODIFY).is_err() {
            return Poll::Ready(Err(NoPacket::AccessDenied));
        }
        let port = self.port.shared();
        if self.id.is_none()
            && !port.counts
            && let Some(parts) = port.take_one()
        {
            return Poll::Ready(Ok(Packet::of(parts)));
        }
        // Foreign code: not with the lock held.
        let waker = cx.waker().clone();
        let mut inner = port.lock();
        let old = self.id.and_then(|id| inner.forget(id));
        let mut packet = self.id.and_then(|id| port.fetch(&mut inner, id));
        if packet.is_none() {
            // Before it says that it waits.
            port.chain.shut();
            port.pop_many(&mut inner, &mut |oldest| packet = Some(oldest), 1);
        }
        let result = match packet {
            Some(packet) => Poll::Ready(Ok(packet)),
            None if inner.closed => Poll::Ready(Err(NoPacket::Closed)),
            None => {
                let id = self.id.unwrap_or_else(|| inner.new_id());
                inner.wait(Waiter { id, who: Who::Task(waker) });
                self.id = Some(id);
                Poll::Pending
            }
        };
        drop(inner);
        drop(old);
        if result.is_ready() {
            self.id = None;
        }
        result
    }
}

impl Drop for Next<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let port = self.port.shared();
        let mut inner = port.lock();
        let waiter = inner.forget(id);
        let packet = port.fetch(&mut inner, id);
        drop(inner);
        drop(waiter);
        if let Some(packet) = packet {
            port.give_back(packet);
        }
    }
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").field("port", self.port).finish()
    }
}
