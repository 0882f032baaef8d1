//! Signals. Each test has its process to itself.

mod support;

use std::io::ErrorKind;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, future};
use overlapped::Backend;
use overlapped::driver::{Disposition, Driver, Irp, Lower, Major, MajorSet};
use overlapped::io::pipe_stack_of;
use overlapped::signal::ctrl_c;
use overlapped::signal::unix::{SignalKind, signal, signal_with};
use overlapped::time::timeout;
use support::{alone, descriptors, kind, local, multi, poll_once, until};

/// Sends this process a signal that it listens to.
fn raise(kind: SignalKind) {
    // SAFETY: the tests listen to it before.
    assert_eq!(unsafe { libc::raise(kind.as_raw()) }, 0);
}

const USER1: SignalKind = SignalKind::user_defined1();

#[test]
fn each_listener_sees_each_signal() {
    alone("each_listener_sees_each_signal", |backend| {
        local(backend).block_on(async {
            let (a, b) = (signal(USER1).unwrap(), signal(USER1).unwrap());
            let other = signal(SignalKind::user_defined2()).unwrap();
            for _ in 0..50 {
                // Waiting, and not waiting yet.
                let mut waiting = a.recv();
                assert!(poll_once(&mut waiting).is_pending());
                raise(USER1);
                waiting.await.unwrap();
                b.recv().await.unwrap();
            }
            let mut none = other.recv();
            assert!(poll_once(&mut none).is_pending(), "another signal is nothing to it");
            // Several are one.
            (0..3).for_each(|_| raise(USER1));
            a.recv().await.unwrap();
            let mut again = a.recv();
            assert!(poll_once(&mut again).is_pending());
            drop(again);
            // One that comes later sees nothing of it.
            let late = signal(USER1).unwrap();
            let mut nothing = late.recv();
            assert!(poll_once(&mut nothing).is_pending());
            drop(nothing);
            drop(a);
            b.recv().await.unwrap();
            raise(USER1);
            future::try_join(b.recv(), late.recv()).await.unwrap();
            // Without listeners it does not end the process either.
            drop((b, late));
            raise(USER1);
        });
    });
}

#[test]
fn a_dropped_receive_loses_no_signal() {
    alone("a_dropped_receive_loses_no_signal", |backend| {
        local(backend).block_on(async {
            let listener = signal(USER1).unwrap();
            for i in 0..1000u64 {
                let mut dropped = listener.recv();
                assert!(poll_once(&mut dropped).is_pending());
                raise(USER1);
                if i % 3 == 0 {
                    overlapped::yield_now().await;
                }
                if i % 3 == 1 {
                    overlapped::time::sleep(Duration::from_micros(i % 50)).await;
                }
                drop(dropped);
                let mut got = false;
                while !got {
                    got = timeout(Duration::from_micros(i % 20), listener.recv()).await.is_ok();
                    overlapped::yield_now().await;
                }
            }
        });
    });
}

#[test]
fn as_a_stream_and_control_c() {
    alone("as_a_stream_and_control_c", |backend| {
        local(backend).block_on(async {
            let mut listener = signal(USER1).unwrap();
            for _ in 0..3 {
                raise(USER1);
                listener.next().await.unwrap().unwrap();
            }
            assert!(future::poll_immediate(listener.next()).await.is_none());
            raise(USER1);
            listener.next().await.unwrap().unwrap();
            let mut first = Box::pin(ctrl_c());
            assert!(poll_once(&mut first).is_pending());
            let mut second = Box::pin(ctrl_c());
            assert!(poll_once(&mut second).is_pending());
            raise(SignalKind::interrupt());
            future::try_join(first, second).await.unwrap();
        });
    });
}

#[test]
fn children() {
    alone("children", |backend| {
        local(backend).block_on(async {
            let ended = signal(SignalKind::child()).unwrap();
            let mut child = Command::new("true").spawn().unwrap();
            loop {
                ended.recv().await.unwrap();
                if let Some(status) = child.try_wait().unwrap() {
                    assert!(status.success());
                    return;
                }
            }
        });
    });
}

#[test]
fn several_runtimes_and_threads() {
    alone("several_runtimes_and_threads", |_| {
        let seen = Arc::new(AtomicU32::new(0));
        let ready = Arc::new(AtomicU32::new(0));
        let threads: Vec<_> = [Backend::IoUring, Backend::Epoll, Backend::IoUring]
            .into_iter()
            .map(|backend| {
                let (seen, ready) = (seen.clone(), ready.clone());
                std::thread::spawn(move || {
                    let runtime = multi(backend, 2);
                    let tasks: Vec<_> = (0..3)
                        .map(|_| {
                            let (seen, ready) = (seen.clone(), ready.clone());
                            runtime.spawn(async move {
                                let listener = signal(USER1).unwrap();
                                ready.fetch_add(1, Ordering::SeqCst);
                                for _ in 0..20 {
                                    listener.recv().await.unwrap();
                                    seen.fetch_add(1, Ordering::SeqCst);
                                }
                            })
                        })
                        .collect();
                    runtime.block_on(future::join_all(tasks)).into_iter().for_each(|task| {
                        task.unwrap();
                    });
                })
            })
            .collect();
        support::until_blocking(|| ready.load(Ordering::SeqCst) == 9);
        for round in 1..=20 {
            raise(USER1);
            support::until_blocking(|| seen.load(Ordering::SeqCst) == 9 * round);
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        // A plain thread, with no runtime at all.
        let listener = signal(USER1).unwrap();
        let sender = std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(5));
            raise(USER1);
        });
        listener.recv().wait().unwrap();
        sender.join().unwrap();
    });
}

struct Count(AtomicU32);

impl Driver for Count {
    fn name(&self) -> &str {
        "count"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        self.0.fetch_add(1, Ordering::Relaxed);
        lower.skip(irp)
    }
}

#[test]
fn refusals_filters_and_descriptors() {
    alone("refusals_filters_and_descriptors", |backend| {
        local(backend).block_on(async {
            for bad in [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, 0, -1, 999] {
                let error = kind(signal(SignalKind::from_raw(bad)));
                assert_eq!(error, ErrorKind::InvalidInput, "{bad}");
            }
            let count = Arc::new(Count(AtomicU32::new(0)));
            let stack = pipe_stack_of([count.clone() as Arc<dyn Driver>]).unwrap();
            let listener = signal_with(USER1, stack).unwrap();
            raise(USER1);
            listener.recv().await.unwrap();
            assert_eq!(count.0.load(Ordering::Relaxed), 1);
            let before = descriptors();
            for _ in 0..50 {
                let more = [signal(USER1).unwrap(), signal(SignalKind::from_raw(40)).unwrap()];
                raise(USER1);
                raise(SignalKind::from_raw(40));
                let mut left = more[1].recv();
                let _ = poll_once(&mut left);
                more[0].recv().await.unwrap();
            }
            until(|| descriptors() == before).await;
        });
    });
}
