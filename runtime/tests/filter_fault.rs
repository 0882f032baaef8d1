//! The filter `fault`: what goes wrong, for whom, and again the same way.

mod support;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use overlapped::driver::filter::{Fault, Kind, Later, Rule, Step};
use overlapped::driver::text::Text;
use overlapped::driver::{Driver, Filter, Major, MajorSet, bottom::Memory};
use overlapped::fs::{File, OpenOptions};
use overlapped::net::{TcpListener, TcpStream, UdpSocket, UnixStream, datagram_stack_of, stack_of};
use overlapped::sim::Simulation;
use overlapped::time::sleep;
use overlapped::{Request, Status, operation};
use support::{Dir, Random, both, kind, pattern, poll_once, status};

const EIO: Status = Status::from_errno(5);
const READS: MajorSet = MajorSet::of(&[Major::Read]);
const WRITES: MajorSet = MajorSet::of(&[Major::Write]);

fn failing() -> Rule {
    Rule::new(Kind::Error(EIO))
}

fn options(fault: &Fault) -> OpenOptions {
    OpenOptions::new().read(true).write(true).filter(fault.clone().into_driver())
}

async fn on_memory(fault: &Fault) -> File {
    options(fault).on(Arc::new(Memory::new())).open("a name").await.unwrap()
}

async fn pair(fault: &Fault) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stack = stack_of([fault.clone().into_driver()]).unwrap();
    let (one, other) =
        futures_util::join!(TcpStream::connect_with(address, stack), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

fn simulated<F: Future>(seed: u64, future: F) -> F::Output {
    let (output, report) = Simulation::new(seed).run(future);
    assert!(report.left.is_nothing(), "{}", report.left);
    output
}

/// Which of twenty reads fail.
async fn failures(rule: Rule) -> Vec<u64> {
    let fault = Fault::new(1, [rule.on(READS)]);
    let file = on_memory(&fault).await;
    file.write_all_at(vec![1; 100], 0).await.unwrap();
    let mut failed = Vec::new();
    for i in 1..=20 {
        match status(file.read_at(vec![0; 5], i * 3).await) {
            Status::SUCCESS => {}
            EIO => failed.push(i),
            other => panic!("{other}"),
        }
    }
    assert_eq!(fault.count(), failed.len() as u64);
    failed
}

#[test]
fn rules_choose() {
    both(async |_| {
        assert_eq!(failures(failing()).await, (1..=20).collect::<Vec<_>>());
        assert_eq!(failures(failing().once()).await, [1]);
        assert_eq!(failures(failing().times(3)).await, [1, 2, 3]);
        assert_eq!(failures(failing().after(17)).await, [18, 19, 20]);
        assert_eq!(failures(failing().first(2)).await, [1, 2]);
        assert_eq!(failures(failing().every(7)).await, [7, 14]);
        assert_eq!(failures(failing().after(4).every(5).times(2)).await, [9, 14]);
        assert_eq!(failures(failing().after(2).first(3).every(2)).await, [4]);
        // Bytes 30 to 39: requests of 5 bytes at 3, 6, 9, …
        assert_eq!(failures(failing().within(30..40)).await, [9, 10, 11, 12, 13]);
        assert!(failures(failing().rate(0.0)).await.is_empty());
        assert!(failures(failing().rate(f64::NAN)).await.is_empty());
        let half = failures(failing().rate(0.5)).await;
        assert!((4..=16).contains(&half.len()), "{half:?}");
        assert_eq!(half, failures(failing().rate(0.5)).await);
        let script = Rule::script([
            Step::Pass,
            Step::Do(Kind::Error(EIO)),
            Step::Pass,
            Step::Do(Kind::Error(EIO)),
            Step::Do(Kind::Error(EIO)),
        ]);
        assert_eq!(failures(script).await, [2, 4, 5]);
    });
}

/// What does not look like an error would not be taken for one.
#[test]
fn an_error_is_an_error() {
    both(async |_| {
        let odd = [Status::SUCCESS, Status::PENDING, Status::DATA_ABOVE, Status::BUFFER_OVERFLOW];
        for what in odd {
            let file = on_memory(&Fault::new(1, [Rule::new(Kind::Error(what)).on(READS)])).await;
            assert_eq!(status(file.read_at(vec![0; 5], 0).await), Status::UNSUCCESSFUL);
        }
    });
}

#[test]
fn other_operations_fail() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.file("f", "hello");
        let on = |major| Fault::new(1, [failing().on(MajorSet::of(&[major]))]);
        let file = options(&on(Major::Flush)).open(&path).await.unwrap();
        assert_eq!(status(file.sync_all().await), EIO);
        assert_eq!(file.read_at(Vec::with_capacity(5), 0).await.unwrap().0, 5);
        assert_eq!(status(options(&on(Major::Create)).open(&path).await), EIO);
        let file = options(&on(Major::QueryInformation)).open(&path).await.unwrap();
        assert_eq!(status(file.metadata().await), EIO);
        // A close closes, whatever it is told to do.
        let all = Fault::new(1, [failing().on(MajorSet::ALL).after(1)]);
        let file = options(&all).open(&path).await.unwrap();
        assert_eq!(status(file.read_at(vec![0; 5], 0).await), EIO);
        file.close().await.unwrap();
        assert_eq!(support::descriptors_in(&dir), 2, "those that are still open");
        // For a while nothing goes wrong.
        let fault = Fault::new(1, [failing()]);
        let file = options(&fault).open(&path).await.unwrap();
        fault.pause(true);
        assert_eq!(file.read_at(vec![0; 5], 0).await.unwrap().0, 5);
        fault.pause(false);
        assert_eq!(status(file.read_at(vec![0; 5], 0).await), EIO);
        assert_eq!(fault.log(), "1 Read 0+5: error 0xe00e0005\n");
    });
}

