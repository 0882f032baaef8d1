//! Limits on sockets: a filter that takes so many bytes, in one piece, gets nothing else; messages stay whole.

mod support;

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use overlapped::driver::{Filter, Io, Limits, Major, MajorSet, Next, Place, minor};
use overlapped::net::{TcpListener, TcpStream, UdpSocket, UnixStream, datagram_stack_of, stack_of};
use overlapped::{Request, Status, operation};
use support::{both, kind, pattern, poll_once};

const MOST: u32 = 1000;

/// Takes 1000 bytes in one piece, and fails whatever is more.
#[derive(Clone, Default)]
struct Strict(Arc<AtomicUsize>);

impl Strict {
    async fn pass<'a>(&self, next: Next<'a>, mut io: Io<'a>) -> Result<usize, Status> {
        let right = io.len() <= MOST as usize && io.minor() != minor::VECTORED;
        self.0.fetch_add(1, Relaxed);
        if right { next.forward(&mut io).await } else { Err(Status::DATATYPE_MISALIGNMENT) }
    }
}

impl Filter for Strict {
    type Open = ();
    fn name(&self) -> &str {
        "strict"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write, Major::SendTo, Major::ReceiveFrom])
    }
    fn limits(&self, below: Limits) -> Limits {
        Limits { most: MOST, one_piece: true, ..below }
    }
    async fn read(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(next, io).await
    }
    async fn write(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(next, io).await
    }
    async fn other(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(next, io).await
    }
}

