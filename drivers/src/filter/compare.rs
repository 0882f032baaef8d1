//! Two stacks side by side, which should be the same.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use overlapped_iomgr::driver::{Capabilities, Limits};
use overlapped_iomgr::filter::{Filter, Io, Next, RangeLocks};
use overlapped_iomgr::{Class, FileHandle, Major, MajorSet, Status, minor};

use super::ranges::{ALL, Spans};
use super::side::{Beside, How, Side, Stand, data};
use crate::class::{Flush, Metadata, QueryInformation, SetLength, ZeroData};
use crate::text::{Entry, Made};

/// Sends every write to another stack too, and reads from both: the first difference is reported, and the
/// request that finds one fails with [`Status::DATA_ERROR`], unless it is to be reported only.
///
/// Bytes, lengths and statuses are compared: of reads, writes, flushes, changes of the length, zeroed
/// ranges, and of the file's length when that is asked for. A read that comes short on one side is no
/// difference. What is cancelled on the way is compared again when it has been written anew.
///
/// For files; what has no offsets is refused with [`Status::NOT_SUPPORTED`], and so are copies of
/// ranges, whose data nobody sees.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; } }
/// use overlapped::driver::filter::{Side, compare::Compare};
///
/// let compare = Compare::with(Side::path("/tmp/reference.img"));
/// let differences = compare.differences();
/// assert_eq!((differences.count(), differences.first()), (0, None));
/// ```
#[derive(Debug)]
pub struct Compare {
    side: Side,
    fails: bool,
    found: Arc<Found>,
}

#[derive(Default, Debug)]
struct Found {
    first: Mutex<Option<Difference>>,
    differences: AtomicU64,
    compared: AtomicU64,
}

/// What a [`Compare`] has found.
#[derive(Clone, Debug)]
pub struct Differences(Arc<Found>);

impl Differences {
    /// The first difference.
    pub fn first(&self) -> Option<Difference> {
        self.0.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests that found one.
    pub fn count(&self) -> u64 {
        self.0.differences.load(Ordering::Relaxed)
    }

    /// Bytes read that were the same.
    pub fn compared(&self) -> u64 {
        self.0.compared.load(Ordering::Relaxed)
    }
}

/// A difference between the stack below and the other one.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Difference {
    /// The operation that found it.
    pub major: Major,
    /// The byte offset where they differ; of statuses, where the request begins.
    pub offset: u64,
    /// Bytes of the request.
    pub len: u64,
    /// What differs.
    pub what: What,
}

/// What differs between two stacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// The bytes from the offset on, at most 16.
    Bytes {
        /// Of the stack below.
        below: Vec<u8>,
        /// Of the other.
        there: Vec<u8>,
    },
    /// Where the file ends: not before this.
    End {
        /// Of the stack below.
        below: u64,
        /// Of the other.
        there: u64,
    },
    /// What became of the request.
    Status {
        /// In the stack below.
        below: Status,
        /// In the other.
        there: Status,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { major, offset, len, what } = self;
        write!(f, "{major:?} of {len} bytes, at {offset}: ")?;
        match what {
            What::Bytes { below, there } => write!(f, "{below:02x?} below, {there:02x?} there"),
            What::End { below, there } => write!(f, "{below} bytes below, {there} there"),
            What::Status { below, there } => write!(f, "{below} below, {there} there"),
        }
    }
}

impl Compare {
    /// With another stack.
    pub fn with(side: Side) -> Compare {
        Compare { side, fails: true, found: Arc::default() }
    }

    /// Differences are reported, and nothing fails for them.
    pub fn report_only(mut self) -> Compare {
        self.fails = false;
        self
    }

    /// What it finds, for looking at once it is in a stack.
    pub fn differences(&self) -> Differences {
        Differences(self.found.clone())
    }

    /// A request has found a difference: what it ends with.
    fn differs(&self, io: &Io<'_>, offset: u64, what: What, ends: Outcome) -> Outcome {
        let len = if io.major() == Major::SetInformation { io.arg() } else { io.len() as u64 };
        let difference = Difference { major: io.major(), offset, len, what };
        self.found.differences.fetch_add(1, Ordering::Relaxed);
        let mut first = self.found.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            let file = io.file().name();
            tracing::error!(file, %difference, "two stacks differ");
            *first = Some(difference);
        }
        if self.fails { Err(Status::DATA_ERROR) } else { ends }
    }

    /// Compares how a request without data has ended.
    fn same(&self, io: &Io<'_>, below: Outcome, there: Result<(), Status>) -> Outcome {
        let (ours, theirs) = (status(&below), status(&there));
        if ours == theirs || ours == Status::CANCELLED {
            return below;
        }
        self.differs(io, io.offset(), What::Status { below: ours, there: theirs }, below)
    }
}

