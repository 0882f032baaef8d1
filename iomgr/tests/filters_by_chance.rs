//! Filters that do what comes to them, while their stacks change and their requests are cancelled.

#![cfg(not(loom))]

#[path = "support/does.rs"]
mod does;
mod support;

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use does::*;
use overlapped_iomgr::filter::{Filter as Level2, Io, Next};
use overlapped_iomgr::{Major, MajorSet, Place, Request, Status};
use support::*;

/// Whatever filters do, in whatever order, while their stacks change and their requests are cancelled: every
/// request ends, every change is reported, and nothing is left.
#[test]
fn all_of_it_by_chance() {
    #[derive(Clone)]
    struct Dice(Arc<AtomicUsize>);
    impl Dice {
        fn roll(&self, sides: usize) -> usize {
            let mut x = self.0.load(SeqCst);
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            self.0.store(x, SeqCst);
            (x >> 8) % sides
        }
    }

    struct Kept(Arc<AtomicUsize>);
    static KEPT: Mutex<Option<Arc<AtomicUsize>>> = Mutex::new(None);
    impl Default for Kept {
        fn default() -> Kept {
            let kept = KEPT.lock().unwrap().clone().unwrap();
            kept.fetch_add(1, SeqCst);
            Kept(kept)
        }
    }
    impl Drop for Kept {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }

    struct Any(Dice, Parts);
    impl Any {
        async fn act(&self, kept: &Kept, next: Next<'_>, mut io: Io<'_>) -> Outcome {
            let mut result = Err(Status::UNSUCCESSFUL);
            for _ in 0..self.0.roll(4) {
                match self.0.roll(9) {
                    0 => next.sleep(Duration::from_millis(self.0.roll(3) as u64)).await,
                    1 => {
                        let own = Read { buf: Vec::with_capacity(4), offset: 0 };
                        drop(next.request(own).await);
                    }
                    2 if io.major() == Major::Write => {
                        let parts = io.share(0..io.len());
                        self.1.lock().unwrap().extend(parts);
                    }
                    3 if io.major() == Major::Write => {
                        result = next.forward(&mut io).from(vec![1; 4]).await.0;
                    }
                    3 | 4 => {
                        // Given up, before or after it has gone.
                        let mut forward = Box::pin(next.forward(&mut io));
                        let polls = self.0.roll(3);
                        let mut polled = 0;
                        poll_fn(|cx| {
                            cx.waker().wake_by_ref();
                            polled += 1;
                            if polled > polls || forward.as_mut().poll(cx).is_ready() {
                                return Poll::Ready(());
                            }
                            Poll::Pending
                        })
                        .await;
                        drop(forward);
                        return Ok(0);
                    }
                    5 if self.0.roll(10) == 0 => panic!("wanted, by chance"),
                    6 => {
                        let forward = next.forward(&mut io);
                        let own = next.request(Plain::new(Major::Flush));
                        let (mut forward, mut own) = (pin!(forward), pin!(own));
                        let mut has = false;
                        result = poll_fn(|cx| {
                            has = has || own.as_mut().poll(cx).is_ready();
                            forward.as_mut().poll(cx)
                        })
                        .await;
                    }
                    _ => result = next.forward(&mut io).await,
                }
                assert!(kept.0.load(SeqCst) > 0, "what is kept is there");
            }
            result
        }
    }
    impl Level2 for Any {
        type Open = Kept;
        fn name(&self) -> &str {
            "any"
        }
        fn hooks(&self) -> MajorSet {
            MajorSet::of(&[Major::Read, Major::Write])
        }
        async fn read(&self, kept: &Kept, next: Next<'_>, io: Io<'_>) -> Outcome {
            self.act(kept, next, io).await
        }
        async fn write(&self, kept: &Kept, next: Next<'_>, io: Io<'_>) -> Outcome {
            self.act(kept, next, io).await
        }
    }

    let (kept, alive) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    *KEPT.lock().unwrap() = Some(kept.clone());
    for seed in 1..60 {
        let dice = Dice(Arc::new(AtomicUsize::new(seed * 0x9E37_79B9)));
        let parts = Parts::default();
        let harness = Harness::new();
        let any = || Any(dice.clone(), parts.clone()).into_driver();
        let file = open(&on(vec![any(), any()]), FD);
        let (mut requests, mut attached, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..200 {
            harness.sim.default_step(match dice.roll(4) {
                0 => Step::INLINE,
                n => Step::after(n as u32 * 3),
            });
            match dice.roll(10) {
                0..4 => {
                    let buf = Counted::new(8, &alive);
                    let request = Request::owned(file.clone(), Write { buf, offset: 0 });
                    let _ = request.start().map(|block| requests.push(block));
                }
                4 if !requests.is_empty() => {
                    drop(requests.swap_remove(dice.roll(requests.len())));
                }
                5 => {
                    let (one, change) = file.attach(Place::Top, any()).unwrap();
                    attached.push(one);
                    changes.push(change);
                }
                6 if !attached.is_empty() => {
                    let one = attached.swap_remove(dice.roll(attached.len()));
                    changes.push(file.detach(&one).unwrap());
                }
                7 => drop(mem::take(&mut *parts.lock().unwrap())),
                8 => {
                    let mut request = Box::pin(read(&file, 8, 3));
                    _ = poll(&mut request);
                }
                _ => harness.turn(),
            }
            requests.retain(|request| request.status() == Status::PENDING);
        }
        harness.until("all end", || {
            drop(mem::take(&mut *parts.lock().unwrap()));
            requests.iter().all(|request| request.is_done()) && harness.sim.in_flight() == 0
        });
        drop(requests);
        harness.until("all changes are done", || {
            drop(mem::take(&mut *parts.lock().unwrap()));
            changes.iter().all(overlapped_iomgr::Change::is_done)
        });
        drop((attached, file));
        harness.until("the file is closed", || {
            drop(mem::take(&mut *parts.lock().unwrap()));
            harness.processor.live() == 0
        });
        assert_eq!((kept.load(SeqCst), alive.load(SeqCst)), (0, 0));
        harness.finish();
    }
}
