//! The mailbox of a processor, and the gate between a plain thread and its keeper, explored by loom:
//! no mail is lost, no sleeper is left asleep, and no request is stranded behind a thread that is away.
//!
//! The models run the real [`Mailbox`], [`Presence`] and [`Notice`]. What is around them follows
//! `processor::{turn, remote, keeper}` and `Core::enter` and `leave` line by line.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p overlapped-iomgr --test loom_mail --release`

#![cfg(loom)]

#[path = "../src/loomed.rs"]
mod loomed;
#[path = "../src/processor/mailbox.rs"]
mod mailbox;
#[path = "../src/processor/notice.rs"]
#[expect(dead_code, reason = "the models do not use all of it")]
mod notice;
#[path = "../src/processor/presence.rs"]
mod presence;

use std::ptr::{self, NonNull};

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use mailbox::{Letter, Mailbox};
use notice::Notice;
use presence::{Presence, State};

fn get<T: Copy>(cell: &UnsafeCell<T>) -> T {
    // SAFETY: loom reports the access if it conflicts.
    cell.with(|value| unsafe { *value })
}

fn set<T>(cell: &UnsafeCell<T>, to: T) {
    // SAFETY: as above.
    cell.with_mut(|value| unsafe { *value = to });
}

/// With as many preemptions as three threads can have in a minute.
fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

/// A slot that is sent.
struct Slot {
    link: UnsafeCell<*mut Slot>,
    /// What the sender did before, and the reader sees; or the other way round.
    content: UnsafeCell<u32>,
}

impl Slot {
    fn new() -> Slot {
        Slot { link: UnsafeCell::new(ptr::null_mut()), content: UnsafeCell::new(0) }
    }
}

// SAFETY: the link is the mailbox's alone; slots are aligned.
unsafe impl Letter for Slot {
    unsafe fn link(this: NonNull<Slot>, next: *mut Slot) {
        // SAFETY: slots outlive the threads.
        set(unsafe { &this.as_ref().link }, next);
    }
    unsafe fn next(this: NonNull<Slot>) -> *mut Slot {
        // SAFETY: as above.
        get(unsafe { &this.as_ref().link })
    }
}

/// What sleeps in the kernel: a wake that comes before the sleep ends it at once.
struct Bed(Mutex<bool>, Condvar);

impl Bed {
    fn new() -> Bed {
        Bed(Mutex::new(false), Condvar::new())
    }

    fn wake(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }

    /// For ever: a sleeper whom nobody wakes is a deadlock, which loom reports.
    fn sleep(&self) {
        let mut woken = self.0.lock().unwrap();
        while !*woken {
            woken = self.1.wait(woken).unwrap();
        }
        *woken = false;
    }
}

/// A processor's mailbox, driven by a loop.
struct Loop {
    mail: Mailbox<Slot, u32>,
    bed: Bed,
    slots: [Slot; 2],
}

impl Loop {
    fn new() -> Arc<Loop> {
        let slots = [Slot::new(), Slot::new()];
        Arc::new(Loop { mail: Mailbox::new(), bed: Bed::new(), slots })
    }

    /// `Remote::push`.
    fn push(&self, slot: usize) -> bool {
        set(&self.slots[slot].content, 7);
        // SAFETY: slots outlive the mailbox's use; each is sent once.
        let sent = unsafe { self.mail.push(NonNull::from(&self.slots[slot])) };
        if sent {
            self.wake_if_asleep();
        }
        sent
    }

    /// `Remote::run`.
    fn send(&self, work: u32) -> bool {
        let sent = self.mail.send(work).is_ok();
        if sent {
            self.wake_if_asleep();
        }
        sent
    }

    fn wake_if_asleep(&self) {
        if self.mail.wakes() {
            self.bed.wake();
        }
    }

    /// `Remote::read`: how much was there.
    fn read(&self, close: bool) -> usize {
        if !close && !self.mail.seems_filled() {
            return 0;
        }
        let mut n = 0;
        for slot in self.mail.take_letters(close) {
            // SAFETY: as above.
            assert_eq!(get(unsafe { &slot.as_ref().content }), 7, "published");
            // It may be sent again, or be freed: the link is not the list's any more.
            // SAFETY: as above.
            unsafe { Slot::link(slot, ptr::dangling_mut()) };
            n += 1;
        }
        n + self.mail.take_work(close).len()
    }

    /// `Core::turn` with nothing to do but mail.
    fn turn(&self) -> usize {
        let n = self.read(false);
        if n == 0 && self.mail.prepare_sleep() {
            self.bed.sleep();
        }
        self.mail.awake();
        n
    }
}

