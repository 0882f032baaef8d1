//! What other threads know of a processor: its mailbox, and how to wake it.
//!
//! Two kinds of mail. *Slots* travel on an intrusive list (`Slot::mail`), so that letting go of a
//! request or finishing a held one elsewhere allocates nothing. *Work* is a boxed closure, for what
//! is rare: closing a file from another thread, listings, cancel by handle.
//!
//! **Invariant.** Mail pushed before the mailbox closes is read by the owner; a push afterwards
//! fails and gives the mail back. **Sleep:** the owner sets `sleeping`, then looks at the mailbox
//! again; a sender pushes, then looks at `sleeping`. Both sequentially consistent, so one of them
//! sees the other.

use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::gate::{Gate, State};
use super::{Core, keeper};
use crate::hal::Wake;
use crate::irp::slot::{Slot, SlotPtr};

pub(crate) type Work = Box<dyn FnOnce(&Core) + Send>;

#[derive(Default)]
struct WorkList {
    list: Vec<Work>,
    closed: bool,
}

pub(crate) struct Remote {
    id: u32,
    backend: &'static str,
    thread: String,
    core: AtomicPtr<Core>,
    slots: AtomicPtr<Slot>,
    has_work: AtomicBool,
    work: Mutex<WorkList>,
    sleeping: AtomicBool,
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

/// The value of `slots` after closing; never a slot's address, which is aligned.
fn closed() -> *mut Slot {
    ptr::without_provenance_mut(1)
}

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
            slots: AtomicPtr::new(ptr::null_mut()),
            has_work: AtomicBool::new(false),
            work: Mutex::default(),
            sleeping: AtomicBool::new(false),
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
    pub(crate) fn push(&self, slot: SlotPtr) -> bool {
        let slot = slot.0.as_ptr();
        let mut head = self.slots.load(Ordering::Relaxed);
        loop {
            if head == closed() {
                // What the teardown has done to the slot's memory happened before.
                fence(Ordering::Acquire);
                return false;
            }
            // SAFETY: whoever set the `MAIL` bit, and nobody else, writes the link until the owner
            // has taken the slot off the list.
            unsafe { *(*slot).mail.get() = head };
            match self.slots.compare_exchange_weak(head, slot, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        self.wake_if_asleep();
        true
    }

    /// Runs `work` on the owner's thread, soon. Gives it back when the processor is gone.
    pub(crate) fn run(&self, work: Work) -> Result<(), Work> {
        let mut inner = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.closed {
            return Err(work);
        }
        inner.list.push(work);
        self.has_work.store(true, Ordering::SeqCst);
        drop(inner);
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
        if self.sleeping.load(Ordering::SeqCst) && self.sleeping.swap(false, Ordering::SeqCst) {
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
        self.sleeping.store(true, Ordering::SeqCst);
        if self.is_empty() {
            return true;
        }
        self.sleeping.store(false, Ordering::SeqCst);
        false
    }

    pub(super) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.load(Ordering::SeqCst).is_null() && !self.has_work.load(Ordering::SeqCst)
    }

    /// Reads all mail there is. `close`: and refuses any from now on.
    pub(super) fn read(&self, core: &Core, close: bool) {
        let end = if close { closed() } else { ptr::null_mut() };
        if close || !self.slots.load(Ordering::Relaxed).is_null() {
            let mut slot = self.slots.swap(end, Ordering::AcqRel);
            if slot == closed() {
                slot = ptr::null_mut();
            }
            // The list is newest first; mail is read in the order in which it was sent.
            let mut oldest = ptr::null_mut();
            while let Some(this) = NonNull::new(slot) {
                // SAFETY: on the list we have just taken, so alive, and its link is ours.
                unsafe {
                    let link = (*this.as_ptr()).mail.get();
                    slot = *link;
                    *link = oldest;
                }
                oldest = this.as_ptr();
            }
            slot = oldest;
            while let Some(this) = NonNull::new(slot) {
                // SAFETY: on the list, so alive and linked; read before its mail is, as that may
                // free or re-mail it.
                unsafe {
                    slot = *(*this.as_ptr()).mail.get();
                    crate::irp::finish::read_mail(SlotPtr(this));
                }
            }
        }
        if close || self.has_work.load(Ordering::Relaxed) {
            self.has_work.store(false, Ordering::SeqCst);
            let mut inner = self.work.lock().unwrap_or_else(PoisonError::into_inner);
            inner.closed |= close;
            let list = std::mem::take(&mut inner.list);
            drop(inner);
            for work in list {
                // It may be foreign code, and must not take the rest with it.
                let run = AssertUnwindSafe(|| work(core));
                if catch_unwind(run).is_err() {
                    tracing::error!("work sent to a processor panicked");
                }
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
