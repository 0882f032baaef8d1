//! Tasks: a future in one allocation with its state word (`state.rs`), its waker's table, and its
//! output once it is ready. [`JoinHandle`] is in `join.rs`, [`TaskId`] in `id.rs`, queues of tasks in
//! `line.rs` and `mail.rs`, tasks' memory in `memory.rs`.
//!
//! Nothing global knows a task before its first poll has come back pending: most short tasks never
//! do. Then the worker that polled it puts it on its own list, which no other thread touches, so
//! that the runtime's end finds it.
//!
//! **Invariants.**
//! - Who takes a [`Runnable`] off a queue, and nobody else, touches the future, until it is paused.
//! - `shared` and `place` are written by the runner before the first pause; a waker reads them only
//!   between making the task active and queueing it. `shared` is taken by the runner that completes the
//!   task, and left alone where that ends with an entry for it under way ([`Listed::close`]).
//! - A task that is pinned is run, and its future dropped, on its worker's thread only.

mod id;
mod join;
mod line;
mod mail;
mod memory;
mod state;

use std::cell::{Cell, UnsafeCell};
use std::future::Future;
use std::mem::{self, ManuallyDrop, MaybeUninit};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::ptr::{self, NonNull, addr_of_mut};
use std::sync::Arc;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

pub use id::{TaskId, id};
pub use join::{AbortHandle, JoinError, JoinHandle};
pub(super) use line::Line;
pub(super) use mail::Mail;

use overlapped_iomgr::cache;
use overlapped_iomgr::panics::{caught, log};
use pin_project_lite::pin_project;

use super::inbox::AtomicPtr;
use super::shared::Shared;
use super::worker::{self, Worker};
use state::{Completed, State, Woken};

/// In `Header::pinned`: any worker may run it.
const ANYWHERE: u32 = u32::MAX;

/// Where a task is listed: a worker, and the key in its list.
#[derive(Clone, Copy)]
struct Place {
    seat: u32,
    key: u32,
}

/// What is known of a task without its type.
struct Header {
    state: State,
    vtable: &'static VTable,
    /// Set while the task is on a list; see the module's invariant.
    shared: UnsafeCell<Option<Arc<Shared>>>,
    place: Cell<Option<Place>>,
    /// The worker that alone may run it, or `ANYWHERE`.
    pinned: u32,
    /// Where it was spawned.
    spawned: &'static Location<'static>,
    /// The next task in the queue that it is in.
    link: AtomicPtr<Header>,
    /// Who awaits the handle; `State`'s `JOIN_WAKER` says whether it is there, and whose it is.
    join: UnsafeCell<MaybeUninit<Waker>>,
}

/// What differs by the future's type. All take the task's address; see each one's caller for who
/// may call it.
struct VTable {
    /// Polls; `true`: the future is gone and the output written.
    poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> bool,
    /// Drops the future, and writes that the task was cancelled.
    cancel: unsafe fn(NonNull<Header>),
    /// Moves the output out, to a place for a `Result<T, JoinError>`.
    take: unsafe fn(NonNull<Header>, *mut ()),
    drop_output: unsafe fn(NonNull<Header>),
    free: unsafe fn(NonNull<Header>),
}

union Stage<F, T> {
    future: ManuallyDrop<F>,
    output: ManuallyDrop<Result<T, JoinError>>,
}

/// A task whose future may also find that there is no value; see [`Plain`].
#[repr(C)]
struct Task<F, T> {
    header: Header,
    stage: Stage<F, T>,
}

pin_project! {
    /// A future that always finds a value, if it does not panic.
    #[repr(transparent)]
    pub(super) struct Plain<F> {
        #[pin]
        pub(super) future: F,
    }
}

impl<F: Future> Future for Plain<F> {
    type Output = Result<F::Output, JoinError>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().future.poll(cx).map(Ok)
    }
}

impl<F: Future<Output = Result<T, JoinError>>, T> Task<F, T> {
    const VTABLE: VTable = VTable {
        poll: Self::poll,
        cancel: Self::cancel,
        take: Self::take,
        drop_output: Self::drop_output,
        free: Self::free,
    };

    /// The place of future or output.
    ///
    /// # Safety
    /// `task` is a live `Task<F, T>`.
    unsafe fn stage(task: NonNull<Header>) -> *mut Stage<F, T> {
        // SAFETY: the caller's. Not through a reference: others look at the header meanwhile.
        unsafe { addr_of_mut!((*task.cast::<Task<F, T>>().as_ptr()).stage) }
    }

