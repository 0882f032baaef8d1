//! What a driver keeps for each processor.

use std::fmt;

use thread_local::ThreadLocal;

/// A value for each processor: for each thread that asks for its own, made when it first does. Drivers
/// count in it on their hot path, where threads that wrote the same number would take its cache line from
/// each other. Finding it takes no lock and no atomic read-modify-write.
///
/// Whoever wants the whole looks at the values of all ([`PerCore::iter`]), for which they are shared. A
/// number that only its own thread writes is an atomic that is loaded and stored, which costs no more than
/// a plain one:
///
/// ```
/// # mod overlapped {
/// #     pub use overlapped_iomgr::Status;
/// #     pub mod driver {
/// #         pub use overlapped_iomgr::filter::{Filter, Io, Next};
/// #         pub use overlapped_iomgr::{Major, MajorSet, PerCore};
/// #     }
/// # }
/// use overlapped::Status;
/// use overlapped::driver::{Filter, Io, Major, MajorSet, Next, PerCore};
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// #[derive(Default)]
/// struct CountReads(PerCore<AtomicU64>);
///
/// impl CountReads {
///     fn total(&self) -> u64 {
///         self.0.iter().map(|reads| reads.load(Ordering::Relaxed)).sum()
///     }
/// }
///
/// impl Filter for CountReads {
///     type Open = ();
///     fn name(&self) -> &str {
///         "count-reads"
///     }
///     fn hooks(&self) -> MajorSet {
///         MajorSet::of(&[Major::Read])
///     }
///     async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
///         self.0.with(|reads| reads.store(reads.load(Ordering::Relaxed) + 1, Ordering::Relaxed));
///         next.forward(&mut io).await
///     }
/// }
/// assert_eq!(CountReads::default().total(), 0);
/// ```
///
/// Values stay when their threads end, and each goes to the next new thread: what has been counted is not
/// lost. They go with the container.
pub struct PerCore<T: Send>(ThreadLocal<Own<T>>);

/// Has the calling thread keep its values until what is made for it from now on is gone: a thread's locals
/// are dropped the last one first, and its number, by which it finds its values, is one of them.
pub(crate) fn hold() {
    static HELD: ThreadLocal<()> = ThreadLocal::new();
    HELD.get_or_default();
}

/// Alone on its cache lines; and on the neighbours that the processor fetches with them.
#[derive(Default)]
#[repr(align(128))]
struct Own<T>(T);

impl<T: Send> PerCore<T> {
    /// Without values.
    pub fn new() -> PerCore<T> {
        PerCore(ThreadLocal::new())
    }

    /// Calls `work` with the calling thread's value; made by `T::default()` if there is none. It runs on
    /// this thread to its end, so that nobody else is in such a call with this value.
    ///
    /// # Panics
    /// In the drop of a thread local, when the thread's values are its own no more; requests that end with
    /// their thread (X-30) find them still.
    #[inline]
    pub fn with<R>(&self, work: impl FnOnce(&T) -> R) -> R
    where
        T: Default,
    {
        work(&self.0.get_or_default().0)
    }

    /// The values there are, in no order. Their threads go on with them meanwhile.
    pub fn iter(&self) -> impl Iterator<Item = &T>
    where
        T: Sync,
    {
        self.0.iter().map(|own| &own.0)
    }
}

impl<T: Send> Default for PerCore<T> {
    fn default() -> PerCore<T> {
        PerCore::new()
    }
}

impl<T: fmt::Debug + Send + Sync> fmt::Debug for PerCore<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
    use std::thread;

    use super::*;

    #[test]
    fn every_thread_has_its_own() {
        // Nobody else may look at these: no `Sync` is asked for.
        let cells: PerCore<Cell<u64>> = PerCore::new();
        let numbers: PerCore<AtomicU64> = PerCore::new();
        thread::scope(|scope| {
            for i in 1..=8 {
                let (cells, numbers) = (&cells, &numbers);
                scope.spawn(move || {
                    for n in 0..10_000 {
                        cells.with(|cell| {
                            assert_eq!(cell.get() % 10_000, n, "nobody else's");
                            cell.set(cell.get() + 1);
                        });
                        numbers.with(|number| number.store(number.load(Relaxed) + i, Relaxed));
                    }
                });
            }
        });
        let total: u64 = numbers.iter().map(|number| number.load(Relaxed)).sum();
        assert_eq!(total, 36 * 10_000, "nothing is lost, and nothing goes with its thread");
        assert!(numbers.iter().count() <= 8);
        let places: Vec<usize> = numbers.iter().map(|n| std::ptr::from_ref(n).addr()).collect();
        assert!(places.iter().all(|place| place % 128 == 0), "not on one line");
    }

    #[test]
    fn values_go_with_the_container() {
        static ALIVE: AtomicUsize = AtomicUsize::new(0);
        struct Counted;
        impl Default for Counted {
            fn default() -> Counted {
                ALIVE.fetch_add(1, Relaxed);
                Counted
            }
        }
        impl Drop for Counted {
            fn drop(&mut self) {
                ALIVE.fetch_sub(1, Relaxed);
            }
        }
        let values: PerCore<Counted> = PerCore::default();
        values.with(|_| values.with(|_| assert_eq!(ALIVE.load(Relaxed), 1, "one, also within")));
        thread::scope(|scope| _ = scope.spawn(|| values.with(|_| ())));
        assert_eq!(ALIVE.load(Relaxed), 2);
        drop(values);
        assert_eq!(ALIVE.load(Relaxed), 0);
    }

    /// Whoever has looked at a value goes on with it.
    #[test]
    fn a_value_that_is_made_while_another_is() {
        static VALUES: LazyLock<PerCore<Nested>> = LazyLock::new(PerCore::new);
        static MADE: AtomicUsize = AtomicUsize::new(0);
        struct Nested(usize);
        impl Default for Nested {
            fn default() -> Nested {
                let number = MADE.fetch_add(1, Relaxed);
                if number == 0 {
                    VALUES.with(|inner| assert_eq!(inner.0, 1));
                }
                Nested(number)
            }
        }
        VALUES.with(|value| assert_eq!(value.0, 1, "the one that was there first"));
        assert_eq!(VALUES.iter().map(|value| value.0).collect::<Vec<_>>(), [1]);
    }
}
