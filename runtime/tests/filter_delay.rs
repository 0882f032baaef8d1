//! The filter `delay`: time by the virtual clock, and lines that lose, repeat and reorder datagrams.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use overlapped::driver::filter::{BadLink, Delay, Latency, Link};
use overlapped::driver::text::Text;
use overlapped::driver::{Driver, Filter, Major, MajorSet};
use overlapped::fs::{File, OpenOptions};
use overlapped::net::{TcpListener, TcpStream, UdpSocket, datagram_stack_of, stack_of};
use overlapped::sim::Simulation;
use overlapped::time::{now, sleep};
use overlapped::{Request, Status, operation};
use support::{Dir, both, poll_once};

const MS: Duration = Duration::from_millis(1);

fn simulated<F: Future>(future: F) -> F::Output {
    let (output, report) = Simulation::new(1).run(future);
    assert!(report.left.is_nothing(), "{}", report.left);
    output
}

async fn file(delay: Delay) -> File {
    let options = OpenOptions::new().read(true).write(true).create(true);
    options.filter(delay.into_driver()).open("/tmp/file").await.unwrap()
}

fn linked(link: Link) -> Arc<dyn Driver> {
    Delay::none().link(link).unwrap().into_driver()
}

/// A socket with the filters, and one without, which is where the first one sends.
async fn sockets(filter: Arc<dyn Driver>) -> (UdpSocket, UdpSocket) {
    let stack = datagram_stack_of([filter]).unwrap();
    let one = UdpSocket::bind_with("127.0.0.1:0", stack).await.unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    one.connect(other.local_addr().unwrap()).await.unwrap();
    other.connect(one.local_addr().unwrap()).await.unwrap();
    (one, other)
}

/// What is there to be received, until nothing comes for a second.
async fn drained(socket: &UdpSocket) -> Vec<u8> {
    let mut received = Vec::new();
    while let Ok(message) =
        overlapped::time::timeout(1000 * MS, socket.recv(Vec::with_capacity(9))).await
    {
        received.push(message.unwrap().1[0]);
    }
    received
}

#[test]
fn operations_take_their_time() {
    let ((), report) = Simulation::new(1).run(async {
        let hooks = MajorSet::of(&[Major::Read, Major::Write, Major::Flush]);
        let file = file(Delay::new(Latency::fixed(3600 * 1000 * MS)).only(hooks)).await;
        let start = now();
        file.write_at("hello", 0).await.unwrap();
        file.read_at(Vec::with_capacity(5), 0).await.unwrap();
        file.sync_all().await.unwrap();
        // In parallel they take as long as one.
        join_all((0..10).map(|i| file.read_at(vec![0; 1], i % 5))).await;
        let took = now() - start;
        assert!(took >= 4 * 3600 * 1000 * MS && took < 4 * 3600 * 1000 * MS + 1000 * MS);
        // What is not asked for does not.
        let start = now();
        file.metadata().await.unwrap();
        file.close().await.unwrap();
        assert!(now() - start < 1000 * MS);
    });
    assert!(report.virtual_time >= 4 * 3600 * 1000 * MS && report.left.is_nothing());
}

#[test]
fn times_are_drawn_from_a_distribution() {
    let times = |latency: Latency| {
        simulated(async {
            let file = file(Delay::new(latency)).await;
            let mut times = Vec::new();
            for _ in 0..1000 {
                let start = now();
                file.write_at("x", 0).await.unwrap();
                times.push(now() - start);
            }
            times
        })
    };
    let slow = times(Latency::between(100 * MS, 200 * MS).unwrap());
    assert!(slow.iter().all(|time| (100 * MS..210 * MS).contains(time)));
    assert!(slow.iter().any(|t| *t < 110 * MS) && slow.iter().any(|t| *t > 190 * MS));
    // The chance is the simulation's.
    let again = times(Latency::between(100 * MS, 200 * MS).unwrap());
    assert!(slow == again);
    let mut disk = times(Latency::average_p99(100 * MS, 500 * MS).unwrap());
    let average = disk.iter().sum::<Duration>() / 1000;
    assert!((85 * MS..115 * MS).contains(&average), "{average:?}");
    disk.sort();
    assert!((350 * MS..800 * MS).contains(&disk[990]), "{:?}", disk[990]);
    let recorded = times(Latency::histogram([(10 * MS, 3), (900 * MS, 1)]).unwrap());
    let long = recorded.iter().filter(|time| **time > 800 * MS).count();
    assert!((200..300).contains(&long), "{long}");
}

