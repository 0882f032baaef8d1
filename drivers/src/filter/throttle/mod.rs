//! Limits on bytes and operations in a second.

mod gate;
mod meter;

use std::sync::Arc;
use std::{fmt, iter};

use overlapped_iomgr::filter::{Filter, Io, Next};
use overlapped_iomgr::{Group, Major, MajorSet, Status, minor};

use gate::Gate;
pub use gate::{BadRates, Rates};

use super::parts::{common, is_stream, read_most, write_part};
use crate::text::{Entry, Made, Size};

/// Holds reads and writes back, so that no more bytes and operations pass in a second than its
/// [`Rates`] say. Clones, and the throttles of one group, share them.
///
/// Requests pass in the order in which they come. One with more bytes than may pass at once goes on in
/// parts, unless it is a datagram, which is whole or not at all: that passes when all that may pass
/// at once could, and those after it wait the longer. What a stream receives is counted when it has come.
///
/// Closes, cleanups and flushes do not wait, nor does a cancel: a request that is cancelled while it waits
/// goes, and those behind it move up.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; pub use overlapped_iomgr::Filter; } }
/// use overlapped::driver::{Filter, filter::{Rates, Throttle}};
///
/// let throttle = Throttle::new(Rates { bytes: Some(1 << 20), ..Rates::ANY })?;
/// let filter = throttle.clone().into_driver();
/// // Live: for all requests that have not passed yet.
/// throttle.set_rates(Rates { operations: Some(100), ..Rates::ANY })?;
/// assert_eq!((filter.name(), throttle.waiting()), ("throttle", 0));
/// # Ok::<(), overlapped::driver::filter::BadRates>(())
/// ```
#[derive(Clone)]
pub struct Throttle {
    gate: Arc<Gate>,
    hooks: MajorSet,
}

/// A file's request is cut at multiples of this, which direct I/O needs, if so many bytes may pass at
/// once.
const BLOCK: u64 = 4096;

impl Throttle {
    const HOOKS: MajorSet =
        MajorSet::of(&[Major::Read, Major::Write, Major::SendTo, Major::ReceiveFrom]);

    fn of(gate: Arc<Gate>) -> Throttle {
        Throttle { gate, hooks: Self::HOOKS }
    }

    /// With rates of its own.
    ///
    /// # Errors
    /// [`BadRates::Zero`].
    pub fn new(rates: Rates) -> Result<Throttle, BadRates> {
        Gate::new(rates).map(Self::of)
    }

    /// In the group of that name, with all others of the process that are: made if there is none.
    ///
    /// # Errors
    /// [`BadRates::Zero`]; [`BadRates::Differ`] when the group has other rates.
    pub fn in_group(name: &str, rates: Rates) -> Result<Throttle, BadRates> {
        Gate::of_group(name, Some(rates)).map(Self::of)
    }

    /// In a group that is there, with its rates.
    ///
    /// # Errors
    /// [`BadRates::NoGroup`].
    pub fn join(name: &str) -> Result<Throttle, BadRates> {
        Gate::of_group(name, None).map(Self::of)
    }

    /// Only reads and receives, say, or only writes.
    pub fn only(mut self, majors: MajorSet) -> Throttle {
        self.hooks = common(Self::HOOKS, majors);
        self
    }

    /// The rates.
    pub fn rates(&self) -> Rates {
        self.gate.rates()
    }

    /// Changes the rates, for requests that wait too.
    ///
    /// # Errors
    /// [`BadRates::Zero`]: nothing is changed.
    pub fn set_rates(&self, rates: Rates) -> Result<(), BadRates> {
        self.gate.set_rates(rates)
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.gate.waiting()
    }

    /// `throttle(iops=N, bps=SIZE, burst=SIZE, group=NAME)`, `burst_ops=N`, and `op=read` or the like. A
    /// burst without `bps` is one of operations.
    pub const ENTRY: Entry = Entry {
        name: "throttle",
        about: "limits bytes and operations a second: throttle(bps=10M, iops=500, burst=1M, group=NAME)",
        make: |p| {
            let size = |size: Option<Size>| size.map(|Size(bytes)| bytes);
            let (bytes, operations) = (size(p.optional("bps")?), p.optional("iops")?);
            let burst = size(p.optional("burst")?);
            let burst_operations = p.optional("burst_ops")?;
            let rates = match (bytes, burst_operations) {
                (None, None) => Rates { bytes, operations, burst: None, burst_operations: burst },
                _ => Rates { bytes, operations, burst, burst_operations },
            };
            let group: Option<String> = p.optional("group")?;
            let throttle = match (group, bytes.is_some() || operations.is_some()) {
                (Some(group), true) => Throttle::in_group(&group, rates),
                (Some(group), false) => Throttle::join(&group),
                (None, true) => Throttle::new(rates),
                (None, false) => return Err(p.refuse("give iops or bps, or a group to join")),
            };
            let throttle = throttle.map_err(|error| p.refuse(error))?;
            let only = p.optional::<MajorSet>("op")?;
            let throttle = only.into_iter().fold(throttle, Throttle::only);
            if throttle.hooks == MajorSet::NONE {
                return Err(p.error("op", "read, write, send or receive"));
            }
            Ok(Made::Filter(throttle.into_driver()))
        },
    };

