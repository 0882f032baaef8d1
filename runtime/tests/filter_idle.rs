//! The filter `idle`: time-outs for each direction.

mod support;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use overlapped::driver::filter::{Delay, Idle, Latency};
use overlapped::driver::text::Text;
use overlapped::driver::{Driver, Filter, Major, filter::Slice};
use overlapped::net::{TcpListener, TcpStream, UdpSocket, datagram_stack_of, stack_of};
use overlapped::sim::Simulation;
use overlapped::time::{now, sleep};
use overlapped::{Request, Status, operation};
use support::{both, kind, pattern, poll_once};

const MS: Duration = Duration::from_millis(1);

async fn pair(filters: Vec<Arc<dyn Driver>>) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stack = stack_of(filters).unwrap();
    let (one, other) =
        futures_util::join!(TcpStream::connect_with(address, stack), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

fn simulated<F: Future>(future: F) -> F::Output {
    let (output, report) = Simulation::new(1).run(future);
    assert!(report.left.is_nothing(), "{}", report.left);
    output
}

/// Reads of every kind end when nothing comes, and the stream goes on afterwards.
#[test]
fn a_silent_peer_is_given_up() {
    both(async |_| {
        let (stream, peer) = pair(vec![Idle::new().reads(20 * MS).into_driver()]).await;
        assert_eq!(kind(stream.read(Vec::with_capacity(9)).await), ErrorKind::TimedOut);
        assert_eq!(kind(stream.read_lease().await), ErrorKind::TimedOut);
        let buffers = vec![Vec::<u8>::with_capacity(9)];
        assert_eq!(kind(stream.read_vectored(buffers).await), ErrorKind::TimedOut);
        let failed = stream.read(vec![7; 3]).await.unwrap_err();
        assert_eq!((failed.status(), failed.into_buf()), (Status::IO_TIMEOUT, vec![7; 3]));
        peer.write_all("late").await.unwrap();
        let ((), bytes) = stream.read_exact(Vec::with_capacity(4)).await.unwrap();
        assert_eq!(bytes, b"late");
        // The other direction has no limit.
        stream.write_all("back").await.unwrap();
        drop(peer);
    });
}

/// By the virtual clock: exactly then, anew with each read, and not when bytes come in time.
#[test]
fn the_time_begins_anew_with_each_read() {
    simulated(async {
        let (stream, peer) = pair(vec![Idle::new().reads(100 * MS).into_driver()]).await;
        let writer = overlapped::spawn(async move {
            for _ in 0..10 {
                sleep(90 * MS).await;
                peer.write_all("x").await.unwrap();
            }
            peer
        });
        for _ in 0..10 {
            assert_eq!(stream.read(vec![0; 9]).await.unwrap().0, 1);
        }
        let (peer, start) = (writer.await.unwrap(), now());
        assert_eq!(kind(stream.read(vec![0; 9]).await), ErrorKind::TimedOut);
        let took = now() - start;
        assert!((100 * MS..110 * MS).contains(&took), "{took:?}");
        drop(peer);
    });
}

/// A write ends when nothing is taken, not when it takes long.
#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    simulated(async {
        let (stream, peer) = pair(vec![Idle::new().writes(100 * MS).into_driver()]).await;
        // The peer takes 64 KiB every 90 ms: a megabyte in one write takes more than a second.
        let reader = overlapped::spawn(async move {
            let mut received = Vec::new();
            while received.len() < 1 << 20 {
                sleep(90 * MS).await;
                let left = ((1 << 20) - received.len()).min(64 << 10);
                received.extend(peer.read_exact(Vec::with_capacity(left)).await.unwrap().1);
            }
            (peer, received)
        });
        let start = now();
        let whole = operation::Write::whole(pattern(1 << 20));
        assert_eq!(Request::new(stream.object(), whole).await.unwrap().0, 1 << 20);
        assert!(now() - start > 1000 * MS);
        let (peer, received) = reader.await.unwrap();
        assert_eq!(received, pattern(1 << 20));
        // It stops taking anything: what was taken is reported, then nothing is.
        let sent = pattern(1 << 20);
        let mut done = 0;
        let failed = loop {
            match Request::new(stream.object(), operation::Write::whole(sent[done..].to_vec()))
                .await
            {
                Ok((n, _)) => done += n,
                Err(error) => break error,
            }
        };
        assert_eq!(failed.status(), Status::IO_TIMEOUT);
        assert!(done > 0 && done < 1 << 20);
        // What was said to be taken is what comes.
        let reader = overlapped::spawn(async move {
            let received = peer.read_exact(Vec::with_capacity(done)).await.unwrap().1;
            (peer, received)
        });
        let (peer, received) = reader.await.unwrap();
        assert_eq!(received, sent[..done]);
        stream.write_all("and on").await.unwrap();
        let ((), more) = peer.read_exact(Vec::with_capacity(6)).await.unwrap();
        assert_eq!(more, b"and on");
    });
}

