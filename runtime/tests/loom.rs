//! The protocol of a task's state word (`executor::task::state`), explored by loom: the future is
//! touched by one thread at a time, no wake is lost, the output goes to one place, and the memory is
//! freed once.
//!
//! The models run the real word on a task and a queue of their own, which follow `executor::task`
//! line by line; loom's cells find any conflicting access.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p overlapped --test loom --release`

#![cfg(loom)]

#[path = "../src/executor/task/state.rs"]
#[expect(dead_code, reason = "the models do not use all of it")]
mod state;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

use state::{Completed, Detached, State, Woken};

/// A task: the real word, and cells for what it hands over.
struct Task {
    state: State,
    /// The future: polls so far.
    future: UnsafeCell<usize>,
    /// The output, once complete; cleared by whoever takes or drops it.
    output: UnsafeCell<Option<usize>>,
    /// The handle's waker.
    join: UnsafeCell<bool>,
    joined: AtomicBool,
    /// Written by the free, read by whoever still believes in the task.
    memory: UnsafeCell<bool>,
    frees: AtomicUsize,
    queue: Mutex<usize>,
    /// What wakers say; a poll that sees it is ready.
    event: AtomicBool,
}

impl Task {
    fn new() -> Arc<Task> {
        Arc::new(Task {
            state: State::new(),
            future: UnsafeCell::new(0),
            output: UnsafeCell::new(None),
            join: UnsafeCell::new(false),
            joined: AtomicBool::new(false),
            memory: UnsafeCell::new(true),
            frees: AtomicUsize::new(0),
            queue: Mutex::new(1),
            event: AtomicBool::new(false),
        })
    }

    fn touch(&self) {
        self.memory.with(|memory| assert!(unsafe { *memory }, "freed"));
    }

    fn free(&self) {
        self.memory.with_mut(|memory| unsafe { *memory = false });
        assert_eq!(self.frees.fetch_add(1, Ordering::Relaxed), 0);
        self.output.with(|output| assert!(unsafe { *output }.is_none(), "an output was leaked"));
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
        if self.state.pause() {
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
            Detached::DropWaker => self.join.with_mut(|waker| unsafe { *waker = false }),
            Detached::DropOutput => self.output.with_mut(|output| unsafe { *output = None }),
        }
        self.leave();
    }

    /// One poll of the handle. `true`: it has the output.
    fn poll_handle(&self, changed: bool) -> bool {
        if !self.state.is_complete() {
            if self.state.has_waker() && !changed {
                return false;
            }
            if !self.state.has_waker() || self.state.take_waker_back() {
                self.join.with_mut(|waker| unsafe { *waker = true });
                if self.state.offer_waker() {
                    return false;
                }
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
        *task.queue.lock().unwrap() -= 1;
        assert!(!task.state.start());
        task.state.pause_yielded();
        task.queue();
        task.detach();
        let ready = task.run();
        waker.join().unwrap();
        assert!(ready || task.run(), "a wake was lost");
        freed_once(&task);
    });
}
