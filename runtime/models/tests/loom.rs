//! The executor's protocols, explored by loom.
//!
//! The state word of a task (`executor::task::state`): the future is touched by one thread at a
//! time, no wake is lost, the output goes to one place, and the memory is freed once. The models
//! run the real word on a task and a queue of their own, which follow `executor::task` line by line;
//! loom's cells find any conflicting access.
//!
//! The inbox of a worker (`executor::inbox`), as it is: each task comes out once, in order, or is
//! refused. (That a worker asleep is told rests on sequential consistency, which loom does not know.)
//!
//! The list of a join set (`task::finished`) and the tree of tokens (`task::token::tree`), as they
//! are: no end and no cancel is missed, and no node is leaked.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p overlapped-models --test loom --release`

#![cfg(loom)]

#[path = "../../src/executor/task/state.rs"]
#[expect(dead_code, reason = "the models do not use all of it")]
mod state;

#[path = "../../src/task/finished.rs"]
mod finished;
#[path = "loom/inbox.rs"]
mod inbox;
#[path = "../../src/task/token/tree.rs"]
mod tree;

use std::task::{Context, Poll, Wake, Waker};

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

use finished::Finished;
use state::{Completed, Detached, State, Woken};
use tree::Handle;

/// A task: the real word, and cells for what it hands over.
struct Task {
    state: State,
    /// The future: polls so far.
    future: UnsafeCell<usize>,
    /// The output, once complete; cleared by whoever takes or drops it.
    output: UnsafeCell<Option<usize>>,
    /// The handle's waker: its bits, and how many there are to be dropped or woken.
    join: UnsafeCell<bool>,
    wakers: AtomicUsize,
    joined: AtomicBool,
    /// Written by the free, read by whoever still believes in the task.
    memory: UnsafeCell<bool>,
    frees: AtomicUsize,
    queue: Mutex<usize>,
    /// What wakers say; a poll that sees it is ready.
    event: AtomicBool,
    /// How many polls to come yield.
    yields: AtomicUsize,
}

impl Task {
    fn new() -> Arc<Task> {
        Arc::new(Task {
            state: State::new(),
            future: UnsafeCell::new(0),
            output: UnsafeCell::new(None),
            join: UnsafeCell::new(false),
            wakers: AtomicUsize::new(0),
            joined: AtomicBool::new(false),
            memory: UnsafeCell::new(true),
            frees: AtomicUsize::new(0),
            queue: Mutex::new(1),
            event: AtomicBool::new(false),
            yields: AtomicUsize::new(0),
        })
    }

    fn touch(&self) {
        self.memory.with(|memory| assert!(unsafe { *memory }, "freed"));
    }

    fn free(&self) {
        self.memory.with_mut(|memory| unsafe { *memory = false });
        assert_eq!(self.frees.fetch_add(1, Ordering::Relaxed), 0);
        self.output.with(|output| assert!(unsafe { *output }.is_none(), "an output was leaked"));
        assert_eq!(self.wakers.load(Ordering::Relaxed), 0, "a waker was leaked");
    }

    /// Its owner drops or wakes the handle's waker.
    fn use_waker(&self) {
        assert_eq!(self.wakers.fetch_sub(1, Ordering::Relaxed), 1, "used twice");
    }

    fn leave(&self) {
        self.touch();
        if self.state.leave() {
            self.free();
        }
    }

    fn queue(&self) {
        self.touch();
        let mut queue = self.queue.lock().unwrap();
        *queue += 1;
        assert_eq!(*queue, 1, "a task is queued once");
    }

    fn finish(&self) {
        match self.state.complete(false) {
            Completed::Left => return,
            Completed::Wake => {
                self.join.with(|waker| assert!(unsafe { *waker }));
                self.use_waker();
                self.joined.store(true, Ordering::Release);
            }
            Completed::Discard => self.output.with_mut(|output| unsafe { *output = None }),
        }
        self.leave();
    }

    /// Runs it if it is queued. `true`: it is complete.
    fn run(&self) -> bool {
        {
            let mut queue = self.queue.lock().unwrap();
            if *queue == 0 {
                return false;
            }
            *queue -= 1;
        }
        self.touch();
        let closed = self.state.start();
        let ready = self.future.with_mut(|polls| {
            unsafe { *polls += 1 };
            closed || self.event.load(Ordering::Relaxed)
        });
        if ready {
            self.output.with_mut(|output| unsafe { *output = Some(7) });
            self.finish();
            return true;
        }
        let yields = self.yields.load(Ordering::Relaxed);
        self.yields.store(yields.saturating_sub(1), Ordering::Relaxed);
        if yields > 0 || self.state.pause() {
            self.queue();
        }
        false
    }

