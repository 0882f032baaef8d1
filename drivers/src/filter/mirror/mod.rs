//! Several stacks with the same data.

mod members;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use overlapped_iomgr::buf::{IoBuf, IoBufMut};
use overlapped_iomgr::driver::{Capabilities, Limits};
use overlapped_iomgr::filter::{Filter, Io, Next, RangeLocks, SharedMut};
use overlapped_iomgr::{Class, Major, MajorSet, Status, minor};

pub use members::{Handle, Member, Policy, Resync, State};
use members::{Members, RESYNC};

use super::ranges::{ALL, Spans};
use super::side::{Beside, How, Side, Stand, data};
use crate::class::{Flush, QueryInformation, ReadVectored, SetLength, ZeroData};
use crate::text::{Entry, Made, Parameter};

/// Writes to several stacks, its members, and reads from one of them. Member 0 is the stack below, the
/// others are given.
///
/// - A write goes to all members that are in. It succeeds if as many as the quorum have done all of
///   it; a member that has failed what another has done is marked out, and reported. If none has done
///   anything, the write fails, and nobody is out. The last member that is in stays in. If fewer are in
///   than the quorum, writes fail with [`Status::IO_DEVICE_ERROR`].
/// - A read that a member fails is answered by the next one, and the good data is written to the member
///   that failed; if that fails too, it is out.
/// - Which members are out is known to the filter, for all its files, and nowhere else: it is forgotten
///   with the filter. [`Handle::resync`] takes one in again.
///
/// Writes of the same bytes go to all members in the same order. One that is cancelled may have
/// reached some of them; they are made the same again before these bytes are read, and by a flush.
///
/// For files; what has no offsets is refused with [`Status::NOT_SUPPORTED`], and so are copies of
/// ranges. What is neither data nor length (names, permissions, advice) goes to the stack below only.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; } }
/// use overlapped::driver::filter::{Side, mirror::{Mirror, Policy, State}};
///
/// let sides = [Side::path("/mnt/a/disk.img"), Side::path("/mnt/b/disk.img")];
/// let mirror = Mirror::of(sides).quorum(2).policy(Policy::RoundRobin);
/// let handle = mirror.handle();
/// assert!(handle.members().iter().all(|member| member.state == State::In));
/// assert_eq!(handle.members().len(), 3);
/// ```
pub struct Mirror {
    sides: Vec<Side>,
    quorum: usize,
    policy: Policy,
    members: Arc<Members>,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror")
            .field("sides", &self.sides)
            .field("quorum", &self.quorum)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// Most bytes that are copied from one member to others at once.
const CHUNK: u64 = 1 << 20;

type Outcome = Result<usize, Status>;

/// How many bytes a member has written, and what kept it from the rest.
type Did = (usize, Result<(), Status>);

impl Mirror {
    /// Of the stack below and these.
    pub fn of(sides: impl IntoIterator<Item = Side>) -> Mirror {
        let sides: Vec<Side> = sides.into_iter().collect();
        let members = Arc::new(Members::new(sides.len() + 1));
        Mirror { sides, quorum: 1, policy: Policy::First, members }
    }

    /// How many members must have done a write: from 1, as it is without this, to all there are; other
    /// numbers mean the nearest of these.
    pub fn quorum(mut self, members: usize) -> Mirror {
        self.quorum = members.clamp(1, self.members.len());
        self
    }

    /// Which members are read from.
    pub fn policy(mut self, policy: Policy) -> Mirror {
        self.policy = policy;
        self
    }

    /// For looking at it once it is in a stack.
    pub fn handle(&self) -> Handle {
        Handle(self.members.clone())
    }
}

/// What is kept for an open file.
#[derive(Default)]
pub struct Open {
    there: std::sync::OnceLock<Vec<Beside>>,
    /// Reads beside others, writes alone.
    locks: RangeLocks,
    /// Bytes that may differ, because a write of them was cancelled.
    unsure: Spans,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").finish_non_exhaustive()
    }
}

