//! What other threads know of a processor: its mailbox (`mailbox.rs`), and how to wake it.
//!
//! Two kinds of mail. *Slots* are letters, linked by `Slot::mail`, so that letting go of a request
//! or finishing a held one elsewhere allocates nothing. *Work* is a boxed closure, for what is rare:
//! closing a file from another thread, listings, cancel by handle.

use std::fmt;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::gate::{Gate, State};
use super::mailbox::{Letter, Mailbox};
use super::{Core, keeper};
use crate::hal::Wake;
use crate::irp::slot::{Slot, SlotPtr};
use crate::panics::{caught, log};

pub(crate) type Work = Box<dyn FnOnce(&Core) + Send>;

// SAFETY: whoever set the `MAIL` bit, and nobody else, uses the link until the owner has taken the
// slot off the list (`irp::state`). Slots are aligned.
unsafe impl Letter for Slot {
    unsafe fn link(this: NonNull<Slot>, next: *mut Slot) {
        // SAFETY: the caller's; as above.
        unsafe { *(*this.as_ptr()).mail.get() = next };
    }
    unsafe fn next(this: NonNull<Slot>) -> *mut Slot {
        // SAFETY: as above.
        unsafe { *(*this.as_ptr()).mail.get() }
    }
}

pub(crate) struct Remote {
    id: u32,
    backend: &'static str,
    thread: String,
    core: AtomicPtr<Core>,
    mail: Mailbox<Slot, Work>,
    wake: Arc<dyn Wake>,
    /// Of a plain thread's processor.
    gate: Option<Gate>,
}

/// The lock of a plain thread's processor, which it keeps alive.
pub(super) struct Entered(Arc<Remote>, PhantomData<*mut ()>);

impl Drop for Entered {
    fn drop(&mut self) {
        // SAFETY: locked when this was made, on this thread: it is not `Send`.
        unsafe { self.0.gate().unlock() };
    }
}

static NEXT_ID: AtomicU32 = AtomicU32::new(0);
static ALL: Mutex<Vec<Weak<Remote>>> = Mutex::new(Vec::new());

