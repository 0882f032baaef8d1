//! Cancel-safe queues, explored by loom: insert × cancel × remove × close. Each request ends exactly
//! once, none is lost in the queue, and none is handed out twice.
//!
//! The models run the real [`Line`] on requests and a mailbox of their own, which follow `csq` and
//! `irp::travel` line by line; loom's cells find any conflicting access.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p overlapped-iomgr --test loom_queues --release`

#![cfg(loom)]

#[path = "../src/csq/line.rs"]
mod line;

use std::ptr::{self, NonNull};

use line::{Entry, Line};
use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;

#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    Cancelled,
    Done,
}

/// What a holder elsewhere wants done with a request: `Resume`.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Resume {
    Complete(End),
    Park,
    /// In a line, behind this one.
    Parked(*mut Request),
}

/// A request: a slot's fields, as far as they matter here.
struct Request {
    /// Guarded by the line's lock.
    parked: UnsafeCell<bool>,
    link: UnsafeCell<*mut Request>,
    /// The holder's; the line's while it is parked.
    resume: UnsafeCell<Resume>,
    // The owner's.
    cancel: UnsafeCell<bool>,
    parking: UnsafeCell<bool>,
    held: UnsafeCell<bool>,
    end: UnsafeCell<Option<End>>,
    /// It is in the mailbox, so that no holder has it.
    mailed: UnsafeCell<bool>,
}

fn get<T: Copy>(cell: &UnsafeCell<T>) -> T {
    // SAFETY: loom reports the access if it conflicts.
    cell.with(|value| unsafe { *value })
}

fn set<T>(cell: &UnsafeCell<T>, to: T) {
    // SAFETY: as above.
    cell.with_mut(|value| unsafe { *value = to });
}

// SAFETY: the fields are used as `csq` uses a slot's.
unsafe impl Entry for Request {
    unsafe fn is_in(this: NonNull<Request>) -> bool {
        // SAFETY: requests outlive the threads; so for the others.
        get(unsafe { &this.as_ref().parked })
    }
    unsafe fn set_in(this: NonNull<Request>, is_in: bool) {
        // SAFETY: as above.
        set(unsafe { &this.as_ref().parked }, is_in);
    }
    unsafe fn next(this: NonNull<Request>) -> *mut Request {
        // SAFETY: as above.
        get(unsafe { &this.as_ref().link })
    }
    unsafe fn set_next(this: NonNull<Request>, next: *mut Request) {
        // SAFETY: as above.
        set(unsafe { &this.as_ref().link }, next);
    }
    unsafe fn previous(this: NonNull<Request>) -> *mut Request {
        // SAFETY: as above.
        match get(unsafe { &this.as_ref().resume }) {
            Resume::Parked(previous) => previous,
            other => panic!("a parked request's place is its line's: {other:?}"),
        }
    }
    unsafe fn set_previous(this: NonNull<Request>, previous: *mut Request) {
        // SAFETY: as above.
        set(unsafe { &this.as_ref().resume }, Resume::Parked(previous));
    }
}

/// A processor with some requests, and a queue.
struct World<const N: usize> {
    requests: [Request; N],
    line: Line<Request>,
    mail: Mutex<Vec<usize>>,
}

impl<const N: usize> World<N> {
    /// All are held on the owner's thread.
    fn new() -> Arc<Self> {
        let requests = std::array::from_fn(|_| Request {
            parked: UnsafeCell::new(false),
            link: UnsafeCell::new(ptr::null_mut()),
            resume: UnsafeCell::new(Resume::Complete(End::Done)),
            cancel: UnsafeCell::new(false),
            parking: UnsafeCell::new(false),
            held: UnsafeCell::new(true),
            end: UnsafeCell::new(None),
            mailed: UnsafeCell::new(false),
        });
        Arc::new(World { requests, line: Line::new(), mail: Mutex::new(Vec::new()) })
    }

    fn address(&self, i: usize) -> NonNull<Request> {
        NonNull::from(&self.requests[i])
    }

    fn index(&self, request: NonNull<Request>) -> usize {
        (0..N).find(|&i| self.address(i) == request).expect("one of ours")
    }

    // The owner.

    /// `csq::finish`.
    fn finish(&self, i: usize, end: End) {
        let r = &self.requests[i];
        assert_eq!(get(&r.end), None, "each ends once");
        set(&r.end, Some(end));
        set(&r.held, false);
        // The slot is free, or somebody's packet: its links are used.
        set(&r.link, ptr::null_mut());
        set(&r.resume, Resume::Complete(End::Done));
    }

    /// `csq::park_here`.
    fn park_here(&self, i: usize) {
        let r = &self.requests[i];
        set(&r.held, true);
        if get(&r.cancel) {
            return self.finish(i, End::Cancelled);
        }
        set(&r.parking, true);
        // SAFETY: requests outlive the line's use.
        if !unsafe { self.line.enter(self.address(i)) } {
            self.finish(i, End::Cancelled);
        }
    }

    /// `finish::cancel` and `Parking::cancel`.
    fn cancel(&self, i: usize) {
        let r = &self.requests[i];
        if get(&r.end).is_some() || get(&r.cancel) {
            return;
        }
        set(&r.cancel, true);
        // SAFETY: as above; it enters on this thread alone.
        if get(&r.held) && get(&r.parking) && unsafe { self.line.take(self.address(i)) } {
            self.finish(i, End::Cancelled);
        }
    }

