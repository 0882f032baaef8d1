//! The keeper: one thread of the process that drives the processors of plain threads while these do
//! something else, so that their requests go on as they would in NT, and no completion is stranded
//! behind a busy or blocked thread.
//!
//! It costs a plain thread nothing but a store when it leaves. The keeper looks at those that have
//! left a millisecond ago: one that has been in and out since then needs nobody; for one that is
//! still away it submits what was queued, reaps, and from then on watches the hardware's descriptor
//! ([`crate::hal::Hal::watch`]) and the next timer. With nobody away it sleeps.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::busy::CURRENT;
use super::gate::State;
use super::notice::Notice;
use super::{Core, Driven, Processor, ProcessorHandle, Remote, thread};
use crate::driver::Driver;
use crate::file::{FileHandle, FileObject};
use crate::hal::{Op, Wait};
use crate::irp::{Disposition, Irp, Lower};
use crate::major::{Major, MajorSet};
use crate::panics::{caught, log};
use crate::request::{Done, Operation, Request, Setup};
use crate::stack::Stack;
use crate::status::Status;
use crate::wake;

/// How long a thread may be away before the keeper steps in, and then some of it.
const TICK: Duration = Duration::from_millis(1);

/// Ticks without anybody away before the keeper sleeps: threads that come and go quickly should
/// not have to wake it each time.
const QUIET: u32 = 8;

/// Turns for one processor before the others get theirs.
const TURNS: u32 = 8;

#[cfg(not(loom))]
static NOTICE: Notice = Notice::new();
#[cfg(loom)]
loom::lazy_static! {
    static ref NOTICE: Notice = Notice::new();
}
static STARTED: AtomicBool = AtomicBool::new(false);
static HANDLE: OnceLock<ProcessorHandle> = OnceLock::new();
/// Processors it does not know yet.
static NEW: Mutex<Vec<Arc<Remote>>> = Mutex::new(Vec::new());

/// A plain thread has a processor now.
pub(super) fn announce(remote: &Arc<Remote>) {
    NEW.lock().unwrap_or_else(PoisonError::into_inner).push(remote.clone());
}

/// Somebody is away who must not be forgotten.
#[inline]
pub(super) fn notice() {
    if NOTICE.wakes() {
        wake();
    }
}

/// Somebody is away who will not be back soon.
pub(super) fn call() {
    if NOTICE.wakes() {
        wake();
    } else if let Some(handle) = HANDLE.get() {
        // It may be between two ticks.
        handle.wake();
    }
}

#[cold]
fn wake() {
    if let Some(handle) = HANDLE.get() {
        handle.wake();
    } else if !STARTED.swap(true, Ordering::SeqCst) {
        let thread = std::thread::Builder::new().name("overlapped-keeper".into());
        if let Err(error) = thread.spawn(run) {
            // The next to leave tries again.
            STARTED.store(false, Ordering::SeqCst);
            NOTICE.failed();
            log(
                || tracing::error!(%error, "requests of plain threads go on only while these wait"),
            );
        }
    }
}