/// The same on real sockets, whose peer takes nothing.
#[test]
fn a_full_socket_is_given_up() {
    both(async |_| {
        let (stream, peer) = pair(vec![Idle::new().writes(30 * MS).into_driver()]).await;
        let sent = pattern(8 << 20);
        let mut done = 0;
        let failed = loop {
            match Request::new(stream.object(), operation::Write::whole(sent[done..].to_vec()))
                .await
            {
                Ok((n, _)) => done += n,
                Err(error) => break error,
            }
        };
        assert_eq!(failed.status(), Status::IO_TIMEOUT);
        assert!(done > 0 && done < sent.len(), "{done}");
        let ((), received) = peer.read_exact(Vec::with_capacity(done)).await.unwrap();
        assert!(received == sent[..done], "what was said to be taken is what comes");
    });
}

/// Bytes that come while a read is given up are its result, or the next one's: also when a filter below
/// has them already.
#[test]
fn bytes_that_come_late_are_not_lost() {
    for hold in [0, 5, 10, 15] {
        simulated(async {
            let filters = vec![
                Idle::new().reads(10 * MS).into_driver(),
                Delay::new(Latency::fixed(hold * MS)).into_driver(),
            ];
            let (stream, peer) = pair(filters).await;
            let sent = pattern(3000);
            let writer = overlapped::spawn({
                let sent = sent.clone();
                async move {
                    for piece in sent.chunks(100) {
                        peer.write_all(piece.to_vec()).await.unwrap();
                        sleep(7 * MS).await;
                    }
                    peer
                }
            });
            let mut received = Vec::new();
            let mut tries = 0;
            while received.len() < sent.len() {
                match stream.read_lease().await {
                    Ok(lease) => received.extend_from_slice(&lease),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::TimedOut),
                }
                tries += 1;
                assert!(tries < 10_000, "{} of {} bytes came", received.len(), sent.len());
            }
            assert_eq!(received, sent);
            drop(writer.await.unwrap());
        });
    }
}

/// A cancel is a cancel.
#[test]
fn a_dropped_read_is_cancelled() {
    both(async |_| {
        let filters = vec![
            Slice::fixed(std::num::NonZeroU32::new(4).unwrap()).into_driver(),
            Idle::new().reads(Duration::from_secs(3600)).into_driver(),
        ];
        let (stream, peer) = pair(filters).await;
        let mut read = stream.read(vec![0; 9]);
        assert!(poll_once(&mut read).is_pending());
        drop(read);
        let read = stream.read(vec![0; 9]);
        let (read, ()) = futures_util::join!(read, async {
            sleep(5 * MS).await;
            stream.object().cancel_requests();
        });
        assert_eq!(read.unwrap_err().status(), Status::CANCELLED);
        peer.write_all("on").await.unwrap();
        assert_eq!(stream.read(vec![0; 9]).await.unwrap().0, 2);
    });
}

#[test]
fn datagrams_too() {
    both(async |_| {
        let stack = datagram_stack_of([Idle::new().reads(20 * MS).into_driver()]).unwrap();
        let socket = UdpSocket::bind_with("127.0.0.1:0", stack).await.unwrap();
        let failed = socket.recv_from(Vec::with_capacity(9)).await;
        assert_eq!(kind(failed), ErrorKind::TimedOut);
        let here = socket.local_addr().unwrap();
        socket.send_to("hello", here).await.unwrap();
        let ((message, from), _) = socket.recv_from(Vec::with_capacity(9)).await.unwrap();
        assert_eq!((message.len, from), (5, here));
    });
}

#[test]
fn as_text() {
    let filters = |text: &str| text.parse::<Text>().unwrap().build().map(|built| built.filters);
    let hooks = |text: &str| {
        let filters = filters(text).unwrap();
        (filters[0].hooks().contains(Major::Read), filters[0].hooks().contains(Major::Write))
    };
    assert_eq!(hooks("idle(ms=5)"), (true, true));
    assert_eq!(hooks("idle(read_ms=5)"), (true, false));
    assert_eq!(hooks("idle(write_ms=5)"), (false, true));
    for bad in ["idle", "idle(ms=0)", "idle(ms=1s)", "idle(msec=3)", "idle(ms=1, ms=2)"] {
        assert!(filters(bad).is_err(), "{bad}");
    }
}
