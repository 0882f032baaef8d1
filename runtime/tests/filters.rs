//! Level-2 filters and live change, on real files and sockets.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use overlapped::Status;
use overlapped::driver::filter::{PassKind, Xor, pass};
use overlapped::driver::{ChangeError, Class, Filter, Io, Major, MajorSet, Next, Place};
use overlapped::fs::OpenOptions;
use overlapped::net::{TcpListener, TcpStream, stack_of};
use overlapped::time::timeout;
use overlapped::wait::Alertable;
use support::{Dir, both, pattern, poll_once, until, workers};

const HERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Sleeps before and behind, and changes the bytes.
struct Slow;

impl Filter for Slow {
    type Open = ();
    fn name(&self) -> &str {
        "slow"
    }
    fn class(&self) -> Class {
        Class::Transform
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        next.sleep(Duration::from_millis(1)).await;
        let n = next.forward(&mut io).await?;
        // What has come is kept meanwhile, in whatever memory.
        next.sleep(Duration::from_millis(1)).await;
        io.received_mut(n).flatten().for_each(|byte| *byte ^= 0x21);
        Ok(n)
    }
    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        next.sleep(Duration::from_millis(1)).await;
        let changed: Vec<u8> = io.segments().flatten().map(|byte| byte ^ 0x21).collect();
        next.forward(&mut io).from(changed).await.0
    }
}

async fn pair(
    client: impl IntoIterator<Item = Arc<dyn overlapped::driver::Driver>>,
) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(HERE).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stack = stack_of(client.into_iter().collect::<Vec<_>>()).unwrap();
    let client = TcpStream::connect_with(address, stack).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

#[test]
fn futures_wait_on_every_kind_of_read() {
    both(async |_| {
        let (slow, plain) = pair([Slow.into_driver()]).await;
        slow.write_all("one").await.unwrap();
        let ((), heard) = plain.read_exact(Vec::with_capacity(3)).await.unwrap();
        assert_eq!(heard, b"one".map(|b| b ^ 0x21));
        for _ in 0..3 {
            plain.write_all(b"abcd".map(|b| b ^ 0x21).to_vec()).await.unwrap();
        }
        assert_eq!(slow.read(Vec::with_capacity(2)).await.unwrap().1, b"ab");
        let lease = slow.read_lease().await.unwrap();
        assert_eq!(lease[..2], b"cd"[..]);
        let mut got = lease.len() + 2;
        while got < 12 {
            let room = vec![Vec::with_capacity(1), Vec::with_capacity(3)];
            got += slow.read_vectored(room).await.unwrap().0;
        }
        // A read that is dropped in the middle loses nothing.
        let mut read = slow.read(Vec::with_capacity(9));
        assert!(poll_once(&mut read).is_pending());
        plain.write_all(b"late".map(|b| b ^ 0x21).to_vec()).await.unwrap();
        overlapped::time::sleep(Duration::from_millis(5)).await;
        drop(read);
        let ((), late) = slow.read_exact(Vec::with_capacity(4)).await.unwrap();
        assert_eq!(late, b"late");
        drop(plain);
        assert_eq!(slow.read(Vec::with_capacity(2)).await.unwrap().0, 0);
    });
}

#[test]
fn on_files_synchronous_and_not() {
    both(async |_| {
        let dir = Dir::new();
        let options = OpenOptions::new().read(true).write(true).create(true);
        let options = options.filter(Slow.into_driver()).filter(pass(PassKind::Future));
        let file = options.clone().open(dir.path("f")).await.unwrap();
        file.write_all_at(pattern(10_000), 3).await.unwrap();
        let room = vec![Vec::with_capacity(5000), Vec::with_capacity(5000)];
        let (n, room) = file.read_vectored_at(room, 3).await.unwrap();
        assert!(n == 10_000 && room.concat() == pattern(10_000));
        let serial = options.synchronous(Alertable::No).open(dir.path("f")).await.unwrap();
        serial.set_position(3).await.unwrap();
        let first = serial.read(Vec::with_capacity(100)).await.unwrap().1;
        let second = serial.read(Vec::with_capacity(100)).await.unwrap().1;
        assert_eq!([first, second].concat(), pattern(200));
    });
}

/// A request whose deadline passes while its filter sleeps, or while it is below.
#[test]
fn deadlines_reach_filters() {
    struct Sleepy(bool);
    impl Filter for Sleepy {
        type Open = ();
        fn name(&self) -> &str {
            "sleepy"
        }
        fn hooks(&self) -> MajorSet {
            MajorSet::of(&[Major::Read])
        }
        async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
            if self.0 {
                next.sleep(Duration::from_secs(1000)).await;
            }
            next.forward(&mut io).await
        }
    }
    both(async |_| {
        for sleeps in [true, false] {
            let (client, _server) = pair([Sleepy(sleeps).into_driver()]).await;
            let read = client.read(Vec::with_capacity(9)).deadline(Duration::from_millis(5));
            assert_eq!(support::kind(read.await), std::io::ErrorKind::TimedOut);
        }
    });
}

