//! The protocol of the IRP's state word (`irp::state`), explored by loom: the slot is freed exactly
//! once, nobody touches it afterwards, and the requester is told.
//!
//! The models run the real [`State`] on a slot and a mailbox of their own, which follow
//! `irp::travel` and `processor::remote` line by line; loom's cells find any conflicting access.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p overlapped-iomgr --test loom --release`

#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

use overlapped_iomgr::irp::state::{Completed, State};

/// Who disposed of the result, or used it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    Unused,
    Taken,
    Disposed,
}

/// A slot: the real word, and cells for the fields that it hands over.
struct Slot {
    state: State,
    /// `Slot::result` and `Slot::payload`.
    result: UnsafeCell<u32>,
    fate: UnsafeCell<Fate>,
    /// `Slot::route`: whether a waker is there.
    waker: UnsafeCell<bool>,
    /// Anything at all: written by the free, read by whoever still believes in the slot.
    memory: UnsafeCell<bool>,
    frees: AtomicUsize,
    wakes: AtomicUsize,
    /// The mailbox, whose order does not matter with one slot: how often the slot is on it.
    mail: Mutex<usize>,
}

impl Slot {
    fn new() -> Arc<Slot> {
        Arc::new(Slot {
            state: State::new(),
            result: UnsafeCell::new(0),
            fate: UnsafeCell::new(Fate::Unused),
            waker: UnsafeCell::new(false),
            memory: UnsafeCell::new(true),
            frees: AtomicUsize::new(0),
            wakes: AtomicUsize::new(0),
            mail: Mutex::new(0),
        })
    }

    /// Any access: conflicts with `free` unless ordered before it.
    fn touch(&self) {
        self.memory.with(|m| {
            // SAFETY: loom reports the access if it conflicts.
            assert!(unsafe { *m }, "used after it was freed");
        });
    }

    /// `finish::free`.
    fn free(&self) {
        self.memory.with_mut(|m| {
            // SAFETY: as in `touch`.
            assert!(unsafe { m.replace(false) }, "freed twice");
        });
        self.frees.fetch_add(1, Ordering::Relaxed);
    }

    fn set_fate(&self, fate: Fate) {
        self.touch();
        // SAFETY: as in `touch`.
        self.result.with(|r| assert_eq!(unsafe { *r }, 42, "the result is published"));
        // SAFETY: as in `touch`.
        self.fate.with_mut(|f| assert_eq!(unsafe { f.replace(fate) }, Fate::Unused));
    }

    /// `Remote::push`.
    fn push(&self) {
        *self.mail.lock().unwrap() += 1;
    }

    // The owner.

    /// `finish::finalize` of a pended request.
    fn complete(&self) {
        self.touch();
        // SAFETY: as in `touch`.
        self.result.with_mut(|r| unsafe { *r = 42 });
        let completed = self.state.complete();
        if matches!(completed, Completed::Free | Completed::FreeByMail) {
            self.set_fate(Fate::Disposed);
        }
        match completed {
            Completed::Notify => {
                // SAFETY: as in `touch`.
                if self.waker.with_mut(|w| unsafe { w.replace(false) }) {
                    self.wakes.fetch_add(1, Ordering::Release);
                }
                self.touch();
            }
            Completed::Noticed | Completed::FreeByMail => {}
            Completed::Free => self.free(),
        }
    }

    /// `Remote::read` and `finish::read_mail`. Returns whether the slot may have more to come.
    fn read_mail(&self) {
        let mail = {
            let mut list = self.mail.lock().unwrap();
            assert!(*list <= 1, "on the list once");
            std::mem::take(&mut *list)
        };
        if mail == 0 {
            return;
        }
        self.touch();
        let mail = self.state.take_mail();
        if mail.finish {
            // `resume_here`, for a driver that completes.
            self.complete();
        } else if mail.parting && mail.done {
            self.free();
        }
    }

    // The requester elsewhere.

    /// `future::watch`, not on the owner's thread. `true`: it is done.
    fn watch(&self) -> bool {
        self.touch();
        if !self.state.lock_waker() {
            return true;
        }
        // SAFETY: as in `touch`.
        self.waker.with_mut(|w| unsafe { *w = true });
        self.state.unlock_waker()
    }

    /// `finish::release`, not on the owner's thread.
    fn release(&self) {
        self.touch();
        // SAFETY: as in `touch`.
        let taken = || self.fate.with(|f| unsafe { *f }) == Fate::Taken;
        let dispose = || {
            if !taken() {
                self.set_fate(Fate::Disposed);
            }
        };
        if self.state.release_remote(dispose) {
            self.push();
        }
    }

    /// Takes the result of a request seen done, and lets go: `future::collect`.
    fn collect(&self) {
        self.set_fate(Fate::Taken);
        self.release();
    }

    /// After all threads have ended and the owner has read its mail once more.
    fn check(&self) {
        self.read_mail();
        assert_eq!(self.frees.load(Ordering::Relaxed), 1, "freed exactly once");
        // SAFETY: nobody else is left.
        assert_ne!(self.fate.with(|f| unsafe { *f }), Fate::Unused, "the result has an end");
        assert_eq!(*self.mail.lock().unwrap(), 0);
    }
}