    unsafe fn poll(task: NonNull<Header>, cx: &mut Context<'_>) -> bool {
        // SAFETY: the caller runs the task, so the stage is its own, and holds the future. That is
        // pinned: it is dropped where it lies.
        unsafe {
            let stage = Self::stage(task);
            let future = Pin::new_unchecked(&mut *(*stage).future);
            let output = match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
                Ok(Poll::Pending) => return false,
                Ok(Poll::Ready(output)) => output,
                Err(panic) => Err(JoinError::panicked(panic)),
            };
            Self::replace(stage, output);
            true
        }
    }

    unsafe fn cancel(task: NonNull<Header>) {
        // SAFETY: as in `poll`.
        unsafe { Self::replace(Self::stage(task), Err(JoinError::cancelled())) };
    }

    /// Drops the future and writes the output.
    unsafe fn replace(stage: *mut Stage<F, T>, output: Result<T, JoinError>) {
        // SAFETY: the stage is the caller's and holds the future.
        unsafe {
            let drop = || ManuallyDrop::drop(&mut (*stage).future);
            if caught(drop).is_none() {
                log(|| tracing::error!("a task's future panicked while it was dropped"));
            }
            stage.write(Stage { output: ManuallyDrop::new(output) });
        }
    }

    unsafe fn take(task: NonNull<Header>, to: *mut ()) {
        // SAFETY: the caller has the output to itself, takes it once, and `to` has its type.
        unsafe {
            let output = ManuallyDrop::take(&mut (*Self::stage(task)).output);
            to.cast::<Result<T, JoinError>>().write(output);
        }
    }

    unsafe fn drop_output(task: NonNull<Header>) {
        // SAFETY: the caller has the output to itself, and nobody takes it afterwards.
        unsafe {
            let drop = || ManuallyDrop::drop(&mut (*Self::stage(task)).output);
            if caught(drop).is_none() {
                log(|| tracing::error!("a task's output panicked while it was dropped"));
            }
        }
    }

    unsafe fn free(task: NonNull<Header>) {
        // SAFETY: the caller gives up the last reference; future and output are gone, which the
        // union does not drop.
        unsafe {
            task.cast::<Task<F, T>>().drop_in_place();
            memory::free(task.cast::<Task<F, T>>());
        }
    }
}

/// Makes a task. The runnable is to be queued.
///
/// # Safety
/// A future that is not `Send` is pinned to the calling worker.
pub(super) unsafe fn new<F, T>(
    future: F,
    pinned: Option<usize>,
    spawned: &'static Location<'static>,
) -> (Runnable, JoinHandle<T>)
where
    F: Future<Output = Result<T, JoinError>> + 'static,
    T: 'static,
{
    let header = Header {
        state: State::new(),
        vtable: &Task::<F, T>::VTABLE,
        shared: UnsafeCell::new(None),
        place: Cell::new(None),
        pinned: pinned.map_or(ANYWHERE, |seat| seat as u32),
        spawned,
        link: AtomicPtr::new(ptr::null_mut()),
        join: UnsafeCell::new(MaybeUninit::uninit()),
    };
    let stage = Stage::<F, T> { future: ManuallyDrop::new(future) };
    let task = memory::take::<Task<F, T>>();
    // SAFETY: ours, and of that layout.
    unsafe { task.write(Task { header, stage }) };
    let task = task.cast::<Header>();
    // SAFETY: one of the two references each.
    (Runnable(task), unsafe { JoinHandle::new(task) })
}

/// A task on a worker's list. The list shares the executor's reference.
#[derive(Clone, Copy)]
pub(super) struct Listed(NonNull<Header>);

// SAFETY: only its owner looks at what it names; others pass it on.
unsafe impl Send for Listed {}

/// A task that is to be run: an entry of a queue. Dropping it drops the future, and its handle says
/// that it was cancelled.
pub(super) struct Runnable(NonNull<Header>);

// SAFETY: the queues that cross threads get tasks whose futures are `Send`, or that go to the
// thread they are pinned to (see `new` and `Shared::schedule`).
unsafe impl Send for Runnable {}

impl Runnable {
    fn header(&self) -> &Header {
        // SAFETY: the executor's reference, which an entry of a queue stands for.
        unsafe { self.0.as_ref() }
    }