    /// The most bytes of one part of a request; those that pass at once.
    fn piece(&self, is_file: bool) -> usize {
        let Some(most) = self.gate.rates().most_bytes() else { return usize::MAX };
        let most = if is_file { (most / BLOCK).max(1).saturating_mul(BLOCK) } else { most };
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// What comes in, of a stream or in a message: paid for when it has come.
    async fn receive<'a>(&self, next: Next<'a>, mut io: Io<'a>) -> Result<usize, Status> {
        self.gate.pass(next, 0, 1).await?;
        let result = if is_stream(&io) {
            read_most(next, &mut io, self.piece(false)).await
        } else {
            next.forward(&mut io).await
        };
        // Of a message that was cut the length is not known here.
        let n = result.or_else(|status| if status.is_error() { Err(status) } else { Ok(io.len()) });
        if let Ok(n) = n {
            self.gate.charge(n as u64);
        }
        result
    }

    /// What passes whole.
    async fn pass_whole<'a>(&self, next: Next<'a>, mut io: Io<'a>) -> Result<usize, Status> {
        let len = io.len() as u64;
        self.gate.pass(next, len, 1).await?;
        let result = next.forward(&mut io).await;
        self.gate.refund(len.saturating_sub(result.unwrap_or(0) as u64));
        result
    }

    /// A file's request, in pieces as they are let pass.
    async fn pass_pieces<'a>(&self, next: Next<'a>, mut io: Io<'a>) -> Result<usize, Status> {
        let len = io.len();
        // Where the pieces go is known.
        let known = io.offset() != u64::MAX && !(io.major() == Major::Write && io.file().appends());
        let plain = matches!(io.minor(), minor::NONE | minor::VECTORED) && !io.has_companion();
        if len <= self.piece(true) || !known || !plain {
            return self.pass_whole(next, io).await;
        }
        let mut done = 0;
        while done < len {
            let wanted = self.piece(true).min(len - done);
            let passed = match self.gate.pass(next, wanted as u64, u64::from(done == 0)).await {
                Ok(()) => next.split(&mut io, iter::once(done..done + wanted), 1).await,
                Err(status) if done == 0 => return Err(status),
                Err(_) => break,
            };
            let n = passed.unwrap_or(0);
            self.gate.refund((wanted - n) as u64);
            done += n;
            match passed {
                Err(status) if done == 0 => return Err(status),
                Ok(n) if n == wanted => {}
                _ => break,
            }
        }
        Ok(done)
    }

    async fn write_stream<'a>(&self, next: Next<'a>, mut io: Io<'a>) -> Result<usize, Status> {
        let len = io.len();
        if len <= self.piece(false) || io.has_companion() {
            return self.pass_whole(next, io).await;
        }
        let mut done = 0;
        while done < len {
            let wanted = self.piece(false).min(len - done);
            match self.gate.pass(next, wanted as u64, u64::from(done == 0)).await {
                Err(status) if done == 0 => return Err(status),
                Err(_) => break,
                Ok(()) => {}
            }
            let (sent, result) = self.write_piece(next, &mut io, done..done + wanted).await;
            self.gate.refund((wanted - sent) as u64);
            done += sent;
            match result {
                Err(status) if done == 0 => return Err(status),
                Ok(()) if sent == wanted => {}
                _ => break,
            }
        }
        Ok(done)
    }

    /// A part of a stream's write that has passed; how much of it was taken.
    async fn write_piece<'a>(
        &self,
        next: Next<'a>,
        io: &mut Io<'a>,
        range: std::ops::Range<usize>,
    ) -> (usize, Result<(), Status>) {
        let mut at = range.start;
        while at < range.end {
            let Some((wanted, below)) = write_part(next, io, at..range.end) else { break };
            match below.await.0 {
                Ok(n) => {
                    at += n;
                    if n < wanted {
                        break;
                    }
                }
                Err(status) => return (at - range.start, Err(status)),
            }
        }
        (at - range.start, Ok(()))
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle")
            .field("rates", &self.rates())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

impl Filter for Throttle {
    type Open = ();

    fn name(&self) -> &str {
        "throttle"
    }

    fn hooks(&self) -> MajorSet {
        self.hooks
    }

    fn group(&self) -> Option<Group> {
        Some(Group::Throttle)
    }

    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        if io.minor() == minor::PEEK {
            // What it sees is counted when it is taken.
            return next.forward(&mut io).await;
        }
        if io.file().is_seekable() {
            self.pass_pieces(next, io).await
        } else {
            self.receive(next, io).await
        }
    }

    async fn write(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        if io.file().has_messages() {
            self.pass_whole(next, io).await
        } else if io.file().is_seekable() {
            self.pass_pieces(next, io).await
        } else {
            self.write_stream(next, io).await
        }
    }

    async fn other(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        match (io.major(), io.minor()) {
            (Major::ReceiveFrom, minor::PEEK) => next.forward(&mut io).await,
            (Major::ReceiveFrom, _) => self.receive(next, io).await,
            _ => self.pass_whole(next, io).await,
        }
    }
}