type Outcome = Result<usize, Status>;

fn status<T>(result: &Result<T, Status>) -> Status {
    result.as_ref().err().copied().unwrap_or_default()
}

/// What is kept for an open file.
#[derive(Default)]
pub struct Open {
    there: Beside,
    /// Reads beside others, writes alone: so both sides see them in the same order.
    locks: RangeLocks,
    /// Bytes that may differ, because a write of them was cancelled.
    unsure: Spans,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").finish_non_exhaustive()
    }
}

impl Compare {
    async fn there(&self, open: &Open, next: Next<'_>) -> Result<FileHandle, Status> {
        open.there.get(&self.side, next, How::default()).await
    }

    async fn compare_read<'a>(&'a self, open: &'a Open, next: Next<'a>, mut io: Io<'a>) -> Outcome {
        let there = Stand::There(self.there(open, next).await?);
        let (at, len) = (io.offset(), io.len());
        let end = at.checked_add(len as u64).ok_or(Status::OFFSET_OVERFLOW)?;
        let _lock = open.locks.lock_for(next, at..end, false).await?;
        let (below, read) = pair(next.forward(&mut io), there.read(at, len)).await;
        let bytes = match (&below, read) {
            (Err(Status::CANCELLED), _) => return below,
            (Ok(_), Ok(bytes)) => bytes,
            (_, there) => return self.same(&io, below, there.map(drop)),
        };
        let n = below?;
        let mut place = 0;
        let mut found = None;
        for segment in io.received_mut(n) {
            let theirs = &bytes[place.min(bytes.len())..];
            let differs = |(i, (one, other)): (usize, (&u8, &u8))| {
                (one != other && !open.unsure.has(at + (place + i) as u64)).then_some(i)
            };
            if let Some(i) = segment.iter().zip(theirs).enumerate().find_map(differs) {
                let first = |bytes: &[u8]| bytes[i..].iter().take(16).copied().collect();
                let what = What::Bytes { below: first(segment), there: first(theirs) };
                found = Some((at + (place + i) as u64, what));
                break;
            }
            place += segment.len();
        }
        if let Some((offset, what)) = found {
            return self.differs(&io, offset, what, Ok(n));
        }
        if n != bytes.len() && !open.unsure.has(at + n.min(bytes.len()) as u64) {
            let (ours, theirs) = (at + n as u64, at + bytes.len() as u64);
            // A read may come short; the other one goes on until the end.
            let ends = theirs < ours || Stand::Below(next).read(ours, 1).await?.is_empty();
            if ends {
                let what = What::End { below: ours, there: theirs };
                return self.differs(&io, ours.min(theirs), what, Ok(n));
            }
        }
        self.found.compared.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    async fn compare_write<'a>(
        &'a self,
        open: &'a Open,
        next: Next<'a>,
        mut io: Io<'a>,
    ) -> Outcome {
        let there = Stand::There(self.there(open, next).await?);
        let (at, len) = (io.offset(), io.len() as u64);
        let range = if io.file().appends() {
            ALL
        } else {
            at..at.checked_add(len).ok_or(Status::OFFSET_OVERFLOW)?
        };
        let _lock = open.locks.lock_for(next, range.clone(), true).await?;
        let parts = data(&io);
        let (below, (written, there)) = pair(next.forward(&mut io), there.write(at, parts)).await;
        if range == ALL {
            // Where an appending one has gone nobody says.
            return match (&below, &there) {
                (Ok(n), _) if *n <= written => below,
                _ => self.same(&io, below, there),
            };
        }
        let n = below.unwrap_or(0) as u64;
        let both = n.min(written as u64);
        open.unsure.remove(&(at..at + both));
        open.unsure
            .add(at + both..if below.is_ok() { at + n.max(written as u64) } else { range.end });
        match below {
            Err(Status::CANCELLED) => below,
            // It goes on with the rest.
            Ok(n) if n <= written => below,
            _ => self.same(&io, below, there),
        }
    }
}

/// Awaits both.
async fn pair<A: Future, B: Future>(one: A, other: B) -> (A::Output, B::Output) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut first, mut second) = (None, None);
    poll_fn(|cx| {
        if first.is_none()
            && let Poll::Ready(value) = one.as_mut().poll(cx)
        {
            first = Some(value);
        }
        if second.is_none()
            && let Poll::Ready(value) = other.as_mut().poll(cx)
        {
            second = Some(value);
        }
        match (first.take(), second.take()) {
            (Some(first), Some(second)) => Poll::Ready((first, second)),
            unfinished => {
                (first, second) = unfinished;
                Poll::Pending
            }
        }
    })
    .await
}