/// Senders against an owner that sleeps when it finds nothing: it reads all of it.
#[test]
fn a_sleeper_is_woken() {
    model(|| {
        let owner = Loop::new();
        let (one, two) = (owner.clone(), owner.clone());
        let one = thread::spawn(move || assert!(one.push(0)));
        let two = thread::spawn(move || assert!(two.send(1)));
        let mut read = 0;
        while read < 2 {
            read += owner.turn();
        }
        one.join().unwrap();
        two.join().unwrap();
        assert_eq!(owner.read(true), 0);
    });
}

/// The same with two letters, which come in order.
#[test]
fn letters_of_two_senders() {
    model(|| {
        let owner = Loop::new();
        let (one, two) = (owner.clone(), owner.clone());
        let one = thread::spawn(move || assert!(one.push(0)));
        let two = thread::spawn(move || assert!(two.push(1)));
        let mut read = 0;
        while read < 2 {
            read += owner.turn();
        }
        one.join().unwrap();
        two.join().unwrap();
    });
}

/// The same with work.
#[test]
fn work_of_two_senders() {
    model(|| {
        let owner = Loop::new();
        let (one, two) = (owner.clone(), owner.clone());
        let one = thread::spawn(move || assert!(one.send(0)));
        let two = thread::spawn(move || assert!(two.send(1)));
        let mut read = 0;
        while read < 2 {
            read += owner.turn();
        }
        one.join().unwrap();
        two.join().unwrap();
    });
}

/// A close against senders: what was sent is read, what was not comes back, and sees what the owner did
/// before.
#[test]
fn close_against_senders() {
    model(|| {
        let owner = Loop::new();
        let (one, two) = (owner.clone(), owner.clone());
        let dead = Arc::new(UnsafeCell::new(false));
        let seen = dead.clone();
        let one = thread::spawn(move || {
            let sent = one.push(0);
            // `Core::free_orphan`.
            assert!(sent || get(&seen));
            usize::from(sent)
        });
        let two = thread::spawn(move || usize::from(two.send(1)));
        let mut read = owner.read(false);
        set(&dead, true);
        read += owner.read(true);
        let sent = one.join().unwrap() + two.join().unwrap();
        assert_eq!(read, sent, "what was sent is read");
        assert_eq!(owner.read(false), 0);
        assert!(!owner.push(1) && !owner.send(2), "a closed one stays so");
    });
}

/// What the plain thread's hardware has.
#[derive(Clone, Copy, PartialEq)]
enum Hardware {
    Nothing,
    /// A request that completes in the next turn.
    Ready,
    /// One that does not complete.
    Endless,
    Done,
}

/// A plain thread's processor, and the keeper of all.
struct Plain {
    /// The lock of the gate.
    lock: Mutex<()>,
    presence: Presence,
    mail: Mailbox<Slot, u32>,
    // The lock's: `Core`.
    request: UnsafeCell<Hardware>,
    kept: UnsafeCell<bool>,
    read: UnsafeCell<usize>,
    // The keeper.
    notice: Notice,
    bed: Bed,
    keeper: Mailbox<Slot, u32>,
    /// The watched descriptor is readable: someone has woken the plain thread's hardware.
    fired: Mutex<bool>,
}

impl Plain {
    fn new() -> Arc<Plain> {
        Arc::new(Plain {
            lock: Mutex::new(()),
            presence: Presence::new(),
            mail: Mailbox::new(),
            request: UnsafeCell::new(Hardware::Nothing),
            kept: UnsafeCell::new(false),
            read: UnsafeCell::new(0),
            notice: Notice::new(),
            bed: Bed::new(),
            keeper: Mailbox::new(),
            fired: Mutex::new(false),
        })
    }

    // The plain thread.

    /// `Core::busy` … drop: a call into the processor.
    fn call(&self, work: impl FnOnce()) {
        let _lock = self.lock.lock().unwrap();
        self.enter();
        work();
        self.look_back();
    }

    fn enter(&self) {
        self.presence.set(State::Inside);
        if get(&self.kept) {
            set(&self.kept, false);
            self.mail.awake();
        }
    }

    /// `Core::look_back`.
    fn look_back(&self) {
        if get(&self.kept) {
            return self.presence.set(State::Kept);
        }
        if !self.is_outstanding() {
            self.presence.set(State::Idle);
            if self.mail.is_empty() {
                return;
            }
        }
        self.presence.set(State::Left);
        self.notice();
    }

    fn is_outstanding(&self) -> bool {
        matches!(get(&self.request), Hardware::Ready | Hardware::Endless) || !self.mail.is_empty()
    }

    /// `keeper::notice`.
    fn notice(&self) {
        if self.notice.wakes() && self.keeper.wakes() {
            self.bed.wake();
        }
    }