    fn wake_and_leave(&self) {
        self.event.store(true, Ordering::Relaxed);
        match self.state.wake_and_leave() {
            Woken::Queue => self.queue(),
            Woken::Nothing => {}
            Woken::Free => self.free(),
        }
    }

    fn take_output(&self) {
        assert_eq!(self.output.with_mut(|output| unsafe { (*output).take() }), Some(7));
        self.leave();
    }

    fn detach(&self) {
        match self.state.detach() {
            Detached::Left => return,
            Detached::DropWaker => {
                self.join.with_mut(|waker| unsafe { *waker = false });
                self.use_waker();
            }
            Detached::DropOutput => self.output.with_mut(|output| unsafe { *output = None }),
        }
        self.leave();
    }

    /// One poll of the handle. `true`: it has the output.
    fn poll_handle(&self, changed: bool) -> bool {
        if !self.state.is_complete() {
            let has_waker = self.state.has_waker();
            if has_waker {
                // The comparison.
                self.join.with(|waker| assert!(unsafe { *waker }));
                if !changed {
                    return false;
                }
            }
            if !has_waker || self.state.take_waker_back() {
                if has_waker {
                    self.use_waker();
                }
                self.join.with_mut(|waker| unsafe { *waker = true });
                self.wakers.fetch_add(1, Ordering::Relaxed);
                if self.state.offer_waker() {
                    return false;
                }
                self.use_waker();
            }
        }
        self.take_output();
        true
    }
}

/// All schedules with at most two preemptions: most races need one.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
}

fn freed_once(task: &Task) {
    assert_eq!(task.frees.load(Ordering::Relaxed), 1);
}

#[test]
fn no_wake_is_lost_and_the_handle_is_told() {
    explore(|| {
        let task = Task::new();
        task.state.refer();
        let runner = thread::spawn({
            let task = task.clone();
            move || task.run()
        });
        let waker = thread::spawn({
            let task = task.clone();
            move || task.wake_and_leave()
        });
        let has_output = task.poll_handle(false);
        waker.join().unwrap();
        if !runner.join().unwrap() {
            // Woken, so it is queued, or was run when the wake had come.
            assert!(task.run(), "a wake was lost");
        }
        if !has_output {
            assert!(task.joined.load(Ordering::Acquire), "the handle was not told");
            assert!(task.poll_handle(false));
        }
        freed_once(&task);
    });
}

#[test]
fn two_wakers_queue_it_once() {
    explore(|| {
        let task = Task::new();
        task.state.refer();
        task.state.refer();
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let task = task.clone();
                thread::spawn(move || task.wake_and_leave())
            })
            .collect();
        task.detach();
        let ready = task.run();
        for waker in wakers {
            waker.join().unwrap();
        }
        assert!(ready || task.run(), "a wake was lost");
        freed_once(&task);
    });
}

#[test]
fn an_abort_ends_it_whatever_it_does() {
    explore(|| {
        let task = Task::new();
        let runner = thread::spawn({
            let task = task.clone();
            move || task.run()
        });
        if task.state.close() {
            task.queue();
        }
        task.detach();
        assert!(runner.join().unwrap() || task.run(), "an abort was lost");
        freed_once(&task);
    });
}

#[test]
fn the_handle_may_change_its_waker_and_go() {
    explore(|| {
        let task = Task::new();
        task.event.store(true, Ordering::Relaxed);
        let runner = thread::spawn({
            let task = task.clone();
            move || task.run()
        });
        if !task.poll_handle(false) && !task.poll_handle(true) {
            task.detach();
        }
        assert!(runner.join().unwrap());
        freed_once(&task);
    });
}

#[test]
fn a_task_that_yields_is_queued_again() {
    explore(|| {
        let task = Task::new();
        task.state.refer();
        let waker = thread::spawn({
            let task = task.clone();
            move || task.wake_and_leave()
        });
        task.yields.store(1, Ordering::Relaxed);
        task.detach();
        // Unless it is woken before, the first turn yields.
        let ready = task.run() || task.run();
        waker.join().unwrap();
        assert!(ready || task.run(), "a wake was lost");
        freed_once(&task);
    });
}

