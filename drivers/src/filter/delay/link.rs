//! A line that datagrams go over.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use overlapped_iomgr::filter::{Io, Next};
use overlapped_iomgr::{clock, minor};
use socket2::SockAddr;

use super::super::chance::unit;
use crate::class::Envelope;

/// What becomes of datagrams besides the time they take. Each way, of what is sent and of what is
/// received.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; } }
/// use overlapped::driver::filter::Link;
/// let lossy = Link { loss: 0.1, ..Link::PERFECT };
/// assert_eq!(lossy.duplicate, 0.0);
/// ```
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Link {
    /// How many of them are lost: from 0 to 1, as all three.
    pub loss: f64,
    /// How many come twice.
    pub duplicate: f64,
    /// How many are overtaken by the next one.
    pub reorder: f64,
    /// How long one that is to be overtaken waits for that.
    pub reorder_time: Duration,
    /// Bytes a second; `None`: any number.
    pub rate: Option<u64>,
    /// Bytes that may wait for their turn at that rate; what comes then is lost. `None`: any number.
    pub queue: Option<u64>,
}

impl Link {
    /// All datagrams come, once, in order, at once.
    pub const PERFECT: Link = Link {
        loss: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        reorder_time: Duration::from_millis(10),
        rate: None,
        queue: None,
    };

    pub(super) fn check(&self) -> Result<(), BadLink> {
        let rates = [self.loss, self.duplicate, self.reorder];
        if !rates.iter().all(|rate| (0.0..=1.0).contains(rate)) {
            return Err(BadLink::Rate);
        }
        if self.rate == Some(0) { Err(BadLink::NothingPasses) } else { Ok(()) }
    }

    /// What is to become of the next datagram.
    pub(super) fn fate(&self, next: Next<'_>) -> Fate {
        let happens = |rate: f64| rate > 0.0 && unit(next.random()) < rate;
        Fate {
            lost: happens(self.loss),
            twice: happens(self.duplicate),
            overtaken: happens(self.reorder),
        }
    }
}

/// See [`Link::fate`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Fate {
    pub lost: bool,
    pub twice: bool,
    pub overtaken: bool,
}

/// A link that there is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BadLink {
    /// Loss, duplicate or reorder is not from 0 to 1.
    Rate,
    /// A rate of 0 lets nothing pass.
    NothingPasses,
}

impl fmt::Display for BadLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadLink::Rate => "loss, duplicate and reorder are from 0 to 1",
            BadLink::NothingPasses => "a link of 0 bytes a second lets nothing pass",
        })
    }
}

impl std::error::Error for BadLink {}

/// One way of a socket's line: when it has sent what it has been given.
#[derive(Debug, Default)]
pub(super) struct Way(Mutex<Option<Instant>>);

impl Way {
    /// How long a datagram of so many bytes takes, behind those before it. `None`: it finds no room.
    pub(super) fn time(&self, link: &Link, bytes: usize) -> Option<Duration> {
        let Some(rate) = link.rate else { return Some(Duration::ZERO) };
        let (now, mut free) = (clock::now(), self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let from = free.map_or(now, |free| free.max(now));
        let ahead = (from - now).as_nanos() * u128::from(rate) / 1_000_000_000;
        if link.queue.is_some_and(|most| ahead + bytes as u128 > u128::from(most)) && from > now {
            return None;
        }
        let nanos = (bytes as u128 * 1_000_000_000).div_ceil(u128::from(rate));
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let until = from.checked_add(time).unwrap_or(from);
        *free = Some(until);
        Some(until - now)
    }
}

/// A datagram that has come, for a receive to come.
#[derive(Debug)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    address: Option<SockAddr>,
    segment_size: u16,
}

impl Kept {
    /// A copy of what a receive has just got. Descriptors stay with the original.
    pub(super) fn of(io: &mut Io<'_>, n: usize) -> Kept {
        let bytes = io.received_mut(n).flatten().map(|byte| *byte).collect();
        let envelope = io.companion::<Envelope>();
        let address = envelope.and_then(|envelope| envelope.address.clone());
        Kept { bytes, address, segment_size: envelope.map_or(0, |envelope| envelope.segment_size) }
    }

    fn copy(&self) -> Kept {
        let (bytes, address) = (self.bytes.clone(), self.address.clone());
        Kept { bytes, address, segment_size: self.segment_size }
    }

    /// Answers a receive with it; how many of its bytes fitted.
    pub(super) fn answer(self, io: &mut Io<'_>) -> usize {
        if let Some(envelope) = io.companion_mut::<Envelope>() {
            (envelope.address, envelope.segment_size) = (self.address, self.segment_size);
        }
        io.answer(&self.bytes)
    }
}

/// Datagrams that come before those that are still to be received, and who waits for one.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    kept: VecDeque<Kept>,
    ears: Vec<(u64, Waker)>,
    next: u64,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics while it is locked, but for a waker's clone.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, add: impl FnOnce(&mut VecDeque<Kept>)) {
        let ears = {
            let mut queue = self.lock();
            add(&mut queue.kept);
            std::mem::take(&mut queue.ears)
        };
        ears.into_iter().for_each(|(_, waker)| waker.wake());
    }

    pub(super) fn push(&self, kept: Kept) {
        self.add(|all| all.push_back(kept));
    }

    pub(super) fn push_front(&self, kept: Kept) {
        self.add(|all| all.push_front(kept));
    }

    /// The first, if there is one; a peek leaves it where it is.
    pub(super) fn take(&self, of: u8) -> Option<Kept> {
        self.lock().take(of)
    }

    pub(super) fn ear(&self) -> Ear<'_> {
        Ear { waiting: self, number: None }
    }
}

impl Queue {
    fn take(&mut self, of: u8) -> Option<Kept> {
        if of == minor::PEEK { self.kept.front().map(Kept::copy) } else { self.kept.pop_front() }
    }
}

/// A receive that waits for the next datagram, from wherever.
pub(super) struct Ear<'a> {
    waiting: &'a Waiting,
    number: Option<u64>,
}

impl Ear<'_> {
    /// As [`Waiting::take`]; if there is none, the waker is woken when there is.
    pub(super) fn take(&mut self, of: u8, waker: &Waker) -> Option<Kept> {
        let mut queue = self.waiting.lock();
        let kept = queue.take(of);
        if kept.is_none() {
            let number = *self.number.get_or_insert(queue.next);
            queue.next = queue.next.max(number + 1);
            match queue.ears.iter_mut().find(|(ear, _)| *ear == number) {
                Some((_, old)) if old.will_wake(waker) => {}
                Some((_, old)) => *old = waker.clone(),
                None => queue.ears.push((number, waker.clone())),
            }
        }
        kept
    }
}

impl Drop for Ear<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.waiting.lock().ears.retain(|(ear, _)| *ear != number);
        }
    }
}