    /// `Core::turn`: what was issued completes, mail is read.
    fn turn(&self) {
        let read = get(&self.read) + self.mail.take_work(false).len();
        set(&self.read, read);
        if get(&self.request) == Hardware::Ready {
            set(&self.request, Hardware::Done);
        }
    }

    // Anybody.

    /// `Remote::run`.
    fn send(&self) {
        self.mail.send(1).unwrap();
        if self.mail.wakes() {
            // The hardware's eventfd, or message; the keeper watches it.
            *self.fired.lock().unwrap() = true;
            self.bed.wake();
        } else if matches!(self.presence.look().0, State::Idle | State::Left) {
            self.notice();
        }
    }

    // The keeper.

    /// `keeper::run`, without its ticks: it goes to sleep as soon as it can, until `done`.
    fn keep(&self, done: impl Fn(&Plain) -> bool) {
        let mut since = None;
        loop {
            let again = self.look(&mut since);
            if self.is_done(&done) {
                return;
            }
            if again {
                // A tick.
                thread::yield_now();
                continue;
            }
            if self.notice.sleeps(|| self.needs_a_look()) {
                // `Core::turn`, with `ready`.
                if self.keeper.prepare_sleep() && !self.notice.is_awake() {
                    self.bed.sleep();
                }
                self.keeper.awake();
            } else {
                thread::yield_now();
            }
        }
    }

    fn is_done(&self, done: impl Fn(&Plain) -> bool) -> bool {
        let _lock = self.lock.lock().unwrap();
        done(self)
    }

    /// `Ward::needs_a_look`.
    fn needs_a_look(&self) -> bool {
        match self.presence.look().0 {
            State::Left | State::Asked => true,
            State::Idle => !self.mail.is_empty(),
            State::Inside | State::Kept | State::Gone => false,
        }
    }

    /// `Ward::look`.
    fn look(&self, since: &mut Option<u64>) -> bool {
        let fired = std::mem::take(&mut *self.fired.lock().unwrap());
        let (state, epoch) = self.presence.look();
        match state {
            State::Inside | State::Gone => false,
            State::Idle => !self.mail.is_empty() && self.attend(since),
            State::Asked => self.attend(since),
            State::Left if *since == Some(epoch) => self.attend(since),
            State::Left => {
                *since = Some(epoch);
                true
            }
            State::Kept => fired && self.attend(since),
        }
    }

    /// `Ward::attend_now`.
    fn attend(&self, since: &mut Option<u64>) -> bool {
        let Ok(_lock) = self.lock.try_lock() else { return false };
        self.enter();
        self.turn();
        let more = self.is_outstanding() && {
            let watched = self.mail.prepare_sleep();
            set(&self.kept, watched);
            !watched
        };
        self.look_back();
        *since = Some(self.presence.look().1);
        more
    }
}

/// A keeper that runs until `done`, which it looks at with the lock held.
fn keeper(plain: &Arc<Plain>, done: impl Fn(&Plain) -> bool + 'static) -> thread::JoinHandle<()> {
    let plain = plain.clone();
    thread::spawn(move || plain.keep(done))
}

/// A plain thread issues a request and goes away: the keeper sees to it, however they meet.
#[test]
fn a_request_is_not_stranded() {
    model(|| {
        let plain = Plain::new();
        let keeper = keeper(&plain, |plain| get(&plain.request) == Hardware::Done);
        plain.call(|| set(&plain.request, Hardware::Ready));
        keeper.join().unwrap();
    });
}

/// Mail for a plain thread that comes and goes, and does not look for it: the keeper reads it.
#[test]
fn mail_is_not_stranded() {
    model(|| {
        let plain = Plain::new();
        let keeper = keeper(&plain, |plain| get(&plain.read) == 1);
        let sender = plain.clone();
        let sender = thread::spawn(move || sender.send());
        plain.call(|| ());
        sender.join().unwrap();
        keeper.join().unwrap();
    });
}

/// Mail for a processor that the keeper watches, while its thread comes back for a moment.
#[test]
fn mail_for_one_that_is_kept() {
    model(|| {
        let plain = Plain::new();
        plain.call(|| set(&plain.request, Hardware::Endless));
        let keeper = keeper(&plain, |plain| get(&plain.read) == 1);
        let sender = plain.clone();
        let sender = thread::spawn(move || sender.send());
        plain.call(|| ());
        sender.join().unwrap();
        keeper.join().unwrap();
    });
}

/// A thread that leaves twice, the second time with a request: what the keeper knows of the first time
/// does not count.
#[test]
fn away_and_back() {
    model(|| {
        let plain = Plain::new();
        let keeper = keeper(&plain, |plain| get(&plain.request) == Hardware::Done);
        plain.call(|| set(&plain.request, Hardware::Endless));
        plain.call(|| set(&plain.request, Hardware::Ready));
        keeper.join().unwrap();
    });
}
