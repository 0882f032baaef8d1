//! A filter above a stream sends one read down again and again: it has use for more than came.

mod support;

use std::sync::Arc;

use overlapped::Status;
use overlapped::driver::{Filter, Io, Major, MajorSet, Next};
use overlapped::net::{TcpListener, TcpStream, UdpSocket, datagram_stack_of, stack_of};
use support::{both, pattern, poll_once};

/// Every read brings ten bytes, unless the stream ends: what comes in parts is put together.
struct Tens;

impl Filter for Tens {
    type Open = ();
    fn name(&self) -> &str {
        "tens"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let mut all = Vec::new();
        while all.len() < 10 {
            let n = next.forward(&mut io).at(u64::MAX, 10 - all.len() as u32).await?;
            if n == 0 {
                break;
            }
            all.extend(io.received_mut(n).flatten().map(|byte| *byte));
        }
        Ok(io.answer(&all))
    }
}

#[test]
fn a_read_goes_down_until_it_has_enough() {
    both(async |_| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stack) =
            (listener.local_addr().unwrap(), stack_of([Tens.into_driver()]).unwrap());
        let (stream, peer) =
            futures_util::join!(TcpStream::connect_with(address, stack), listener.accept());
        let (stream, peer) = (Arc::new(stream.unwrap()), peer.unwrap().0);
        let reader = overlapped::spawn({
            let stream = stream.clone();
            async move {
                let mut received = Vec::new();
                for pooled in [false, true].into_iter().cycle() {
                    let before = received.len();
                    if pooled {
                        received.extend_from_slice(&stream.read_lease().await.unwrap());
                    } else {
                        let read = stream.read(Vec::with_capacity(50)).await.unwrap();
                        received.extend(read.1);
                    }
                    match received.len() - before {
                        10 => {}
                        0 => break,
                        // The end is found by the next one.
                        last => assert_eq!(last, 5),
                    }
                }
                received
            }
        });
        for piece in pattern(405).chunks(3) {
            peer.write_all(piece.to_vec()).await.unwrap();
        }
        drop(peer);
        assert_eq!(reader.await.unwrap(), pattern(405));
    });
}

/// Drops every message that begins with an x.
struct NoX;

impl Filter for NoX {
    type Open = ();
    fn name(&self) -> &str {
        "no x"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::ReceiveFrom])
    }
    async fn other(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        loop {
            let n = next.forward(&mut io).await?;
            if io.received_mut(n).flatten().next() != Some(&mut b'x') {
                return Ok(n);
            }
        }
    }
}

#[test]
fn a_message_that_is_not_wanted_is_skipped() {
    both(async |_| {
        let stack = datagram_stack_of([NoX.into_driver()]).unwrap();
        let socket = UdpSocket::bind_with("127.0.0.1:0", stack).await.unwrap();
        let here = socket.local_addr().unwrap();
        let mut receive = socket.recv_from(Vec::with_capacity(9));
        assert!(poll_once(&mut receive).is_pending());
        for message in ["x1", "x2", "a", "x3", "b"] {
            socket.send_to(message, here).await.unwrap();
        }
        assert_eq!(receive.await.unwrap().1, b"a");
        assert_eq!(socket.recv_from(Vec::with_capacity(9)).await.unwrap().1, b"b");
    });
}
