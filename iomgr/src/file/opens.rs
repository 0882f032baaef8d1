//! What filters keep for a file: a list that only grows, and whose places are used again.
//!
//! Requests look their filter's value up on any thread, without a lock. **Invariant:** a value is
//! written before its key, and dropped after the last request that could look for that key has left:
//! when the file goes, or when its filter has been detached.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

type Value = Box<dyn Any + Send + Sync>;

/// The key of a place that is free, and of one that is being filled.
const FREE: usize = 0;
const TAKEN: usize = 1;

struct Node {
    key: AtomicUsize,
    value: UnsafeCell<Option<Value>>,
    next: *mut Node,
}

/// See the module's header.
pub(crate) struct Opens(AtomicPtr<Node>);

// SAFETY: values are `Send + Sync`; who writes one is the only one that knows its place (`TAKEN`), or
// the last (the module's invariant).
unsafe impl Send for Opens {}
// SAFETY: as above.
unsafe impl Sync for Opens {}

impl Opens {
    pub(crate) fn new() -> Opens {
        Opens(AtomicPtr::new(ptr::null_mut()))
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        let mut at = self.0.load(Ordering::Acquire);
        std::iter::from_fn(move || {
            // SAFETY: nodes live as long as the list.
            let node = unsafe { at.as_ref() }?;
            at = node.next;
            Some(node)
        })
    }

    fn find(&self, key: usize) -> Option<&Value> {
        let node = self.nodes().find(|node| node.key.load(Ordering::Acquire) == key)?;
        // SAFETY: written before its key, and not dropped while somebody may look for that.
        unsafe { (*node.value.get()).as_ref() }
    }

    /// The value of a key, an address; made if there is none.
    #[inline]
    pub(crate) fn get<T: Default + Send + Sync + 'static>(&self, key: usize) -> &T {
        let value = self.find(key).unwrap_or_else(|| self.make(key, || Box::new(T::default())));
        value.downcast_ref().expect("a driver keeps values of one type for its files")
    }

    #[cold]
    fn make(&self, key: usize, make: impl FnOnce() -> Value) -> &Value {
        // Foreign code: nothing is half done if it panics.
        let value = make();
        // One at a time: two that made one at once must agree on whose it is.
        static ONE_AT_A_TIME: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock();
        if let Some(value) = self.find(key) {
            return value;
        }
        let free = self.nodes().find(|node| {
            let (now, then) = (FREE, TAKEN);
            node.key.compare_exchange(now, then, Ordering::Acquire, Ordering::Relaxed).is_ok()
        });
        let node = match free {
            Some(node) => node,
            None => {
                let (key, value) = (AtomicUsize::new(TAKEN), UnsafeCell::new(None));
                let next = self.0.load(Ordering::Relaxed);
                let node = Box::into_raw(Box::new(Node { key, value, next }));
                self.0.store(node, Ordering::Release);
                // SAFETY: nodes live as long as the list.
                unsafe { &*node }
            }
        };
        // SAFETY: `TAKEN`, by us.
        let value = unsafe { (*node.value.get()).insert(value) };
        node.key.store(key, Ordering::Release);
        value
    }

    /// Drops a key's value.
    ///
    /// # Safety
    /// Nobody looks for the key any more, nor uses its value.
    pub(crate) unsafe fn remove(&self, key: usize) {
        let Some(node) = self.nodes().find(|node| node.key.load(Ordering::Acquire) == key) else {
            return;
        };
        node.key.store(TAKEN, Ordering::Relaxed);
        // SAFETY: the caller's.
        let value = unsafe { (*node.value.get()).take() };
        node.key.store(FREE, Ordering::Release);
        drop(value);
    }
}

impl Drop for Opens {
    fn drop(&mut self) {
        let mut at = *self.0.get_mut();
        while !at.is_null() {
            // SAFETY: made by `make`, and ours alone.
            let node = unsafe { Box::from_raw(at) };
            at = node.next;
        }
    }
}