/// Two ends of a connection; the first has the filter.
async fn pair(strict: &Strict) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stack = stack_of([strict.clone().into_driver()]).unwrap();
    let (one, other) =
        futures_util::join!(TcpStream::connect_with(address, stack), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

/// B-7, of streams: writes are split and copied into one piece, reads are cut.
#[test]
fn b7_streams_are_cut_to_what_a_filter_takes() {
    both(async |_| {
        let strict = Strict::default();
        let (one, other) = pair(&strict).await;
        let sent = pattern(100_000);
        let send = async {
            assert_eq!(one.write(sent[..30_500].to_vec()).await.unwrap().0, 30_500);
            let parts = sent[30_500..60_000].chunks(700).map(<[u8]>::to_vec).collect();
            assert_eq!(one.write_vectored(parts).await.unwrap().0, 29_500);
            let rest = operation::Write::whole(sent[60_000..].to_vec());
            assert_eq!(Request::new(one.object(), rest).await.unwrap().0, 40_000);
        };
        let receive = other.read_exact(vec![0; 100_000]);
        let ((), received) = futures_util::join!(send, receive);
        assert!(received.unwrap().1 == sent);
        assert_eq!(strict.0.swap(0, Relaxed), 31 + 30 + 40);

        // What comes back: into one buffer, several, and the pool's.
        other.write_all(sent.clone()).await.unwrap();
        let mut got = Vec::new();
        while got.len() < sent.len() {
            let (n, bytes) = one.read(vec![0; 5000]).await.unwrap();
            assert!(n <= MOST as usize);
            got.extend_from_slice(&bytes[..n]);
            let (n, bytes) = one.read_vectored(vec![vec![0; 300], vec![0; 900]]).await.unwrap();
            got.extend_from_slice(&bytes.concat()[..n]);
            if got.len() < sent.len() {
                let lease = one.read_lease().await.unwrap();
                assert!(lease.len() <= MOST as usize);
                got.extend_from_slice(&lease);
            }
            if got.len() + 6200 > sent.len() {
                let rest = sent.len() - got.len();
                let ((), bytes) = one.read_exact(vec![0; rest]).await.unwrap();
                got.extend_from_slice(&bytes);
            }
        }
        assert!(got == sent);
        // What is there already is taken without a wait, or not at all.
        let now = operation::Write::now(vec![1; 5000]);
        assert_eq!(Request::new(one.object(), now).await.unwrap().0, MOST as usize);
        other.read_exact(vec![0; MOST as usize]).await.unwrap();
        let none = Request::new(one.object(), operation::Read::now(vec![0; 5000])).await;
        assert_eq!(kind(none), ErrorKind::WouldBlock);
    });
}

/// Writes that are split do not mix with others.
#[test]
fn split_writes_stay_together() {
    both(async |_| {
        let (one, other) = pair(&Strict::default()).await;
        let writes = (0..40u8).map(|i| {
            let len = if i % 3 == 0 { 500 } else { 20_000 };
            one.write(vec![i; len])
        });
        let total = 14 * 500 + 26 * 20_000;
        let receive = other.read_exact(vec![0; total]);
        let (writes, received) =
            futures_util::join!(futures_util::future::join_all(writes), receive);
        assert!(writes.into_iter().all(|write| write.is_ok()));
        let received = received.unwrap().1;
        let runs = received.chunk_by(|a, b| a == b).count();
        assert_eq!(runs, 40, "each write is in one piece");
    });
}

/// A receive that is cut loses nothing when it is dropped.
#[test]
fn a_receive_that_is_dropped_loses_nothing() {
    both(async |_| {
        let (one, other) = pair(&Strict::default()).await;
        for vectored in [false, true] {
            let mut single = one.read(vec![0; 5000]);
            let mut several = one.read_vectored(vec![vec![0; 3000], vec![0; 3000]]);
            if vectored {
                assert!(poll_once(&mut several).is_pending());
            } else {
                assert!(poll_once(&mut single).is_pending());
            }
            other.write_all(pattern(1500)).await.unwrap();
            drop((single, several));
            let ((), got) = one.read_exact(vec![0; 1500]).await.unwrap();
            assert!(got == pattern(1500), "vectored: {vectored}");
        }
    });
}

/// Descriptors that go with a write go once.
#[test]
fn what_goes_with_a_write_goes_once() {
    both(async |_| {
        let (one, other) = UnixStream::pair().unwrap();
        drop(one.object().attach(Place::Top, Strict::default().into_driver()).unwrap());
        let fd = std::os::fd::OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let (n, _) = one.write_with_descriptors(pattern(3000), vec![fd]).await.unwrap();
        assert_eq!(n, MOST as usize, "short: the rest goes without");
        one.write_all(pattern(3000)[n..].to_vec()).await.unwrap();
        let (mut bytes, mut fds) = (Vec::new(), 0);
        while bytes.len() < 3000 {
            let (message, buf) = other.read_with_descriptors(vec![0; 4000], 4).await.unwrap();
            fds += message.descriptors.len();
            bytes.extend_from_slice(&buf[..message.len]);
        }
        assert!(bytes == pattern(3000) && fds == 1);
    });
}

/// B-7, of messages: none is split, and one that is too long is refused, as by the system.
#[test]
fn b7_messages_are_not_split() {
    both(async |_| {
        let strict = Strict::default();
        let stack = datagram_stack_of([strict.clone().into_driver()]).unwrap();
        assert!(stack.limits().messages);
        let one = UdpSocket::bind_with("127.0.0.1:0", stack).await.unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (a, b) = (one.local_addr().unwrap(), other.local_addr().unwrap());
        let too_long = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
        };
        too_long(one.send_to(vec![1; 1001], b).await.map(drop).map_err(Into::into));
        assert_eq!(one.send_to(vec![2; 1000], b).await.unwrap().0, 1000);
        one.connect(b).await.unwrap();
        other.connect(a).await.unwrap();
        too_long(one.send(vec![3; 1001]).await.map(drop).map_err(Into::into));
        assert_eq!(one.send(vec![4; 999]).await.unwrap().0, 999);
        for (byte, len) in [(2, 1000), (4, 999)] {
            let (message, bytes) = other.recv(vec![0; 2000]).await.unwrap();
            assert_eq!((message.len, message.truncated, bytes[0]), (len, false, byte));
        }
        // Into more room than the filter takes, with and without the sender's address.
        other.send(vec![5; 700]).await.unwrap();
        other.send(vec![6; 800]).await.unwrap();
        other.send(vec![7; 1200]).await.unwrap();
        let (message, bytes) = one.recv(vec![0; 5000]).await.unwrap();
        assert_eq!((message.len, message.truncated, bytes[0]), (700, false, 5));
        let ((message, from), bytes) = one.recv_from(vec![0; 5000]).await.unwrap();
        assert_eq!((message.len, message.truncated, from, bytes[0]), (800, false, b, 6));
        let (message, bytes) = one.recv(vec![0; 5000]).await.unwrap();
        assert_eq!((message.len, message.truncated, bytes[999]), (1000, true, 7));
    });
}
