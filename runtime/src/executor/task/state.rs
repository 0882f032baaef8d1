//! The task's one atomic word, and the protocol that runs over it.
//!
//! ```text
//!              wake                                complete
//!      idle ────────▶ ACTIVE: in a queue ──▶ polled ───────▶ COMPLETE
//!        ▲              ▲                       │ pause
//!        └──────────────┼──────── not woken ────┤
//!            (new) ─────┴─── woken, or yields ──┘
//! ```
//!
//! | bit | set by | meaning |
//! |---|---|---|
//! | `ACTIVE` | spawn, wakers, abort | in a queue, or its setter is about to queue it, or its future is being polled or dropped |
//! | `WOKEN` | wakers, abort | woken since it became active: it is to be polled once more |
//! | `COMPLETE` | runner, once | the future is gone, the output is there |
//! | `CLOSED` | abort, the runtime's end | the next run drops the future instead of polling it |
//! | `JOIN` | spawn | the handle exists: the output is its business |
//! | `JOIN_WAKER` | handle | the handle's waker is written, and is the runner's once it is complete |
//! | the rest | | references |
//!
//! Who makes an idle task active queues it, and nobody else does until it is idle again. A turn begins
//! with a look at the word, and changes it only if the task was woken since it became active: a wake that
//! the look does not see yet is one during the poll. A pause that finds it woken leaves `WOKEN` alone:
//! that is not idle either, and the runner queues it.
//!
//! **References.** One is the executor's, until the task is complete (and off its worker's list):
//! it is what queues hold. One is the handle's, one each waker's. Who takes the last frees the
//! memory; by then future and output are gone. The protocol is checked with loom in
//! `models/tests/loom.rs` of this crate.

#[cfg(loom)]
use loom::sync::atomic::{AtomicUsize, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicUsize, Ordering};

const ACTIVE: usize = 1;
const WOKEN: usize = 1 << 1;
const COMPLETE: usize = 1 << 2;
const CLOSED: usize = 1 << 3;
const JOIN: usize = 1 << 4;
const JOIN_WAKER: usize = 1 << 5;
const REF: usize = 1 << 6;

/// The word. See the module's header.
pub struct State(AtomicUsize);

/// Neither queued nor polled, and not complete.
#[inline]
fn is_idle(word: usize) -> bool {
    word & (ACTIVE | WOKEN | COMPLETE) == 0
}

/// The word of a task that is woken.
#[inline]
fn woken(word: usize) -> usize {
    word | if is_idle(word) { ACTIVE } else { WOKEN }
}

/// What a waker that is used up must do.
#[derive(Debug, PartialEq, Eq)]
pub enum Woken {
    /// Queue the task.
    Queue,
    /// Nothing.
    Nothing,
    /// Free the task.
    Free,
}

/// What the runner of a task that has just become complete must do.
#[derive(Debug, PartialEq, Eq)]
pub enum Completed {
    /// Nothing: the handle takes the output, and the executor's reference is given up.
    Left,
    /// Take the handle's waker and wake it, then give the executor's reference up.
    Wake,
    /// Drop the output, which nobody takes, then give the executor's reference up.
    Discard,
}

/// What a handle that is dropped must do.
#[derive(Debug, PartialEq, Eq)]
pub enum Detached {
    /// Nothing: its reference is given up.
    Left,
    /// Drop the waker it wrote, then give its reference up.
    DropWaker,
    /// Drop the output, then give its reference up.
    DropOutput,
}

impl State {
    /// A new task's word: about to be queued, with a handle.
    pub fn new() -> State {
        State(AtomicUsize::new(ACTIVE | JOIN | (2 * REF)))
    }

    /// Anyone with a reference: whether the future is gone and the output there.
    pub fn is_complete(&self) -> bool {
        self.0.load(Ordering::Acquire) & COMPLETE != 0
    }

    // The runner.

    /// Taken off a queue. `true`: drop the future instead of polling it.
    #[inline]
    pub fn start(&self) -> bool {
        // Acquire: what wakers wrote before they woke is seen by the poll.
        let now = self.0.load(Ordering::Acquire);
        let now = if now & (ACTIVE | WOKEN) == ACTIVE { now } else { self.start_woken(now) };
        now & CLOSED != 0
    }

