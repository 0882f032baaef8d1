//! Cancelling: futures dropped in every state, deadlines, and streams that lose no byte.

mod support;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::future;
use overlapped::buf::{IoBuf, IoBufMut};
use overlapped::fs::{File, OpenOptions};
use overlapped::net::{TcpListener, TcpStream};
use overlapped::time::{sleep, timeout};
use overlapped::{Status, operation};
use support::{Dir, both, pattern, poll_once, status, until, workers};

const HERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(HERE).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = future::join(TcpStream::connect(address), listener.accept()).await;
    (client.unwrap(), server.unwrap().0)
}

/// A buffer that counts itself off when it is dropped.
struct Counted(Box<[u8]>, Arc<AtomicUsize>);

impl Counted {
    fn new(live: &Arc<AtomicUsize>, byte: u8) -> Counted {
        live.fetch_add(1, Ordering::SeqCst);
        Counted(vec![byte; 4096].into(), live.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

// SAFETY: the boxed bytes do not move with the handle.
unsafe impl IoBuf for Counted {
    fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
}

// SAFETY: the boxed bytes are this buffer's own, initialised, and as long as they are.
unsafe impl IoBufMut for Counted {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
    fn capacity(&self) -> usize {
        self.0.len()
    }
    unsafe fn set_len(&mut self, _: usize) {}
}

#[test]
fn file_requests_dropped_in_every_state() {
    both(async |_| {
        let dir = Dir::new();
        let options = OpenOptions::new().read(true).write(true);
        let file = options.open(dir.file("f", pattern(1 << 20))).await.unwrap();
        let live = Arc::new(AtomicUsize::new(0));
        for round in 0..200 {
            let offset = round % 256 * 4096;
            // Not polled.
            drop(file.read_at(Counted::new(&live, 0), offset));
            drop(file.write_at(Counted::new(&live, 1), offset));
            // Polled once: pending, or complete.
            let mut read = file.read_at(Counted::new(&live, 0), offset);
            drop(poll_once(&mut read));
            drop(read);
            let mut write = file.write_at(Counted::new(&live, 2), offset);
            drop(poll_once(&mut write));
            drop(write);
            // Complete, and not polled again.
            let mut read = file.read_at(Counted::new(&live, 0), offset);
            let first = poll_once(&mut read);
            sleep(Duration::from_millis(1)).await;
            drop((first, read));
            // Vectored, flushed, asked for.
            let parts = vec![Counted::new(&live, 0), Counted::new(&live, 0)];
            let mut read = file.read_vectored_at(parts, offset);
            drop(poll_once(&mut read));
            drop(read);
            let mut sync = file.sync_data();
            drop(poll_once(&mut sync));
            drop(sync);
            let mut ask = Box::pin(file.metadata());
            drop(poll_once(&mut ask));
        }
        until(|| live.load(Ordering::SeqCst) == 0).await;
        // Everything still works, and what was written is one of what was asked for.
        let (n, buf) = file.read_at(Vec::with_capacity(1 << 20), 0).await.unwrap();
        assert_eq!(n, 1 << 20);
        for (block, old) in buf.chunks(4096).zip(pattern(1 << 20).chunks(4096)) {
            assert!(block == old || block.iter().all(|&b| b == 2));
        }
        file.close().await.unwrap();
    });
}

#[test]
fn socket_requests_dropped_in_every_state() {
    both(async |_| {
        let live = Arc::new(AtomicUsize::new(0));
        let (a, b) = pair().await;
        for _ in 0..200 {
            drop(a.read(Counted::new(&live, 0)));
            drop(a.read_lease());
            drop(a.write(Counted::new(&live, 9)));
            let mut read = a.read(Counted::new(&live, 0));
            assert!(poll_once(&mut read).is_pending());
            drop(read);
            let mut lease = a.read_lease();
            assert!(poll_once(&mut lease).is_pending());
            drop(lease);
            let mut peek = a.peek(Counted::new(&live, 0));
            assert!(poll_once(&mut peek).is_pending());
            drop(peek);
            let mut parts = a.read_vectored(vec![Counted::new(&live, 0)]);
            assert!(poll_once(&mut parts).is_pending());
            drop(parts);
        }
        // Complete, and dropped instead of polled: the bytes stay.
        for i in 0..50u8 {
            let mut read = a.read(Counted::new(&live, 0));
            assert!(poll_once(&mut read).is_pending());
            b.write(vec![i]).await.unwrap();
            sleep(Duration::from_millis(1)).await;
            drop(read);
            assert_eq!(a.read(vec![0; 9]).await.unwrap(), (1, vec![i]));
            let mut lease = a.read_lease();
            assert!(poll_once(&mut lease).is_pending());
            b.write(vec![i, 7]).await.unwrap();
            sleep(Duration::from_millis(1)).await;
            drop(lease);
            assert_eq!(a.read(vec![0; 1]).await.unwrap(), (1, vec![i]));
            assert_eq!(a.read_lease().await.unwrap()[..], [7]);
        }
        until(|| live.load(Ordering::SeqCst) == 0).await;
    });
}

#[test]
fn writes_dropped_in_every_state() {
    both(async |_| {
        let live = Arc::new(AtomicUsize::new(0));
        let (a, b) = pair().await;
        // Until the socket takes no more.
        loop {
            let mut write = a.write(Counted::new(&live, 3));
            match poll_once(&mut write) {
                Poll::Ready(written) => drop(written.unwrap()),
                Poll::Pending => {
                    if timeout(Duration::from_millis(20), write).await.is_err() {
                        break;
                    }
                }
            }
        }
        // The kernel may find a little room now and then.
        let mut pending = 0;
        while pending < 50 {
            let mut write = a.write(Counted::new(&live, 3));
            pending += usize::from(poll_once(&mut write).is_pending());
        }
        until(|| live.load(Ordering::SeqCst) == 0).await;
        drop(a);
        loop {
            let (n, buf) = b.read(vec![0; 65536]).await.unwrap();
            assert!(buf[..n].iter().all(|&byte| byte == 3));
            if n == 0 {
                return;
            }
        }
    });
}

#[test]
fn polling_a_completed_request_again_panics() {
    both(async |_| {
        let dir = Dir::new();
        let file = File::open(dir.file("f", "x")).await.unwrap();
        let mut read = file.read_at(Vec::with_capacity(1), 0);
        (&mut read).await.unwrap();
        let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| poll_once(&mut read)));
        assert!(again.is_err());
    });
}

/// Sends numbers, in pieces of odd sizes, with pauses.
async fn send_numbers(stream: TcpStream, count: u32) {
    let bytes: Vec<u8> = (0..count).flat_map(u32::to_le_bytes).collect();
    let mut sizes = [1, 7, 300, 4, 9000, 33].iter().cycle();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
        stream.write_all(piece.to_vec()).await.unwrap();
        rest = behind;
        if piece.len() == 33 {
            sleep(Duration::from_millis(1)).await;
        } else {
            overlapped::yield_now().await;
        }
    }
}

