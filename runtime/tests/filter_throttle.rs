//! The filter `throttle`: bytes and operations a second, by the virtual clock and on real sockets.

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use overlapped::Status;
use overlapped::driver::filter::{BadRates, Later, Rates, Throttle};
use overlapped::driver::text::Text;
use overlapped::driver::{Driver, Filter, Group, Major, MajorSet, bottom::Memory};
use overlapped::fs::{File, OpenOptions};
use overlapped::net::{TcpListener, TcpStream, UdpSocket, datagram_stack_of, stack_of};
use overlapped::sim::Simulation;
use overlapped::time::now;
use support::{both, pattern, poll_once};

const SECOND: Duration = Duration::from_secs(1);

fn simulated<F: Future>(future: F) -> F::Output {
    let (output, report) = Simulation::new(1).run(future);
    assert!(report.left.is_nothing(), "{}", report.left);
    output
}

fn bytes(rate: u64, burst: u64) -> Rates {
    Rates { bytes: Some(rate), burst: Some(burst), ..Rates::ANY }
}

async fn file(throttle: &Throttle) -> File {
    let options = OpenOptions::new().read(true).write(true).create(true);
    options.filter(throttle.clone().into_driver()).open("/tmp/file").await.unwrap()
}

async fn pair(filters: Vec<Arc<dyn Driver>>) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stack = stack_of(filters).unwrap();
    let (one, other) =
        futures_util::join!(TcpStream::connect_with(address, stack), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

/// About so long, by the virtual clock: less a burst; ticks and latencies are milliseconds.
#[track_caller]
fn about(took: Duration, wanted: Duration) {
    let near =
        took + SECOND / 50 >= wanted.mul_f64(0.97) && took <= wanted.mul_f64(1.05) + SECOND / 50;
    assert!(near, "took {took:?}, wanted {wanted:?}");
}

#[test]
fn operations_a_second() {
    simulated(async {
        let rates = Rates { operations: Some(100), burst_operations: Some(20), ..Rates::ANY };
        let throttle = Throttle::new(rates).unwrap();
        let file = file(&throttle).await;
        let start = now();
        // A burst, then one every 10 ms, whoever asks and at what offset.
        for i in 0..20 {
            file.write_at(vec![1; 10], i * 10).await.unwrap();
        }
        assert!(now() - start < SECOND / 20);
        let rest: Vec<_> = (0..480).map(|i| file.read_at(vec![0; 10], i % 20)).collect();
        join_all(rest).await.into_iter().for_each(|read| _ = read.unwrap());
        about(now() - start, SECOND * 48 / 10);
        // Idle time is not saved up beyond the burst.
        overlapped::time::sleep(10 * SECOND).await;
        let start = now();
        for i in 0..120 {
            file.write_at(vec![1; 10], i).await.unwrap();
        }
        about(now() - start, SECOND);
    });
}

#[test]
fn bytes_a_second_of_files() {
    simulated(async {
        let throttle = Throttle::new(bytes(1 << 20, 64 << 10)).unwrap();
        let file = file(&throttle).await;
        let data = pattern(4 << 20);
        // One write, larger than the burst by far: whole, in parts.
        let start = now();
        assert_eq!(file.write_at(data.clone(), 0).await.unwrap().0, 4 << 20);
        about(now() - start, SECOND * 4);
        let start = now();
        let (n, read) = file.read_at(Vec::with_capacity(4 << 20), 0).await.unwrap();
        assert!(n == 4 << 20 && read == data);
        about(now() - start, SECOND * 4);
        // Segments of all sizes.
        let buffers = vec![data[..100].to_vec(), vec![], data[100..300_000].to_vec()];
        let start = now();
        assert_eq!(file.write_vectored_at(buffers, 7).await.unwrap().0, 300_000);
        let room = [70_000, 1, 200_000, 99_999].into_iter().map(Vec::with_capacity).collect();
        let (n, back) = file.read_vectored_at(room, 7).await.unwrap();
        let back = back.concat();
        assert!(n >= 300_000 && back[..300_000] == data[..300_000]);
        about(now() - start, SECOND * 671 / 1024);
        // At the end of the file: what was not there costs nothing.
        let start = now();
        for _ in 0..50 {
            let (n, _) = file.read_at(Vec::with_capacity(1 << 20), (4 << 20) - 5).await.unwrap();
            assert_eq!(n, 5);
        }
        assert!(now() - start < SECOND / 2);
    });
}

#[test]
fn bytes_a_second_of_streams() {
    simulated(async {
        let throttle = Throttle::new(bytes(1 << 20, 64 << 10)).unwrap();
        let (stream, peer) = pair(vec![throttle.clone().into_driver()]).await;
        let sent = pattern(2 << 20);
        let reader = overlapped::spawn(async move {
            (peer.read_exact(Vec::with_capacity(2 << 20)).await.unwrap().1, peer)
        });
        let start = now();
        stream.write_all(sent.clone()).await.unwrap();
        let (received, peer) = reader.await.unwrap();
        about(now() - start, SECOND * 2);
        assert!(received == sent);
        // The other way: what has come counts, of plain and of pooled reads.
        let start = now();
        let writer = overlapped::spawn(async move {
            peer.write_all(sent).await.unwrap();
            peer
        });
        let ((), mut received) = stream.read_exact(Vec::with_capacity(1 << 20)).await.unwrap();
        while received.len() < 2 << 20 {
            received.extend_from_slice(&stream.read_lease().await.unwrap());
        }
        about(now() - start, SECOND * 2);
        assert!(received == pattern(2 << 20));
        // A read that waits for bytes holds nobody back.
        let peer = writer.await.unwrap();
        overlapped::time::sleep(SECOND).await;
        let mut read = stream.read_lease();
        assert!(poll_once(&mut read).is_pending());
        let start = now();
        stream.write_all(vec![1; 60_000]).await.unwrap();
        assert!(now() - start < SECOND / 20);
        drop((read, peer));
    });
}

/// Whole or not at all, whatever the burst; those behind wait for it.
#[test]
fn datagrams_are_not_split() {
    simulated(async {
        let throttle = Throttle::new(bytes(1000, 100)).unwrap();
        let stack = datagram_stack_of([throttle.clone().into_driver()]).unwrap();
        let socket = UdpSocket::bind_with("127.0.0.1:0", stack).await.unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let there = peer.local_addr().unwrap();
        let start = now();
        for _ in 0..3 {
            assert_eq!(socket.send_to(vec![5; 1000], there).await.unwrap().0, 1000);
        }
        about(now() - start, SECOND * 2);
        for _ in 0..3 {
            let ((message, _), _) = peer.recv_from(Vec::with_capacity(2000)).await.unwrap();
            assert_eq!(message.len, 1000);
        }
    });
}

/// First come, first served, and a cancel lets those behind move up.
#[test]
fn requests_pass_in_order() {
    simulated(async {
        let rates = Rates { operations: Some(10), burst_operations: Some(1), ..Rates::ANY };
        let throttle = Throttle::new(rates).unwrap();
        let file = file(&throttle).await;
        file.write_at("x", 0).await.unwrap();
        let order = std::cell::RefCell::new(Vec::new());
        let start = now();
        let mut first = file.write_at("first", 0);
        assert!(poll_once(&mut first).is_pending());
        let mut cancelled: Vec<_> = (0..50).map(|_| file.write_at("never", 0)).collect();
        cancelled.iter_mut().for_each(|write| assert!(poll_once(write).is_pending()));
        let last = (0..5).map(|i| {
            let write = file.write_at("last", 10);
            let order = &order;
            async move {
                write.await.unwrap();
                order.borrow_mut().push(i);
            }
        });
        let mut last: Vec<_> = last.map(Box::pin).collect();
        last.iter_mut().for_each(|write| assert!(poll_once(write).is_pending()));
        assert_eq!(throttle.waiting(), 56);
        // Polled in another order than they came in.
        last.reverse();
        drop(cancelled);
        first.await.unwrap();
        about(now() - start, SECOND / 10);
        join_all(last).await;
        about(now() - start, SECOND * 6 / 10);
        assert_eq!(*order.borrow(), [0, 1, 2, 3, 4]);
        assert_eq!(throttle.waiting(), 0);
        let (_, bytes) = file.read_at(Vec::with_capacity(5), 0).await.unwrap();
        assert_eq!(bytes, b"first");
    });
}

/// Flushes, closes and cancels do not wait.
#[test]
fn drains_are_never_held() {
    simulated(async {
        let rates = Rates { operations: Some(1), burst_operations: Some(1), ..Rates::ANY };
        let throttle = Throttle::new(rates).unwrap();
        let file = file(&throttle).await;
        file.write_at("x", 0).await.unwrap();
        let start = now();
        let mut waits: Vec<_> = (0..1000).map(|_| file.read_at(vec![0; 1], 0)).collect();
        waits.iter_mut().for_each(|read| assert!(poll_once(read).is_pending()));
        file.sync_all().await.unwrap();
        file.object().cancel_requests();
        for read in waits {
            assert_eq!(read.await.unwrap_err().status(), Status::CANCELLED);
        }
        file.close().await.unwrap();
        assert!(now() - start < SECOND / 2);
        assert_eq!(throttle.waiting(), 0);
    });
}

/// Whoever waits for years goes on at once.
#[test]
fn rates_change_live() {
    simulated(async {
        let slow = Rates { bytes: Some(1), ..Rates::ANY };
        let throttle = Throttle::new(slow).unwrap();
        let (stream, peer) = pair(vec![throttle.clone().into_driver()]).await;
        stream.write_all("x").await.unwrap();
        let start = now();
        let (wrote, ()) = futures_util::join!(stream.write_all(vec![7; 10_000]), async {
            overlapped::time::sleep(10 * SECOND).await;
            throttle.set_rates(Rates { bytes: Some(100_000), ..Rates::ANY }).unwrap();
        });
        wrote.unwrap();
        about(now() - start, SECOND * 101 / 10);
        assert_eq!(throttle.set_rates(Rates { bytes: Some(0), ..slow }), Err(BadRates::Zero));
        assert_eq!(throttle.rates().bytes, Some(100_000));
        throttle.set_rates(Rates::ANY).unwrap();
        let start = now();
        let reader = overlapped::spawn(async move {
            peer.read_exact(Vec::with_capacity(1_010_001)).await.unwrap();
        });
        stream.write_all(vec![7; 1_000_000]).await.unwrap();
        reader.await.unwrap();
        assert!(now() - start < SECOND / 2);
    });
}

/// Stacks of one group have one rate together.
#[test]
fn groups_share() {
    simulated(async {
        let rates = bytes(100_000, 10_000);
        let open = async |i: u32| {
            let throttle = Throttle::in_group("shared", rates).unwrap();
            let options = OpenOptions::new().write(true).create(true);
            let path = format!("/tmp/{i}");
            options.filter(throttle.into_driver()).open(path).await.unwrap()
        };
        let (a, b) = (open(1).await, open(2).await);
        let start = now();
        let both =
            futures_util::join!(a.write_at(vec![1; 100_000], 0), b.write_at(vec![2; 100_000], 0));
        assert_eq!((both.0.unwrap().0, both.1.unwrap().0), (100_000, 100_000));
        about(now() - start, SECOND * 19 / 10);
        let other = Throttle::in_group("shared", bytes(1, 1)).map(drop);
        assert!(matches!(other, Err(BadRates::Differ { has, .. }) if has == rates));
        assert_eq!(Throttle::join("shared").unwrap().rates(), rates);
    });
    // With the last stack the group has gone.
    let none = Throttle::join("shared").map(drop);
    assert_eq!(none, Err(BadRates::NoGroup { group: "shared".into() }));
}

/// On real files and sockets nothing is lost, whichever way it is cut.
#[test]
fn nothing_is_lost() {
    both(async |_| {
        let throttle = Throttle::new(bytes(40 << 20, 9000)).unwrap();
        let (stream, peer) = pair(vec![throttle.clone().into_driver()]).await;
        let sent = pattern(400_000);
        let received = async {
            let ((), received) = peer.read_exact(Vec::with_capacity(400_000)).await.unwrap();
            peer.write_all(received).await.unwrap();
        };
        let halves = async {
            let (n, _) = stream.write(sent[..100_000].to_vec()).await.unwrap();
            let parts = vec![sent[n..n + 50_000].to_vec(), sent[n + 50_000..].to_vec()];
            let (m, _) = stream.write_vectored(parts).await.unwrap();
            stream.write_all(sent[n + m..].to_vec()).await.unwrap();
            let mut back = Vec::new();
            while back.len() < sent.len() {
                let room = vec![Vec::with_capacity(5000), Vec::with_capacity(50_000)];
                let (n, bytes) = stream.read_vectored(room).await.unwrap();
                assert!(n <= 9000);
                back.extend(bytes.concat());
            }
            assert!(back == sent);
        };
        futures_util::join!(received, halves);
        let memory: Arc<dyn Driver> = Arc::new(Memory::new());
        for later in [false, true] {
            let mut options = OpenOptions::new().read(true).write(true).on(memory.clone());
            options = options.filter(throttle.clone().into_driver());
            if later {
                options = options.filter(Arc::new(Later));
            }
            let file = options.open("a name").await.unwrap();
            assert_eq!(file.write_at(sent.clone(), 3).await.unwrap().0, sent.len());
            let (_, read) = file.read_at(Vec::with_capacity(500_000), 3).await.unwrap();
            assert!(read == sent);
        }
    });
}

#[test]
fn as_text() {
    let filters = |text: &str| text.parse::<Text>().unwrap().build().map(|built| built.filters);
    for good in [
        "throttle(iops=5)",
        "throttle(bps=64K, burst=1M)",
        "throttle(iops=5, burst=10)",
        "throttle(iops=5, bps=10M, burst_ops=3, op=write)",
        "throttle(bps=1K, group=text) | throttle(group=text) | throttle(bps=1K, group=text)",
    ] {
        let filters = filters(good).unwrap();
        assert_eq!(filters[0].group(), Some(Group::Throttle), "{good}");
        assert!(!filters[0].hooks().contains(Major::Flush));
    }
    for (bad, why) in [
        ("throttle", "give iops or bps"),
        ("throttle(bps=0)", "lets nothing pass"),
        ("throttle(group=nobody)", "no group 'nobody'"),
        ("throttle(bps=1K, group=mine) | throttle(bps=2K, group=mine)", "other rates"),
        ("throttle(bps=1K, op=flush)", "read, write, send or receive"),
        ("throttle(iops=1, rate=3)", "no parameter"),
    ] {
        let error = filters(bad).map(drop).unwrap_err().to_string();
        assert!(error.contains(why), "{bad}: {error}");
    }
    let only = Throttle::new(Rates::ANY).unwrap().only(MajorSet::of(&[Major::Write]));
    assert!(!only.hooks().contains(Major::Read));
}