/// Numbers through a connection, on two workers, while filters come and go at both ends.
#[test]
fn a_busy_socket_changes_its_stack() {
    workers(2, |_| async {
        const NUMBERS: u64 = 3000;
        let (client, server) = pair([]).await;
        let (client, server) = (Arc::new(client), Arc::new(server));
        let stop = Arc::new(AtomicBool::new(false));
        let changes = Arc::new(AtomicUsize::new(0));
        let changer = overlapped::spawn({
            let (client, server) = (client.clone(), server.clone());
            let (stop, changes) = (stop.clone(), changes.clone());
            async move {
                while !stop.load(Ordering::Relaxed) {
                    for stream in [&client, &server] {
                        let kinds = [PassKind::Routine, PassKind::Future, PassKind::Skip];
                        let kind = kinds[changes.load(Ordering::Relaxed) % 3];
                        let (at, _) = stream.object().attach(Place::Top, pass(kind)).unwrap();
                        overlapped::yield_now().await;
                        stream.object().detach(&at).unwrap().await;
                        let twice = stream.object().detach(&at).map(drop);
                        assert!(matches!(twice, Err(ChangeError::NotAttached { .. })));
                        changes.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        let sender = overlapped::spawn(async move {
            for n in 0..NUMBERS {
                client.write_all(n.to_le_bytes().to_vec()).await.unwrap();
            }
            client.shutdown(std::net::Shutdown::Write).await.unwrap();
        });
        let (mut expected, mut rest) = (0, Vec::new());
        loop {
            let lease = server.read_lease().await.unwrap();
            if lease.is_empty() {
                break;
            }
            rest.extend_from_slice(&lease);
            let whole = rest.len() / 8 * 8;
            for bytes in rest[..whole].chunks_exact(8) {
                assert_eq!(u64::from_le_bytes(bytes.try_into().unwrap()), expected);
                expected += 1;
            }
            rest.drain(..whole);
        }
        assert_eq!((expected, rest.len()), (NUMBERS, 0));
        stop.store(true, Ordering::Relaxed);
        sender.await.unwrap();
        changer.await.unwrap();
        assert!(changes.load(Ordering::Relaxed) > 3);
        assert_eq!(server.object().stack().to_string(), "stream");
    });
}

/// A receive that waits keeps the stack it began on, and nothing else does.
#[test]
fn a_silent_receive_keeps_its_stack() {
    both(async |_| {
        let (client, server) = pair([]).await;
        let xor = Arc::new(Xor(7));
        let (at, _) = server.object().attach(Place::Top, xor.clone()).unwrap();
        let mut read = server.read(Vec::with_capacity(9));
        assert!(poll_once(&mut read).is_pending());
        let change = server.object().detach(&at).unwrap();
        assert!(
            timeout(
                Duration::from_millis(20),
                std::pin::pin!(async {
                    until(|| change.is_done()).await;
                })
            )
            .await
            .is_err()
        );
        // What comes for it goes its way; what is read next, the new one.
        client.write_all(vec![0; 2]).await.unwrap();
        assert_eq!(read.await.unwrap().1, [7, 7]);
        change.await;
        client.write_all(vec![0; 2]).await.unwrap();
        assert_eq!(server.read(Vec::with_capacity(9)).await.unwrap().1, [0, 0]);
        drop(at);
        assert_eq!(Arc::strong_count(&xor), 1, "it has gone");
    });
}

/// Every processor that has used a file is asked, and no other.
#[test]
fn a_file_used_by_all_workers_changes_its_stack() {
    workers(2, |_| async {
        let dir = Dir::new();
        let expected = Arc::new(pattern(1 << 20));
        let options = OpenOptions::new().read(true);
        let file = Arc::new(options.open(dir.file("f", &*expected)).await.unwrap());
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let readers: Vec<_> = (0..8u64)
            .map(|i| {
                let (file, stop, reads) = (file.clone(), stop.clone(), reads.clone());
                let expected = expected.clone();
                overlapped::spawn(async move {
                    let mut buf = Vec::with_capacity(4096);
                    while !stop.load(Ordering::Relaxed) {
                        let n = reads.fetch_add(1, Ordering::Relaxed);
                        let at = (n * 31 + i) % 255 * 4096;
                        buf = file.read_at(buf, at).await.unwrap().1;
                        assert!(buf == expected[at as usize..][..4096]);
                        overlapped::yield_now().await;
                    }
                })
            })
            .collect();
        for i in 0..300 {
            let object = file.object();
            let kind = [PassKind::Future, PassKind::Routine][i % 2];
            let (below, _) = object.attach(Place::Above("file"), pass(kind)).unwrap();
            let (above, _) = object.attach(Place::Top, pass(PassKind::Future)).unwrap();
            object.detach(&below).unwrap().await;
            object.detach(&above).unwrap().await;
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.await.unwrap();
        }
        assert!(reads.load(Ordering::Relaxed) > 100);
    });
}

/// A processor that has come to an end is not waited for.
#[test]
fn threads_that_have_ended_do_not_hold_a_change_up() {
    let dir = Dir::new();
    let path = dir.file("f", "text");
    let file = Arc::new(OpenOptions::new().read(true).open_wait(&path).unwrap());
    let (at, _) = file.object().attach(Place::Top, Arc::new(Xor(1))).unwrap();
    for _ in 0..3 {
        let file = file.clone();
        let read = move || file.read_at(Vec::with_capacity(9), 0).wait().unwrap().1;
        assert_eq!(std::thread::spawn(read).join().unwrap()[0], b't' ^ 1);
    }
    // A thread that has used it, and does something else: the keeper answers for it.
    let (used, go) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            file.read_at(Vec::with_capacity(9), 0).wait().unwrap();
            used.wait();
            go.wait();
        });
        used.wait();
        file.object().detach(&at).unwrap().wait().unwrap();
        go.wait();
    });
}