impl Filter for Compare {
    type Open = Open;

    fn name(&self) -> &str {
        "compare"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[
            Major::Create,
            Major::Read,
            Major::Write,
            Major::Flush,
            Major::QueryInformation,
            Major::SetInformation,
            Major::FileSystemControl,
        ])
    }

    /// Zeroes are compared as they are written, and what is durable is so on both sides.
    fn limits(&self, below: Limits) -> Limits {
        let not = Capabilities::ZERO.with(Capabilities::WRITE_THROUGH);
        Limits { can: below.can.without(not), ..below }
    }

    fn class(&self) -> Class {
        Class::Transform
    }

    async fn read(&self, open: &Open, next: Next<'_>, io: Io<'_>) -> Outcome {
        if !io.file().is_seekable() || !matches!(io.minor(), minor::NONE | minor::VECTORED) {
            return Err(Status::NOT_SUPPORTED);
        }
        Box::pin(self.compare_read(open, next, io)).await
    }

    async fn write(&self, open: &Open, next: Next<'_>, io: Io<'_>) -> Outcome {
        if !io.file().is_seekable() {
            return Err(Status::NOT_SUPPORTED);
        }
        Box::pin(self.compare_write(open, next, io)).await
    }

    async fn flush(&self, open: &Open, next: Next<'_>, mut io: Io<'_>) -> Outcome {
        let there = Stand::There(self.there(open, next).await?);
        let flush = Flush { data_only: io.minor() == minor::DATA_ONLY };
        let (below, there) = pair(next.forward(&mut io), there.ask(flush)).await;
        self.same(&io, below, there.map_err(Status::from))
    }

    async fn other(&self, open: &Open, next: Next<'_>, mut io: Io<'_>) -> Outcome {
        match (io.major(), io.minor()) {
            (Major::Create, _) => {
                open.there.get(&self.side, next, How::of(&io)).await?;
                next.forward(&mut io).await
            }
            (Major::QueryInformation, minor::NONE) => {
                let there = Stand::There(self.there(open, next).await?);
                let _lock = open.locks.lock_for(next, ALL, false).await?;
                let (below, found) = pair(next.forward(&mut io), there.ask(QueryInformation)).await;
                let lens = match (&below, io.payload::<Metadata>(), &found) {
                    (Ok(_), Some(ours), Ok(theirs)) => (ours.len(), theirs.len()),
                    _ => return self.same(&io, below, found.map(drop).map_err(Status::from)),
                };
                let (below_len, there_len) = lens;
                let first = below_len.min(there_len);
                if below_len == there_len || open.unsure.has(first) {
                    return below;
                }
                let what = What::End { below: below_len, there: there_len };
                self.differs(&io, first, what, below)
            }
            (Major::SetInformation, minor::NONE) => {
                let there = Stand::There(self.there(open, next).await?);
                let _lock = open.locks.lock_for(next, ALL, true).await?;
                let set = SetLength { len: io.arg() };
                let (below, set) = pair(next.forward(&mut io), there.ask(set)).await;
                if below == Err(Status::CANCELLED) {
                    open.unsure.add(ALL);
                }
                self.same(&io, below, set.map_err(Status::from))
            }
            (Major::FileSystemControl, minor::ZERO_DATA) => {
                let there = Stand::There(self.there(open, next).await?);
                let zero = *io.payload::<ZeroData>().ok_or(Status::INVALID_PARAMETER)?;
                let range = zero.offset..zero.offset.saturating_add(zero.len);
                let _lock = open.locks.lock_for(next, range.clone(), true).await?;
                let (below, zeroed) = pair(next.forward(&mut io), there.ask(zero)).await;
                match below {
                    Ok(_) if zeroed.is_ok() => open.unsure.remove(&range),
                    _ => open.unsure.add(range),
                }
                self.same(&io, below, zeroed.map_err(Status::from))
            }
            (Major::FileSystemControl, _) => Err(Status::NOT_SUPPORTED),
            _ => next.forward(&mut io).await,
        }
    }
}

/// `compare` in stacks' texts.
pub(crate) const ENTRY: Entry = Entry {
    name: "compare",
    about: "compares with another file or stack: compare(other=PATH, fail=yes|no)",
    make: |p| {
        let compare = Compare::with(Side::parameter(p, "other")?);
        let compare = if p.or("fail", true)? { compare } else { compare.report_only() };
        Ok(Made::Filter(compare.into_driver()))
    },
};