/// A read is held when it has come, a write before it goes: so an answer takes both.
#[test]
fn streams_are_slow_both_ways() {
    simulated(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stack = stack_of([Delay::new(Latency::fixed(50 * MS)).into_driver()]).unwrap();
        let (stream, peer) =
            futures_util::join!(TcpStream::connect_with(address, stack), listener.accept());
        let (stream, peer) = (stream.unwrap(), peer.unwrap().0);
        let echo = overlapped::spawn(async move {
            loop {
                let lease = peer.read_lease().await.unwrap();
                if lease.is_empty() {
                    break;
                }
                peer.write_all(lease.to_vec()).await.unwrap();
            }
        });
        for _ in 0..5 {
            let start = now();
            stream.write_all("question").await.unwrap();
            let lease = stream.read_lease().await.unwrap();
            assert_eq!(&*lease, b"question");
            let took = now() - start;
            assert!((100 * MS..110 * MS).contains(&took), "{took:?}");
        }
        // A read that is given up while it is held leaves its bytes to the next one.
        stream.write_all("late").await.unwrap();
        let mut read = stream.read(vec![0; 9]);
        assert!(poll_once(&mut read).is_pending());
        sleep(20 * MS).await;
        drop(read);
        assert_eq!(stream.read(Vec::with_capacity(9)).await.unwrap().1, b"late");
        // A write that is given up while it is held does not go.
        let mut write = stream.write("never");
        assert!(poll_once(&mut write).is_pending());
        drop(write);
        drop(stream);
        echo.await.unwrap();
    });
}

#[test]
fn a_cancel_ends_the_wait() {
    both(async |_| {
        let options = OpenOptions::new().read(true).write(true);
        let file = options.open_stack("delay(ms=3600000, op=write) | memory").await.unwrap();
        let write = file.write_at("never", 0);
        let (write, ()) = futures_util::join!(write, async {
            sleep(MS).await;
            file.object().cancel_requests();
        });
        assert_eq!(write.unwrap_err().status(), Status::CANCELLED);
        assert_eq!(file.read_at(vec![0; 9], 0).await.unwrap().0, 0);
    });
}

#[test]
fn datagrams_are_lost() {
    simulated(async {
        // Each way.
        let (one, other) = sockets(linked(Link { loss: 0.3, ..Link::PERFECT })).await;
        let mut there = Vec::new();
        for i in 0..200 {
            assert_eq!(one.send(vec![i]).await.unwrap().0, 1);
            there.extend(if i % 50 == 49 { drained(&other).await } else { vec![] });
        }
        assert!((110..170).contains(&there.len()), "{}", there.len());
        assert!(there.is_sorted());
        let mut back = Vec::new();
        for i in 0..200 {
            other.send(vec![i]).await.unwrap();
            back.extend(if i % 50 == 49 { drained(&one).await } else { vec![] });
        }
        assert!((110..170).contains(&back.len()), "{}", back.len());
        assert!(back.is_sorted());
        let (one, other) = sockets(linked(Link { loss: 1.0, ..Link::PERFECT })).await;
        one.send("x").await.unwrap();
        other.send("x").await.unwrap();
        assert!(drained(&one).await.is_empty() && drained(&other).await.is_empty());
    });
}