    #[inline]
    fn start_woken(&self, now: usize) -> usize {
        debug_assert_eq!(now & (WOKEN | COMPLETE), WOKEN);
        // Nobody but us changes whether it is `ACTIVE` already.
        if now & ACTIVE != 0 {
            self.0.fetch_sub(WOKEN, Ordering::AcqRel)
        } else {
            self.0.fetch_add(ACTIVE.wrapping_sub(WOKEN), Ordering::AcqRel)
        }
    }

    /// The poll was pending. `true`: it has been woken meanwhile, queue it again. Otherwise the
    /// task is not the runner's any more.
    #[inline]
    pub fn pause(&self) -> bool {
        self.0.fetch_sub(ACTIVE, Ordering::AcqRel) & WOKEN != 0
    }

    /// The future is gone and the output written. `keeps`: the executor's reference is needed
    /// further, so never [`Completed::Left`].
    #[inline]
    pub fn complete(&self, keeps: bool) -> Completed {
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            let quick = !keeps && now & (JOIN | JOIN_WAKER) == JOIN;
            // The handle's reference stays, so this is never the last one.
            let next = ((now | COMPLETE) & !ACTIVE) - if quick { REF } else { 0 };
            match self.0.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) if quick => return Completed::Left,
                Ok(before) if before & JOIN_WAKER != 0 => return Completed::Wake,
                Ok(before) if before & JOIN == 0 => return Completed::Discard,
                // The executor's reference is still needed; the output is the handle's.
                Ok(_) => return Completed::Left,
                Err(other) => now = other,
            }
        }
    }

    // Wakers, abort, the runtime's end.

    /// Wakes. `true`: queue the task.
    #[inline]
    pub fn wake(&self) -> bool {
        is_idle(self.change(woken))
    }

    /// Wakes and gives the waker's reference up.
    #[inline]
    pub fn wake_and_leave(&self) -> Woken {
        let before = self.change(|now| woken(now) - REF);
        if is_idle(before) {
            // Not complete, so the executor's reference stays, and only we may queue it.
            Woken::Queue
        } else if before < 2 * REF {
            Woken::Free
        } else {
            Woken::Nothing
        }
    }

    /// Asks for the future's end. `true`: queue the task.
    pub fn close(&self) -> bool {
        is_idle(self.change(|now| woken(now) | CLOSED))
    }

    /// Returns what the word was before.
    #[inline]
    fn change(&self, to: impl Fn(usize) -> usize) -> usize {
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            // Also where nothing changes: the coming poll must see what we did before.
            match self.0.compare_exchange_weak(now, to(now), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return now,
                Err(other) => now = other,
            }
        }
    }

    // The handle.

    /// The handle has written its waker. `false`: too late, the task is complete, and the waker is
    /// the handle's again.
    pub fn offer_waker(&self) -> bool {
        let offered = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
            (now & COMPLETE == 0).then_some(now | JOIN_WAKER)
        });
        offered.is_ok()
    }

    /// The handle wants its waker back to change it. `false`: too late, the task is complete, and
    /// the runner looks at the waker.
    pub fn take_waker_back(&self) -> bool {
        let taken = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
            (now & COMPLETE == 0).then_some(now & !JOIN_WAKER)
        });
        taken.is_ok()
    }

    /// The handle: whether its waker is offered. Only the handle changes that.
    pub fn has_waker(&self) -> bool {
        self.0.load(Ordering::Relaxed) & JOIN_WAKER != 0
    }

    /// The handle goes without having taken the output.
    pub fn detach(&self) -> Detached {
        let mut now = self.0.load(Ordering::Acquire);
        loop {
            if now & COMPLETE != 0 {
                return Detached::DropOutput;
            }
            let had_waker = now & JOIN_WAKER != 0;
            // Not complete, so the executor's reference stays: this is never the last one.
            let next = (now & !(JOIN | JOIN_WAKER)) - if had_waker { 0 } else { REF };
            match self.0.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) if had_waker => return Detached::DropWaker,
                Ok(_) => return Detached::Left,
                Err(other) => now = other,
            }
        }
    }

    // References.

    /// Another waker.
    #[inline]
    pub fn refer(&self) {
        self.0.fetch_add(REF, Ordering::Relaxed);
    }

    /// Gives a reference up. `true`: it was the last one, free the task.
    #[inline]
    pub fn leave(&self) -> bool {
        // Nobody can make another reference out of ours.
        self.0.load(Ordering::Acquire) & !(REF - 1) == REF
            || self.0.fetch_sub(REF, Ordering::AcqRel) & !(REF - 1) == REF
    }
}