impl Mirror {
    /// The members, opened.
    async fn stands<'a>(
        &self,
        open: &Open,
        next: Next<'a>,
        how: How,
    ) -> Result<Vec<Stand<'a>>, Status> {
        let none = || self.sides.iter().map(|_| Beside::default()).collect();
        let mut stands = vec![Stand::Below(next)];
        for (beside, side) in open.there.get_or_init(none).iter().zip(&self.sides) {
            stands.push(Stand::There(beside.get(side, next, how).await?));
        }
        Ok(stands)
    }

    /// Refuses changes that too few members are left for, before any has made them.
    fn expect_quorum(&self) -> Result<(), Status> {
        let enough = self.members.active(false).len() >= self.quorum;
        if enough { Ok(()) } else { Err(Status::IO_DEVICE_ERROR) }
    }

    /// What a change of all members comes to, by what each has done: so many bytes, and all or not.
    fn judge(&self, file: &str, results: Vec<(usize, Did)>) -> Outcome {
        let is_in = |member: &usize| self.members.state(*member) == State::In;
        let ended = |result: &Result<(), Status>| usize::from(result.is_ok());
        // The most that one of those that count has done: bytes first, then whether it said so.
        let reached = results.iter().filter(|(member, _)| is_in(member));
        let best = reached.clone().map(|(_, (n, result))| (*n, ended(result))).max();
        let Some(best) = best else { return Err(Status::IO_DEVICE_ERROR) };
        let mut done = 0;
        let mut failed = None;
        for (member, (n, result)) in &results {
            if (*n, ended(result)) == best || *n == best.0 && *n > 0 {
                done += usize::from(is_in(member));
                failed = failed.or(result.err());
                continue;
            }
            let status = result.err().unwrap_or(Status::DATA_ERROR);
            failed = Some(status);
            self.members.put_out(*member, status, file);
        }
        if best == (0, 0) || done < self.quorum {
            return Err(failed.unwrap_or(Status::IO_DEVICE_ERROR));
        }
        Ok(best.0)
    }

    async fn read_one<'a>(&'a self, open: &'a Open, next: Next<'a>, mut io: Io<'a>) -> Outcome {
        let stands = self.stands(open, next, How::default()).await?;
        let at = io.offset();
        let end = at.checked_add(io.len() as u64).ok_or(Status::OFFSET_OVERFLOW)?;
        self.settle(open, next, &stands, at..end).await?;
        let lock = open.locks.lock_for(next, at..end, false).await?;
        let (mut bad, mut first) = (Vec::new(), None);
        for member in self.members.to_read(self.policy) {
            match read_into(&stands[member], &mut io).await {
                Ok(n) => {
                    self.members.has_read(member);
                    drop(lock);
                    let bytes = at..at + n as u64;
                    if !bad.is_empty() {
                        self.repair(open, next, &stands, io.file().name(), bytes, member, bad)
                            .await;
                    }
                    return Ok(n);
                }
                Err(status) if next.is_cancelled() => return Err(status),
                Err(status) => {
                    bad.push(member);
                    first = first.or(Some(status));
                }
            }
        }
        Err(first.unwrap_or(Status::IO_DEVICE_ERROR))
    }

    /// Writes good data to members that could not read theirs.
    #[expect(clippy::too_many_arguments, reason = "one place calls it")]
    async fn repair(
        &self,
        open: &Open,
        next: Next<'_>,
        stands: &[Stand<'_>],
        file: &str,
        bytes: Range<u64>,
        good: usize,
        bad: Vec<usize>,
    ) {
        for member in bad {
            self.members.has_failed(member);
            // The data that was read may have been written over meanwhile.
            match self.copy(open, next, stands, bytes.clone(), good, member).await {
                Ok(_) => {
                    self.members.is_repaired(member);
                    tracing::warn!(file, member, ?bytes, "a member of a mirror was repaired");
                }
                Err(_) if next.is_cancelled() => {}
                Err(status) => self.members.put_out(member, status, file),
            }
        }
    }

    /// Copies a range from one member to another, alone with it, chunk by chunk; yields how many bytes,
    /// fewer if the file ends.
    async fn copy(
        &self,
        open: &Open,
        next: Next<'_>,
        stands: &[Stand<'_>],
        bytes: Range<u64>,
        from: usize,
        to: usize,
    ) -> Result<u64, Status> {
        let mut at = bytes.start;
        while at < bytes.end {
            let end = bytes.end.min(at.saturating_add(CHUNK));
            let _lock = open.locks.lock_for(next, at..end, true).await?;
            let data = stands[from].read(at, (end - at) as usize).await?;
            let n = data.len() as u64;
            if n > 0 {
                stands[to].write(at, vec![data.slice(..)]).await.1?;
            }
            at += n;
            if n < CHUNK && at < bytes.end {
                break;
            }
        }
        Ok(at - bytes.start)
    }

    /// Makes members the same again where a write was cancelled.
    async fn settle(
        &self,
        open: &Open,
        next: Next<'_>,
        stands: &[Stand<'_>],
        range: Range<u64>,
    ) -> Result<(), Status> {
        for span in open.unsure.meeting(&range) {
            let members = self.members.active(true);
            let Some((&from, others)) = members.split_first() else { break };
            let len = stands[from].ask(QueryInformation).await?.len();
            for &to in others {
                if stands[to].ask(QueryInformation).await?.len() != len {
                    stands[to].ask(SetLength { len }).await?;
                }
                self.copy(open, next, stands, span.clone(), from, to).await?;
            }
            open.unsure.remove(&span);
        }
        Ok(())
    }

    async fn write_all<'a>(&'a self, open: &'a Open, next: Next<'a>, io: Io<'a>) -> Outcome {
        let stands = self.stands(open, next, How::default()).await?;
        let (at, len) = (io.offset(), io.len() as u64);
        let range = if io.file().appends() {
            ALL
        } else {
            at..at.checked_add(len).ok_or(Status::OFFSET_OVERFLOW)?
        };
        let _lock = open.locks.lock_for(next, range.clone(), true).await?;
        self.expect_quorum()?;
        let active = self.members.active(true);
        let writes = next.fork(active.iter().map(|&member| {
            let (stand, parts) = (&stands[member], data(&io));
            async move { (member, stand.write(at, parts).await) }
        }));
        let results = writes.all().await.collect();
        if next.is_cancelled() {
            open.unsure.add(range);
            return Err(Status::CANCELLED);
        }
        let written = self.judge(io.file().name(), results);
        if let Ok(n) = written {
            open.unsure.remove(&(at..at.saturating_add(n as u64)));
        }
        written
    }

    /// Asks all members for the same. If that is cancelled, all may differ.
    async fn change<'a, K, F>(
        &self,
        open: &Open,
        next: Next<'a>,
        stands: &[Stand<'a>],
        file: &str,
        operation: K,
    ) -> Outcome
    where
        K: Fn() -> F,
        F: overlapped_iomgr::Operation<Output = std::io::Result<()>>,
    {
        self.expect_quorum()?;
        let active = self.members.active(true);
        let asked = active.iter().map(|&member| {
            let (stand, operation) = (&stands[member], operation());
            async move { (member, (0, stand.ask(operation).await.map_err(Status::from))) }
        });
        let results = next.fork(asked).all().await.collect();
        if next.is_cancelled() {
            open.unsure.add(ALL);
            return Err(Status::CANCELLED);
        }
        self.judge(file, results)
    }

    async fn resync<'a>(
        &'a self,
        open: &'a Open,
        next: Next<'a>,
        member: usize,
        file: &str,
    ) -> Outcome {
        let stands = self.stands(open, next, How::default()).await?;
        self.members.begin(member)?;
        let copied = self.resync_now(open, next, &stands, member).await;
        let ended = copied.and_then(|n| self.members.end(member).map(|()| n as usize));
        if let Err(status) = ended {
            self.members.put_out(member, status, file);
        }
        ended
    }

    async fn resync_now(
        &self,
        open: &Open,
        next: Next<'_>,
        stands: &[Stand<'_>],
        member: usize,
    ) -> Result<u64, Status> {
        let from = *self.members.active(false).first().ok_or(Status::IO_DEVICE_ERROR)?;
        let len = {
            let _lock = open.locks.lock_for(next, ALL, true).await?;
            let len = stands[from].ask(QueryInformation).await?.len();
            let there = stands[member].ask(QueryInformation).await?.len();
            if there != len {
                stands[member].ask(SetLength { len }).await?;
            }
            len
        };
        let copied = self.copy(open, next, stands, 0..len, from, member).await?;
        stands[member].ask(Flush { data_only: true }).await?;
        // Requests that have begun without it have ended.
        drop(open.locks.lock_for(next, ALL, true).await?);
        Ok(copied)
    }
}

/// That the file is open: the other members' files do not know that it has been closed.
fn expect_open(io: &Io<'_>) -> Result<(), Status> {
    if io.file().is_open() { Ok(()) } else { Err(Status::FILE_CLOSED) }
}

/// Reads into the request's own memory.
async fn read_into<'a>(stand: &Stand<'a>, io: &mut Io<'a>) -> Outcome {
    let (at, len) = (io.offset(), io.len());
    let mut done = 0;
    while done < len {
        let buffers: Vec<SharedMut> = io.share_mut(done..len)?;
        debug_assert!(buffers.iter().all(|buffer| buffer.capacity() > 0));
        let read = ReadVectored { buffers, offset: at + done as u64 };
        match stand.ask(read).await {
            Ok((0, _)) => break,
            Ok((n, _)) => done += n,
            Err(error) => return Err(error.status()),
        }
    }
    Ok(done)
}