/// With their sender's address, to receives of every kind.
#[test]
fn datagrams_come_twice() {
    both(async |_| {
        let (one, other) = sockets(linked(Link { duplicate: 1.0, ..Link::PERFECT })).await;
        one.send("a").await.unwrap();
        for _ in 0..2 {
            let ((message, from), buf) = other.recv_from(Vec::with_capacity(9)).await.unwrap();
            assert_eq!((message.len, from, &buf[..]), (1, one.local_addr().unwrap(), &b"a"[..]));
        }
        other.send_to("bcd", one.local_addr().unwrap()).await.unwrap();
        let ((message, from), buf) = one.recv_from(Vec::with_capacity(9)).await.unwrap();
        assert_eq!((message.len, from, &buf[..]), (3, other.local_addr().unwrap(), &b"bcd"[..]));
        // The second is peeked at, and cut.
        assert_eq!(one.peek(Vec::with_capacity(9)).await.unwrap().1, b"bcd");
        let ((_, from), buf) = one.recv_from(Vec::with_capacity(2)).await.unwrap();
        assert_eq!((from, &buf[..]), (other.local_addr().unwrap(), &b"bc"[..]));
        other.send("e").await.unwrap();
        assert_eq!(one.recv(Vec::with_capacity(9)).await.unwrap().1, b"e");
        let buffers = vec![Vec::with_capacity(9), Vec::with_capacity(9)];
        let (messages, buffers) = one.recv_many_from(buffers).await.unwrap();
        assert_eq!((messages.len(), &buffers[0][..]), (1, &b"e"[..]));
    });
}

#[test]
fn datagrams_are_overtaken() {
    simulated(async {
        let link = Link { reorder: 0.3, reorder_time: 50 * MS, ..Link::PERFECT };
        let (one, other) = sockets(linked(link)).await;
        // Nothing is lost, whoever waits for whom.
        let mut sorted = true;
        for round in 0..10u8 {
            let sends = (0..20).map(|i| one.send(vec![round * 20 + i]));
            join_all(sends).await.into_iter().for_each(|sent| _ = sent.unwrap());
            let mut received = drained(&other).await;
            sorted &= received.is_sorted();
            received.sort();
            assert_eq!(received, (round * 20..round * 20 + 20).collect::<Vec<_>>());
        }
        assert!(!sorted);
        let mut sorted = true;
        for round in 0..10u8 {
            for i in 0..20 {
                other.send(vec![round * 20 + i]).await.unwrap();
            }
            let mut received = drained(&one).await;
            sorted &= received.is_sorted();
            received.sort();
            assert_eq!(received, (round * 20..round * 20 + 20).collect::<Vec<_>>());
        }
        assert!(!sorted);
        // One that nothing overtakes comes when its time is over.
        let (one, other) = sockets(linked(Link { reorder: 1.0, ..link })).await;
        let start = now();
        other.send("x").await.unwrap();
        assert_eq!(one.recv(Vec::with_capacity(9)).await.unwrap().1, b"x");
        assert!((50 * MS..60 * MS).contains(&(now() - start)));
        let start = now();
        one.send("y").await.unwrap();
        assert_eq!(other.recv(Vec::with_capacity(9)).await.unwrap().1, b"y");
        assert!((50 * MS..60 * MS).contains(&(now() - start)));
        // Of two that wait, the second gets the one that was overtaken.
        for messages in ["ab", "abc", "abcd"] {
            let waiting = messages.chars().map(|_| one.recv(Vec::with_capacity(9)));
            let receives = overlapped::time::timeout(1000 * MS, join_all(waiting));
            let (received, ()) = futures_util::join!(receives, async {
                for message in messages.chars() {
                    other.send(message.to_string()).await.unwrap();
                }
            });
            let received = received.expect("nobody waits for what is there").into_iter();
            let mut bytes: Vec<u8> = received.map(|message| message.unwrap().1[0]).collect();
            bytes.sort();
            assert_eq!(bytes, messages.as_bytes());
        }
        // A receive that is given up meanwhile leaves it to the next.
        other.send("z").await.unwrap();
        let mut receive = one.recv(Vec::with_capacity(9));
        assert!(poll_once(&mut receive).is_pending());
        sleep(20 * MS).await;
        drop(receive);
        assert_eq!(one.recv(Vec::with_capacity(9)).await.unwrap().1, b"z");
    });
}

