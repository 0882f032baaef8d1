//! Time that passes, and a line that loses datagrams.

mod latency;
mod link;

use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::task::{Poll, Waker};
use std::time::Duration;

use overlapped_iomgr::filter::{Filter, Io, Next};
use overlapped_iomgr::{Major, MajorSet, Status, minor};

pub use latency::{BadLatency, Latency};
pub use link::{BadLink, Link};
use link::{Kept, Waiting, Way};

use super::parts::{BUT_ENDS, common};
use crate::text::{Entry, Made, Parameters, Size, TextError};

/// Makes operations take longer, by times drawn from a [`Latency`]; and datagrams go over a [`Link`]. Time
/// and chance are the stack's: in a simulation they are virtual, and from its seed.
///
/// What receives (reads, receives) is held when it has come, everything else before it goes. A cancel ends
/// the wait: what had not gone does not go; what had come is delivered.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; pub use overlapped_iomgr::Filter; } }
/// use overlapped::driver::{Filter, filter::{Delay, Latency, Link}};
/// use std::time::Duration;
///
/// let slow = Delay::new(Latency::fixed(Duration::from_millis(5)));
/// let lossy = Delay::none().link(Link { loss: 0.1, ..Link::PERFECT })?;
/// assert_eq!((slow.into_driver().name(), lossy.into_driver().name()), ("delay", "delay"));
/// # Ok::<(), overlapped::driver::filter::BadLink>(())
/// ```
#[derive(Debug)]
pub struct Delay {
    latency: Latency,
    link: Link,
    hooks: MajorSet,
}

impl Delay {
    /// Delays reads, writes, sends and receives.
    pub fn new(latency: Latency) -> Delay {
        let hooks = MajorSet::of(&[Major::Read, Major::Write, Major::SendTo, Major::ReceiveFrom]);
        Delay { latency, link: Link::PERFECT, hooks }
    }

    /// Delays nothing yet; for a [`Delay::link`].
    pub fn none() -> Delay {
        Delay::new(Latency::fixed(Duration::ZERO))
    }

    /// Delays these operations. Cleanup and close are never delayed.
    pub fn only(mut self, majors: MajorSet) -> Delay {
        self.hooks = common(BUT_ENDS, majors);
        self
    }

    /// Sends datagrams over this line. Files and streams have none: it is nothing to them.
    ///
    /// # Errors
    /// [`BadLink`].
    pub fn link(mut self, link: Link) -> Result<Delay, BadLink> {
        link.check()?;
        self.link = link;
        Ok(self)
    }

    /// `delay(us=N)` or `ms=N`; with `max_us=N` a range, with `p99_us=N` an average and a percentile;
    /// `histogram=PATH`, a file with a line `microseconds weight` for each time; `op=read` or the like.
    /// Of datagrams: `loss=`, `duplicate=`, `reorder=` (0 to 1), `reorder_us=N`, `bps=SIZE`, `queue=SIZE`.
    pub const ENTRY: Entry = Entry {
        name: "delay",
        about: "takes time: delay(us=N, max_us=N or p99_us=N, op=read); datagrams: loss=0.1, duplicate=, reorder=, bps=",
        make: |p| {
            let latency = latency(p)?;
            let size = |size: Option<Size>| size.map(|Size(bytes)| bytes);
            let link = Link {
                loss: p.or("loss", 0.0)?,
                duplicate: p.or("duplicate", 0.0)?,
                reorder: p.or("reorder", 0.0)?,
                reorder_time: match p.optional("reorder_us")? {
                    Some(us) => Duration::from_micros(us),
                    None => Link::PERFECT.reorder_time,
                },
                rate: size(p.optional("bps")?),
                queue: size(p.optional("queue")?),
            };
            if latency.is_zero() && link == Link::PERFECT {
                return Err(
                    p.refuse("give us, ms or histogram; or loss, duplicate, reorder or bps")
                );
            }
            let delay = Delay::new(latency).link(link).map_err(|error| p.refuse(error))?;
            let only = p.optional::<MajorSet>("op")?;
            let delay = only.into_iter().fold(delay, Delay::only);
            if delay.hooks == MajorSet::NONE {
                return Err(p.error("op", "operations other than close"));
            }
            Ok(Made::Filter(delay.into_driver()))
        },
    };

    /// Lets time pass. `false`: it was cut short by a cancel.
    async fn wait(&self, next: Next<'_>, link_time: Duration) -> bool {
        let time = link_time.saturating_add(self.latency.draw(|| next.random()));
        if !time.is_zero() {
            next.sleep(time).await;
        }
        !next.is_cancelled()
    }