impl Filter for Mirror {
    type Open = Open;

    fn name(&self) -> &str {
        "mirror"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[
            Major::Create,
            Major::Read,
            Major::Write,
            Major::Flush,
            Major::SetInformation,
            Major::FileSystemControl,
        ])
    }

    /// Zeroes are written, and what is durable is so on all members.
    fn limits(&self, below: Limits) -> Limits {
        let not = Capabilities::ZERO.with(Capabilities::WRITE_THROUGH);
        Limits { can: below.can.without(not), ..below }
    }

    fn class(&self) -> Class {
        Class::Transform
    }

    async fn read(&self, open: &Open, next: Next<'_>, io: Io<'_>) -> Outcome {
        expect_open(&io)?;
        if !io.file().is_seekable() || !matches!(io.minor(), minor::NONE | minor::VECTORED) {
            return Err(Status::NOT_SUPPORTED);
        }
        Box::pin(self.read_one(open, next, io)).await
    }

    async fn write(&self, open: &Open, next: Next<'_>, io: Io<'_>) -> Outcome {
        expect_open(&io)?;
        if !io.file().is_seekable() {
            return Err(Status::NOT_SUPPORTED);
        }
        Box::pin(self.write_all(open, next, io)).await
    }

    async fn flush(&self, open: &Open, next: Next<'_>, io: Io<'_>) -> Outcome {
        expect_open(&io)?;
        let (data_only, file) = (io.minor() == minor::DATA_ONLY, io.file().name());
        Box::pin(async {
            let stands = self.stands(open, next, How::default()).await?;
            self.settle(open, next, &stands, ALL).await?;
            self.change(open, next, &stands, file, || Flush { data_only }).await
        })
        .await
    }

    async fn other(&self, open: &Open, next: Next<'_>, mut io: Io<'_>) -> Outcome {
        if io.major() != Major::Create {
            expect_open(&io)?;
        }
        match (io.major(), io.minor()) {
            (Major::Create, _) => {
                self.stands(open, next, How::of(&io)).await?;
                next.forward(&mut io).await
            }
            (Major::SetInformation, minor::NONE) => {
                let (len, file) = (io.arg(), io.file().name());
                Box::pin(async {
                    let stands = self.stands(open, next, How::default()).await?;
                    let _lock = open.locks.lock_for(next, ALL, true).await?;
                    self.change(open, next, &stands, file, || SetLength { len }).await
                })
                .await
            }
            (Major::SetInformation, RESYNC) => {
                let resync = io.payload::<Resync>();
                let mine = resync.filter(|resync| Arc::ptr_eq(&resync.members, &self.members));
                match mine.map(|resync| resync.member) {
                    Some(member) => {
                        let file = io.file().name().to_owned();
                        Box::pin(self.resync(open, next, member, &file)).await
                    }
                    // Another mirror's, further down.
                    None => next.forward(&mut io).await,
                }
            }
            (Major::FileSystemControl, minor::ZERO_DATA) => {
                let zero = *io.payload::<ZeroData>().ok_or(Status::INVALID_PARAMETER)?;
                let file = io.file().name();
                Box::pin(async {
                    let stands = self.stands(open, next, How::default()).await?;
                    let _lock = open.locks.lock_for(next, ALL, true).await?;
                    self.change(open, next, &stands, file, || zero).await
                })
                .await
            }
            (Major::FileSystemControl, _) => Err(Status::NOT_SUPPORTED),
            _ => next.forward(&mut io).await,
        }
    }
}

impl Parameter for Policy {
    const EXPECTED: &'static str = "first or roundrobin";
    fn read(value: &str) -> Option<Policy> {
        match value {
            "first" => Some(Policy::First),
            "roundrobin" => Some(Policy::RoundRobin),
            _ => None,
        }
    }
}

/// `mirror` in stacks' texts.
pub(crate) const ENTRY: Entry = Entry {
    name: "mirror",
    about: "writes to another file or stack too, and reads from either: mirror(other=PATH)",
    make: |p| {
        let mirror = Mirror::of([Side::parameter(p, "other")?]);
        let (quorum, policy) = (p.or("quorum", 1u8)?, p.or("read", Policy::First)?);
        if !(1..=2).contains(&quorum) {
            return Err(p.error("quorum", "1 or 2"));
        }
        Ok(Made::Filter(mirror.quorum(usize::from(quorum)).policy(policy).into_driver()))
    },
};