    /// A turn: `dispatch::resume_here`.
    fn turn(&self) {
        for i in std::mem::take(&mut *self.mail.lock().unwrap()) {
            let r = &self.requests[i];
            set(&r.mailed, false);
            match get(&r.resume) {
                Resume::Complete(end) => self.finish(i, end),
                Resume::Park => self.park_here(i),
                Resume::Parked(_) => panic!("whoever takes it out says what is to be done"),
            }
        }
    }

    // Anybody else.

    /// `CancelSafeQueue::remove`.
    fn remove(&self) -> Option<usize> {
        let i = self.index(self.line.take_first()?);
        // Held here: nobody else writes to it.
        assert!(!get(&self.requests[i].mailed), "handed out twice");
        Some(i)
    }

    /// `dispatch::resume`, not on the owner's thread.
    fn resume(&self, i: usize, how: Resume) {
        set(&self.requests[i].resume, how);
        set(&self.requests[i].mailed, true);
        self.mail.lock().unwrap().push(i);
    }

    fn complete(&self, i: usize) {
        self.resume(i, Resume::Complete(End::Done));
    }

    /// `CancelSafeQueue::close`.
    fn close(&self) {
        self.line.close();
        while let Some(i) = self.remove() {
            self.resume(i, Resume::Complete(End::Cancelled));
        }
    }

    /// How each has ended, once all threads have.
    fn ends(&self) -> [Option<End>; N] {
        self.turn();
        std::array::from_fn(|i| get(&self.requests[i].end))
    }
}

fn run<const N: usize>(
    world: &Arc<World<N>>,
    work: impl FnOnce(&World<N>) + 'static,
) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || work(&world))
}

/// the owner parks three and cancels the middle one, while another takes the first two
/// there are. What is left is in the queue, in order.
#[test]
fn insert_cancel_remove() {
    loom::model(|| {
        let world = World::<3>::new();
        let remover = run(&world, |world| {
            for _ in 0..2 {
                if let Some(i) = world.remove() {
                    world.complete(i);
                }
            }
        });
        (0..3).for_each(|i| world.park_here(i));
        world.cancel(1);
        remover.join().unwrap();
        let ended = world.ends();
        let mut left = Vec::new();
        while let Some(i) = world.remove() {
            left.push(i);
            assert_eq!(ended[i], None, "what has ended is not in the queue");
            assert_ne!(i, 1, "nor what has been cancelled");
            world.complete(i);
        }
        assert!(left.is_sorted());
        assert_eq!(world.line.len(), 0);
        let ends = world.ends();
        assert!(ends.iter().all(Option::is_some), "none is lost: {ends:?}");
        assert!(left.iter().all(|&i| ends[i] == Some(End::Done)));
        assert_ne!(ends[1], None);
        assert_eq!((ends[0], ends[2]), (Some(End::Done), Some(End::Done)), "not cancelled");
    });
}

/// Two take from the same queue while all in it are cancelled.
#[test]
fn two_remove_while_all_are_cancelled() {
    loom::model(|| {
        let world = World::<2>::new();
        (0..2).for_each(|i| world.park_here(i));
        let take = |world: &World<2>| {
            if let Some(i) = world.remove() {
                world.complete(i);
            }
        };
        let (one, two) = (run(&world, take), run(&world, take));
        world.cancel(1);
        world.cancel(0);
        one.join().unwrap();
        two.join().unwrap();
        assert!(world.ends().iter().all(Option::is_some), "none is lost");
        assert_eq!(world.line.len(), 0);
    });
}

/// a request that is taken out and put back from another thread, while it is cancelled, and
/// the queue closed: it ends once, and as cancelled.
#[test]
fn put_back_against_cancel_and_close() {
    loom::model(|| {
        let world = World::<2>::new();
        (0..2).for_each(|i| world.park_here(i));
        let back = run(&world, |world| {
            if let Some(i) = world.remove() {
                world.resume(i, Resume::Park);
            }
        });
        let closer = run(&world, World::close);
        world.cancel(0);
        world.turn();
        back.join().unwrap();
        closer.join().unwrap();
        let ends = world.ends();
        assert_eq!(ends, [Some(End::Cancelled); 2]);
        assert_eq!(world.line.len(), 0);
    });
}

/// a close against requests that come: none stays in the queue.
#[test]
fn insert_against_close() {
    loom::model(|| {
        let world = World::<2>::new();
        let closer = run(&world, World::close);
        (0..2).for_each(|i| world.park_here(i));
        closer.join().unwrap();
        assert_eq!(world.ends(), [Some(End::Cancelled); 2]);
        assert_eq!(world.line.len(), 0);
    });
}

/// a cancel while another thread has taken the request out and puts it back is not lost.
#[test]
fn put_back_against_cancel() {
    loom::model(|| {
        let world = World::<1>::new();
        world.park_here(0);
        let back = run(&world, |world| {
            if let Some(i) = world.remove() {
                world.resume(i, Resume::Park);
            }
        });
        world.turn();
        world.cancel(0);
        back.join().unwrap();
        assert_eq!(world.ends(), [Some(End::Cancelled)]);
        assert_eq!(world.line.len(), 0);
    });
}
