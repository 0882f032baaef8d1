//! For filters that have something to do when the last of their files is closed: which files they
//! have, and how a close waits for what is done then.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use overlapped_iomgr::{Completion, Held, Major, Status, TimerId, Unwinding, clock};

use crate::hal::sim::Simulator;

/// How long a close waits, at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// What counts its open files.
pub(super) trait Counts: Sized + Send + Sync + 'static {
    fn files(&self) -> &AtomicUsize;

    /// The last one has gone without a close that this filter has seen: it was detached, or the
    /// runtime has ended first. Must not block.
    fn last_has_gone(self: &Arc<Self>);
}

/// That a file is open: in the filter's state for it ([`View::open_state`](overlapped_iomgr::View::open_state)).
pub(super) struct Open<C: Counts> {
    counted: OnceLock<Arc<C>>,
    has_left: AtomicBool,
}

impl<C: Counts> Default for Open<C> {
    fn default() -> Self {
        Open { counted: OnceLock::new(), has_left: AtomicBool::new(false) }
    }
}

impl<C: Counts> Open<C> {
    /// A request on the file has come: counts it, once.
    #[inline]
    pub(super) fn enter(&self, by: &Arc<C>) {
        if self.counted.get().is_none() {
            self.enter_first(by);
        }
    }

    #[cold]
    fn enter_first(&self, by: &Arc<C>) {
        self.counted.get_or_init(|| {
            by.files().fetch_add(1, Ordering::Relaxed);
            by.clone()
        });
    }

    /// A request has come back: whether it has closed the last file.
    #[inline]
    pub(super) fn closes_last(&self, irp: &Unwinding<'_>) -> bool {
        match irp.major() {
            // Of two closes one finds it closed. Other errors are those of a file that is closed all
            // the same.
            Major::Close => irp.status() != Status::FILE_CLOSED && self.leave(),
            // It will not be closed. Whoever opens it once more is not counted.
            Major::Create => !irp.status().is_success() && self.leave(),
            _ => false,
        }
    }

    /// `true`: it was the last.
    fn leave(&self) -> bool {
        self.counted.get().is_some_and(|by| {
            !self.has_left.swap(true, Ordering::Relaxed)
                && by.files().fetch_sub(1, Ordering::AcqRel) == 1
        })
    }
}

impl<C: Counts> Drop for Open<C> {
    fn drop(&mut self) {
        if self.leave()
            && let Some(by) = self.counted.get()
        {
            by.last_has_gone();
        }
    }
}

/// Something that is done elsewhere: over when the last copy of this has been dropped.
#[derive(Clone)]
pub(super) struct Task(#[expect(dead_code, reason = "dropping the last one tells")] Arc<Tells>);

/// Who is told.
enum Tells {
    Request(Arc<Waiting>),
    Thread(#[expect(dead_code, reason = "dropping it tells")] Sender<()>),
}

impl Drop for Tells {
    fn drop(&mut self) {
        if let Tells::Request(waiting) = self {
            waiting.go_on();
        }
    }
}

impl Task {
    /// One that a thread waits for; what that waits on ends when the task is over.
    pub(super) fn for_thread() -> (Task, Receiver<()>) {
        let (sender, receiver) = mpsc::channel();
        (Task(Arc::new(Tells::Thread(sender))), receiver)
    }
}

/// A request that goes further up when a task is over, or its time is.
struct Waiting(Mutex<Option<Held>>, Status, usize, Mutex<Option<TimerId>>);

impl Waiting {
    fn go_on(&self) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(held) = held {
            let timer = self.3.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(timer) = timer {
                timer.remove();
            }
            held.complete(self.1, self.2);
        }
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.go_on();
    }
}

/// Has a request that has come back go further up when the task that `begin` begins is over, and no
/// thread wait for it; but not more than some seconds later, so that what hangs there does not keep
/// files from being closed.
///
/// A simulation goes on only by what happens in it. There the thread waits: time stands still meanwhile.
pub(super) fn after(irp: Unwinding<'_>, begin: impl FnOnce(Task)) -> Completion {
    if Simulator::current().is_some() {
        let (task, over) = Task::for_thread();
        begin(task);
        let _ = over.recv_timeout(PATIENCE);
        return irp.proceed();
    }
    let (status, info) = (irp.status(), irp.info());
    let (held, completion) = irp.reclaim();
    let waiting = Waiting(Mutex::new(Some(held)), status, info, Mutex::default());
    let waiting = Arc::new(waiting);
    let timer = TimerId::insert(clock::now() + PATIENCE, &Waker::from(waiting.clone()));
    *waiting.3.lock().unwrap_or_else(PoisonError::into_inner) = timer;
    begin(Task(Arc::new(Tells::Request(waiting))));
    completion
}
