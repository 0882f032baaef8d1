//! Asynchronous procedure calls: callbacks that run on one thread, at its alertable waits, in the
//! order in which they were queued (C-4).
//!
//! The same record of a thread says which request it waits for, so that others can cancel it (X-22).
//!
//! A finished request's own slot is what is queued (I-1). What is still queued when the thread ends
//! is dropped, and so is what comes later.

use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use crate::irp::finish;
use crate::irp::slot::{Route, SlotPtr};
use crate::node::{Entry, Fifo, Spare};
use crate::panics::{caught, log};
use crate::request::Cancel;
use crate::status::Status;
use crate::sync::{Mutex, MutexGuard, per_thread};
use crate::wait::sleeper::Sleeper;

type Call = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Inner {
    list: Fifo<Call>,
    spare: Spare<Call>,
    /// The thread is in an alertable wait.
    sleeper: Option<Arc<Sleeper>>,
    /// The request that the thread waits for (X-22).
    synchronous: Option<Cancel>,
    ended: bool,
}

/// APCs of one thread that are queued or will be, at most: beyond it requests and calls are refused.
const LIMIT: usize = 1 << 20;

/// A thread's queue.
#[derive(Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    /// See [`Admitted`].
    outstanding: AtomicUsize,
}

/// One APC that is queued, or will be; taken off the count when dropped.
pub(crate) struct Admitted(Arc<Queue>);

impl Admitted {
    pub(crate) fn new(queue: Arc<Queue>) -> Result<Admitted, Status> {
        let before = queue.outstanding.fetch_add(1, Ordering::Relaxed);
        let admitted = Admitted(queue);
        if before < LIMIT { Ok(admitted) } else { Err(Status::QUOTA_EXCEEDED) }
    }

    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.0
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics while it holds the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, entry: Entry<Call>) -> Result<(), Entry<Call>> {
        let mut inner = self.lock();
        if inner.ended {
            return Err(entry);
        }
        let Inner { list, spare, .. } = &mut *inner;
        list.push(entry, spare);
        if let Some(sleeper) = &inner.sleeper {
            sleeper.tell();
        }
        Ok(())
    }

    fn pop(&self) -> Option<Entry<Call>> {
        let mut inner = self.lock();
        let Inner { list, spare, .. } = &mut *inner;
        list.pop(spare)
    }

    /// Queues a finished request, whose route says what to run.
    ///
    /// # Safety
    /// The slot is `DONE`, its route is [`Route::Apc`]; the requester's reference goes to the queue.
    pub(crate) unsafe fn insert(&self, slot: SlotPtr) {
        if self.push(Entry::Irp(slot)).is_err() {
            // SAFETY: the reference is still ours.
            unsafe { finish::release(slot) };
        }
    }
}

/// What runs when a request with this route is taken off the queue.
pub(crate) trait Callback: Send {
    fn queue(&self) -> &Arc<Queue>;
    /// # Safety
    /// The slot is `DONE`, and the requester's reference goes along.
    unsafe fn run(self: Box<Self>, slot: SlotPtr);
}

/// Drops what is left when the thread ends.
struct Mine(Arc<Queue>);

impl Drop for Mine {
    fn drop(&mut self) {
        let list = {
            let mut inner = self.0.lock();
            inner.ended = true;
            std::mem::take(&mut inner.list)
        };
        discard(list);
    }
}

fn discard(mut list: Fifo<Call>) {
    let mut spare = Spare::default();
    while let Some(entry) = list.pop(&mut spare) {
        match entry {
            // SAFETY: the queue's reference.
            Entry::Irp(slot) => unsafe { finish::release(slot) },
            // Foreign code, in a thread's end.
            Entry::Own(call) => {
                if caught(|| drop(call)).is_none() {
                    log(|| {
                        tracing::error!("an APC that had not run panicked while it was dropped")
                    });
                }
            }
        }
    }
}

per_thread! {
    static MINE: RefCell<Option<Mine>> = const { RefCell::new(None) };
}

/// The calling thread's queue.
pub(crate) fn mine() -> Result<Arc<Queue>, Status> {
    let queue = MINE.try_with(|mine| {
        let mut mine = mine.borrow_mut();
        mine.get_or_insert_with(|| Mine(Arc::default())).0.clone()
    });
    queue.map_err(|_| Status::SHUTDOWN_IN_PROGRESS)
}

fn with_mine<R>(ask: impl FnOnce(&Queue) -> R) -> Option<R> {
    // The queue outlives the borrow: what runs may ask again.
    let queue = MINE.try_with(|mine| mine.borrow().as_ref().map(|mine| mine.0.clone()));
    Some(ask(&*queue.ok().flatten()?))
}

