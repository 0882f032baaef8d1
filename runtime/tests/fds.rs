//! Counters and readiness: eventfd, timerfd, and descriptors of others.

mod support;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::future;
use overlapped::driver::{Disposition, Driver, Irp, Lower, Major, MajorSet};
use overlapped::io::{Clock, EventFd, Events, Readiness, TimerFd, pipe_stack_of};
use overlapped::operation::{PollEvents, TakeCount};
use overlapped::time::{sleep, timeout};
use overlapped::{Request, Status};
use support::{Dir, alone, both, descriptors, kind, poll_once, status, until, workers};

/// Long enough for a request to complete that can.
async fn a_while() {
    sleep(Duration::from_millis(10)).await;
}

#[test]
fn event_counters() {
    both(async |_| {
        let event = EventFd::new(7).unwrap();
        assert_eq!(event.read().await.unwrap(), 7);
        let (read, written) = future::join(event.read(), event.write(3)).await;
        written.unwrap();
        assert_eq!(read.unwrap(), 3);
        event.write(1).await.unwrap();
        event.write(1 << 40).await.unwrap();
        assert_eq!(event.read().await.unwrap(), (1 << 40) + 1);
        assert_eq!(kind(event.write(u64::MAX).await), ErrorKind::InvalidInput);
        // Full: the next write waits for a read.
        event.write(u64::MAX - 1).await.unwrap();
        let mut write = event.write(5);
        assert!(poll_once(&mut write).is_pending());
        assert_eq!(event.read().await.unwrap(), u64::MAX - 1);
        write.await.unwrap();
        assert_eq!(event.read().await.unwrap(), 5);
        let semaphore = EventFd::semaphore(3).unwrap();
        for _ in 0..3 {
            assert_eq!(semaphore.read().await.unwrap(), 1);
        }
        let mut none = semaphore.read();
        assert!(poll_once(&mut none).is_pending());
        semaphore.object().cancel_requests();
        assert_eq!(status(none.await), Status::CANCELLED);
        semaphore.close().await.unwrap();
    });
}

#[test]
fn counts_are_not_lost_when_reads_are_dropped() {
    both(async |_| {
        let event = EventFd::new(0).unwrap();
        const ROUNDS: u64 = 2000;
        let add = async {
            for _ in 0..ROUNDS {
                event.write(1).await.unwrap();
                overlapped::yield_now().await;
            }
        };
        let take = async {
            let (mut sum, mut tries) = (0, 0u64);
            while sum < ROUNDS {
                tries += 1;
                if tries.is_multiple_of(2) {
                    let mut read = event.read();
                    if let Poll::Ready(n) = poll_once(&mut read) {
                        sum += n.unwrap();
                    }
                } else if let Ok(n) = timeout(Duration::from_micros(tries % 30), event.read()).await
                {
                    sum += n.unwrap();
                }
                overlapped::yield_now().await;
            }
            assert_eq!(sum, ROUNDS);
        };
        future::join(add, take).await;
        // One that completed and was not looked at.
        let mut read = event.read();
        assert!(poll_once(&mut read).is_pending());
        event.write(9).await.unwrap();
        a_while().await;
        drop(read);
        assert_eq!(event.read().await.unwrap(), 9);
    });
}

#[test]
fn what_is_closed_stays_so() {
    both(async |_| {
        let event = EventFd::new(1).unwrap();
        let kept = event.object().handle();
        event.read().await.unwrap();
        let mut waiting = Request::owned(kept.clone(), TakeCount);
        assert!(poll_once(&mut waiting).is_pending());
        let (waited, closed) = future::join(waiting, event.close()).await;
        closed.unwrap();
        assert_eq!(status(waited), Status::CANCELLED);
        assert_eq!(status(Request::new(&kept, TakeCount).await), Status::FILE_CLOSED);
        assert_eq!(status(Request::new(&kept, PollEvents(1)).await), Status::FILE_CLOSED);
    });
}

