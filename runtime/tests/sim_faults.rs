//! Simulations: every kind of fault happens at its rate, and is what it says.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::Poll;

use futures_util::{join, poll};
use overlapped::fs::{self, File, OpenOptions};
use overlapped::net::{TcpListener, TcpStream, UdpSocket};
use overlapped::sim::{Fault, FaultCounts, FaultPlan, Simulation, set_faults};
use overlapped::time::{Duration, now, sleep};

/// Runs with nothing but the faults given, and counts.
fn run<F: Future>(plan: FaultPlan, future: F) -> (F::Output, FaultCounts) {
    let (output, report) = Simulation::new(1).faults(plan).run(future);
    assert!(report.left.is_nothing(), "{}", report.left);
    (output, report.faults)
}

const ALWAYS: f64 = 1.0;

async fn file() -> File {
    let options = OpenOptions::new().read(true).write(true).create(true);
    options.open("/tmp/file").await.unwrap()
}

async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

fn errno<B>(result: Result<usize, overlapped::buf::BufError<B>>) -> Option<i32> {
    result.err().and_then(|error| io::Error::from(error).raw_os_error())
}

#[test]
fn a_plan_without_faults_has_none() {
    let ((), faults) = run(FaultPlan::none(), async {
        let file = file().await;
        for i in 0..200 {
            file.write_at(vec![1; 1000], i).await.unwrap();
        }
        let (a, b) = connected().await;
        for _ in 0..200 {
            assert_eq!(a.write(vec![2; 1000]).await.unwrap().0, 1000);
            assert_eq!(b.read(vec![0; 1000]).await.unwrap().0, 1000);
        }
    });
    for &fault in Fault::ALL {
        let expected = matches!(fault, Fault::Pending | Fault::CancelLate);
        assert!(expected || faults.of(fault) == 0, "{fault:?}");
    }
}

#[test]
fn what_could_be_had_at_once_pends() {
    for (pending, at_once) in [(ALWAYS, false), (0.0, true)] {
        let ((), faults) = run(FaultPlan { pending, ..FaultPlan::none() }, async {
            let (a, b) = connected().await;
            a.write("x").await.unwrap();
            let mut read = b.read(vec![0; 8]);
            assert_eq!(poll!(&mut read).is_ready(), at_once);
            if !at_once {
                assert_eq!(read.await.unwrap().0, 1);
            }
            let file = file().await;
            let mut write = file.write_at("x", 0);
            assert_eq!(poll!(&mut write).is_ready(), at_once);
            if !at_once {
                write.await.unwrap();
            }
        });
        assert_eq!(faults.of(Fault::Pending) > 0, !at_once);
    }
}

#[test]
fn reads_and_writes_are_short() {
    let plan = FaultPlan { short_reads: ALWAYS, short_writes: ALWAYS, ..FaultPlan::none() };
    let ((), faults) = run(plan, async {
        let file = file().await;
        let (n, _) = file.write_at(vec![1; 1000], 0).await.unwrap();
        assert!((1..1000).contains(&n));
        file.write_all_at(vec![1; 1000], 0).await.unwrap();
        assert!((1..1000).contains(&file.read_at(vec![0; 1000], 0).await.unwrap().0));
        let ((), bytes) = file.read_exact_at(vec![0; 1000], 0).await.unwrap();
        assert_eq!(bytes, [1; 1000]);
        let (a, b) = connected().await;
        let (n, _) = a.write(vec![2; 1000]).await.unwrap();
        assert!((1..1000).contains(&n));
        a.write_all(vec![2; 1000 - n]).await.unwrap();
        assert!((1..1000).contains(&b.read(vec![0; 1000]).await.unwrap().0));
        // The end of the file is no short read, and one byte cannot be less.
        assert_eq!(file.read_at(vec![0; 10], 5000).await.unwrap().0, 0);
        assert_eq!(file.write_at(vec![0; 1], 0).await.unwrap().0, 1);
    });
    assert!(faults.of(Fault::ShortRead) > 3 && faults.of(Fault::ShortWrite) > 3);
}

