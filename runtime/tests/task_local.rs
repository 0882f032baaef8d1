//! Values that belong to a task: they go where it goes, nest, and never stay behind.

mod support;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future;
use overlapped::task::JoinSet;
use overlapped::time::sleep;
use overlapped::yield_now;
use support::{both, poll_once, until, workers};

overlapped::task_local! {
    static NUMBER: usize;
    /// Of a type that is not `Copy`.
    pub(crate) static NAME: String;
    static COUNTER: Cell<u32>;
}

fn number() -> Option<usize> {
    NUMBER.try_with(|number| *number).ok()
}

#[test]
fn scopes_nest_and_end() {
    both(async |_| {
        assert_eq!(number(), None);
        let value = NUMBER.scope(1, async {
            assert_eq!(NUMBER.get(), 1);
            let inner = NUMBER.scope(2, async {
                yield_now().await;
                NUMBER.sync_scope(3, || assert_eq!(NUMBER.get(), 3));
                NUMBER.get()
            });
            assert_eq!(inner.await, 2);
            yield_now().await;
            // A task of its own does not inherit.
            assert_eq!(overlapped::spawn(async { number() }).await.unwrap(), None);
            NAME.scope("x".into(), async { NAME.with(|name| (name.clone(), NUMBER.get())) }).await
        });
        assert_eq!(value.await, ("x".into(), 1));
        assert_eq!(number(), None);
        let error = NUMBER.try_with(|_| ()).unwrap_err();
        assert!(error.to_string().contains("no scope"));
        assert!(catch_unwind(|| NUMBER.get()).is_err());
        // Interior mutability outlasts a poll.
        let counted = COUNTER.scope(Cell::new(0), async {
            for _ in 0..10 {
                COUNTER.with(|counter| counter.set(counter.get() + 1));
                yield_now().await;
            }
            COUNTER.with(Cell::get)
        });
        assert_eq!(counted.await, 10);
        // Two in one task take turns.
        let [a, b] = [4, 5].map(|n| {
            NUMBER.scope(n, async move {
                for _ in 0..10 {
                    yield_now().await;
                    assert_eq!(NUMBER.get(), n);
                }
                n
            })
        });
        assert_eq!(future::join(a, b).await, (4, 5));
    });
}

#[test]
fn values_go_where_their_tasks_go() {
    workers(4, |_| async {
        let mut set = JoinSet::new();
        for i in 0..2000usize {
            let body = async move {
                for round in 0..10 {
                    if round % 3 == 0 {
                        sleep(Duration::from_micros(i as u64 % 7 * 300)).await;
                    } else {
                        yield_now().await;
                    }
                    assert_eq!(NUMBER.get(), i);
                    assert!(NAME.with(|name| *name == i.to_string()));
                }
            };
            set.spawn(NUMBER.scope(i, NAME.scope(i.to_string(), body)));
            set.spawn(async {
                for _ in 0..5 {
                    yield_now().await;
                    assert_eq!(number(), None);
                }
            });
        }
        set.join_all().await.unwrap();
    });
}

#[test]
fn panics_leave_nothing_behind() {
    both(async |_| {
        let task = overlapped::spawn(NUMBER.scope(1, async {
            yield_now().await;
            NUMBER.scope(2, async { panic!("inside") }).await;
        }));
        assert!(task.await.unwrap_err().is_panic());
        for _ in 0..10 {
            assert_eq!(overlapped::spawn(async { number() }).await.unwrap(), None);
        }
        let result = NUMBER.sync_scope(3, || {
            let inner = || NUMBER.sync_scope(4, || panic!("inside"));
            assert!(catch_unwind(inner).is_err());
            NUMBER.get()
        });
        assert_eq!((result, number()), (3, None));
        // A borrow ends with its panic.
        NUMBER.sync_scope(5, || {
            assert!(catch_unwind(|| NUMBER.with(|_| panic!("inside"))).is_err());
            NUMBER.sync_scope(6, || assert_eq!(NUMBER.get(), 6));
        });
    });
}

#[test]
fn a_scope_cannot_begin_while_the_value_is_borrowed() {
    both(async |_| {
        NUMBER.sync_scope(1, || {
            NUMBER.with(|outer| {
                // Looking twice is no harm.
                assert_eq!(NUMBER.with(|inner| inner + outer), 2);
                assert!(catch_unwind(|| NUMBER.sync_scope(2, || ())).is_err());
                let mut scope = Box::pin(NUMBER.scope(2, async {}));
                assert!(catch_unwind(AssertUnwindSafe(|| poll_once(&mut scope))).is_err());
                // Nor is dropping one, which then does without the value.
                drop(scope);
            });
            assert_eq!(NUMBER.get(), 1);
        });
    });
}

/// Remembers the value that it has seen when dropped.
struct Seen(Arc<AtomicUsize>);

impl Drop for Seen {
    fn drop(&mut self) {
        self.0.store(number().unwrap_or(0), Ordering::SeqCst);
    }
}

#[test]
fn the_value_is_there_while_the_future_is_dropped() {
    both(async |_| {
        let value = Arc::new(AtomicUsize::new(99));
        let seen = Seen(value.clone());
        NUMBER
            .scope(1, async {
                let _seen = seen;
            })
            .await;
        assert_eq!(value.load(Ordering::SeqCst), 1);
        // Before the first poll, and by an abort.
        let seen = Seen(value.clone());
        drop(NUMBER.scope(2, async { drop(seen) }));
        assert_eq!(value.load(Ordering::SeqCst), 2);
        let seen = Seen(value.clone());
        let task = overlapped::spawn(NUMBER.scope(3, async {
            let _seen = seen;
            future::pending::<()>().await;
        }));
        yield_now().await;
        task.abort();
        assert!(task.await.is_err());
        until(|| value.load(Ordering::SeqCst) == 3).await;
        // The future is dropped, not the value's hull: a scope that has ended holds nothing.
        let seen = Seen(value.clone());
        let mut scope = Box::pin(NUMBER.scope(4, async { drop(seen) }));
        assert!(poll_once(&mut scope).is_ready());
        assert_eq!(value.load(Ordering::SeqCst), 4);
        assert!(format!("{scope:?}").contains("true"));
    });
}