#[test]
fn a_hang_ends_with_a_cancel() {
    both(async |_| {
        let fault = Fault::new(1, [Rule::new(Kind::Hang).on(READS).once()]);
        let file = on_memory(&fault).await;
        let mut read = file.read_at(vec![7; 5], 0);
        assert!(poll_once(&mut read).is_pending());
        sleep(Duration::from_millis(5)).await;
        assert!(poll_once(&mut read).is_pending());
        file.object().cancel_requests();
        let failed = read.await.unwrap_err();
        assert_eq!((failed.status(), failed.into_buf()), (Status::CANCELLED, vec![7; 5]));
        assert_eq!(file.read_at(vec![7; 5], 0).await.unwrap().0, 0);
        // A limit, or letting go of it, is a cancel.
        let fault = Fault::new(1, [Rule::new(Kind::Hang)]);
        let (stream, _peer) = pair(&fault).await;
        let read = operation::Read::next(vec![0; 5]);
        let read = Request::new(stream.object(), read).deadline(Duration::from_millis(5)).await;
        assert_eq!(read.unwrap_err().status(), Status::IO_TIMEOUT);
        let mut write = stream.write("never");
        assert!(poll_once(&mut write).is_pending());
        drop(write);
        stream.close().await.unwrap();
    });
}