#[test]
fn an_abort_ends_a_task_that_yields() {
    explore(|| {
        let task = Task::new();
        task.yields.store(2, Ordering::Relaxed);
        let runner = thread::spawn({
            let task = task.clone();
            move || task.run() || task.run()
        });
        if task.state.close() {
            task.queue();
        }
        task.detach();
        assert!(runner.join().unwrap() || task.run(), "an abort was lost");
        freed_once(&task);
    });
}

/// A waker that says so.
struct Flag(AtomicBool);

impl Flag {
    fn new() -> (std::sync::Arc<Flag>, Waker) {
        let flag = std::sync::Arc::new(Flag(AtomicBool::new(false)));
        (flag.clone(), Waker::from(flag))
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Wake for Flag {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn no_end_of_a_set_is_missed() {
    explore(|| {
        let finished = Arc::new(Finished::new());
        let members: Vec<_> = [1, 2]
            .map(|key| {
                let finished = finished.clone();
                thread::spawn(move || finished.push(key))
            })
            .into();
        let (flag, waker) = Flag::new();
        let mut taken = Vec::new();
        // Two looks, the second with another waker; what they leave must come with a wake.
        let (old, other) = Flag::new();
        for waker in [&other, &waker] {
            if let Poll::Ready(key) = finished.poll_pop(&mut Context::from_waker(waker)) {
                taken.push(key);
            }
        }
        for member in members {
            member.join().unwrap();
        }
        let left: Vec<_> = std::iter::from_fn(|| finished.pop()).collect();
        if taken.is_empty() {
            assert!(old.is_set() || flag.is_set(), "nobody was woken");
        }
        taken.extend(left);
        taken.sort();
        assert_eq!(taken, [1, 2]);
    });
}

#[test]
fn the_last_waker_of_a_set_is_the_one_that_is_woken() {
    explore(|| {
        let finished = Arc::new(Finished::new());
        let member = thread::spawn({
            let finished = finished.clone();
            move || finished.push(1)
        });
        let [(_, first), (flag, second)] = [Flag::new(), Flag::new()];
        let pending = |waker| finished.poll_pop(&mut Context::from_waker(waker)).is_pending();
        if pending(&first) && pending(&second) {
            member.join().unwrap();
            assert!(flag.is_set(), "an end was missed");
        } else {
            member.join().unwrap();
        }
    });
}

#[test]
fn no_cancel_is_missed_by_one_who_begins_to_wait() {
    explore(|| {
        let root = Handle::root();
        let child = root.child();
        let cancel = thread::spawn(move || root.cancel());
        let (flag, waker) = Flag::new();
        let mut key = None;
        let waits = child.watch(&mut key, &waker) && child.watch(&mut key, &waker);
        cancel.join().unwrap();
        assert!(child.is_cancelled());
        assert!(!waits || flag.is_set(), "a cancel was missed");
        if let Some(key) = key {
            child.leave(key);
        }
    });
}

#[test]
fn a_child_born_during_a_cancel_is_cancelled() {
    explore(|| {
        let root = Handle::root();
        let cancel = thread::spawn({
            let root = root.clone();
            move || root.cancel()
        });
        let grandchild = root.child().child();
        cancel.join().unwrap();
        assert!(grandchild.is_cancelled());
        assert!(root.child().is_cancelled());
    });
}

#[test]
fn a_cancel_reaches_what_is_below_a_token_that_goes() {
    explore(|| {
        let root = Handle::root();
        let middle = root.child();
        let (below, other) = (middle.child(), middle.clone());
        let cancel = thread::spawn(move || root.cancel());
        let goes = thread::spawn(move || drop(middle));
        drop(other);
        goes.join().unwrap();
        cancel.join().unwrap();
        assert!(below.is_cancelled());
    });
}

#[test]
fn who_is_woken_by_one_finds_the_others_cancelled() {
    explore(|| {
        let root = Handle::root();
        let (left, right) = (root.child(), root.child());
        let cancel = thread::spawn(move || root.cancel());
        let (flag, waker) = Flag::new();
        left.watch(&mut None, &waker);
        if flag.is_set() {
            assert!(right.is_cancelled());
        }
        cancel.join().unwrap();
        assert!(right.is_cancelled() && left.is_cancelled());
    });
}
