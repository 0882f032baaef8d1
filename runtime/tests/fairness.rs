//! Nobody is starved: greedy tasks of each kind run for ever, and tasks, timers, files, sockets and
//! threads outside still get their turn, with one worker and with two, stealing and sharded.
//!
//! A test that fails does not come to its end, and the watchdog says so.

mod support;

use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::future;
use overlapped::driver::{Disposition, Driver, Irp, Lower, Major, MajorSet};
use overlapped::fs::{File, OpenOptions};
use overlapped::net::{TcpListener, TcpStream};
use overlapped::task::{Graceful, JoinSet};
use overlapped::time::sleep;
use overlapped::{Builder, Flavor, yield_now};
use support::{Dir, backends, local, poll_once, watch};

/// Runs `greedy` on runtimes of all kinds, several times on each, and beside it what must not
/// starve. It is to end when the flag is set.
fn beside<F>(what: &str, greedy: impl Fn(Arc<AtomicBool>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    for backend in backends() {
        for (workers, flavor) in [
            (1, Flavor::Stealing),
            (2, Flavor::Stealing),
            (1, Flavor::Sharded),
            (2, Flavor::Sharded),
        ] {
            let _watch = watch(format!("{what} on {backend}, {workers} workers, {flavor:?}"));
            let builder = Builder::new().backend(backend).workers(workers).flavor(flavor);
            let runtime = builder.build().unwrap();
            let over = Arc::new(AtomicBool::new(false));
            // More than there are workers, so that each has some.
            let tasks: Vec<_> =
                (0..2 * workers + 1).map(|_| runtime.spawn(greedy(over.clone()))).collect();
            // On each worker, and from outside.
            let others: Vec<_> = (0..workers).map(|_| runtime.spawn(everything())).collect();
            runtime.block_on(async {
                everything().await;
                future::join_all(others).await.into_iter().for_each(Result::unwrap);
            });
            over.store(true, Ordering::SeqCst);
            runtime.block_on(async {
                future::join_all(tasks).await.into_iter().for_each(Result::unwrap);
            });
        }
        // A task and the future of `block_on`, on one thread.
        let _watch = watch(format!("{what} on {backend}, local"));
        local(backend).block_on(async {
            let over = Arc::new(AtomicBool::new(false));
            let task = overlapped::spawn(greedy(over.clone()));
            let main = greedy(over.clone());
            let other = overlapped::spawn(async move {
                everything().await;
                over.store(true, Ordering::SeqCst);
            });
            main.await;
            task.await.unwrap();
            other.await.unwrap();
        });
    }
}

/// A bit of all that a program does.
async fn everything() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for _ in 0..3 {
        for _ in 0..10 {
            yield_now().await;
        }
        sleep(Duration::from_millis(1)).await;
        overlapped::spawn(async { yield_now().await }).await.unwrap();
        overlapped::spawn_blocking(|| ()).await.unwrap();
        overlapped::fs::read("/proc/self/status").await.unwrap();
        let (client, server) = future::join(TcpStream::connect(address), listener.accept()).await;
        let (client, server) = (client.unwrap(), server.unwrap().0);
        let (read, sent) =
            future::join(client.read(vec![0; 9]), server.write(b"hello".to_vec())).await;
        assert_eq!((read.unwrap().0, sent.unwrap().0), (5, 5));
        // Woken by a thread outside the runtime.
        let handle = overlapped::Handle::current();
        let spawn = move || handle.spawn(async { 1 });
        let task = overlapped::spawn_blocking(move || std::thread::spawn(spawn).join().unwrap());
        assert_eq!(task.await.unwrap().await.unwrap(), 1);
    }
}

/// A ball that goes back and forth.
#[derive(Default)]
struct Ball(Mutex<(bool, Option<Waker>)>);

impl Ball {
    /// Waits for it on one side and hits it.
    async fn hit(&self, side: bool) {
        poll_fn(|cx| {
            let mut ball = self.0.lock().unwrap();
            if ball.0 != side {
                ball.1 = Some(cx.waker().clone());
                return Poll::Pending;
            }
            ball.0 = !side;
            if let Some(other) = ball.1.take() {
                other.wake();
            }
            Poll::Ready(())
        })
        .await;
    }
}

/// tokio#5712, tokio#2349: two tasks that wake each other.
#[test]
fn ping_pong_starves_nobody() {
    beside("ping-pong", |over| async move {
        let ball = Arc::new(Ball::default());
        let mut players = JoinSet::new();
        for side in [false, true] {
            let (ball, over) = (ball.clone(), over.clone());
            players.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    ball.hit(side).await;
                }
                // The other may wait for it still.
                ball.hit(side).await;
            });
        }
        players.join_next().await.unwrap().unwrap();
    });
}