/// Part of it, and the rest is where it was.
#[test]
fn transfers_are_short() {
    both(async |_| {
        for later in [false, true] {
            let fault = Fault::new(3, [Rule::new(Kind::Short)]);
            let options = options(&fault).on(Arc::new(Memory::new()));
            let options = if later { options.filter(Arc::new(Later)) } else { options };
            let file = options.open("a name").await.unwrap();
            let data = pattern(1000);
            let (n, _) = file.write_at(data.clone(), 0).await.unwrap();
            assert!(n > 0 && n < 1000);
            assert_eq!(file.metadata().await.unwrap().len(), n as u64);
            file.write_all_at(data.clone(), 0).await.unwrap();
            let (n, read) = file.read_at(Vec::with_capacity(500), 100).await.unwrap();
            assert!(n > 0 && n < 500 && read == data[100..100 + n]);
            let ((), read) = file.read_exact_at(Vec::with_capacity(1000), 0).await.unwrap();
            assert_eq!(read, data);
            // One byte is not cut, and of several buffers some are left out.
            assert_eq!(file.read_at(Vec::with_capacity(1), 0).await.unwrap().0, 1);
            let room = vec![Vec::with_capacity(100), Vec::with_capacity(100)];
            assert_eq!(file.read_vectored_at(room, 0).await.unwrap().0, 100);
            // Those are not all empty: no bytes would be the end.
            let room = vec![Vec::new(), Vec::with_capacity(100)];
            assert_eq!(file.read_vectored_at(room, 0).await.unwrap().0, 100);
            assert_eq!(file.write_vectored_at(vec!["", "ab"], 0).await.unwrap().0, 2);
        }
        // Streams, plain and pooled.
        let fault = Fault::new(3, [Rule::new(Kind::Short)]);
        let (stream, peer) = pair(&fault).await;
        let data = pattern(20_000);
        stream.write_all(data.clone()).await.unwrap();
        let ((), received) = peer.read_exact(Vec::with_capacity(20_000)).await.unwrap();
        assert_eq!(received, data);
        peer.write_all(received).await.unwrap();
        let ((), mut received) = stream.read_exact(Vec::with_capacity(10_000)).await.unwrap();
        while received.len() < 20_000 {
            let lease = stream.read_lease().await.unwrap();
            assert!(!lease.is_empty() && lease.len() < 4096);
            received.extend_from_slice(&lease);
        }
        assert_eq!(received, data);
    });
}

/// Bits that differ.
fn differences(one: &[u8], other: &[u8]) -> u32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(a, b)| (a ^ b).count_ones()).sum()
}

#[test]
fn bytes_are_corrupted() {
    both(async |_| {
        let data = pattern(1000);
        let corrupt = |on| Fault::new(9, [Rule::new(Kind::Corrupt).on(on)]);
        // What is written: never in the caller's own buffer.
        let memory: Arc<dyn Driver> = Arc::new(Memory::new());
        let plain = OpenOptions::new().read(true).write(true).on(memory.clone());
        let plain = plain.open("a name").await.unwrap();
        let file = options(&corrupt(WRITES)).on(memory.clone()).open("a name").await.unwrap();
        let (n, back) = file.write_at(data.clone(), 0).await.unwrap();
        assert_eq!((n, &back), (1000, &data));
        let (_, stored) = plain.read_at(Vec::with_capacity(1000), 0).await.unwrap();
        assert_eq!(differences(&stored, &data), 1);
        let parts = vec![data[..300].to_vec(), data[300..].to_vec()];
        let (n, back) = file.write_vectored_at(parts, 0).await.unwrap();
        assert_eq!((n, back.concat()), (1000, data.clone()));
        let (_, stored) = plain.read_at(Vec::with_capacity(1000), 0).await.unwrap();
        assert_eq!(differences(&stored, &data), 1);
        // What is read: not where it is stored.
        plain.write_all_at(data.clone(), 0).await.unwrap();
        let file = options(&corrupt(READS)).on(memory.clone()).open("a name").await.unwrap();
        for _ in 0..10 {
            let (_, read) = file.read_at(Vec::with_capacity(1000), 0).await.unwrap();
            assert_eq!(differences(&read, &data), 1);
        }
        let room = [100, 900, 5].into_iter().map(Vec::with_capacity).collect();
        let (n, read) = file.read_vectored_at(room, 0).await.unwrap();
        assert_eq!((n, differences(&read.concat(), &data)), (1000, 1));
        // Fewer bytes than asked for; none.
        let (n, read) = file.read_at(Vec::with_capacity(1000), 997).await.unwrap();
        assert_eq!((n, differences(&read, &data[997..])), (3, 1));
        assert_eq!(file.read_at(Vec::with_capacity(1000), 5000).await.unwrap().0, 0);
        let (_, stored) = plain.read_at(Vec::with_capacity(1000), 0).await.unwrap();
        assert_eq!(stored, data);
        // Sockets.
        let (stream, peer) = pair(&corrupt(MajorSet::ALL)).await;
        stream.write_all(data.clone()).await.unwrap();
        let ((), received) = peer.read_exact(Vec::with_capacity(1000)).await.unwrap();
        assert_eq!(differences(&received, &data), 1);
        peer.write_all(data.clone()).await.unwrap();
        let mut received = Vec::new();
        let mut reads = 0;
        while received.len() < 1000 {
            received.extend_from_slice(&stream.read_lease().await.unwrap());
            reads += 1;
        }
        let wrong = differences(&received, &data);
        assert!(wrong >= 1 && wrong <= reads);
        let stack = datagram_stack_of([corrupt(MajorSet::ALL).into_driver()]).unwrap();
        let socket = UdpSocket::bind_with("127.0.0.1:0", stack).await.unwrap();
        let here = socket.local_addr().unwrap();
        assert_eq!(socket.send_to(data.clone(), here).await.unwrap().1, data);
        let (_, received) = socket.recv_from(Vec::with_capacity(2000)).await.unwrap();
        assert!([0, 2].contains(&differences(&received, &data)));
    });
}

