//! The schedule: which operation is tried when, what a cancel finds, and what the clock says.
//!
//! ```text
//!             submit                      it would have to wait
//!   (none) ──────────▶ Queued ───────────────────────────▶ Waiting
//!      │                 │ ▲                                  │
//!      │ on the spot     │ └──────────────────────────────────┘
//!      │                 │       something has changed there
//!      │                 │ tried, after its latency         (a cancel, from either)
//!      ▼                 ▼                                    │
//!   (result)           Done ◀────────────────────────────────┘
//!                        │ after some more: the completion
//!                        ▼
//!                     (none)
//! ```
//!
//! So an operation has an effect at one moment and is known to have had it at a later one, and a
//! cancel may come before, between, or too late.
//!
//! **Invariants.** An operation is in exactly one of these stages, and has exactly one entry of the
//! agenda that is not stale, except while it waits, when it has none. Every choice is drawn from one
//! seed, in an order that depends on nothing but the choices before and what the program does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::task::Waker;
use std::time::Duration;

use overlapped_iomgr::buf::Lease;
use overlapped_iomgr::hal::{Completion, Op, Token};

use super::buffers::Buffers;
use super::faults::{Fate, Fault, FaultPlan};
use super::numbers::Numbers;
use super::ops;
use super::perform::{Did, Machine};
use super::random::Random;
use super::trace::Trace;
use super::world::{Index, World};

enum Stage {
    Queued,
    Waiting(Index),
    Done(i32, Option<Lease>),
}

struct Flying {
    token: Token,
    op: Op,
    /// How many were submitted before.
    number: u64,
    stage: Stage,
    /// It has been asked to end, and goes on: it will not wait.
    cancelled: bool,
    sent: usize,
    /// Of its entry in the agenda.
    stamp: u64,
}

/// When something is due; a number of chance's for what is due at once; what.
type Entry = Reverse<(u64, u64, usize, u64)>;

pub(super) struct Engine {
    pub(super) machine: Machine,
    pub(super) trace: Trace,
    /// Operations that were submitted.
    pub(super) submitted: u64,
    /// Nothing can happen any more.
    pub(super) stuck: bool,
    pub(super) on_stuck: Option<Waker>,
    flying: Vec<Option<Flying>>,
    free: Vec<usize>,
    by_token: HashMap<u64, usize>,
    waiting: BTreeMap<Index, Vec<usize>>,
    agenda: BinaryHeap<Entry>,
    stamps: u64,
}

/// What came of the next thing on the agenda.
pub(super) enum Step {
    /// Nothing is due yet.
    Nothing,
    /// Something happened that nobody hears of.
    Silent,
    Completed(Completion),
    /// A call is to be made, outside; then [`Engine::called`].
    Call(usize, unsafe fn(*mut std::ffi::c_void) -> i32, *mut std::ffi::c_void),
}

