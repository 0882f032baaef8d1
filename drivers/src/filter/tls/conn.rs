//! A connection's I/O: who receives, who sends, and who waits for whom.
//!
//! ```text
//!   reads  ─── turn of reads ───┐                       ┌── turn of writes ─── writes
//!                               ▼                       ▼
//!                        decrypt (lock)          encrypt (lock)
//!                               │    handshake          │
//!                        turn of receiving       `sending`, one at a time
//!                               ▼                       ▼
//!                          read below              write below
//! ```
//!
//! Reads and writes go their own ways: neither waits for the other, other than for the lock, which
//! nobody holds while he waits. Until the handshake is done each needs both ways; then whoever has
//! the turn of receiving goes on with it, and the others wait for that turn or for the handshake.
//!
//! **Invariants.**
//! - A read below is never dropped while it may bring something: a cancelled one is awaited.
//! - What has been encrypted is sent, in order. If its write is cancelled, the next request does it.
//! - The turn of reads is passed on when the read that had it is settled, so that what it has taken
//!   and nobody took from it is kept before a later read takes more.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use overlapped_iomgr::Status;
use overlapped_iomgr::buf::{BufResult, IoBuf, IoBufMut};
use overlapped_iomgr::filter::{Next, Settle};

use super::session::Session;
use super::turns::{Turn, Turns};
use crate::class::{Read, Write};

/// See the module's header.
#[derive(Default)]
pub(super) struct Conn {
    session: Mutex<Session>,
    pub reads: Turns,
    pub writes: Turns,
    receiving: Turns,
}

/// How long a sender waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Until all is sent.
    All,
    /// Not at all: what there is no room for is left to others.
    Now,
}

impl Settle for Conn {
    fn settled(&self) {
        self.reads.pass();
    }
}

