//! Loom's atomics, with `SeqCst` as strong as it is: for models only.
//!
//! Loom takes sequentially consistent accesses for `AcqRel` ones, and so finds executions that there
//! are not; sequentially consistent fences it knows. What protocols rest on is that of two threads
//! that each store and then look, one sees the other's store: so there is a fence before a `SeqCst`
//! look when the thread's store before it was `SeqCst` too, and only then, so that a model fails
//! when either of the two is weaker.
//!
//! And loom orders the stores to one atomic only as far as threads have heard of each other's; a
//! swap, which looks at the newest, is in one order with all others. So stores are swaps here that
//! look at nothing.

pub use loom::sync::atomic::Ordering;
use loom::sync::atomic::fence;
use std::cell::Cell;

loom::thread_local! {
    /// The thread's last store was `SeqCst`.
    static STORED: Cell<bool> = Cell::new(false);
}

fn look(ordering: Ordering) -> Ordering {
    // In a destructor of another such value it may be gone.
    if ordering == Ordering::SeqCst && STORED.try_with(Cell::get).unwrap_or(true) {
        fence(Ordering::SeqCst);
    }
    ordering
}

fn stored(ordering: Ordering) {
    let _ = STORED.try_with(|stored| stored.set(ordering == Ordering::SeqCst));
}

macro_rules! atomic {
    ($name:ident$(<$param:ident>)?, $inner:ty, $value:ty) => {
        /// See the module's header.
        pub struct $name$(<$param>)?($inner);

        #[allow(dead_code, reason = "each user needs some of it")]
        impl$(<$param>)? $name$(<$param>)? {
            /// With a value.
            pub fn new(value: $value) -> Self {
                Self(<$inner>::new(value))
            }
            /// As std's.
            pub fn load(&self, ordering: Ordering) -> $value {
                self.0.load(look(ordering))
            }
            /// As std's.
            pub fn store(&self, value: $value, ordering: Ordering) {
                // No `Acquire` in it: a store synchronises with nobody's store before.
                let release = match ordering {
                    Ordering::Relaxed => Ordering::Relaxed,
                    _ => Ordering::Release,
                };
                self.0.swap(value, release);
                stored(ordering);
            }
            /// As std's.
            pub fn swap(&self, value: $value, ordering: Ordering) -> $value {
                let before = self.0.swap(value, look(ordering));
                stored(ordering);
                before
            }
            /// As std's, which may fail for nothing.
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let result = self.0.compare_exchange(current, new, look(success), failure);
                if result.is_ok() {
                    stored(success);
                }
                result
            }
        }
    };
}

atomic!(AtomicBool, loom::sync::atomic::AtomicBool, bool);
atomic!(AtomicU64, loom::sync::atomic::AtomicU64, u64);
atomic!(AtomicPtr<T>, loom::sync::atomic::AtomicPtr<T>, *mut T);
