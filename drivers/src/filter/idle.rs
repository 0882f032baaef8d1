//! Time-outs: a peer that says nothing, or takes nothing, for too long.

use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use overlapped_iomgr::filter::{Filter, Forward, Io, Lend, Next};
use overlapped_iomgr::{Major, MajorSet, Status, minor};

use super::parts::{is_stream, write_part};
use crate::text::{Entry, Made, TextError};

/// Ends a read or a write that has made no progress for so long, with [`Status::IO_TIMEOUT`]: what is
/// below is cancelled. Each direction has its own time, which begins anew with each request; and, of a
/// write that asks for all its bytes to be sent ([`minor::ALL`], `write_all`), with each 64 KiB taken.
///
/// Bytes that come all the same are not lost: they are the read's result, or the next read's. A write
/// whose time is up after a part of it was taken says how much; the next one waits anew.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; pub use overlapped_iomgr::Filter; } }
/// use overlapped::driver::{Filter, filter::Idle};
/// use std::time::Duration;
///
/// let idle = Idle::new().reads(Duration::from_secs(60)).writes(Duration::from_secs(10));
/// assert_eq!(idle.into_driver().name(), "idle");
/// ```
#[derive(Debug, Default)]
pub struct Idle {
    read: Option<Duration>,
    write: Option<Duration>,
}

/// Bytes after which a write is asked how it gets on.
const PIECE: usize = 64 << 10;

impl Idle {
    /// Without any limit yet.
    pub fn new() -> Idle {
        Idle::default()
    }

    /// Reads and receives may take so long.
    pub fn reads(mut self, limit: Duration) -> Idle {
        self.read = Some(limit);
        self
    }

    /// Writes and sends may take so long without progress.
    pub fn writes(mut self, limit: Duration) -> Idle {
        self.write = Some(limit);
        self
    }

    /// `idle(ms=N)`, or `read_ms=N` and `write_ms=N`: milliseconds.
    pub const ENTRY: Entry = Entry {
        name: "idle",
        about: "time-outs for reads and writes without progress: idle(ms=N) or idle(read_ms=N, write_ms=N)",
        make: |p| {
            let mut time = |key| -> Result<_, TextError> {
                match p.optional::<u64>(key)? {
                    Some(0) => Err(p.error(key, "at least 1 millisecond")),
                    ms => Ok(ms.map(Duration::from_millis)),
                }
            };
            let (both, read, write) = (time("ms")?, time("read_ms")?, time("write_ms")?);
            let idle = Idle { read: read.or(both), write: write.or(both) };
            if idle.read.or(idle.write).is_none() {
                return Err(p.refuse("give ms, read_ms or write_ms"));
            }
            Ok(Made::Filter(idle.into_driver()))
        },
    };

    async fn receive<'a>(&self, next: Next<'a>, mut io: Io<'a>) -> Result<usize, Status> {
        let Some(limit) = self.read else { return next.forward(&mut io).await };
        let (result, late) = within(next, limit, next.forward(&mut io)).await;
        result.map_err(|status| said(status, late))
    }

    async fn send<'a>(&self, next: Next<'a>, mut io: Io<'a>) -> Result<usize, Status> {
        let Some(limit) = self.write else { return next.forward(&mut io).await };
        let len = io.len();
        let whole = io.minor() == minor::ALL && is_stream(&io) && !io.has_companion();
        if !whole || len <= PIECE {
            let (result, late) = within(next, limit, next.forward(&mut io)).await;
            return result.map_err(|status| said(status, late));
        }
        let mut done = 0;
        while done < len {
            let range = done..len.min(done + PIECE);
            let Some((wanted, below)) = write_part(next, &mut io, range) else { break };
            let ((result, _), late) = within(next, limit, below).await;
            match result {
                Ok(n) => {
                    done += n;
                    if n < wanted {
                        break;
                    }
                }
                Err(status) if done == 0 => return Err(said(status, late)),
                // It is the next write's.
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

/// What is on its way below.
trait Below: Future + Unpin {
    fn cancel(&self);
}

impl Below for Forward<'_> {
    fn cancel(&self) {
        Forward::cancel(self);
    }
}

impl<B: Send + 'static> Below for Lend<'_, B> {
    fn cancel(&self) {
        Lend::cancel(self);
    }
}

/// What comes back, and whether it was cancelled because its time was up.
async fn within<F: Below>(next: Next<'_>, limit: Duration, below: F) -> (F::Output, bool) {
    let (mut below, mut sleep) = (pin!(below), pin!(next.sleep(limit)));
    let mut late = false;
    poll_fn(|cx| {
        if let Poll::Ready(output) = below.as_mut().poll(cx) {
            return Poll::Ready((output, late));
        }
        // A sleep that a cancel has ended says nothing of the time.
        if !late && sleep.as_mut().poll(cx).is_ready() && !next.is_cancelled() {
            late = true;
            below.cancel();
        }
        Poll::Pending
    })
    .await
}

/// How a failure looks from above.
fn said(status: Status, late: bool) -> Status {
    let ended_early = status == Status::CANCELLED || status.kind() == ErrorKind::Interrupted;
    if late && ended_early { Status::IO_TIMEOUT } else { status }
}

impl Filter for Idle {
    type Open = ();

    fn name(&self) -> &str {
        "idle"
    }

    fn hooks(&self) -> MajorSet {
        match (self.read, self.write) {
            (Some(_), Some(_)) => {
                MajorSet::of(&[Major::Read, Major::ReceiveFrom, Major::Write, Major::SendTo])
            }
            (Some(_), None) => MajorSet::of(&[Major::Read, Major::ReceiveFrom]),
            (None, Some(_)) => MajorSet::of(&[Major::Write, Major::SendTo]),
            (None, None) => MajorSet::NONE,
        }
    }

    async fn read(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.receive(next, io).await
    }

    async fn write(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.send(next, io).await
    }

    async fn other(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        if io.major() == Major::ReceiveFrom {
            self.receive(next, io).await
        } else {
            self.send(next, io).await
        }
    }
}