#[test]
fn the_medium_fails() {
    let ((), faults) = run(FaultPlan::none(), async {
        let file = file().await;
        file.write_at("good", 0).await.unwrap();
        set_faults(FaultPlan { io_errors: ALWAYS, ..FaultPlan::none() });
        let raw = |result: io::Result<()>| result.unwrap_err().raw_os_error();
        assert_eq!(errno(file.read_at(vec![0; 4], 0).await.map(|r| r.0)), Some(libc::EIO));
        assert_eq!(errno(file.write_at("bad!", 0).await.map(|r| r.0)), Some(libc::EIO));
        assert_eq!(raw(file.sync_all().await), Some(libc::EIO));
        assert_eq!(raw(fs::rename("/tmp/file", "/tmp/other").await), Some(libc::EIO));
        assert_eq!(raw(fs::read_link("/tmp/file").await.map(drop)), Some(libc::EIO));
        assert_eq!(raw(File::open("/tmp/file").await.map(drop)), Some(libc::EIO));
        set_faults(FaultPlan { no_space: ALWAYS, ..FaultPlan::none() });
        assert_eq!(errno(file.write_at("bad!", 0).await.map(|r| r.0)), Some(libc::ENOSPC));
        assert_eq!(raw(file.allocate(0, 100).await), Some(libc::ENOSPC));
        set_faults(FaultPlan::none());
        // A failure has no effect.
        assert_eq!(fs::read("/tmp/file").await.unwrap(), b"good");
        // But for a close, after which the descriptor is gone.
        set_faults(FaultPlan { io_errors: ALWAYS, ..FaultPlan::none() });
        assert_eq!(raw(file.close().await), Some(libc::EIO));
    });
    assert!(faults.of(Fault::IoError) >= 7 && faults.of(Fault::NoSpace) >= 2);
}