    /// The worker that alone may run it.
    #[inline]
    pub(super) fn pinned(&self) -> Option<usize> {
        let pinned = self.header().pinned;
        (pinned != ANYWHERE).then_some(pinned as usize)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.header().state.is_complete()
    }

    /// Whether it has not run yet, or has ended when it first did.
    pub(super) fn is_new(&self) -> bool {
        self.header().place.get().is_none()
    }

    /// Drops its future, on a worker of its runtime, unless that has been done.
    pub(super) fn cancel(self, worker: &Worker) {
        if !self.is_complete() {
            worker.count_ended();
        }
        drop(self);
    }

    /// Polls it, on a worker that may.
    #[inline(always)]
    pub(super) fn run(self, worker: &Worker) {
        let task = ManuallyDrop::new(self).0;
        // SAFETY: it comes off a queue, so it is ours until it is paused.
        unsafe {
            let header = task.as_ref();
            worker.begin(header.spawned);
            if header.state.start() {
                worker.count_ended();
                (header.vtable.cancel)(task);
                return complete(task, worker);
            }
            // The waker borrows the executor's reference.
            let waker = ManuallyDrop::new(Waker::from_raw(raw_waker(task)));
            worker.set_running(task.as_ptr().cast_const().cast());
            let ready = (header.vtable.poll)(task, &mut Context::from_waker(&waker));
            let yielded = worker.take_yielded();
            if ready {
                worker.count_ended();
                return complete(task, worker);
            }
            if header.place.get().is_none() {
                *header.shared.get() = Some(worker.shared().clone());
                header.place.set(Some(Place {
                    seat: worker.seat() as u32,
                    key: worker.list(Listed(task)),
                }));
            }
            if yielded || header.state.pause() {
                worker.push(Runnable(task));
            }
        }
    }
}

/// Asks for a task to be in the cache soon: the header, and a future of usual size.
#[inline]
fn prefetch(task: *const Header) {
    for line in 0..5 {
        cache::prefetch(task.cast::<u8>().wrapping_add(line * 64));
    }
}

impl Drop for Runnable {
    #[cold]
    fn drop(&mut self) {
        // SAFETY: an entry of a queue is the task's next run, unless its worker has ended it
        // without waiting for this entry.
        unsafe {
            let header = self.0.as_ref();
            if header.state.is_complete() {
                return leave(self.0);
            }
            header.state.start();
            (header.vtable.cancel)(self.0);
            complete_elsewhere(self.0);
        }
    }
}

impl Listed {
    /// The runtime ends: drops the task's future, if that may be done here and now, or asks for it. Returns
    /// whether it has.
    ///
    /// # Safety
    /// On the thread of the list's owner, which polls no task.
    pub(super) unsafe fn close(self, worker: &Worker) -> bool {
        // SAFETY: on a list, so the executor's reference is there.
        unsafe {
            let header = self.0.as_ref();
            if header.state.close() {
                Runnable(self.0).cancel(worker);
                return true;
            }
            if header.pinned != ANYWHERE && !header.state.is_complete() {
                // In a queue already, or in the hands of a thread that has yet to queue it. Only
                // this thread may run it, and runs none, so it ends here; the entry has the reference,
                // and finds the task complete.
                worker.count_ended();
                (header.vtable.cancel)(self.0);
                worker.unlist(header.place.get().expect("listed").key);
                finish(self.0, true);
                return true;
            }
            false
        }
    }

    /// The owner of the list takes out a task that was completed elsewhere.
    ///
    /// # Safety
    /// On the thread of the list's owner.
    pub(super) unsafe fn unlist(self, worker: &Worker) {
        // SAFETY: the one that completed it passed the executor's reference on.
        unsafe {
            worker.unlist(self.0.as_ref().place.get().expect("listed").key);
            leave(self.0);
        }
    }

    /// Gives the executor's reference up; the list it was on is gone.
    pub(super) fn leave(self) {
        // SAFETY: as `unlist`.
        unsafe { leave(self.0) };
    }
}

