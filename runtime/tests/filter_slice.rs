//! The filter `slice`: streams in pieces.

mod support;

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use overlapped::driver::filter::Slice;
use overlapped::driver::text::Text;
use overlapped::driver::{Driver, Filter, Io, Major, MajorSet, Next};
use overlapped::fs::OpenOptions;
use overlapped::io::{pipe_stack_of, pipe_with};
use overlapped::net::{TcpListener, TcpStream, UdpSocket, datagram_stack_of, stack_of};
use overlapped::sim::Simulation;
use overlapped::{Request, Status, operation};
use support::{both, pattern, status};

fn bytes(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

/// Two ends of a connection; the first has the filters.
async fn pair(filters: Vec<Arc<dyn Driver>>) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stack = stack_of(filters).unwrap();
    let (one, other) =
        futures_util::join!(TcpStream::connect_with(address, stack), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

/// Notes what comes down to it, and what goes up.
#[derive(Clone, Default)]
struct Watch(Arc<Mutex<Vec<(Major, usize)>>>);

impl Watch {
    fn take(&self) -> Vec<(Major, usize)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
    async fn pass<'a>(&self, next: Next<'a>, mut io: Io<'a>) -> Result<usize, Status> {
        let major = io.major();
        let result = next.forward(&mut io).await;
        self.0.lock().unwrap().push((major, result.unwrap_or(0)));
        result
    }
}

impl Filter for Watch {
    type Open = ();
    fn name(&self) -> &str {
        "watch"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    async fn read(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(next, io).await
    }
    async fn write(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(next, io).await
    }
}

/// Every kind of read comes to no more than the size, and nothing is lost between.
#[test]
fn reads_are_cut() {
    both(async |_| {
        let (stream, peer) = pair(vec![Slice::fixed(bytes(7)).into_driver()]).await;
        let sent = pattern(1000);
        peer.write_all(sent.clone()).await.unwrap();
        let mut received = Vec::new();
        let (n, buf) = stream.peek(Vec::with_capacity(100)).await.unwrap();
        assert_eq!((n, &buf[..]), (7, &sent[..7]));
        let (n, buf) = stream.read(Vec::with_capacity(100)).await.unwrap();
        assert_eq!(n, 7);
        received.extend(buf);
        let lease = stream.read_lease().await.unwrap();
        assert_eq!(lease.len(), 7);
        received.extend_from_slice(&lease);
        drop(lease);
        // A limit of the reader's own.
        let own = operation::ReceiveLease { most: 3 };
        let lease = Request::new(stream.object(), own).await.unwrap();
        assert_eq!(lease.len(), 3);
        received.extend_from_slice(&lease);
        drop(lease);
        // Across segments.
        let buffers = vec![Vec::with_capacity(3), Vec::with_capacity(100)];
        let (n, buffers) = stream.read_vectored(buffers).await.unwrap();
        assert_eq!((n, buffers[0].len(), buffers[1].len()), (7, 3, 4));
        received.extend(buffers.concat());
        // Those that fit are not cut.
        let buffers = vec![Vec::with_capacity(2), Vec::with_capacity(2)];
        let (n, buffers) = stream.read_vectored(buffers).await.unwrap();
        assert_eq!(n, 4);
        received.extend(buffers.concat());
        let rest = 1000 - received.len();
        let ((), rest) = stream.read_exact(Vec::with_capacity(rest)).await.unwrap();
        received.extend(rest);
        assert_eq!(received, sent);
    });
}

/// A pooled read that was dropped leaves what came for it to the next one, cut or not.
#[test]
fn dropped_reads_lose_nothing() {
    both(async |_| {
        let (stream, peer) = pair(vec![Slice::random(bytes(9), 3).into_driver()]).await;
        let sent = pattern(5000);
        let mut received = Vec::new();
        let mut written = 0;
        while received.len() < sent.len() {
            let mut dropped = stream.read_lease();
            if let Poll::Ready(lease) = support::poll_once(&mut dropped) {
                received.extend_from_slice(&lease.unwrap());
            }
            if written < sent.len() {
                let upto = (written + 100).min(sent.len());
                peer.write_all(sent[written..upto].to_vec()).await.unwrap();
                written = upto;
            }
            drop(dropped);
            let mut dropped = stream.read_vectored(vec![Vec::with_capacity(50)]);
            if let Poll::Ready(read) = support::poll_once(&mut dropped) {
                received.extend(read.unwrap().1.concat());
            }
            drop(dropped);
            if received.len() < written {
                received.extend_from_slice(&stream.read_lease().await.unwrap());
            }
            if received.len() < written {
                let buffers = vec![Vec::with_capacity(20), Vec::with_capacity(20)];
                received.extend(stream.read_vectored(buffers).await.unwrap().1.concat());
            }
        }
        assert_eq!(received, sent);
    });
}

#[test]
fn writes_are_cut_or_go_on_in_pieces() {
    both(async |_| {
        let watch = Watch::default();
        let filters = vec![Slice::fixed(bytes(8)).into_driver(), watch.clone().into_driver()];
        let (stream, peer) = pair(filters).await;
        let sent = pattern(100);
        // Short, and it says so.
        assert_eq!(stream.write(sent.clone()).await.unwrap().0, 8);
        let parts = vec![sent[8..11].to_vec(), sent[11..40].to_vec()];
        let (n, _) = stream.write_vectored(parts).await.unwrap();
        assert_eq!(n, 3, "the first segment's bytes");
        assert_eq!(watch.take(), [(Major::Write, 8), (Major::Write, 3)]);
        // All of it, in pieces.
        let whole = operation::Write::whole(sent[11..].to_vec());
        let (n, back) = Request::new(stream.object(), whole).await.unwrap();
        assert_eq!((n, &back[..]), (89, &sent[11..]));
        let pieces: Vec<usize> = watch.take().iter().map(|(_, n)| *n).collect();
        assert_eq!(pieces, [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 1]);
        let ((), received) = peer.read_exact(Vec::with_capacity(100)).await.unwrap();
        assert_eq!(received, sent);
        assert_eq!(stream.write("").await.unwrap().0, 0);
    });
}

/// The same seed, the same sizes; another seed, others. In the simulation, so that nothing else cuts.
#[test]
fn sizes_come_from_the_seed() {
    let sizes = |seed| {
        let (sizes, report) = Simulation::new(1).run(async move {
            let (stream, peer) = pair(vec![Slice::random(bytes(50), seed).into_driver()]).await;
            let sent = pattern(3000);
            let mut sizes = Vec::new();
            while sizes.iter().sum::<usize>() < sent.len() {
                let at = sizes.iter().sum::<usize>();
                sizes.push(stream.write(sent[at..].to_vec()).await.unwrap().0);
            }
            let ((), received) = peer.read_exact(Vec::with_capacity(3000)).await.unwrap();
            assert_eq!(received, sent);
            sizes
        });
        assert!(report.left.is_nothing(), "{}", report.left);
        sizes
    };
    let first = sizes(5);
    assert_eq!(first, sizes(5));
    assert_ne!(first, sizes(6));
    let last = first.len() - 1;
    assert!(first[..last].iter().all(|n| (1..=50).contains(n)));
    assert!(first.iter().any(|n| *n > 40) && first.iter().any(|n| *n < 10), "{first:?}");
}

/// Pipes are streams too.
#[test]
fn pipes_are_cut() {
    both(async |_| {
        let stack = || pipe_stack_of([Slice::fixed(bytes(3)).into_driver()]).unwrap();
        let (reader, writer) = pipe_with(stack(), stack()).unwrap();
        assert_eq!(writer.write("hello").await.unwrap().0, 3);
        writer.write_all("lo, pipe").await.unwrap();
        assert_eq!(&*reader.read_lease().await.unwrap(), b"hel");
        let (n, part) = reader.read(Vec::with_capacity(100)).await.unwrap();
        assert_eq!((n, &part[..]), (3, &b"lo,"[..]));
        let ((), rest) = reader.read_exact(Vec::with_capacity(5)).await.unwrap();
        assert_eq!(rest, b" pipe");
    });
}

/// Messages and files are none of its business.
#[test]
fn what_is_no_stream_passes() {
    both(async |_| {
        let stack = || datagram_stack_of([Slice::fixed(bytes(2)).into_driver()]).unwrap();
        let (a, b) = (
            UdpSocket::bind_with("127.0.0.1:0", stack()).await.unwrap(),
            UdpSocket::bind_with("127.0.0.1:0", stack()).await.unwrap(),
        );
        a.connect(b.local_addr().unwrap()).await.unwrap();
        b.connect(a.local_addr().unwrap()).await.unwrap();
        assert_eq!(a.send("hello").await.unwrap().0, 5);
        let (message, buf) = b.recv(Vec::with_capacity(10)).await.unwrap();
        assert_eq!((message.len, message.truncated, &buf[..]), (5, false, &b"hello"[..]));
        let counter = overlapped::io::EventFd::new_with(
            0,
            pipe_stack_of([Slice::fixed(bytes(2)).into_driver()]).unwrap(),
        );
        let counter = counter.unwrap();
        counter.write(3).await.unwrap();
        assert_eq!(counter.read().await.unwrap(), 3);
        let options = OpenOptions::new().read(true).write(true);
        let file = options.open_stack("slice(max=3) | memory").await.unwrap();
        assert_eq!(file.write_at("a whole one", 0).await.unwrap().0, 11);
        assert_eq!(file.read_at(Vec::with_capacity(20), 0).await.unwrap().0, 11);
    });
}

#[test]
fn as_text() {
    let filters = |text: &str| text.parse::<Text>().unwrap().build().map(|built| built.filters);
    for good in ["slice", "slice(max=7)", "slice(max=0x10, seed=9)", "slice(max=2, op=read)"] {
        assert_eq!(filters(good).unwrap().len(), 1, "{good}");
    }
    let only = &filters("slice(op=write)").unwrap()[0];
    assert!(only.hooks().contains(Major::Write) && !only.hooks().contains(Major::Read));
    for bad in ["slice(max=0)", "slice(max=x)", "slice(op=flush)", "slice(size=3)"] {
        assert!(filters(bad).is_err(), "{bad}");
    }
    assert_eq!(status(Ok::<_, std::io::Error>(())), Status::SUCCESS);
}