#[test]
fn connections_are_reset_and_refused() {
    let ((), faults) = run(FaultPlan::none(), async {
        let (a, b) = connected().await;
        a.write("lost").await.unwrap();
        set_faults(FaultPlan { resets: ALWAYS, refusals: ALWAYS, ..FaultPlan::none() });
        let kind = |result: Result<usize, _>| io::Error::from(result.unwrap_err()).kind();
        let read = b.read(vec![0; 4]).await.map(|r| r.0);
        assert_eq!(kind(read), ErrorKind::ConnectionReset);
        let write = a.write("more").await.map(|r| r.0);
        assert_eq!(io::Error::from(write.unwrap_err()).kind(), ErrorKind::ConnectionReset);
        assert!(a.peer_addr().is_err());
        let refused = TcpStream::connect("127.0.0.1:1").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
    assert!(faults.of(Fault::Reset) >= 1 && faults.of(Fault::Refused) == 1);
}

#[test]
fn buffers_and_descriptors_run_out() {
    let ((), faults) = run(FaultPlan::none(), async {
        let (a, b) = connected().await;
        let listener = TcpListener::bind("127.0.0.1:1").await.unwrap();
        let waiting = TcpStream::connect("127.0.0.1:1").await.unwrap();
        set_faults(FaultPlan { no_buffers: ALWAYS, no_descriptors: ALWAYS, ..FaultPlan::none() });
        a.write("hello").await.unwrap();
        // It falls to a buffer of its own.
        assert_eq!(&b.read_lease().await.unwrap()[..], b"hello");
        let raw = |error: io::Error| error.raw_os_error();
        assert_eq!(raw(listener.accept().await.unwrap_err()), Some(libc::EMFILE));
        assert_eq!(raw(File::create("/tmp/a").await.unwrap_err()), Some(libc::EMFILE));
        assert_eq!(raw(UdpSocket::bind("127.0.0.1:0").await.unwrap_err()), Some(libc::EMFILE));
        set_faults(FaultPlan::none());
        // The connection has waited.
        let (served, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, waiting.local_addr().unwrap());
        let leases: Vec<_> = {
            waiting.write_all(vec![1; 50_000]).await.unwrap();
            let mut leases = Vec::new();
            while leases.iter().map(|l: &overlapped::buf::Lease| l.len()).sum::<usize>() < 50_000 {
                leases.push(served.read_lease().await.unwrap());
            }
            leases
        };
        assert!(leases.iter().all(|lease| lease.iter().all(|&byte| byte == 1)));
    });
    assert!(faults.of(Fault::NoBuffers) >= 1 && faults.of(Fault::NoDescriptors) >= 3);
}

/// What arrives of 100 datagrams with their numbers.
async fn datagrams(plan: FaultPlan) -> Vec<u8> {
    let receiver = UdpSocket::bind("127.0.0.1:9").await.unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    set_faults(plan);
    for number in 0..100 {
        sender.send_to(vec![number], receiver.local_addr().unwrap()).await.unwrap();
    }
    set_faults(FaultPlan::none());
    sender.send_to(vec![255], receiver.local_addr().unwrap()).await.unwrap();
    let mut arrived = Vec::new();
    loop {
        let ((_, from), buf) = receiver.recv_from(vec![0; 1]).await.unwrap();
        assert_eq!(from, sender.local_addr().unwrap());
        if buf[0] == 255 {
            return arrived;
        }
        arrived.push(buf[0]);
    }
}

#[test]
fn datagrams_are_lost_doubled_and_out_of_order() {
    let all: Vec<u8> = (0..100).collect();
    let (arrived, _) = run(FaultPlan::none(), datagrams(FaultPlan::none()));
    assert_eq!(arrived, all);

    let plan = FaultPlan { lost_datagrams: 0.3, ..FaultPlan::none() };
    let (arrived, faults) = run(FaultPlan::none(), datagrams(plan));
    assert!(arrived.is_sorted() && arrived.len() < 100);
    assert_eq!(faults.of(Fault::Lost) as usize, 100 - arrived.len());

    let plan = FaultPlan { duplicated_datagrams: 0.3, ..FaultPlan::none() };
    let (mut arrived, faults) = run(FaultPlan::none(), datagrams(plan));
    assert_eq!(faults.of(Fault::Duplicated) as usize, arrived.len() - 100);
    arrived.dedup();
    assert_eq!(arrived, all);

    let plan = FaultPlan { reordered_datagrams: 0.3, ..FaultPlan::none() };
    let (mut arrived, faults) = run(FaultPlan::none(), datagrams(plan));
    assert!(!arrived.is_sorted() && faults.of(Fault::Reordered) > 10);
    arrived.sort_unstable();
    assert_eq!(arrived, all);
}

#[test]
fn some_operations_take_long() {
    let nap = |slow| {
        let plan = FaultPlan { slow, pending: ALWAYS, ..FaultPlan::none() };
        run(plan, async {
            let file = file().await;
            let start = now();
            file.sync_all().await.unwrap();
            now() - start
        })
    };
    let ((quick, _), (slow, faults)) = (nap(0.0), nap(ALWAYS));
    assert!(quick < Duration::from_micros(300), "{quick:?}");
    assert!(slow > 20 * quick && faults.of(Fault::Slow) > 0, "{quick:?}, {slow:?}");
}

#[test]
fn cancels_win_lose_and_come_too_late() {
    let plan = FaultPlan {
        lost_cancels: 0.3,
        interrupted_cancels: 0.3,
        pending: ALWAYS,
        ..FaultPlan::none()
    };
    let mut results = [0; 2];
    let ((), faults) = run(plan, async {
        let file = file().await;
        for round in 0..400u64 {
            let mut write = file.write_at(round.to_le_bytes().to_vec(), round * 8);
            assert!(poll!(&mut write).is_pending());
            sleep(Duration::from_millis(round % 2)).await;
            // Dropped, cancelled by a deadline, or by hand: the result is the only truth.
            file.object().cancel_requests();
            match write.await {
                Ok((n, _)) => {
                    assert_eq!(n, 8);
                    results[0] += 1;
                    let (_, buf) = file.read_at(vec![0; 8], round * 8).await.unwrap();
                    assert_eq!(buf, round.to_le_bytes());
                }
                Err(error) => {
                    assert_eq!(error.status(), overlapped::Status::CANCELLED);
                    results[1] += 1;
                    let (n, buf) = file.read_at(vec![0; 8], round * 8).await.unwrap();
                    assert!(n == 0 || buf == [0; 8], "a write that was cancelled has happened");
                }
            }
        }
    });
    assert!(results[0] > 50 && results[1] > 50, "{results:?}");
    for fault in [Fault::CancelWon, Fault::CancelLost, Fault::CancelInterrupted] {
        assert!(faults.of(fault) > 10, "{fault:?}: {}", faults.of(fault));
    }
}

#[test]
fn a_cancel_may_come_when_the_operation_has_happened() {
    let plan = FaultPlan { pending: ALWAYS, ..FaultPlan::none() };
    let ((), faults) = run(plan, async {
        let (a, b) = connected().await;
        let mut expected = Vec::new();
        let mut got = Vec::new();
        for round in 0..500u16 {
            a.write_all(round.to_le_bytes().to_vec()).await.unwrap();
            expected.extend(round.to_le_bytes());
            // Many of these have taken their bytes when they are dropped.
            let mut read = b.read(vec![0; 64]);
            assert!(poll!(&mut read).is_pending());
            sleep(Duration::from_millis(1)).await;
            let mut other = b.read(vec![0; 64]);
            let read = if let Poll::Ready(done) = Pin::new(&mut read).poll(&mut noop()) {
                Some(done)
            } else {
                drop(read);
                None
            };
            if let Some(Ok((n, buf))) = read {
                got.extend_from_slice(&buf[..n]);
            }
            if poll!(&mut other).is_pending() {
                drop(other);
            } else if let Ok((n, buf)) = other.await {
                got.extend_from_slice(&buf[..n]);
            }
        }
        a.shutdown(std::net::Shutdown::Write).await.unwrap();
        loop {
            let (n, buf) = b.read(vec![0; 64]).await.unwrap();
            if n == 0 {
                break;
            }
            got.extend_from_slice(&buf[..n]);
        }
        assert!(got == expected, "{} bytes of {}", got.len(), expected.len());
    });
    assert!(faults.of(Fault::CancelLate) + faults.of(Fault::CancelWon) > 10);
}

fn noop() -> std::task::Context<'static> {
    std::task::Context::from_waker(std::task::Waker::noop())
}
