//! Tasks on their way to a worker that alone may run them: pushed by any thread, taken by the
//! worker.
//!
//! The tasks are linked through themselves, so a push allocates nothing and takes no lock.
//!
//! **Invariants.**
//! - A task is in one queue at a time, so its link belongs to whoever pushes it, and from then on to
//!   whoever has taken the list.
//! - What is pushed before the inbox closes is taken by the worker or by who closes it; a push
//!   afterwards is refused.
//! - Pushes and [`Inbox::is_empty`] are sequentially consistent: a worker that announces its sleep and
//!   finds the inbox empty is seen asleep by the next push.
//!
//! The first two are checked with loom in `models/tests/loom.rs` of this crate; loom knows no sequential
//! consistency.

use std::ptr::{self, NonNull};

use std::sync::atomic::Ordering;

// What links nodes, for those who have one.
#[cfg(loom)]
pub(crate) use loom::sync::atomic::AtomicPtr;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::AtomicPtr;

/// What can be in an inbox.
///
/// # Safety
/// The place that [`Linked::link`] returns is always the same and part of the node.
pub unsafe trait Linked: Sized {
    /// The place for the next node of a list.
    fn link(&self) -> &AtomicPtr<Self>;
}

/// See the module's header. The nodes are the newest first.
pub struct Inbox<N>(AtomicPtr<N>);

/// The head after closing; never a node's address, which is aligned.
fn closed<N>() -> *mut N {
    ptr::without_provenance_mut(1)
}

impl<N: Linked> Inbox<N> {
    /// An empty inbox.
    pub fn new() -> Inbox<N> {
        Inbox(AtomicPtr::new(ptr::null_mut()))
    }

    /// Hands a node over. `false`: the inbox is closed, and the node is still the caller's.
    ///
    /// # Safety
    /// The node is alive until it has been taken, aligned to two or more, and in no other list.
    pub unsafe fn push(&self, node: NonNull<N>) -> bool {
        // SAFETY: alive, as the caller says.
        let link = unsafe { node.as_ref() }.link();
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            if head == closed() {
                return false;
            }
            link.store(head, Ordering::Relaxed);
            match self.0.compare_exchange_weak(
                head,
                node.as_ptr(),
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => head = now,
            }
        }
    }

    /// Whether nothing is there; for a worker about to sleep.
    pub fn is_empty(&self) -> bool {
        let head = self.0.load(Ordering::SeqCst);
        head.is_null() || head == closed()
    }

    /// Takes all there is, and gives it to `f`, the oldest first.
    #[inline]
    pub fn take(&self, f: impl FnMut(NonNull<N>)) {
        if !self.0.load(Ordering::Relaxed).is_null() {
            self.empty(ptr::null_mut(), f);
        }
    }

    /// As [`Inbox::take`], and refuses what comes from now on.
    pub fn close(&self, f: impl FnMut(NonNull<N>)) {
        self.empty(closed(), f);
    }

    #[cold]
    fn empty(&self, end: *mut N, mut f: impl FnMut(NonNull<N>)) {
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            if head == closed() {
                return;
            }
            // Acquire: what the pushers have done to their nodes is ours to see.
            match self.0.compare_exchange_weak(head, end, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        let mut oldest = ptr::null_mut();
        while let Some(node) = NonNull::new(head) {
            // SAFETY: on the list that we have just taken, so alive, and its link is ours.
            let link = unsafe { node.as_ref() }.link();
            head = link.load(Ordering::Relaxed);
            link.store(oldest, Ordering::Relaxed);
            oldest = node.as_ptr();
        }
        while let Some(node) = NonNull::new(oldest) {
            // SAFETY: as above; read before `f` has the node, which may free it or push it anew.
            oldest = unsafe { node.as_ref() }.link().load(Ordering::Relaxed);
            f(node);
        }
    }
}