fn run() {
    let processor = loop {
        match thread::hardware().and_then(|hal| Processor::with_driver(hal, Driven::Loop)) {
            Ok(processor) => break processor,
            Err(error) => {
                log(|| tracing::error!(%error, "no hardware for the keeper of plain threads"));
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    };
    let _ = HANDLE.set(processor.handle());
    let stack = Stack::new(Vec::new(), Arc::new(Watch)).expect("a stack of one driver");
    let mut wards: Vec<Ward> = Vec::new();
    let mut quiet = 0u32;
    loop {
        let new = std::mem::take(&mut *NEW.lock().unwrap_or_else(PoisonError::into_inner));
        wards.extend(new.into_iter().map(Ward::new));
        let mut again = false;
        wards.retain_mut(|ward| {
            // Code of drivers and of the user's runs in there.
            again |= caught(|| ward.look(&stack)).unwrap_or_else(|| {
                log(|| tracing::error!("a panic reached the keeper of plain threads"));
                true
            });
            ward.remote.presence().0 != State::Gone
        });
        quiet = if again { 0 } else { quiet.saturating_add(1) };
        let wait = if quiet <= QUIET {
            Wait::For(TICK)
        } else {
            let wanted = || {
                let new = !NEW.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
                new || wards.iter().any(Ward::needs_a_look)
            };
            if NOTICE.sleeps(wanted) {
                match wards.iter().filter_map(|ward| ward.due).min() {
                    Some(due) => Wait::For(due.saturating_duration_since(Instant::now())),
                    None => Wait::Forever,
                }
            } else {
                Wait::No
            }
        };
        if wait == Wait::No {
            quiet = 0;
        }
        if let Err(error) = processor.turn(wait, || quiet > QUIET && NOTICE.is_awake()) {
            log(|| tracing::error!(%error, "the keeper's backend failed"));
            std::thread::sleep(Duration::from_millis(10));
        }
        if NOTICE.is_awake() && quiet > QUIET {
            quiet = 0;
        }
    }
}

/// A plain thread's processor, as the keeper knows it.
struct Ward {
    remote: Arc<Remote>,
    /// When it was first seen away.
    since: Option<u64>,
    /// Its hardware's descriptor, as a file of the keeper's.
    file: Option<FileHandle>,
    poll: Option<Request<'static, Readable>>,
    /// The descriptor has been readable since the processor was looked after.
    fired: bool,
    due: Option<Instant>,
}

impl Ward {
    fn new(remote: Arc<Remote>) -> Ward {
        Ward { remote, since: None, file: None, poll: None, fired: false, due: None }
    }

    fn needs_a_look(&self) -> bool {
        match self.remote.presence().0 {
            State::Left | State::Asked => true,
            State::Idle => !self.remote.is_empty(),
            State::Inside | State::Kept | State::Gone => false,
        }
    }

    /// Drives the processor if its thread is away and it needs that. `true`: look again soon.
    fn look(&mut self, stack: &Arc<Stack>) -> bool {
        if let Some(poll) = &mut self.poll
            && let Poll::Ready(ready) = Pin::new(poll).poll(&mut Context::from_waker(Waker::noop()))
        {
            self.poll = None;
            self.fired = true;
            if !ready {
                // Nothing to watch it by. It is looked at in every tick instead.
                return self.attend(stack, false);
            }
        }
        let (state, epoch) = self.remote.presence();
        match state {
            State::Inside | State::Gone => false,
            State::Idle => !self.remote.is_empty() && self.attend(stack, true),
            State::Left if self.since == Some(epoch) => self.attend(stack, true),
            State::Asked => self.attend(stack, true),
            State::Left => {
                self.since = Some(epoch);
                true
            }
            State::Kept => {
                let due = self.due.is_some_and(|due| due <= Instant::now());
                (self.fired || due) && self.attend(stack, true)
            }
        }
    }

    /// Turns the processor in its thread's place. `true`: there is more to do.
    fn attend(&mut self, stack: &Arc<Stack>, watch: bool) -> bool {
        wake::deferred(|| self.attend_now(stack, watch)).0
    }

    fn attend_now(&mut self, stack: &Arc<Stack>, watch: bool) -> bool {
        let Some(_lock) = self.remote.try_enter() else {
            // Its thread is back, and says so when it leaves.
            return false;
        };
        self.fired = false;
        let Some(core) = self.remote.core() else { return false };
        let mut descriptor = None;
        // SAFETY: with its lock held the processor is not torn down, and nobody else touches it.
        let more = as_its_thread(unsafe { core.as_ref() }, |core| {
            let _busy = core.busy();
            let mut turns = 0;
            while core.turn(Wait::No, || true).unwrap_or(false) {
                turns += 1;
                if turns == TURNS {
                    return true;
                }
            }
            if core.end_bequest() {
                return false;
            }
            self.due = core.next_timer();
            if !core.is_outstanding() {
                return false;
            }
            if !watch || !self.remote.prepare_sleep() {
                return true;
            }
            descriptor = core.watch();
            core.kept.set(descriptor.is_some());
            descriptor.is_none()
        });
        let mut more = more;
        if let Some(fd) = descriptor.filter(|_| self.poll.is_none()) {
            // Readable already, or not to be watched: it is looked at in the next tick.
            self.fired = !self.watch(stack, fd);
            more |= self.fired;
        }
        self.since = Some(self.remote.presence().1);
        more
    }

    /// `false`: nothing will come of it.
    fn watch(&mut self, stack: &Arc<Stack>, fd: i32) -> bool {
        if self.file.is_none() {
            let Ok(file) = FileObject::internal(stack.clone()) else { return false };
            // SAFETY: `Watch` does not close it, and it is not used after the processor is gone.
            unsafe { file.set_fd(fd) };
            self.file = Some(file);
        }
        let file = self.file.clone().expect("just made");
        let mut poll = Request::owned(file, Readable);
        let waits = Pin::new(&mut poll).poll(&mut Context::from_waker(Waker::noop())).is_pending();
        self.poll = waits.then_some(poll);
        waits
    }
}

/// Runs `work` with `core` as the calling thread's processor.
fn as_its_thread<R>(core: &Core, work: impl FnOnce(&Core) -> R) -> R {
    struct Back(*const Core);
    impl Drop for Back {
        fn drop(&mut self) {
            CURRENT.with(|current| current.set(self.0));
        }
    }
    let _back = Back(CURRENT.with(|current| current.replace(core)));
    work(core)
}

/// Waits until a descriptor is readable.
struct Readable;

impl Operation for Readable {
    /// Whether it could be waited for.
    type Output = bool;

    fn major(&self) -> Major {
        Major::Poll
    }
    fn prepare(self, _: &mut Setup<'_>) {}
    fn finish(done: &mut Done<'_>) -> bool {
        done.status().is_success()
    }
    fn refuse(self, _: Status) -> bool {
        false
    }
}

/// The bottom driver of descriptors that belong to somebody else.
struct Watch;

impl Driver for Watch {
    fn name(&self) -> &str {
        "watch"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Poll, Major::Close])
    }
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        const POLLIN: u32 = 1;
        let fd = irp.file().fd();
        if irp.major() == Major::Poll {
            // SAFETY: the operation names no memory.
            return unsafe { irp.submit(Op::Poll { fd, events: POLLIN }) };
        }
        // SAFETY: given back to whoever owns it.
        unsafe { irp.file().set_fd(-1) };
        irp.complete(Status::SUCCESS, 0)
    }
}