/// Whether the calling thread has APCs to run.
pub(crate) fn is_queued() -> bool {
    with_mine(|queue| !queue.lock().list.is_empty()).unwrap_or(false)
}

/// Has APCs that come from now on tell the sleeper of this thread, until dropped.
pub(crate) struct Listening(Option<Arc<Queue>>);

/// See [`Listening`]; the wait that follows looks at the queue after it has said where it sleeps
/// ([`Listening::at`]).
pub(crate) fn listen() -> Listening {
    Listening(mine().ok())
}

/// As [`listen`], for a thread that sleeps there in any case.
pub(crate) fn listen_at(sleeper: &Arc<Sleeper>) -> Listening {
    let listening = listen();
    listening.at(sleeper);
    listening
}

impl Listening {
    /// Where the thread sleeps.
    pub(crate) fn at(&self, sleeper: &Arc<Sleeper>) {
        if let Some(queue) = &self.0 {
            let mut inner = queue.lock();
            if inner.sleeper.is_none() {
                inner.sleeper = Some(sleeper.clone());
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(queue) = &self.0 {
            queue.lock().sleeper = None;
        }
    }
}

/// Runs the APCs of the calling thread, oldest first, until there are none. Whether any ran.
pub(crate) fn run() -> bool {
    let Ok(queue) = mine() else { return false };
    let mut any = false;
    while let Some(entry) = queue.pop() {
        any = true;
        match entry {
            Entry::Own(call) => call(),
            // SAFETY: queued by `insert`; the reference comes along.
            Entry::Irp(slot) => unsafe {
                // The keeper may be looking at what the processor has.
                let core = (*slot.0.as_ptr()).core.as_ref();
                let busy = core.is_current().then(|| core.busy());
                let route = std::mem::replace(&mut (*slot.0.as_ptr()).route, Route::None);
                drop(busy);
                match route {
                    Route::Apc(callback) => callback.run(slot),
                    _ => finish::release(slot),
                }
            },
        }
    }
    any
}

/// The calling thread waits for a request, until this is dropped.
pub(crate) struct Synchronous(Option<Arc<Queue>>);

/// See [`Synchronous`].
pub(crate) fn synchronous(request: Cancel) -> Synchronous {
    let queue = mine().ok();
    if let Some(queue) = &queue {
        queue.lock().synchronous = Some(request);
    }
    Synchronous(queue)
}

impl Drop for Synchronous {
    fn drop(&mut self) {
        if let Some(queue) = &self.0 {
            queue.lock().synchronous = None;
        }
    }
}

/// A thread, as others see it: APCs can be queued to it (NT's `QueueUserAPC`), and the request that it
/// waits for can be cancelled.
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::apc::IoThread;
/// use overlapped::wait::{Alertable, Waited, sleep};
///
/// let here = IoThread::current().unwrap();
/// let (send, results) = std::sync::mpsc::channel();
/// std::thread::spawn(move || here.queue(move || send.send(7).unwrap())).join().unwrap().unwrap();
/// assert!(results.try_recv().is_err(), "it runs at an alertable wait, not before");
/// assert_eq!(sleep(None, Alertable::Yes), Ok(Waited::Apc));
/// assert_eq!(results.try_recv(), Ok(7));
/// ```
#[derive(Clone)]
pub struct IoThread(Arc<Queue>);

impl IoThread {
    /// The calling thread.
    ///
    /// # Errors
    /// [`Status::SHUTDOWN_IN_PROGRESS`] while the thread ends.
    pub fn current() -> Result<IoThread, Status> {
        mine().map(IoThread)
    }

    /// Queues a call, which runs on that thread at its next alertable wait, after those queued
    /// before.
    ///
    /// # Errors
    /// [`Status::NOT_FOUND`]: the thread has ended. [`Status::QUOTA_EXCEEDED`]: about a million APCs of
    /// it have not run.
    pub fn queue(&self, call: impl FnOnce() + Send + 'static) -> Result<(), Status> {
        let admitted = Admitted::new(self.0.clone())?;
        let call = move || {
            drop(admitted);
            call();
        };
        self.0.push(Entry::Own(Box::new(call))).map_err(|_| Status::NOT_FOUND)
    }

    /// Cancels the request that the thread waits for in [`crate::Request::wait`] (X-22): that call
    /// returns [`Status::CANCELLED`], unless the request ends otherwise first (X-5). Does not wait. It
    /// may be the thread's next request that is met.
    ///
    /// # Errors
    /// [`Status::NOT_FOUND`]: it waits for none.
    pub fn cancel_synchronous_io(&self) -> Result<(), Status> {
        let request = self.0.lock().synchronous.clone();
        request.ok_or(Status::NOT_FOUND)?.cancel();
        Ok(())
    }
}

impl fmt::Debug for IoThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoThread").finish_non_exhaustive()
    }
}