/// The owner completes while the requester, elsewhere, polls once and leaves.
#[test]
fn complete_against_poll_and_drop() {
    loom::model(|| {
        let slot = Slot::new();
        let theirs = slot.clone();
        let requester = thread::spawn(move || {
            if theirs.watch() {
                theirs.collect();
            } else {
                theirs.release();
            }
        });
        slot.complete();
        slot.read_mail();
        requester.join().unwrap();
        slot.check();
    });
}

/// The requester changes its waker, and is told in the end: by the wake, or by what it sees.
#[test]
fn no_wake_is_lost() {
    loom::model(|| {
        let slot = Slot::new();
        let theirs = slot.clone();
        let requester = thread::spawn(move || {
            for _ in 0..2 {
                if theirs.watch() {
                    assert!(theirs.state.is_done());
                    theirs.collect();
                    return true;
                }
            }
            false
        });
        slot.complete();
        if !requester.join().unwrap() {
            // It sleeps: then it must have been woken.
            assert_eq!(slot.wakes.load(Ordering::Acquire), 1, "a lost wake");
            slot.collect();
        }
        slot.check();
    });
}

/// A requester that only looks.
#[test]
fn is_done_publishes_the_result() {
    loom::model(|| {
        let slot = Slot::new();
        let theirs = slot.clone();
        let requester = thread::spawn(move || {
            if theirs.state.is_done() {
                theirs.collect();
            } else {
                theirs.release();
            }
        });
        slot.complete();
        requester.join().unwrap();
        slot.check();
    });
}

/// A driver finishes its token on one thread while the requester leaves on another.
#[test]
fn finish_against_release() {
    loom::model(|| {
        let slot = Slot::new();
        let (theirs, drivers) = (slot.clone(), slot.clone());
        let requester = thread::spawn(move || theirs.release());
        let driver = thread::spawn(move || {
            drivers.touch();
            if drivers.state.finish_remote() {
                drivers.push();
            }
        });
        slot.read_mail();
        requester.join().unwrap();
        slot.read_mail();
        driver.join().unwrap();
        slot.read_mail();
        slot.check();
    });
}

/// The same, with a requester that polls first.
#[test]
fn finish_against_poll() {
    loom::model(|| {
        let slot = Slot::new();
        let (theirs, drivers) = (slot.clone(), slot.clone());
        let requester = thread::spawn(move || {
            if theirs.watch() {
                theirs.collect();
                return true;
            }
            false
        });
        let driver = thread::spawn(move || {
            drivers.touch();
            if drivers.state.finish_remote() {
                drivers.push();
            }
        });
        slot.read_mail();
        driver.join().unwrap();
        slot.read_mail();
        if !requester.join().unwrap() {
            assert_eq!(slot.wakes.load(Ordering::Acquire), 1, "a lost wake");
            slot.collect();
        }
        slot.check();
    });
}

/// The requester has moved to the owner's thread: it lets go there while a driver elsewhere
/// finishes.
#[test]
fn finish_against_local_release() {
    loom::model(|| {
        let slot = Slot::new();
        let drivers = slot.clone();
        let driver = thread::spawn(move || {
            drivers.touch();
            if drivers.state.finish_remote() {
                drivers.push();
            }
        });
        slot.touch();
        if slot.state.release_local() {
            slot.set_fate(Fate::Disposed);
            slot.free();
        }
        slot.read_mail();
        driver.join().unwrap();
        slot.check();
    });
}

/// As above, with the release after the mail: whichever of the two comes last frees.
#[test]
fn finish_then_local_release() {
    loom::model(|| {
        let slot = Slot::new();
        let drivers = slot.clone();
        let driver = thread::spawn(move || {
            if drivers.state.finish_remote() {
                drivers.push();
            }
        });
        slot.read_mail();
        if slot.state.release_local() {
            slot.set_fate(Fate::Disposed);
            slot.free();
            driver.join().unwrap();
            assert_eq!(slot.frees.load(Ordering::Relaxed), 1);
            return;
        }
        driver.join().unwrap();
        slot.check();
    });
}

/// Two finishes of one slot, one after the other, as a queue's insert and remove by other threads
/// make them: each is read by the owner exactly once.
#[test]
fn park_then_finish() {
    loom::model(|| {
        let slot = Slot::new();
        let (parked, drivers) = (Arc::new(AtomicBool::new(false)), slot.clone());
        let is_parked = parked.clone();
        let driver = thread::spawn(move || {
            // Parks.
            if drivers.state.finish_remote() {
                drivers.push();
            }
            // Removes, if the owner has parked it meanwhile, and finishes.
            if is_parked.load(Ordering::Acquire) && drivers.state.finish_remote() {
                drivers.push();
            }
        });
        let theirs = slot.clone();
        let requester = thread::spawn(move || theirs.release());
        let mut finishes = 0;
        let mut parting = false;
        let mut read = |slot: &Slot| {
            let list = std::mem::take(&mut *slot.mail.lock().unwrap());
            assert!(list <= 1);
            if list == 1 {
                let mail = slot.state.take_mail();
                finishes += usize::from(mail.finish);
                parting |= mail.parting;
                if mail.finish {
                    parked.store(true, Ordering::Release);
                }
            }
            finishes
        };
        read(&slot);
        requester.join().unwrap();
        driver.join().unwrap();
        read(&slot);
        let finishes = read(&slot);
        assert!((1..=2).contains(&finishes));
        assert!(parting, "the requester's leaving is not lost");
        assert_eq!(slot.state.complete(), Completed::Free);
    });
}