impl Remote {
    pub(super) fn new(
        wake: Arc<dyn Wake>,
        backend: &'static str,
        gate: Option<Gate>,
    ) -> Arc<Remote> {
        let thread = std::thread::current();
        let remote = Arc::new(Remote {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            backend,
            thread: thread.name().unwrap_or("?").to_owned(),
            core: AtomicPtr::new(ptr::null_mut()),
            mail: Mailbox::new(),
            wake,
            gate,
        });
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|r| r.strong_count() > 0);
        all.push(Arc::downgrade(&remote));
        remote
    }

    pub(super) fn attach(&self, core: NonNull<Core>) {
        self.core.store(core.as_ptr(), Ordering::Relaxed);
    }

    /// The core is gone; its address may be used again by another.
    pub(super) fn detach(&self) {
        self.core.store(ptr::null_mut(), Ordering::Relaxed);
    }

    /// Of a plain thread's processor only.
    pub(super) fn gate(&self) -> &Gate {
        self.gate.as_ref().expect("the processor is a plain thread's")
    }

    /// Waits until nobody else is inside.
    pub(super) fn enter(this: Arc<Remote>) -> Entered {
        this.gate().lock();
        Entered(this, PhantomData)
    }

    /// `None`: somebody else is inside.
    pub(super) fn try_enter(self: &Arc<Remote>) -> Option<Entered> {
        self.gate().try_lock().then(|| Entered(self.clone(), PhantomData))
    }

    pub(super) fn presence(&self) -> (State, u64) {
        self.gate().look()
    }

    /// With the lock held.
    pub(super) fn core(&self) -> Option<NonNull<Core>> {
        NonNull::new(self.core.load(Ordering::Relaxed))
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn thread(&self) -> &str {
        &self.thread
    }

    pub(super) fn backend(&self) -> &'static str {
        self.backend
    }

    #[inline]
    pub(crate) fn is(&self, core: &Core) -> bool {
        ptr::eq(self.core.load(Ordering::Relaxed), core)
    }

    /// Whether the calling thread drives this processor.
    pub(crate) fn is_current(&self) -> bool {
        Core::with_current(|core| self.is(core)).unwrap_or(false)
    }

    /// Mails a slot to its owner. `false`: the processor is gone.
    ///
    /// # Safety
    /// The caller has set the slot's `MAIL` bit.
    pub(crate) unsafe fn push(&self, slot: SlotPtr) -> bool {
        // SAFETY: the `MAIL` bit keeps the slot until it is read.
        let sent = unsafe { self.mail.push(slot.0) };
        if sent {
            self.wake_if_asleep();
        }
        sent
    }

    /// Runs `work` on the owner's thread, soon. Gives it back when the processor is gone.
    pub(crate) fn run(&self, work: Work) -> Result<(), Work> {
        self.mail.send(work)?;
        self.wake_if_asleep();
        Ok(())
    }

    /// Runs `work` on every processor of the process.
    pub(crate) fn broadcast(work: impl Fn(&Core) + Send + Sync + 'static) {
        let work = Arc::new(work);
        for remote in Self::all() {
            let work = work.clone();
            // A processor that is gone has no requests.
            let _ = remote.run(Box::new(move |core| work(core)));
        }
    }

    pub(crate) fn all() -> Vec<Arc<Remote>> {
        let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn by_id(id: u32) -> Option<Arc<Remote>> {
        let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).find(|remote| remote.id == id)
    }

    pub(crate) fn wake_if_asleep(&self) {
        if self.mail.wakes() {
            self.wake.wake();
        } else if let Some(gate) = &self.gate
            && matches!(gate.look().0, State::Idle | State::Left)
        {
            keeper::notice();
        }
    }

    /// Runs `work` with the processor if it is the calling thread's.
    pub(crate) fn here<R>(&self, work: impl FnOnce(&Core) -> R) -> Option<R> {
        Core::with_current(|core| self.is(core).then(|| work(core))).flatten()
    }

    // The owner's side.

    /// Announces a sleep; `false`: there is mail, do not.
    pub(super) fn prepare_sleep(&self) -> bool {
        self.mail.prepare_sleep()
    }

    pub(super) fn awake(&self) {
        self.mail.awake();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.mail.is_empty()
    }

    /// Reads all mail there is. `close`: and refuses any from now on.
    #[inline]
    pub(super) fn read(&self, core: &Core, close: bool) {
        if close || self.mail.seems_filled() {
            self.read_all(core, close);
        }
    }

    fn read_all(&self, core: &Core, close: bool) {
        for slot in self.mail.take_letters(close) {
            // SAFETY: on the owner's thread; just taken off the list.
            unsafe { crate::irp::finish::read_mail(SlotPtr(slot)) };
        }
        for work in self.mail.take_work(close) {
            // It may be foreign code, and must not take the rest with it.
            if caught(|| work(core)).is_none() {
                log(|| tracing::error!("work sent to a processor panicked"));
            }
        }
    }
}

/// A processor seen from other threads.
#[derive(Clone)]
pub struct ProcessorHandle(Arc<Remote>);

impl ProcessorHandle {
    pub(crate) fn new(remote: Arc<Remote>) -> ProcessorHandle {
        ProcessorHandle(remote)
    }

    /// The processor's number, unique in the process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Ends the processor's sleep, if it sleeps; costs one load if it does not.
    pub fn wake(&self) {
        self.0.wake_if_asleep();
    }

    /// Runs `work` on the processor's thread, in its next turn. `false`: the processor is gone and
    /// `work` was dropped.
    pub fn run(&self, work: impl FnOnce() + Send + 'static) -> bool {
        self.0.run(Box::new(move |_| work())).is_ok()
    }

    /// Runs `work` on the owner's thread: at once if that is the calling one.
    pub(crate) fn on_core(&self, work: Work) {
        if self.0.is_current() {
            Core::with_current(work);
        } else {
            // A processor that is gone has no requests.
            let _ = self.0.run(work);
        }
    }

    /// Whether the calling thread drives it.
    pub fn is_current(&self) -> bool {
        self.0.is_current()
    }
}

impl fmt::Debug for ProcessorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessorHandle")
            .field("id", &self.id())
            .field("thread", &self.0.thread)
            .finish_non_exhaustive()
    }
}