/// The other side sees it; and it stays so.
#[test]
fn a_connection_is_reset() {
    both(async |_| {
        let fault = Fault::new(1, [Rule::new(Kind::Reset).on(WRITES).after(1).once()]);
        let (stream, peer) = pair(&fault).await;
        stream.write_all("one").await.unwrap();
        let ((), one) = peer.read_exact(Vec::with_capacity(3)).await.unwrap();
        assert_eq!(one, b"one");
        let mut waiting = peer.read(vec![0; 9]);
        assert!(poll_once(&mut waiting).is_pending());
        let failed = stream.write(vec![2; 9]).await.unwrap_err();
        assert_eq!((failed.status(), failed.into_buf()), (Status::CONNECTION_RESET, vec![2; 9]));
        assert_eq!(kind(waiting.await), ErrorKind::ConnectionReset);
        assert_eq!(kind(peer.write("x").await), ErrorKind::BrokenPipe);
        // Only writes are looked at: a read finds what the system has.
        _ = stream.read(vec![0; 9]).await;
        assert_eq!(kind(stream.write("three").await), ErrorKind::ConnectionReset);
        assert_eq!(fault.log(), "2 Write 9: reset\n");

        // A read that waits meanwhile is reset too.
        let fault = Fault::new(1, [Rule::new(Kind::Reset).after(1)]);
        let (stream, _peer) = pair(&fault).await;
        let (read, write) = futures_util::join!(stream.read(vec![0; 9]), async {
            sleep(Duration::from_millis(5)).await;
            stream.write("x").await
        });
        assert_eq!(kind(read), ErrorKind::ConnectionReset);
        assert_eq!(kind(write), ErrorKind::ConnectionReset);

        // A Unix socket cannot be reset: it is shut down.
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let fault = Fault::new(1, [Rule::new(Kind::Reset)]);
        let stack = stack_of([fault.clone().into_driver()]).unwrap();
        let stream = UnixStream::from_std_with(a, stack).unwrap();
        let peer = UnixStream::from_std(b).unwrap();
        assert_eq!(kind(stream.read_lease().await), ErrorKind::ConnectionReset);
        assert_eq!(peer.read(vec![0; 9]).await.unwrap().0, 0);
        // A file has no connection.
        let file = on_memory(&fault).await;
        assert_eq!(file.write_at("fine", 0).await.unwrap().0, 4);
        assert_eq!(fault.count(), 1);
    });
    simulated(1, async {
        let fault = Fault::new(1, [Rule::new(Kind::Reset)]);
        let (stream, peer) = pair(&fault).await;
        assert_eq!(kind(stream.write("x").await), ErrorKind::ConnectionReset);
        assert_eq!(peer.read(vec![0; 9]).await.unwrap().0, 0);
    });
}

