//! The IRP's one atomic word, and the protocol that runs over it.
//!
//! An IRP has two owners at a time: the *driver side* (whoever holds the token, or the hardware)
//! and the *requester* (a future, a packet, nobody). All completion work happens on the thread of
//! the processor that owns the IRP, the **owner**; the requester may sit on any thread. The word
//! says which of the two is finished, and carries mail for the owner:
//!
//! ```text
//!            issue                    complete [owner]              release
//!  (free) ─────────▶ in flight ─────────────────────▶ DONE ───────────────────────▶ (free)
//!                        │ release_local [owner]        ▲
//!                        │ release_remote               │ complete [owner], then the owner frees
//!                        └──────────▶ RELEASED ─────────┘
//! ```
//!
//! | bit | set by | meaning |
//! |---|---|---|
//! | `DONE` | owner, once (X-2's claim) | result and payload belong to the requester |
//! | `RELEASED` | requester, once | the requester is gone; who finds both bits frees the slot |
//! | `WAKER` | requester elsewhere | it is writing the waker; the owner leaves it alone |
//! | `MAIL` | anyone but the owner | the slot is on the owner's mailbox list, exactly once |
//! | `FINISH`, `PARTING` | same | what the mail says: token completed elsewhere; requester left |
//!
//! **Why the slot is never freed too early.** Only the owner frees. It does so when it sets `DONE`
//! and finds `RELEASED` without `MAIL`, when it reads `PARTING` mail of a slot that is `DONE`, or
//! when the requester on the owner's own thread lets go of a `DONE` slot. `MAIL` keeps a slot alive
//! until it has left the list. These are checked with loom in `tests/loom.rs` of this crate.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, Ordering};

const DONE: u32 = 1;
const RELEASED: u32 = 1 << 1;
const WAKER: u32 = 1 << 2;
const MAIL: u32 = 1 << 3;
const FINISH: u32 = 1 << 4;
const PARTING: u32 = 1 << 5;

/// The word. See the module's header.
pub struct State(AtomicU32);

/// What the owner must do after [`State::complete`].
#[derive(Debug, PartialEq, Eq)]
pub enum Completed {
    /// Take the waker (or queue the packet) and tell the requester.
    Notify,
    /// The requester is at the word this moment and will see `DONE` by itself.
    Noticed,
    /// Nobody is interested any more: dispose of the result and free the slot.
    Free,
    /// As `Free`, but the slot is still on the mailbox list: its mail will free it.
    FreeByMail,
}

/// What the owner's mail says of one slot.
#[derive(Debug, PartialEq, Eq)]
pub struct Mail {
    /// The driver side finished its token on another thread.
    pub finish: bool,
    /// The requester left on another thread.
    pub parting: bool,
    /// The slot had been completed before this mail was read.
    pub done: bool,
}

impl State {
    /// A free slot's word.
    #[expect(
        clippy::new_without_default,
        reason = "loom's atomics have no const state to default to"
    )]
    pub fn new() -> State {
        State(AtomicU32::new(0))
    }

    /// Makes the word new for a new IRP; the slot is on no list and nobody else knows it.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Owner: the result is final. Called exactly once an IRP.
    pub fn complete(&self) -> Completed {
        // Release publishes result and payload to a requester elsewhere; Acquire takes over the
        // waker it may have written.
        let before = self.0.fetch_or(DONE, Ordering::AcqRel);
        debug_assert_eq!(before & DONE, 0, "an IRP is completed once (I-22)");
        if before & RELEASED != 0 {
            if before & MAIL != 0 { Completed::FreeByMail } else { Completed::Free }
        } else if before & WAKER != 0 {
            Completed::Noticed
        } else {
            Completed::Notify
        }
    }

    /// Owner: completion inside the issuing call (I-27): nobody else can know the slot yet, so no
    /// read-modify-write is needed.
    pub fn complete_inline(&self) {
        self.0.store(DONE, Ordering::Relaxed);
    }

    /// Anyone: whether the result may be read.
    pub fn is_done(&self) -> bool {
        self.0.load(Ordering::Acquire) & DONE != 0
    }

    /// Owner: whether the requester has left.
    pub fn is_released(&self) -> bool {
        self.0.load(Ordering::Relaxed) & RELEASED != 0
    }

    /// Requester, elsewhere: asks to write the waker. `false`: too late, it is done.
    pub fn lock_waker(&self) -> bool {
        let mut now = self.0.load(Ordering::Acquire);
        loop {
            if now & DONE != 0 {
                return false;
            }
            match self.0.compare_exchange_weak(
                now,
                now | WAKER,
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
    }

    /// Requester, elsewhere: the waker is written. `true`: it was completed meanwhile, and no wake
    /// will come.
    pub fn unlock_waker(&self) -> bool {
        self.0.fetch_and(!WAKER, Ordering::AcqRel) & DONE != 0
    }

    /// Requester on the owner's thread lets go. `true`: it was done, free the slot now.
    pub fn release_local(&self) -> bool {
        if self.0.load(Ordering::Relaxed) & DONE != 0 {
            // The driver side is finished and nobody sends mail for a finished slot but the
            // requester, which is here.
            return true;
        }
        // Relaxed would do between requester and owner (one thread); mail may be on its way.
        self.0.fetch_or(RELEASED, Ordering::AcqRel);
        false
    }

    /// Requester elsewhere lets go. If the result is there, `dispose` runs first, while the slot is
    /// still the requester's. `true`: push the slot on the owner's mailbox list.
    pub fn release_remote(&self, dispose: impl FnOnce()) -> bool {
        let mut dispose = Some(dispose);
        let mut now = self.0.load(Ordering::Acquire);
        loop {
            if now & DONE != 0
                && let Some(dispose) = dispose.take()
            {
                dispose();
            }
            match self.0.compare_exchange_weak(
                now,
                now | RELEASED | MAIL | PARTING,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return now & MAIL == 0,
                Err(other) => now = other,
            }
        }
    }

    /// Driver side, elsewhere: the token is finished and the status written. `true`: push the slot
    /// on the owner's mailbox list.
    pub fn finish_remote(&self) -> bool {
        self.0.fetch_or(MAIL | FINISH, Ordering::AcqRel) & MAIL == 0
    }

    /// Owner: the slot has just been taken off the mailbox list; reads and clears its mail.
    pub fn take_mail(&self) -> Mail {
        let before = self.0.fetch_and(!(MAIL | FINISH | PARTING), Ordering::AcqRel);
        debug_assert_ne!(before & MAIL, 0, "a slot on the list has mail");
        Mail {
            finish: before & FINISH != 0,
            parting: before & PARTING != 0,
            done: before & DONE != 0,
        }
    }
}
