//! Loom's atomics, with `SeqCst` as strong as it is: for models only.
//!
//! Loom takes sequentially consistent accesses for `AcqRel` ones, and so finds executions that there
//! are not; sequentially consistent fences it knows. A fence before each access of that order makes
//! up for it, as compilers for weakly ordered machines do it. And loom orders the stores to one
//! atomic only as far as threads have heard of each other's; a swap, which looks at the newest, is
//! in one order with all others. So stores are swaps here that look at nothing.

pub use loom::sync::atomic::Ordering;
use loom::sync::atomic::fence;

fn order(order: Ordering) -> Ordering {
    if order == Ordering::SeqCst {
        fence(Ordering::SeqCst);
    }
    order
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
                self.0.load(order(ordering))
            }
            /// As std's.
            pub fn store(&self, value: $value, ordering: Ordering) {
                // No `Acquire` in it: a store synchronises with nobody's store before.
                let ordering = match order(ordering) {
                    Ordering::Relaxed => Ordering::Relaxed,
                    _ => Ordering::Release,
                };
                self.0.swap(value, ordering);
            }
            /// As std's.
            pub fn swap(&self, value: $value, ordering: Ordering) -> $value {
                self.0.swap(value, order(ordering))
            }
            /// As std's, which may fail for nothing.
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.0.compare_exchange(current, new, order(success), failure)
            }
        }
    };
}

atomic!(AtomicBool, loom::sync::atomic::AtomicBool, bool);
atomic!(AtomicU64, loom::sync::atomic::AtomicU64, u64);
atomic!(AtomicPtr<T>, loom::sync::atomic::AtomicPtr<T>, *mut T);