fn check_numbers(bytes: &[u8], count: u32) {
    assert_eq!(bytes.len(), 4 * count as usize);
    for (i, number) in (0..).zip(bytes.chunks(4)) {
        assert_eq!(number, u32::to_le_bytes(i), "number {i}");
    }
}

#[test]
fn a_reader_that_keeps_dropping_reads_loses_nothing() {
    const COUNT: u32 = 100_000;
    workers(2, |_| async {
        let (a, b) = pair().await;
        let sender = overlapped::spawn(send_numbers(a, COUNT));
        let mut all = Vec::new();
        let mut dropped = 0;
        for round in 0.. {
            if all.len() == 4 * COUNT as usize {
                break;
            }
            // Polled a few times, then dropped; each kind of read in turn.
            let polls = round % 3;
            macro_rules! impatient {
                ($request:expr) => {{
                    let mut request = $request;
                    let mut result = None;
                    for _ in 0..=polls {
                        if let Poll::Ready(output) = future::poll_fn(|cx| {
                            Poll::Ready(std::pin::Pin::new(&mut request).poll(cx))
                        })
                        .await
                        {
                            result = Some(output.unwrap());
                            break;
                        }
                        overlapped::yield_now().await;
                    }
                    dropped += usize::from(result.is_none());
                    result
                }};
            }
            match round % 4 {
                0 => {
                    all.extend(impatient!(b.read(Vec::with_capacity(100))).map_or(vec![], |r| r.1))
                }
                1 => all.extend_from_slice(impatient!(b.read_lease()).as_deref().unwrap_or(&[])),
                2 => {
                    let parts = impatient!(b.read_vectored(vec![vec![0; 3]; 5]));
                    all.extend(parts.map_or(vec![], |r| r.1.concat()));
                }
                // Looks, and takes nothing.
                _ => {
                    let buf = impatient!(b.peek(vec![0; 10])).map_or(vec![], |r| r.1);
                    let next = all.len() / 4 * 4;
                    let shown = [&all[next..], &buf[..]].concat();
                    for (i, number) in (next as u32 / 4..).zip(shown.chunks_exact(4)) {
                        assert_eq!(number, u32::to_le_bytes(i), "peeked");
                    }
                }
            }
        }
        sender.await.unwrap();
        check_numbers(&all, COUNT);
        assert!(dropped > 10, "only {dropped} reads were dropped");
    });
}