#[test]
fn bad_blocks_heal_when_written() {
    both(async |_| {
        let fault = Fault::new(1, [Rule::bad_blocks(Status::DATA_ERROR, 512).within(1024..2048)]);
        let file = on_memory(&fault).await;
        file.write_all_at(pattern(1000), 0).await.unwrap();
        file.write_all_at(pattern(4000), 2048).await.unwrap();
        let reads = async |offset, len| {
            let read = file.read_at(Vec::with_capacity(len), offset).await;
            read.map_or_else(|error| error.status(), |_| Status::SUCCESS)
        };
        assert_eq!(reads(0, 1024).await, Status::SUCCESS);
        assert_eq!(reads(2048, 1024).await, Status::SUCCESS);
        for (offset, len) in [(1000, 100), (1024, 1), (1535, 1), (2047, 1), (0, 4096)] {
            assert_eq!(reads(offset, len).await, Status::DATA_ERROR);
        }
        // A part of a block heals nothing, a whole one heals itself.
        file.write_all_at(vec![1; 511], 1024).await.unwrap();
        assert_eq!(reads(1024, 1).await, Status::DATA_ERROR);
        file.write_all_at(vec![1; 1000], 1000).await.unwrap();
        assert_eq!(reads(1024, 512).await, Status::SUCCESS);
        assert_eq!(reads(1536, 1).await, Status::DATA_ERROR);
        file.write_all_at(vec![1; 512], 1536).await.unwrap();
        assert_eq!(reads(0, 4096).await, Status::SUCCESS);

        // Some, by chance: the same whatever the order.
        let bad = async |reverse| {
            let fault = Fault::new(5, [Rule::bad_blocks(EIO, 4096).rate(0.1)]);
            let file = on_memory(&fault).await;
            let mut bad = Vec::new();
            let blocks: Vec<u64> =
                if reverse { (0..500).rev().collect() } else { (0..500).collect() };
            for block in blocks {
                if file.read_at(vec![0; 1], block * 4096).await.is_err() {
                    bad.push(block);
                }
            }
            bad.sort();
            bad
        };
        let some = bad(false).await;
        assert!((25..80).contains(&some.len()), "{}", some.len());
        assert_eq!(some, bad(true).await);
    });
}

/// The first rule that says something decides.
#[test]
fn rules_go_in_order() {
    both(async |_| {
        let fault = Fault::new(
            1,
            [
                Rule::new(Kind::Error(Status::DISK_FULL)).on(WRITES).within(100..200),
                failing().every(2),
            ],
        );
        let file = on_memory(&fault).await;
        let mut said = Vec::new();
        for offset in [0, 150, 0, 150, 0, 0] {
            said.push(status(file.write_at("x", offset).await));
        }
        let full = Status::DISK_FULL;
        let fine = Status::SUCCESS;
        assert_eq!(said, [fine, full, EIO, full, fine, EIO]);
    });
}