/// monoio#3: a task that wakes itself in each poll.
#[test]
fn a_task_that_wakes_itself_starves_nobody() {
    beside("self-wakes", |over| {
        poll_fn(move |cx| {
            if over.load(Ordering::Relaxed) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    });
}

#[test]
fn a_task_that_yields_starves_nobody() {
    beside("yields", |over| async move {
        while !over.load(Ordering::Relaxed) {
            yield_now().await;
        }
    });
}

/// Answers reads by itself.
struct Answers;

impl Driver for Answers {
    fn name(&self) -> &str {
        "answers"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    fn dispatch(&self, mut irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        let n = irp.copy_in(0, b"answer");
        irp.complete(overlapped::Status::SUCCESS, n)
    }
}

async fn answering() -> (Dir, File) {
    let dir = Dir::new();
    let path = dir.file("f", "");
    let file = OpenOptions::new().read(true).filter(Arc::new(Answers)).open(path).await.unwrap();
    (dir, file)
}

/// I-27: requests that are complete in the call that issues them, one after the other.
#[test]
fn requests_that_never_pend_starve_nobody() {
    beside("inline requests", |over| async move {
        let (_dir, file) = answering().await;
        let mut buf = Vec::with_capacity(16);
        while !over.load(Ordering::Relaxed) {
            buf.clear();
            let (n, back) = file.read_at(buf, 0).await.unwrap();
            assert_eq!((n, &*back), (6, &b"answer"[..]));
            buf = back;
        }
    });
}

#[test]
fn reads_from_the_page_cache_starve_nobody() {
    beside("cached reads", |over| async move {
        let dir = Dir::new();
        let file = File::open(dir.file("f", vec![7; 1 << 16])).await.unwrap();
        let mut buf = vec![0; 64];
        while !over.load(Ordering::Relaxed) {
            buf = file.read_at(buf, 0).await.unwrap().1;
        }
    });
}

#[test]
fn sleeps_that_are_over_starve_nobody() {
    beside("sleeps of no time", |over| async move {
        while !over.load(Ordering::Relaxed) {
            sleep(Duration::ZERO).await;
        }
    });
}

/// A result that waits for its task's next turn is not lost, whoever takes it.
#[test]
fn an_inline_result_that_has_to_wait_is_kept() {
    for backend in backends() {
        let _watch = watch(format!("kept results on {backend}"));
        local(backend).block_on(async {
            let (_dir, file) = answering().await;
            let mut waited = 0;
            for _ in 0..1000 {
                let mut read = file.read_at(Vec::with_capacity(16), 0);
                match poll_once(&mut read) {
                    Poll::Ready(result) => assert_eq!(result.unwrap().1, b"answer"),
                    // Dropped, or looked at again.
                    Poll::Pending if waited % 2 == 0 => waited += 1,
                    Poll::Pending => {
                        assert_eq!(read.await.unwrap().1, b"answer");
                        waited += 1;
                    }
                }
            }
            assert!(waited > 1, "a budget without an end");
        });
    }
}

/// monoio#322, #371: whoever yields goes behind all that can run.
#[test]
fn yield_now_goes_to_the_back() {
    const TASKS: usize = 7;
    const ROUNDS: usize = 100;
    let in_turn = async |spawn: &dyn Fn(future::BoxFuture<'static, ()>)| {
        let order = Arc::new(Mutex::new(Vec::new()));
        let graceful = Graceful::new();
        for i in 0..TASKS {
            let order = order.clone();
            let body = async move {
                for _ in 0..ROUNDS {
                    order.lock().unwrap().push(i);
                    yield_now().await;
                }
            };
            spawn(Box::pin(graceful.track(body)));
        }
        assert_eq!(graceful.shutdown(Duration::from_secs(1000)).await, 0);
        let order = order.lock().unwrap();
        let expected: Vec<_> = (0..ROUNDS).flat_map(|_| 0..TASKS).collect();
        assert_eq!(*order, expected);
    };
    for backend in backends() {
        let _watch = watch(format!("the order of yields on {backend}"));
        local(backend).block_on(in_turn(&|task| drop(overlapped::spawn(task))));
        for (workers, flavor) in [
            (1, Flavor::Stealing),
            (2, Flavor::Stealing),
            (1, Flavor::Sharded),
            (2, Flavor::Sharded),
        ] {
            let builder = Builder::new().backend(backend).workers(workers).flavor(flavor);
            let runtime = builder.build().unwrap();
            // With two stealing workers, those that are bound to one of them.
            let task = runtime.spawn(async move {
                let (done, told) = std::sync::mpsc::channel();
                overlapped::spawn_local(async move {
                    in_turn(&|task| drop(overlapped::spawn_local(task))).await;
                    if (workers, flavor) != (2, Flavor::Stealing) {
                        in_turn(&|task| drop(overlapped::spawn(task))).await;
                    }
                    done.send(()).unwrap();
                })
                .await
                .unwrap();
                told.recv().unwrap();
            });
            runtime.block_on(task).unwrap();
        }
    }
}

/// Two tasks become runnable in the same turn of one worker, and the first to run keeps it: the other
/// is run elsewhere.
#[test]
fn a_poll_that_lasts_holds_up_nobody() {
    const ROUNDS: usize = 30;
    for backend in backends() {
        let _watch = watch(format!("a poll that lasts on {backend}"));
        let runtime = Builder::new().backend(backend).workers(2).build().unwrap();
        let shared = Arc::new(AtomicUsize::new(0));
        runtime.block_on(async {
            for round in 0..ROUNDS {
                // After a rest, in which the others have fallen asleep for good, and without one.
                sleep(Duration::from_millis(if round % 2 == 0 { 1 } else { 100 })).await;
                let together = overlapped::spawn(pair_of_sleepers());
                if together.await.unwrap() {
                    shared.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        assert!(shared.load(Ordering::Relaxed) > 0, "none slept on one worker, on {backend}");
    }
}

/// Two tasks sleep until the same moment; each then stays until the other is awake too. Whether they
/// slept on one thread.
async fn pair_of_sleepers() -> bool {
    let awake = Arc::new(AtomicUsize::new(0));
    let until = overlapped::time::now() + Duration::from_millis(5);
    let sleepers: Vec<_> = (0..2)
        .map(|_| {
            let awake = awake.clone();
            overlapped::spawn(async move {
                let thread = std::thread::current().id();
                overlapped::time::sleep_until(until).await;
                awake.fetch_add(1, Ordering::SeqCst);
                while awake.load(Ordering::SeqCst) < 2 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                thread
            })
        })
        .collect();
    let mut threads = Vec::new();
    for sleeper in sleepers {
        threads.push(sleeper.await.unwrap());
    }
    threads[0] == threads[1]
}
