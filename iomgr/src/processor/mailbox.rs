//! A mailbox, and the sleep of who reads it.
//!
//! Two kinds of mail: *letters*, linked through themselves, so that sending one allocates nothing;
//! and *work*, in a list behind a lock, for what is rare.
//!
//! **Invariant.** Mail sent before the mailbox closes is read by the owner; what is sent afterwards
//! comes back. **Sleep:** the owner sets `sleeping`, then looks at the mailbox again; a sender
//! sends, then looks at `sleeping`. Both sequentially consistent, so one of them sees the other; and
//! of several senders one wakes.
//!
//! Explored by loom in `tests/loom_mail.rs` of this crate.

#[cfg(loom)]
use crate::loomed::{AtomicBool, AtomicPtr, Ordering};
#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
use std::ptr::{self, NonNull};
use std::sync::PoisonError;
#[cfg(not(loom))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicPtr, Ordering},
};

/// What can be linked.
///
/// # Safety
/// The link keeps what was written to it, and nobody else uses it. Addresses are even.
pub(crate) unsafe trait Letter {
    /// Writes the link.
    ///
    /// # Safety
    /// The letter is alive, and the caller's.
    unsafe fn link(this: NonNull<Self>, next: *mut Self);

    /// The link.
    ///
    /// # Safety
    /// As [`Letter::link`].
    unsafe fn next(this: NonNull<Self>) -> *mut Self;
}

struct WorkList<W> {
    list: Vec<W>,
    closed: bool,
}

/// See the module's header.
pub(crate) struct Mailbox<L, W> {
    /// The newest letter.
    letters: AtomicPtr<L>,
    has_work: AtomicBool,
    work: Mutex<WorkList<W>>,
    sleeping: AtomicBool,
}

/// The value of `letters` after closing; never a letter's address, which is even.
fn closed<L>() -> *mut L {
    ptr::without_provenance_mut(1)
}

impl<L: Letter, W> Mailbox<L, W> {
    pub(crate) fn new() -> Mailbox<L, W> {
        Mailbox {
            letters: AtomicPtr::new(ptr::null_mut()),
            has_work: AtomicBool::new(false),
            work: Mutex::new(WorkList { list: Vec::new(), closed: false }),
            sleeping: AtomicBool::new(false),
        }
    }

    fn work(&self) -> MutexGuard<'_, WorkList<W>> {
        // Nothing in here panics while it holds the lock.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Anybody's side. After each: `Mailbox::wakes`.

    /// Sends a letter. `false`: the mailbox is closed, and the letter still the caller's.
    ///
    /// # Safety
    /// The letter is the caller's, and stays alive until it is read.
    pub(crate) unsafe fn push(&self, letter: NonNull<L>) -> bool {
        // Acquire, for a closed mailbox: what the owner has done at the end to the letter's memory
        // happened before. No fence does it: the thread sanitizer knows none.
        let mut head = self.letters.load(Ordering::Acquire);
        loop {
            if head == closed() {
                return false;
            }
            // SAFETY: the caller's, until it is on the list.
            unsafe { L::link(letter, head) };
            match self.letters.compare_exchange_weak(
                head,
                letter.as_ptr(),
                Ordering::SeqCst,
                Ordering::Acquire,
            ) {
                Ok(_) => return true,
                Err(now) => head = now,
            }
        }
    }

    /// Sends work. Gives it back when the mailbox is closed.
    pub(crate) fn send(&self, work: W) -> Result<(), W> {
        let mut inner = self.work();
        if inner.closed {
            return Err(work);
        }
        inner.list.push(work);
        self.has_work.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Whether the owner sleeps, and the caller is the one to wake it.
    #[inline]
    pub(crate) fn wakes(&self) -> bool {
        self.sleeping.load(Ordering::SeqCst) && self.sleeping.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.letters.load(Ordering::SeqCst).is_null() && !self.has_work.load(Ordering::SeqCst)
    }

    // The owner's side.

    /// Announces a sleep; `false`: there is mail, do not.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        if self.is_empty() {
            return true;
        }
        self.sleeping.store(false, Ordering::SeqCst);
        false
    }

    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Whether there is mail; what comes this moment may be overlooked.
    #[inline]
    pub(crate) fn seems_filled(&self) -> bool {
        self.has_letters() || self.has_work.load(Ordering::Relaxed)
    }

    #[inline]
    fn has_letters(&self) -> bool {
        let letters = self.letters.load(Ordering::Relaxed);
        !letters.is_null() && letters != closed()
    }

    /// Takes all letters there are, oldest first. `close`: and refuses any from now on.
    pub(crate) fn take_letters(&self, close: bool) -> Letters<L> {
        if !close && !self.has_letters() {
            // A closed one stays so.
            return Letters(ptr::null_mut());
        }
        let end = if close { closed() } else { ptr::null_mut() };
        // Acquire: the links, and what the senders did to the letters; Release: see `push`.
        let mut letter = self.letters.swap(end, Ordering::AcqRel);
        if letter == closed() {
            letter = ptr::null_mut();
        }
        // The list is newest first; mail is read in the order in which it was sent.
        let mut oldest = ptr::null_mut();
        while let Some(this) = NonNull::new(letter) {
            // SAFETY: on the list we have just taken, so alive, and ours.
            unsafe {
                letter = L::next(this);
                L::link(this, oldest);
            }
            oldest = this.as_ptr();
        }
        Letters(oldest)
    }

    /// Takes all work there is. `close`: and refuses any from now on.
    pub(crate) fn take_work(&self, close: bool) -> Vec<W> {
        if !close && !self.has_work.load(Ordering::Relaxed) {
            return Vec::new();
        }
        // Before the list is taken: what comes in between is found in the next turn, or now.
        self.has_work.store(false, Ordering::SeqCst);
        let mut inner = self.work();
        inner.closed |= close;
        std::mem::take(&mut inner.list)
    }
}

/// Letters taken out. Dropping them forgets them.
pub(crate) struct Letters<L>(*mut L);

impl<L: Letter> Iterator for Letters<L> {
    type Item = NonNull<L>;

    fn next(&mut self) -> Option<NonNull<L>> {
        let this = NonNull::new(self.0)?;
        // SAFETY: ours, and alive until it is given out.
        self.0 = unsafe { L::next(this) };
        Some(this)
    }
}