/// The future is gone and the output written, by the worker that ran the task.
unsafe fn complete(task: NonNull<Header>, worker: &Worker) {
    // SAFETY: the runner's; the executor's reference ends here or is passed on.
    unsafe {
        let header = task.as_ref();
        let Some(place) = header.place.get() else { return finish(task, false) };
        if place.seat as usize == worker.seat() {
            worker.unlist(place.key);
            // Nobody queues a complete task, so nobody needs it any more. Not dropped before the
            // end: it may be the last one.
            let shared = (*header.shared.get()).take();
            finish(task, false);
            drop(shared);
        } else {
            complete_elsewhere(task);
        }
    }
}

/// As [`complete`], on a thread that is not the list's owner.
#[cold]
unsafe fn complete_elsewhere(task: NonNull<Header>) {
    // SAFETY: as `complete`.
    unsafe {
        let header = task.as_ref();
        let Some(place) = header.place.get() else { return finish(task, false) };
        let shared = (*header.shared.get()).take().expect("listed with its runtime");
        finish(task, true);
        shared.unlist(place.seat as usize, Listed(task));
    }
}

/// Publishes the output. `keeps`: the executor's reference stays the caller's.
unsafe fn finish(task: NonNull<Header>, keeps: bool) {
    // SAFETY: the runner's; what is left to do with the output or the waker is ours then.
    unsafe {
        let header = task.as_ref();
        match header.state.complete(keeps) {
            Completed::Left => return,
            Completed::Wake => {
                // Its bits stay, for the handle may just be comparing them.
                let waker = (*header.join.get()).assume_init_read();
                // A waker is foreign code.
                if caught(|| waker.wake()).is_none() {
                    log(|| tracing::error!("a waker panicked"));
                }
            }
            Completed::Discard => (header.vtable.drop_output)(task),
        }
        if !keeps {
            leave(task);
        }
    }
}

/// Gives a reference up.
unsafe fn leave(task: NonNull<Header>) {
    // SAFETY: the caller's reference.
    unsafe {
        if task.as_ref().state.leave() {
            (task.as_ref().vtable.free)(task);
        }
    }
}

/// The task is idle no more, by the caller's doing: queues it.
unsafe fn schedule(task: NonNull<Header>) {
    // SAFETY: the caller has made it active; idle tasks are listed with their runtime.
    unsafe {
        let shared = (*task.as_ref().shared.get()).as_ref().expect("listed with its runtime");
        if let Err(task) = worker::push_here(shared, Runnable(task)) {
            // A clone, because the task may run, end and let go of its own as soon as it is queued.
            let shared = shared.clone();
            shared.schedule(task);
        }
    }
}

/// Asks for the task's end at its next await.
unsafe fn close(task: NonNull<Header>) {
    // SAFETY: the caller's reference.
    unsafe {
        if task.as_ref().state.close() {
            schedule(task);
        }
    }
}

static WAKER: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, drop_waker);

fn raw_waker(task: NonNull<Header>) -> RawWaker {
    RawWaker::new(task.as_ptr().cast_const().cast(), &WAKER)
}

/// The task of a waker's data pointer.
unsafe fn of(data: *const ()) -> NonNull<Header> {
    // SAFETY: made by `raw_waker`.
    unsafe { NonNull::new_unchecked(data.cast_mut().cast()) }
}

unsafe fn clone(data: *const ()) -> RawWaker {
    // SAFETY: the waker's reference.
    unsafe {
        of(data).as_ref().state.refer();
        raw_waker(of(data))
    }
}

unsafe fn wake(data: *const ()) {
    // SAFETY: the waker's reference ends here; not complete, the executor's keeps the task.
    unsafe {
        let task = of(data);
        match task.as_ref().state.wake_and_leave() {
            Woken::Queue => schedule(task),
            Woken::Nothing => {}
            Woken::Free => (task.as_ref().vtable.free)(task),
        }
    }
}

unsafe fn wake_by_ref(data: *const ()) {
    // SAFETY: the waker's reference.
    unsafe {
        if of(data).as_ref().state.wake() {
            schedule(of(data));
        }
    }
}

unsafe fn drop_waker(data: *const ()) {
    // SAFETY: the waker's reference ends here.
    unsafe { leave(of(data)) };
}

/// Lets a task of a worker go to the back of the queue: cheaper than waking itself, because nobody
/// else takes part. `false`: the waker is not that of the task being polled.
pub(crate) fn yield_running(waker: &Waker) -> bool {
    std::ptr::eq(waker.vtable(), &WAKER) && worker::yield_if_running(waker.data())
}

const _: () = assert!(mem::size_of::<Runnable>() == mem::size_of::<usize>());