impl Engine {
    pub(super) fn new(seed: u64, plan: FaultPlan, simulation: u32, keep_trace: bool) -> Engine {
        let mut random = Random::new(seed);
        let world = World::new(Random::new(random.next()));
        let fate = Fate { plan, random, counts: Default::default() };
        let numbers = Numbers::of(simulation);
        Engine {
            machine: Machine { world, fate, numbers, buffers: Buffers::new() },
            trace: Trace::new(keep_trace),
            submitted: 0,
            stuck: false,
            on_stuck: None,
            flying: Vec::new(),
            free: Vec::new(),
            by_token: HashMap::new(),
            waiting: BTreeMap::new(),
            agenda: BinaryHeap::new(),
            stamps: 0,
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.machine.world.now
    }

    pub(super) fn in_flight(&self) -> usize {
        self.by_token.len()
    }

    fn note(&mut self, what: &str, words: &[u64]) {
        self.trace.note(self.machine.world.now, what, words);
    }

    /// A descriptor as the trace has it: the same whichever simulation of the process this is.
    fn traced(&self, fd: i32) -> u64 {
        self.machine.numbers.index(fd).map_or(u64::MAX, |index| index as u64)
    }

    /// Starts an operation; its result, if it is finished on the spot.
    ///
    /// # Safety
    /// As `Hal::submit`.
    pub(super) unsafe fn submit(&mut self, token: Token, op: Op, alone: bool) -> Option<i32> {
        let number = self.submitted;
        self.submitted += 1;
        let words = [number, self.traced(ops::descriptor(&op)), ops::extent(&op)];
        self.note(ops::name(&op), &words);
        let mut sent = 0;
        if ops::may_be_done_at_once(&op, alone) && !self.machine.fate.strikes(Fault::Pending) {
            // SAFETY: the caller's; its completion is this result, or comes later.
            match unsafe { self.machine.attempt(&op, &mut sent) } {
                Ok(did) => return Some(self.at_once(number, did)),
                Err(libc::EAGAIN) if !ops::never_waits(&op) => self.settle(),
                Err(errno) => return Some(self.at_once(number, Did::plain(-errno))),
            }
        }
        let flying =
            Flying { token, op, number, stage: Stage::Queued, cancelled: false, sent, stamp: 0 };
        let key = match self.free.pop() {
            Some(key) => {
                self.flying[key] = Some(flying);
                key
            }
            None => {
                self.flying.push(Some(flying));
                self.flying.len() - 1
            }
        };
        self.by_token.insert(token.get(), key);
        self.queue(key);
        None
    }

    fn at_once(&mut self, number: u64, did: Did) -> i32 {
        self.settle();
        self.note("at once", &[number, self.traced_result(did.result), did.digest]);
        did.result
    }

    /// Descriptors are named as in [`Engine::traced`].
    fn traced_result(&self, result: i32) -> u64 {
        match self.machine.numbers.index(result) {
            Ok(index) => index as u64,
            Err(_) => i64::from(result).cast_unsigned(),
        }
    }

    fn flying(&mut self, key: usize) -> &mut Flying {
        self.flying[key].as_mut().expect("an operation is there until it is delivered")
    }

    /// Puts an operation on the agenda.
    fn put(&mut self, key: usize, after: u64) {
        self.stamps += 1;
        let (stamp, due) = (self.stamps, self.now() + after);
        let chance = self.machine.fate.random.next();
        self.flying(key).stamp = stamp;
        self.agenda.push(Reverse((due, chance, key, stamp)));
    }

    /// It is to be tried after its latency.
    fn queue(&mut self, key: usize) {
        let network = ops::is_of_network(&self.flying(key).op);
        let latency = self.machine.fate.latency(network);
        self.flying(key).stage = Stage::Queued;
        self.put(key, latency);
    }

    /// It has its result, which is delivered a little later.
    fn finish(&mut self, key: usize, did: Did) {
        let number = self.flying(key).number;
        self.note("did", &[number, self.traced_result(did.result), did.digest]);
        self.flying(key).stage = Stage::Done(did.result, did.lease);
        let network = ops::is_of_network(&self.flying(key).op);
        let later = self.machine.fate.latency(network) / 4;
        self.put(key, later);
    }

    /// Has those tried again that wait for what has changed.
    pub(super) fn settle(&mut self) {
        while let Some(index) = self.machine.world.changed.pop() {
            for key in self.waiting.remove(&index).unwrap_or_default() {
                self.queue(key);
            }
        }
    }

    /// When the next thing is due.
    pub(super) fn next_due(&mut self) -> Option<u64> {
        while let Some(&Reverse((due, _, key, stamp))) = self.agenda.peek() {
            if self.flying[key].as_ref().is_some_and(|flying| flying.stamp == stamp) {
                return Some(due);
            }
            self.agenda.pop();
        }
        None
    }

    /// Does the next thing that is due.
    pub(super) fn step(&mut self) -> Step {
        if self.next_due().is_none_or(|due| due > self.now()) {
            return Step::Nothing;
        }
        let Some(Reverse((_, _, key, _))) = self.agenda.pop() else { return Step::Nothing };
        // Nothing of it is on the agenda now.
        self.flying(key).stamp = 0;
        if let Stage::Done(result, lease) = &mut self.flying(key).stage {
            let (result, lease) = (*result, lease.take());
            let Some(flying) = self.flying[key].take() else { return Step::Nothing };
            self.free.push(key);
            self.by_token.remove(&flying.token.get());
            self.note("done", &[flying.number]);
            return Step::Completed(Completion { token: flying.token, result, lease });
        }
        let (op, mut sent) = (self.flying(key).op, self.flying(key).sent);
        if let Op::Call { run, arg } = op {
            if self.machine.fate.strikes(Fault::IoError) {
                self.finish(key, Did::plain(-libc::EIO));
                return Step::Silent;
            }
            return Step::Call(key, run, arg);
        }
        // SAFETY: it is in flight: its completion has not been delivered.
        let tried = unsafe { self.machine.attempt(&op, &mut sent) };
        self.flying(key).sent = sent;
        match tried {
            Ok(did) => self.finish(key, did),
            Err(libc::EAGAIN) if ops::never_waits(&op) => {
                self.finish(key, Did::plain(-libc::EAGAIN));
            }
            Err(libc::EAGAIN) if self.flying(key).cancelled => self.give_up(key),
            Err(libc::EAGAIN) => match self.machine.numbers.index(ops::descriptor(&op)) {
                Ok(index) => {
                    self.flying(key).stage = Stage::Waiting(index);
                    self.waiting.entry(index).or_default().push(key);
                }
                Err(errno) => self.finish(key, Did::plain(-errno)),
            },
            Err(errno) => self.finish(key, Did::plain(-errno)),
        }
        self.settle();
        Step::Silent
    }

    /// A call has been made.
    pub(super) fn called(&mut self, key: usize, result: i32) {
        self.finish(key, Did::plain(result));
        self.settle();
    }

    /// It ends without going on, as it was asked to.
    fn give_up(&mut self, key: usize) {
        let sent = self.flying(key).sent;
        let result =
            if sent > 0 { i32::try_from(sent).unwrap_or(i32::MAX) } else { -libc::ECANCELED };
        self.machine.fate.counts.count(Fault::CancelWon);
        self.finish(key, Did::plain(result));
    }

    pub(super) fn cancel(&mut self, token: Token) {
        let Some(&key) = self.by_token.get(&token.get()) else { return };
        let flying = self.flying(key);
        let (number, op) = (flying.number, flying.op);
        match flying.stage {
            Stage::Done(..) => {
                self.machine.fate.counts.count(Fault::CancelLate);
                self.note("cancelled late", &[number]);
            }
            Stage::Waiting(index) => {
                self.note("cancelled", &[number]);
                if let Some(waiting) = self.waiting.get_mut(&index) {
                    waiting.retain(|&other| other != key);
                }
                self.give_up(key);
            }
            Stage::Queued => {
                let goes_on = ops::must_happen(&op) || self.machine.fate.strikes(Fault::CancelLost);
                self.note("cancelled", &[number, u64::from(goes_on)]);
                if goes_on {
                    self.flying(key).cancelled = true;
                } else if ops::is_of_files(&op)
                    && self.machine.fate.strikes(Fault::CancelInterrupted)
                {
                    self.finish(key, Did::plain(-libc::EINTR));
                } else {
                    self.give_up(key);
                }
            }
        }
    }

    /// Moves the world's time on; by how much.
    pub(super) fn advance_to(&mut self, time: u64) -> Duration {
        let by = time.saturating_sub(self.now());
        self.machine.world.now += by;
        Duration::from_nanos(by)
    }
}