#[test]
fn select_with_a_timeout_loses_nothing() {
    const COUNT: u32 = 20_000;
    both(async |_| {
        let (a, b) = pair().await;
        let receive = async {
            let mut all = Vec::new();
            loop {
                match timeout(Duration::from_millis(1), b.read(Vec::with_capacity(5000))).await {
                    Err(_) => {}
                    Ok(result) => {
                        let (n, buf) = result.unwrap();
                        if n == 0 {
                            return all;
                        }
                        all.extend(buf);
                    }
                }
            }
        };
        let ((), all) = future::join(send_numbers(a, COUNT), receive).await;
        check_numbers(&all, COUNT);
    });
}

#[test]
fn deadlines() {
    both(async |_| {
        let soon = Duration::from_millis(10);
        let (a, b) = pair().await;
        for _ in 0..3 {
            let error = a.read(vec![7; 9]).deadline(soon).await.unwrap_err();
            assert_eq!((error.status(), &error.buf()[..]), (Status::IO_TIMEOUT, &[7; 9][..]));
            assert_eq!(status(a.read_lease().deadline(soon).await), Status::IO_TIMEOUT);
            assert_eq!(status(a.read(vec![0]).deadline(Duration::ZERO).await), Status::IO_TIMEOUT);
        }
        // Two reads, the first with a deadline: the second goes on.
        let (first, second) = future::join(a.read(vec![0]).deadline(soon), async {
            let mut read = a.read(vec![0; 9]);
            assert!(future::poll_immediate(&mut read).await.is_none());
            sleep(3 * soon).await;
            b.write(b"late".to_vec()).await.unwrap();
            read.await
        })
        .await;
        assert_eq!(status(first), Status::IO_TIMEOUT);
        assert_eq!(second.unwrap().1, b"late");
        // One that is not reached changes nothing, and one out of reach is none.
        let read = a.read(vec![0; 9]).deadline(Duration::from_secs(60));
        assert_eq!(future::join(read, b.write("in time")).await.0.unwrap().1, b"in time");
        let read = a.read(vec![0; 9]).deadline(Duration::MAX);
        assert_eq!(future::join(read, b.write("in time")).await.0.unwrap().1, b"in time");
        let listener = TcpListener::bind(HERE).await.unwrap();
        assert_eq!(status(listener.accept().deadline(soon).await), Status::IO_TIMEOUT);
        let address: SocketAddr = listener.local_addr().unwrap();
        let (connected, accepted) = future::join(
            TcpStream::connect(address),
            listener.accept().deadline(Duration::from_secs(60)),
        )
        .await;
        connected.unwrap();
        accepted.unwrap();
    });
}

#[test]
fn cancelling_every_request_of_a_file() {
    both(async |_| {
        let (a, b) = pair().await;
        let (first, (second, ())) = future::join(
            a.read(vec![7]),
            future::join(a.read_lease(), async {
                sleep(Duration::from_millis(5)).await;
                a.object().cancel_requests();
            }),
        )
        .await;
        let error = first.unwrap_err();
        assert_eq!((error.status(), error.into_buf()), (Status::CANCELLED, vec![7]));
        assert_eq!(status(second), Status::CANCELLED);
        // Not the stream itself.
        b.write(b"on".to_vec()).await.unwrap();
        assert_eq!(a.read(vec![0; 9]).await.unwrap().1, b"on");
        // SAFETY: nobody uses the descriptor but through the stream.
        let close = overlapped::Request::new(a.object(), unsafe { operation::Close::new() });
        close.await.unwrap();
    });
}