/// A workload by chance, in the simulation: files and streams, with every kind of fault.
fn workload(seed: u64) -> (String, u64) {
    let rules = [
        Rule::new(Kind::Error(EIO)).rate(0.1),
        Rule::bad_blocks(Status::DATA_ERROR, 512).rate(0.05),
        Rule::new(Kind::Short).rate(0.2),
        Rule::new(Kind::Corrupt).rate(0.2),
        Rule::new(Kind::Hang).rate(0.02),
        Rule::new(Kind::Reset).rate(0.002),
    ];
    let fault = Fault::new(seed, rules);
    simulated(17, async {
        let file = options(&fault).create(true).open("/tmp/f").await.unwrap();
        let (stream, peer) = pair(&fault).await;
        let echo = overlapped::spawn(async move {
            while let Ok(lease) = peer.read_lease().await {
                if lease.is_empty() || peer.write_all(lease.to_vec()).await.is_err() {
                    break;
                }
            }
        });
        let mut random = Random(4);
        let limit = Duration::from_secs(5);
        for _ in 0..2000 {
            let (offset, len) = (random.below(64 << 10), 1 + random.below(5000) as usize);
            let buffer: Vec<u8> = vec![3; len];
            match random.below(4) {
                0 => {
                    let write = operation::Write::at(buffer, offset);
                    _ = Request::new(file.object(), write).deadline(limit).await;
                }
                1 => {
                    let read = operation::Read::at(buffer, offset);
                    _ = Request::new(file.object(), read).deadline(limit).await;
                }
                2 => {
                    let write = operation::Write::next(buffer);
                    _ = Request::new(stream.object(), write).deadline(limit).await;
                }
                _ => {
                    let read = operation::ReceiveLease { most: len as u32 };
                    _ = Request::new(stream.object(), read).deadline(limit).await;
                }
            }
        }
        drop(stream);
        echo.await.unwrap();
    });
    (fault.log(), fault.count())
}

/// The same seed and the same order of requests have the same faults, byte for byte.
#[test]
fn the_same_seed_has_the_same_trace() {
    let (log, count) = workload(1);
    assert_eq!(log.lines().count() as u64, count);
    for kind in ["error", "short", "corrupt", "hang"] {
        assert!(log.contains(kind), "{kind}");
    }
    assert!(count > 200, "{count}");
    assert!(log.as_bytes() == workload(1).0.as_bytes());
    assert!(log != workload(2).0);
}

#[test]
fn as_text() {
    let filters = |text: &str| text.parse::<Text>().unwrap().build().map(|built| built.filters);
    for good in [
        "fault",
        "fault(seed=7, rate=0.05, error=EIO, op=read)",
        "fault(kind=hang, op=flush, every=3, after=10)",
        "fault(kind=short, first=5, times=2)",
        "fault(kind=corrupt, op=write+send, once=yes)",
        "fault(kind=reset)",
        "fault(kind=bad, range=0..1M, block=4K, error=EIO, rate=0.1)",
        "fault(script=ok*3 EIO short hang*2 corrupt reset ENOSPC)",
    ] {
        assert_eq!(filters(good).unwrap().len(), 1, "{good}");
    }
    for (bad, why) in [
        ("fault(kind=worse)", "error, hang, short"),
        ("fault(rate=1.5)", "0 to 1"),
        ("fault(error=EWHAT)", "an error's name"),
        ("fault(op=close)", "not close"),
        ("fault(kind=short, op=flush)", "can go wrong so"),
        ("fault(range=5..5)", "range of bytes"),
        ("fault(range=7)", "range of bytes"),
        ("fault(every=0)", "at least 1"),
        ("fault(kind=bad, block=0)", "at least 1"),
        ("fault(block=512)", "kind=bad"),
        ("fault(kind=hang, error=EIO)", "kind=error"),
        ("fault(script=ok EWHAT)", "steps"),
        ("fault(script=ok*9999999)", "steps"),
        ("fault(script=ok, kind=hang)", "no kind"),
        ("fault(chance=1)", "no parameter"),
    ] {
        let error = filters(bad).map(drop).unwrap_err().to_string();
        assert!(error.contains(why), "{bad}: {error}");
    }
    both(async |_| {
        let options = OpenOptions::new().read(true).write(true);
        let text = "fault(script=ok EIO ENOSPC, op=write) | memory";
        let file = options.open_stack(text).await.unwrap();
        assert_eq!(status(file.write_at("1", 0).await), Status::SUCCESS);
        assert_eq!(status(file.write_at("2", 0).await), EIO);
        assert_eq!(kind(file.write_at("3", 0).await), ErrorKind::StorageFull);
        assert_eq!(status(file.write_at("4", 0).await), Status::SUCCESS);
    });
}