impl Conn {
    pub(super) fn lock(&self) -> MutexGuard<'_, Session> {
        // After a panic the session is not what it should be.
        self.session.lock().unwrap_or_else(|poisoned: PoisonError<_>| {
            let mut session: MutexGuard<'_, Session> = poisoned.into_inner();
            session.fail_with(Status::DRIVER_INTERNAL_ERROR);
            session
        })
    }

    /// Changes the session, and wakes those who wait for that.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Session) -> T) -> T {
        let mut session = self.lock();
        let result = change(&mut session);
        let watchers = std::mem::take(&mut session.watchers);
        drop(session);
        for watcher in watchers {
            watcher.wake();
        }
        result
    }

    /// Looks at the session now and whenever it has changed, until `look` finds something; `None` when
    /// the request is cancelled.
    fn watch<T>(
        &self,
        next: Next<'_>,
        cx: &mut Context<'_>,
        look: impl FnOnce(&mut Session) -> Option<T>,
    ) -> Poll<Option<T>> {
        let mut session = self.lock();
        if let Some(found) = look(&mut session) {
            return Poll::Ready(Some(found));
        }
        if next.is_cancelled() {
            return Poll::Ready(None);
        }
        if !session.watchers.iter().any(|other| other.will_wake(cx.waker())) {
            session.watchers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// When the handshake must be finished, unless it is.
    fn deadline(&self) -> Option<Instant> {
        let session = self.lock();
        session.deadline.filter(|_| session.is_handshaking())
    }

    /// Goes on until data may be written; or, `wholly`, until the handshake is finished, and its last
    /// message sent.
    pub(super) async fn establish(&self, next: Next<'_>, wholly: bool) -> Result<(), Status> {
        loop {
            let (established, fed) = {
                let mut session = self.lock();
                session.advance();
                (session.established && !(wholly && session.is_handshaking()), session.fed)
            };
            if established && !wholly {
                return Ok(());
            }
            if let Some(status) = self.failed(next).await {
                return Err(status);
            }
            // If that fails, the peer may have said why.
            if self.send(next, Pace::All).await == Err(Status::CANCELLED) {
                return Err(Status::CANCELLED);
            }
            if established {
                return Ok(());
            }
            if let Some(_turn) = self.turn_or_change(next, fed).await? {
                self.receive(next, fed).await?;
            }
        }
    }

    /// Whether TLS has failed. The peer is told then.
    pub(super) async fn failed(&self, next: Next<'_>) -> Option<Status> {
        let failed = self.lock().failed;
        if failed.is_some() {
            let _ = self.send(next, Pace::Now).await;
        }
        failed
    }

    /// Waits for the turn of receiving; `None`: something has been received meanwhile, or there is no
    /// need any more.
    async fn turn_or_change<'t>(
        &'t self,
        next: Next<'t>,
        fed: u64,
    ) -> Result<Option<Turn<'t>>, Status> {
        let mut turn = pin!(self.receiving.take(next));
        poll_fn(|cx| {
            let changed = |session: &mut Session| {
                let changed = session.fed != fed || session.failed.is_some();
                changed.then_some(())
            };
            match self.watch(next, cx, changed) {
                Poll::Ready(Some(())) => return Poll::Ready(Ok(None)),
                Poll::Ready(None) => return Poll::Ready(Err(Status::CANCELLED)),
                Poll::Pending => {}
            }
            turn.as_mut().poll(cx).map(|turn| turn.map(Some).ok_or(Status::CANCELLED))
        })
        .await
    }

    /// Receives, in turn, if nothing has been received since `fed` was seen.
    pub(super) async fn receive_in_turn(&self, next: Next<'_>, fed: u64) -> Result<(), Status> {
        let Some(_turn) = self.receiving.take(next).await else { return Err(Status::CANCELLED) };
        self.receive(next, fed).await
    }

    /// Receives. The caller has the turn.
    async fn receive(&self, next: Next<'_>, fed: u64) -> Result<(), Status> {
        let (buffer, from) = {
            let mut session = self.lock();
            if session.fed != fed || session.failed.is_some() {
                return Ok(());
            }
            session.buffer_to_fill()
        };
        let read = next.request(Read::next(buffer.slice_mut(from..)));
        let Some(result) = until(next, self.deadline(), read).await else {
            // What it would bring is of no use any more.
            self.change(|session| session.fail_with(Status::IO_TIMEOUT));
            return Ok(());
        };
        self.change(|session| match result {
            Ok((0, slice)) => {
                session.feed(slice.into_inner(), 0);
                session.end();
                Ok(())
            }
            Ok((n, slice)) => {
                session.feed(slice.into_inner(), n);
                Ok(())
            }
            Err(error) => {
                let status = error.status();
                session.feed(error.into_buf().into_inner(), 0);
                Err(status)
            }
        })
    }

    /// Sends what is to be sent.
    pub(super) async fn send(&self, next: Next<'_>, how: Pace) -> Result<(), Status> {
        loop {
            let taken = poll_fn(|cx| {
                self.watch(next, cx, |session| match session.broken {
                    Some(status) => Some(Err(status)),
                    None if session.sending && how == Pace::All => None,
                    // Whoever sends looks again for more.
                    None if session.sending => Some(Ok(None)),
                    None => Some(Ok(session.take_output())),
                })
            });
            let Some((buffer, from, to)) = taken.await.ok_or(Status::CANCELLED)?? else {
                return Ok(());
            };
            let sending = Sending(self);
            let slice = buffer.slice(from..to);
            let result: Option<BufResult<usize, _>> = match how {
                Pace::All => until(next, self.deadline(), next.request(Write::whole(slice))).await,
                Pace::Now => Some(next.request(Write::now(slice)).await),
            };
            std::mem::forget(sending);
            let result = self.change(|session| match result {
                Some(Ok((0, slice))) => {
                    session.bring_back(slice.into_inner(), 0, 0);
                    session.broken = Some(Status::UNEXPECTED_IO_ERROR);
                    Err(Status::UNEXPECTED_IO_ERROR)
                }
                Some(Ok((n, slice))) => {
                    session.bring_back(slice.into_inner(), from + n, to);
                    Ok(())
                }
                Some(Err(error)) => {
                    let status = error.status();
                    session.bring_back(error.into_buf().into_inner(), from, to);
                    let later = [Status::CANCELLED, Status::DEVICE_NOT_READY];
                    if !later.contains(&status) && !would_block(status) {
                        session.broken = Some(status);
                    }
                    Err(status)
                }
                None => {
                    session.sending = false;
                    session.broken = Some(Status::IO_TIMEOUT);
                    session.fail_with(Status::IO_TIMEOUT);
                    Err(Status::IO_TIMEOUT)
                }
            });
            match result {
                Ok(()) => {}
                Err(status) if how == Pace::Now && would_block(status) => return Ok(()),
                Err(status) => return Err(status),
            }
        }
    }

    /// The last that is sent: without waiting for the peer.
    pub(super) async fn send_last(&self, next: Next<'_>) {
        let free = |session: &mut Session| (!session.sending).then_some(());
        if poll_fn(|cx| self.watch(next, cx, free)).await.is_none() {
            return;
        }
        self.lock().close();
        let _ = self.send(next, Pace::Now).await;
        self.clear(next).await;
    }

    /// Takes what is there to be received, tickets for later sessions mostly. A stream that is closed
    /// with something unread is reset, and the peer may lose what it has not read itself.
    async fn clear(&self, next: Next<'_>) {
        let Some(_turn) = self.receiving.take_now() else { return };
        let (buffer, from) = {
            let mut session = self.lock();
            if session.common().is_none() {
                return;
            }
            session.buffer_to_fill()
        };
        let _ = next.request(Read::now(buffer.slice_mut(from..))).await;
    }
}

fn would_block(status: Status) -> bool {
    std::io::Error::from(status).kind() == std::io::ErrorKind::WouldBlock
}

/// Something is being sent; dropped by a panic, it is not known how much of it was.
struct Sending<'c>(&'c Conn);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.change(|session| {
            session.sending = false;
            session.broken = Some(Status::DRIVER_INTERNAL_ERROR);
        });
    }
}

/// Awaits a future, until that time at most: `None` then, and the future is dropped. A cancelled
/// request's future is awaited all the same.
async fn until<F: Future>(next: Next<'_>, at: Option<Instant>, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let Some(at) = at else { return Some(future.await) };
    let mut sleep = pin!(next.sleep(at.saturating_duration_since(next.now())));
    poll_fn(|cx| {
        if let Poll::Ready(result) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(result));
        }
        let late = !next.is_cancelled() && sleep.as_mut().poll(cx).is_ready();
        if late && !next.is_cancelled() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}