/// A line has a rate, and a queue with an end.
#[test]
fn datagrams_wait_for_the_line() {
    simulated(async {
        let link = Link { rate: Some(10_000), ..Link::PERFECT };
        let (one, other) = sockets(linked(link)).await;
        let start = now();
        join_all((0..20).map(|i| one.send(vec![i; 500]))).await;
        let took = now() - start;
        assert!((1000 * MS..1020 * MS).contains(&took), "{took:?}");
        assert_eq!(drained(&other).await.len(), 20);
        let link = Link { queue: Some(2000), ..link };
        let (one, other) = sockets(linked(link)).await;
        join_all((0..20).map(|i| one.send(vec![i; 500]))).await;
        let came = drained(&other).await;
        assert!((4..=5).contains(&came.len()) && came.is_sorted(), "{came:?}");
    });
}

/// The whole of it, on real sockets: what comes is what was sent, and no more often than it may.
#[test]
fn a_bad_line() {
    both(async |_| {
        let link =
            Link { loss: 0.2, duplicate: 0.2, reorder: 0.2, reorder_time: 5 * MS, ..Link::PERFECT };
        let (one, other) = sockets(linked(link)).await;
        let receiver = overlapped::spawn(async move {
            let mut counts = BTreeMap::<Vec<u8>, u32>::new();
            let message = || operation::ReceiveMessage::next(Vec::with_capacity(99));
            loop {
                match Request::new(one.object(), message()).deadline(1000 * MS).await {
                    Ok((_, bytes)) => *counts.entry(bytes).or_default() += 1,
                    Err(error) => {
                        assert_eq!(error.status(), Status::IO_TIMEOUT);
                        break counts;
                    }
                }
            }
        });
        for i in 0..100u8 {
            other.send(vec![i; 20]).await.unwrap();
        }
        let counts = receiver.await.unwrap();
        assert!(counts.len() < 100 && counts.len() > 50, "{}", counts.len());
        assert!(counts.values().all(|n| (1..=2).contains(n)));
        assert!(counts.values().any(|n| *n == 2));
        assert!(counts.keys().all(|bytes| *bytes == vec![bytes[0]; 20]));
    });
}

#[test]
fn as_text() {
    let dir = Dir::new();
    let good = dir.file("good", "# recorded\n100 5\n\n2000 1\n");
    let bad = dir.file("bad", "100 5 3\n");
    let text = |text: &str, path: &std::path::Path| {
        text.replace("PATH", &path.display().to_string())
            .parse::<Text>()
            .unwrap()
            .build()
            .map(|built| built.filters)
    };
    for words in [
        "delay(us=100)",
        "delay(ms=3, op=read)",
        "delay(us=100, max_us=200)",
        "delay(us=100, p99_us=900)",
        "delay(histogram=PATH)",
        "delay(loss=0.1, duplicate=0.2, reorder=0.3, reorder_us=500, bps=1M, queue=64K)",
    ] {
        assert_eq!(text(words, &good).unwrap().len(), 1, "{words}");
    }
    assert!(text("delay(us=1, op=read)", &good).unwrap()[0].hooks().contains(Major::Read));
    for (words, why) in [
        ("delay", "give us"),
        ("delay(us=1, ms=1)", "not both"),
        ("delay(us=2, max_us=1)", "above the most"),
        ("delay(us=2, p99_us=100)", "14 times"),
        ("delay(us=2, max_us=3, p99_us=3)", "one of"),
        ("delay(us=2, histogram=PATH)", "one of"),
        ("delay(histogram=PATH)", "a weight"),
        ("delay(histogram=PATH.not)", "a file to be read"),
        ("delay(loss=2)", "0 to 1"),
        ("delay(bps=0)", "lets nothing pass"),
        ("delay(us=1, op=close)", "other than close"),
    ] {
        let error = text(words, &bad).map(drop).unwrap_err().to_string();
        assert!(error.contains(why), "{words}: {error}");
    }
    for rate in [-0.1, 1.1, f64::NAN] {
        let link = Link { loss: rate, ..Link::PERFECT };
        assert_eq!(Delay::none().link(link).map(drop), Err(BadLink::Rate));
    }
}