#[test]
fn one_backend_after_the_other() {
    // epoll may leave a descriptor non-blocking, which io_uring takes at its word.
    let _watch = support::watch("one backend after the other");
    use overlapped::Backend::{Epoll, IoUring};
    for backends in [[IoUring, Epoll], [Epoll, IoUring], [Epoll; 2]] {
        let event = support::local(backends[0]).block_on(async {
            let event = EventFd::new(0).unwrap();
            event.write(1).await.unwrap();
            assert_eq!(event.read().await.unwrap(), 1);
            event
        });
        // SAFETY: a descriptor and numbers.
        unsafe { libc::fcntl(event.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        support::local(backends[1]).block_on(async {
            let mut read = event.read();
            assert!(poll_once(&mut read).is_pending());
            a_while().await;
            assert!(poll_once(&mut read).is_pending());
            let (read, written) = future::join(read, event.write(7)).await;
            written.unwrap();
            assert_eq!(read.unwrap(), 7);
            event.write(u64::MAX - 1).await.unwrap();
            let mut write = event.write(3);
            assert!(poll_once(&mut write).is_pending());
            a_while().await;
            let mut dropped = event.read();
            let _ = poll_once(&mut dropped);
            drop(dropped);
            let mut sum = event.read().await.unwrap();
            write.await.unwrap();
            if sum == u64::MAX - 1 {
                sum = event.read().await.unwrap();
            }
            assert_eq!(sum, 3);
        });
    }
}

#[test]
fn across_threads() {
    workers(2, |_| async {
        let event = Arc::new(EventFd::new(0).unwrap());
        let other = event.clone();
        let task = overlapped::spawn(async move { other.read().await.unwrap() });
        let raw = event.as_raw_fd();
        std::thread::spawn(move || {
            let one = 41u64.to_ne_bytes();
            // SAFETY: eight bytes that live through the call.
            assert_eq!(unsafe { libc::write(raw, one.as_ptr().cast(), 8) }, 8);
        })
        .join()
        .unwrap();
        assert_eq!(task.await.unwrap(), 41);
    });
}

#[test]
fn timers() {
    both(async |_| {
        for clock in [Clock::Monotonic, Clock::Boottime, Clock::Realtime] {
            let timer = TimerFd::new(clock).unwrap();
            timer.set(Duration::from_millis(3), None).unwrap();
            assert_eq!(timer.read().await.unwrap(), 1);
            let mut none = timer.read();
            assert!(poll_once(&mut none).is_pending());
            timer.set(Duration::ZERO, Some(Duration::from_millis(1))).unwrap();
            let mut total = none.await.unwrap();
            assert!(total >= 1);
            while total < 5 {
                total += timer.read().await.unwrap();
            }
            timer.unset().unwrap();
            let mut none = timer.read();
            let _ = poll_once(&mut none);
            drop(none);
            timer.close().await.unwrap();
        }
        let timer = TimerFd::new(Clock::Monotonic).unwrap();
        timer.set(Duration::from_secs(1 << 30), None).unwrap();
        let limit = Duration::from_millis(5);
        assert_eq!(kind(timer.read().deadline(limit).await), ErrorKind::TimedOut);
    });
}

#[test]
fn readiness_of_what_others_use() {
    both(async |_| {
        let (mut a, b) = UnixStream::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        let mut b = Readiness::new(b).unwrap();
        assert!(b.writable().await.unwrap().contains(Events::WRITABLE));
        for _ in 0..3 {
            let mut readable = b.readable();
            assert!(poll_once(&mut readable).is_pending());
            a.write_all(b"hello").unwrap();
            assert!(readable.await.unwrap().contains(Events::READABLE));
            // It stays so until somebody reads.
            let both = Events::READABLE | Events::WRITABLE;
            assert_eq!(b.poll(both).await.unwrap(), both);
            let mut buf = [0; 9];
            assert_eq!(b.get_mut().read(&mut buf).unwrap(), 5);
            assert_eq!(b.get_ref().read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
        }
        // Two who wait for different things, and one who has left.
        while b.get_ref().write(&[0; 4096]).is_ok() {}
        let (mut readable, mut writable) = (b.readable(), b.writable());
        let mut dropped = b.writable();
        assert!(poll_once(&mut readable).is_pending());
        assert!(poll_once(&mut writable).is_pending());
        assert!(poll_once(&mut dropped).is_pending());
        drop(dropped);
        let mut buf = vec![0; 1 << 20];
        while a.read(&mut buf).unwrap() == buf.len() {}
        a.set_nonblocking(true).unwrap();
        while a.read(&mut buf).is_ok() {}
        assert!(writable.await.unwrap().contains(Events::WRITABLE));
        drop(a);
        let events = readable.await.unwrap();
        assert!(events.contains(Events::READABLE | Events::CLOSED), "{events:?}");
        // Cancelled, and the owner back.
        let (_c, d) = UnixStream::pair().unwrap();
        let d = Readiness::new(d).unwrap();
        let mut waiting = d.readable();
        assert!(poll_once(&mut waiting).is_pending());
        d.object().cancel_requests();
        assert_eq!(status(waiting.await), Status::CANCELLED);
        d.into_inner().write_all(b"still open").unwrap();
    });
}

#[test]
fn regular_files_are_always_ready() {
    // epoll takes no such file (EPERM); `poll` says it is ready.
    both(async |_| {
        let dir = Dir::new();
        let file = Readiness::new(File::open(dir.file("f", "contents")).unwrap()).unwrap();
        let both = Events::READABLE | Events::WRITABLE;
        for _ in 0..3 {
            assert_eq!(file.poll(both).await.unwrap(), both);
            assert_eq!(file.readable().await.unwrap(), Events::READABLE);
        }
        let null = Readiness::new(File::open("/dev/null").unwrap()).unwrap();
        assert!(null.readable().await.unwrap().contains(Events::READABLE));
    });
}

struct CountPolls(AtomicU32);

impl Driver for CountPolls {
    fn name(&self) -> &str {
        "count-polls"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Poll, Major::Read])
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        self.0.fetch_add(1, Ordering::Relaxed);
        lower.skip(irp)
    }
}

#[test]
fn filters() {
    both(async |_| {
        let count = Arc::new(CountPolls(AtomicU32::new(0)));
        let stack = pipe_stack_of([count.clone() as Arc<dyn Driver>]).unwrap();
        let (_a, b) = UnixStream::pair().unwrap();
        let b = Readiness::new_with(b, stack.clone()).unwrap();
        b.writable().await.unwrap();
        let event = EventFd::new_with(1, stack).unwrap();
        assert_eq!(event.read().await.unwrap(), 1);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn a_number_that_is_used_again_is_another_file() {
    alone("a_number_that_is_used_again_is_another_file", |backend| {
        support::local(backend).block_on(async {
            let (_warm, up) = UnixStream::pair().unwrap();
            Readiness::new(up).unwrap().writable().await.unwrap();
            let before = descriptors();
            for _ in 0..30 {
                let (mut a, b) = UnixStream::pair().unwrap();
                let b = Readiness::new(b).unwrap();
                let mut left = b.readable();
                assert!(poll_once(&mut left).is_pending());
                drop(left);
                let owner = b.into_inner();
                // The owner lives on, and its duplicate's number goes to the next.
                let (mut c, d) = UnixStream::pair().unwrap();
                let d = Readiness::new(d).unwrap();
                let mut readable = d.readable();
                assert!(poll_once(&mut readable).is_pending());
                a.write_all(b"not for you").unwrap();
                a_while().await;
                assert!(poll_once(&mut readable).is_pending());
                c.write_all(b"for you").unwrap();
                readable.await.unwrap();
                drop(owner);
            }
            until(|| descriptors() <= before).await;
        });
    });
}