    /// What goes, or asks.
    async fn go<'a>(&self, line: &Line, next: Next<'a>, mut io: Io<'a>) -> Result<usize, Status> {
        let is_message =
            io.file().has_messages() && matches!(io.major(), Major::Write | Major::SendTo);
        if !is_message || self.link == Link::PERFECT {
            self.wait(next, Duration::ZERO).await;
            return next.forward(&mut io).await;
        }
        let fate = self.link.fate(next);
        let room = line.out.time(&self.link, io.len());
        let Some(time) = room.filter(|_| !fate.lost) else {
            // Its sender cannot know.
            return if next.is_cancelled() { Err(Status::CANCELLED) } else { Ok(io.len()) };
        };
        if !self.wait(next, time).await {
            return Err(Status::CANCELLED);
        }
        if fate.overtaken {
            line.sent.another(next, self.link.reorder_time).await;
        }
        let sent = next.forward(&mut io).await;
        line.sent.count();
        if fate.twice && sent.is_ok() {
            // What becomes of the second is no news to anybody.
            _ = next.forward(&mut io).await;
        }
        sent
    }

    /// A receive, of bytes or of a message.
    async fn receive<'a>(
        &self,
        line: &Line,
        next: Next<'a>,
        mut io: Io<'a>,
    ) -> Result<usize, Status> {
        if !io.file().has_messages() || self.link == Link::PERFECT {
            let result = next.forward(&mut io).await;
            self.wait(next, Duration::ZERO).await;
            return result;
        }
        let of = io.minor();
        loop {
            let result = match arrival(line, next, &mut io).await {
                Arrival::Kept(kept) => return Ok(kept.answer(&mut io)),
                Arrival::Came(result) => result,
            };
            let came = match result {
                _ if of == minor::PEEK => return result,
                Ok(n) => Some(n),
                // One that was cut, which passes or is lost.
                Err(status) if !status.is_error() => None,
                Err(_) => return result,
            };
            let fate = self.link.fate(next);
            let room = line.back.time(&self.link, came.unwrap_or(io.len()));
            let Some(time) = room.filter(|_| !fate.lost) else { continue };
            self.wait(next, time).await;
            let Some(n) = came else { return result };
            if fate.twice {
                line.waiting.push(Kept::of(&mut io, n));
            }
            if fate.overtaken && !next.is_cancelled() {
                let kept = Kept::of(&mut io, n);
                return self.overtaken(line, next, io, kept).await;
            }
            return result;
        }
    }

    /// A message has come that is to be overtaken by the next one, if that comes in time.
    async fn overtaken<'a>(
        &self,
        line: &Line,
        next: Next<'a>,
        mut io: Io<'a>,
        kept: Kept,
    ) -> Result<usize, Status> {
        let mut late = false;
        let result = {
            let mut below = pin!(next.forward(&mut io));
            let mut sleep = pin!(next.sleep(self.link.reorder_time));
            poll_fn(|cx| {
                if let Poll::Ready(result) = below.as_mut().poll(cx) {
                    return Poll::Ready(result);
                }
                if !late && sleep.as_mut().poll(cx).is_ready() && !next.is_cancelled() {
                    late = true;
                    below.cancel();
                }
                Poll::Pending
            })
            .await
        };
        match result {
            // Also when nobody waits for it any more: it is kept for the next receive then (X-35).
            Err(status) if brought_nothing(status) => Ok(kept.answer(&mut io)),
            _ => {
                line.waiting.push_front(kept);
                result
            }
        }
    }
}

/// Where a message is from.
enum Arrival {
    /// From before.
    Kept(Kept),
    /// From below.
    Came(Result<usize, Status>),
}

