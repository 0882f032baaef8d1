//! What a receive that nobody waits for any more has met stays with the stream: bytes, the end,
//! and errors.

mod support;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::time::Duration;

use futures_util::future;
use overlapped::net::{TcpListener, TcpStream};
use overlapped::time::{sleep, timeout};
use support::{both, kind, poll_once};

const HERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(HERE).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = future::join(TcpStream::connect(address), listener.accept()).await;
    (client.unwrap(), server.unwrap().0)
}

/// Long enough for a request to complete that can.
async fn a_while() {
    sleep(Duration::from_millis(20)).await;
}

#[test]
fn bytes_come_in_their_order_whatever_was_dropped() {
    both(async |_| {
        let (a, b) = pair().await;
        for _ in 0..20 {
            // A long read is dropped with bytes in it; short ones are served from those, and are
            // dropped too.
            let mut long = b.read(vec![0; 100]);
            assert!(poll_once(&mut long).is_pending());
            let mut short = b.read_vectored(vec![vec![0; 1]; 2]);
            assert!(poll_once(&mut short).is_pending());
            drop(long);
            a.write(b"0123456789".to_vec()).await.unwrap();
            a_while().await;
            drop(short);
            let mut peek = b.peek(vec![0; 3]);
            drop(poll_once(&mut peek));
            drop(peek);
            let ((), all) = b.read_exact(Vec::with_capacity(10)).await.unwrap();
            assert_eq!(all, b"0123456789");
        }
    });
}

#[test]
fn a_receive_that_waits_gets_the_bytes_of_one_dropped_after_its_end() {
    both(async |_| {
        let (a, b) = pair().await;
        let mut first = b.read(vec![0; 9]);
        assert!(poll_once(&mut first).is_pending());
        a.write(b"first".to_vec()).await.unwrap();
        a_while().await;
        // Complete, not looked at, and now there is another.
        let mut second = b.read(vec![0; 9]);
        if let std::task::Poll::Ready(early) = poll_once(&mut second) {
            panic!("{early:?}");
        }
        a_while().await;
        drop(first);
        let got = timeout(Duration::from_secs(5), second).await;
        assert_eq!(got.expect("the bytes wake it").unwrap().1, b"first");
    });
}

#[test]
fn the_end_is_told_although_a_dropped_receive_met_it() {
    both(async |_| {
        let (a, b) = pair().await;
        let mut read = b.read(vec![0; 9]);
        assert!(poll_once(&mut read).is_pending());
        a.shutdown(Shutdown::Write).await.unwrap();
        a_while().await;
        drop(read);
        assert_eq!(b.read(vec![0; 9]).await.unwrap().0, 0);
    });
}

#[test]
fn a_reader_that_keeps_dropping_receives_gets_to_the_end() {
    both(async |_| {
        let (a, b) = pair().await;
        a.shutdown(Shutdown::Write).await.unwrap();
        a_while().await;
        for _ in 0..100_000 {
            let mut read = b.read(vec![0; 9]);
            if let Some(end) = future::poll_immediate(&mut read).await {
                assert_eq!(end.unwrap().0, 0);
                return;
            }
            overlapped::yield_now().await;
        }
        panic!("the end never came");
    });
}

#[test]
fn a_reset_is_told_although_a_dropped_receive_met_it() {
    both(async |_| {
        // Otherwise a stream that was cut looks whole.
        let (a, b) = pair().await;
        let mut read = b.read(vec![0; 9]);
        assert!(poll_once(&mut read).is_pending());
        a.options().set_linger(Some(Duration::ZERO)).unwrap();
        drop(a);
        a_while().await;
        drop(read);
        assert_eq!(kind(b.read(vec![0; 9]).await), ErrorKind::ConnectionReset);
    });
}
