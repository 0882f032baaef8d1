//! What a mirror knows of its members, whichever of its files is asked.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use overlapped_iomgr::{Done, FileObject, Major, Operation, Request, Setup, Status, minor};

/// Which members are read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// The first that is in: the stack below, as long as it is.
    #[default]
    First,
    /// One after the other.
    RoundRobin,
}

/// Whether a member takes part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It has the data.
    In,
    /// It has failed a write that others have done: it is left alone.
    Out,
    /// It is being made the same again: it is written to, and not read.
    Resyncing,
}

/// A member of a [`Mirror`](super::Mirror), as it was when it was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Member {
    /// Whether it takes part.
    pub state: State,
    /// Why it is out, if it is.
    pub status: Option<Status>,
    /// Reads that it has answered.
    pub reads: u64,
    /// Reads that it has failed, and another has answered.
    pub masked: u64,
    /// Those after which the good data was written to it.
    pub repaired: u64,
}

#[derive(Default)]
struct Record {
    state: AtomicU8,
    reads: AtomicU64,
    masked: AtomicU64,
    repaired: AtomicU64,
    status: Mutex<Option<Status>>,
}

/// The members, by number: 0 is the stack below.
pub(super) struct Members {
    records: Vec<Record>,
    /// Held while states change, so that somebody stays in.
    changing: Mutex<()>,
    turn: AtomicUsize,
}

const STATES: [State; 3] = [State::In, State::Out, State::Resyncing];

impl Members {
    pub(super) fn new(members: usize) -> Members {
        let records = (0..members).map(|_| Record::default()).collect();
        Members { records, changing: Mutex::new(()), turn: AtomicUsize::new(0) }
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn state(&self, member: usize) -> State {
        STATES[usize::from(self.records[member].state.load(Ordering::SeqCst)).min(2)]
    }

    fn set(&self, member: usize, state: State) {
        self.records[member].state.store(state as u8, Ordering::SeqCst);
    }

    /// The members that are in, and, if `all`, those that are being resynced.
    pub(super) fn active(&self, all: bool) -> Vec<usize> {
        let takes_part = |member: &usize| match self.state(*member) {
            State::In => true,
            State::Resyncing => all,
            State::Out => false,
        };
        (0..self.len()).filter(takes_part).collect()
    }

    /// Those that are in, in the order in which to read from them.
    pub(super) fn to_read(&self, policy: Policy) -> Vec<usize> {
        let mut order = self.active(false);
        if policy == Policy::RoundRobin && !order.is_empty() {
            let by = self.turn.fetch_add(1, Ordering::Relaxed) % order.len();
            order.rotate_left(by);
        }
        order
    }

    pub(super) fn has_read(&self, member: usize) {
        self.records[member].reads.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn has_failed(&self, member: usize) {
        self.records[member].masked.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_repaired(&self, member: usize) {
        self.records[member].repaired.fetch_add(1, Ordering::Relaxed);
    }

    /// Marks a member out; unless it is the last one in.
    pub(super) fn put_out(&self, member: usize, status: Status, file: &str) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state(member);
        if state == State::Out || state == State::In && self.active(false).len() == 1 {
            return;
        }
        self.set(member, State::Out);
        let record = &self.records[member];
        *record.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
        tracing::error!(file, member, %status, "a member of a mirror is out");
    }

    /// A resync begins.
    ///
    /// # Errors
    /// The member is not out.
    pub(super) fn begin(&self, member: usize) -> Result<(), Status> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if member >= self.len() || self.state(member) != State::Out {
            return Err(Status::INVALID_PARAMETER);
        }
        self.set(member, State::Resyncing);
        Ok(())
    }

    /// A resync has ended: it is in, unless a write has failed meanwhile.
    pub(super) fn end(&self, member: usize) -> Result<(), Status> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut status = self.records[member].status.lock().unwrap_or_else(PoisonError::into_inner);
        if self.state(member) != State::Resyncing {
            return Err(status.unwrap_or(Status::DATA_ERROR));
        }
        *status = None;
        self.set(member, State::In);
        Ok(())
    }
}

/// A view of a [`Mirror`](super::Mirror) that is in a stack.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Members>);

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.members()).finish()
    }
}

impl Handle {
    /// The members, the stack below first.
    pub fn members(&self) -> Vec<Member> {
        let member = |(i, record): (usize, &Record)| Member {
            state: self.0.state(i),
            status: *record.status.lock().unwrap_or_else(PoisonError::into_inner),
            reads: record.reads.load(Ordering::Relaxed),
            masked: record.masked.load(Ordering::Relaxed),
            repaired: record.repaired.load(Ordering::Relaxed),
        };
        self.0.records.iter().enumerate().map(member).collect()
    }

    /// Makes a member that is out the same as the others again, and takes it in. `file`: one that the
    /// mirror is in the stack of. Reads and writes go on meanwhile. Yields the bytes copied.
    ///
    /// Dropped before it is done, the member stays out.
    ///
    /// # Errors
    /// [`Status::INVALID_PARAMETER`]: the member is not out, or no mirror is in the file's stack; what
    /// reading or writing failed with: the member is out then.
    pub fn resync<'f>(&self, file: &'f FileObject, member: usize) -> Request<'f, Resync> {
        Request::new(file, Resync { member, members: self.0.clone() })
    }
}

/// Makes a member of a mirror the same as the others; see [`Handle::resync`].
pub struct Resync {
    pub(super) member: usize,
    pub(super) members: Arc<Members>,
}

impl fmt::Debug for Resync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resync").field("member", &self.member).finish_non_exhaustive()
    }
}

/// Carries no data of the client's, so that other filters let it pass.
pub(super) const RESYNC: u8 = minor::DRIVER_DEFINED + 0x4D;

impl Operation for Resync {
    type Output = Result<u64, Status>;

    fn major(&self) -> Major {
        Major::SetInformation
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.minor(RESYNC).payload(self);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        if done.status().is_error() { Err(done.status()) } else { Ok(done.info() as u64) }
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status)
    }
}