/// The next message: one that is kept, or becomes so while this waits, or one from below.
async fn arrival<'a>(line: &Line, next: Next<'a>, io: &mut Io<'a>) -> Arrival {
    let of = io.minor();
    if let Some(kept) = line.waiting.take(of) {
        return Arrival::Kept(kept);
    }
    let mut claimed = None;
    let result = {
        let (mut below, mut ear) = (pin!(next.forward(io)), line.waiting.ear());
        poll_fn(|cx| {
            if let Poll::Ready(result) = below.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            if claimed.is_none() && !next.is_cancelled() {
                claimed = ear.take(of, cx.waker());
                if claimed.is_some() {
                    below.cancel();
                }
            }
            Poll::Pending
        })
        .await
    };
    match (claimed, result) {
        (None, result) => Arrival::Came(result),
        (Some(kept), Err(status)) if brought_nothing(status) => Arrival::Kept(kept),
        (Some(kept), Ok(_)) if of == minor::PEEK => Arrival::Kept(kept),
        (Some(kept), Ok(n)) => {
            // That is younger.
            line.waiting.push_front(Kept::of(io, n));
            Arrival::Kept(kept)
        }
        (Some(kept), result) => {
            if of != minor::PEEK {
                line.waiting.push_front(kept);
            }
            Arrival::Came(result)
        }
    }
}

/// Whether a receive has ended early, or found nothing, and not failed.
fn brought_nothing(status: Status) -> bool {
    let kinds = [ErrorKind::Interrupted, ErrorKind::WouldBlock];
    status == Status::CANCELLED || kinds.contains(&status.kind())
}

fn latency(p: &mut Parameters<'_>) -> Result<Latency, TextError> {
    let micros = |us: u64| Duration::from_micros(us);
    let (us, ms): (Option<u64>, Option<u64>) = (p.optional("us")?, p.optional("ms")?);
    let (most, p99): (Option<u64>, Option<u64>) = (p.optional("max_us")?, p.optional("p99_us")?);
    let path: Option<std::path::PathBuf> = p.optional("histogram")?;
    if us.is_some() && ms.is_some() {
        return Err(p.refuse("give us or ms, not both"));
    }
    let time = match (us, ms) {
        (Some(us), _) => micros(us),
        (None, Some(ms)) => Duration::from_millis(ms),
        (None, None) => Duration::ZERO,
    };
    let made = match (most, p99, path) {
        (None, None, None) => Ok(Latency::fixed(time)),
        (Some(most), None, None) => Latency::between(time, micros(most)),
        (None, Some(p99), None) => Latency::average_p99(time, micros(p99)),
        (None, None, Some(path)) if us.or(ms).is_none() => {
            let text = std::fs::read_to_string(&path);
            let text =
                text.map_err(|e| p.error("histogram", &format!("a file to be read: {e}")))?;
            let lines =
                text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
            let pairs: Option<Vec<_>> = lines.map(recorded).collect();
            let pairs = pairs.ok_or_else(|| {
                p.error("histogram", "a file of lines with microseconds and a weight")
            })?;
            Latency::histogram(pairs)
        }
        _ => return Err(p.refuse("give one of max_us, p99_us and histogram (without us)")),
    };
    made.map_err(|error| p.refuse(error))
}

/// A line of a recorded histogram.
fn recorded(line: &str) -> Option<(Duration, u64)> {
    let mut words = line.split_whitespace();
    let (us, weight) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    words.next().is_none().then_some((Duration::from_micros(us), weight))
}

/// What the filter keeps for each socket.
#[derive(Debug, Default)]
pub struct Line {
    out: Way,
    back: Way,
    waiting: Waiting,
    sent: Sent,
}

/// Counts what has been sent, for those that are to be overtaken.
#[derive(Debug, Default)]
struct Sent(Mutex<(u64, Vec<Waker>)>);

impl Sent {
    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, Vec<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) {
        let waiting = {
            let mut sent = self.lock();
            sent.0 += 1;
            std::mem::take(&mut sent.1)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Waits until another one has been sent, or so long, or for a cancel.
    async fn another(&self, next: Next<'_>, limit: Duration) {
        let before = self.lock().0;
        let mut sleep = pin!(next.sleep(limit));
        poll_fn(|cx| {
            {
                let mut sent = self.lock();
                if sent.0 != before {
                    return Poll::Ready(());
                }
                sent.1.push(cx.waker().clone());
            }
            sleep.as_mut().poll(cx)
        })
        .await;
    }
}

impl Filter for Delay {
    type Open = Line;

    fn name(&self) -> &str {
        "delay"
    }

    fn hooks(&self) -> MajorSet {
        self.hooks
    }

    async fn read(&self, line: &Line, next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.receive(line, next, io).await
    }

    async fn write(&self, line: &Line, next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.go(line, next, io).await
    }

    async fn flush(&self, line: &Line, next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.go(line, next, io).await
    }

    async fn other(&self, line: &Line, next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        if io.major() == Major::ReceiveFrom {
            self.receive(line, next, io).await
        } else {
            self.go(line, next, io).await
        }
    }
}
