//! Forks: what a filter does at once in one function, each policy of ending it, and requests in pieces;
//! on real files and sockets.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use overlapped::Status;
use overlapped::driver::bottom::Failing;
use overlapped::driver::{Class, FileHandle, Filter, Io, Major, MajorSet, Next};
use overlapped::fs::{File, OpenOptions};
use overlapped::net::{TcpListener, TcpStream};
use overlapped::operation::{Read, WriteVectored};
use support::{Dir, both, pattern, poll_once, status, until};

type Outcome = Result<usize, Status>;

async fn pair() -> (TcpStream, TcpStream) {
    let here: (IpAddr, u16) = (Ipv4Addr::LOCALHOST.into(), 0);
    let listener = TcpListener::bind(here).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// What a child does with the write that it has a share of.
#[derive(Clone)]
enum Child {
    /// Writes it to a file, after so many milliseconds.
    Write(FileHandle, u64),
    /// Sends it below.
    Forward,
    /// Waits for a silent socket.
    Hang(FileHandle),
    Panic,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Policy {
    All,
    FirstError,
    FirstSuccess,
    Quorum(usize),
}

/// Writes go to its children, by a policy; it tells what has become of each.
struct Forks {
    policy: Policy,
    children: Vec<Child>,
    log: Arc<Mutex<Vec<(usize, Outcome)>>>,
}

impl Filter for Forks {
    type Open = ();
    fn name(&self) -> &str {
        "forks"
    }
    fn class(&self) -> Class {
        Class::Router
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Write])
    }
    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Outcome {
        let (offset, at) = (io.offset(), self.children.iter());
        let forwards = at.clone().any(|child| matches!(child, Child::Forward));
        let shares: Vec<_> = at
            .clone()
            .map(|child| match child {
                Child::Write(..) => io.share(0..io.len()),
                _ => Vec::new(),
            })
            .collect();
        let mut forward = forwards.then(|| next.forward(&mut io));
        let fork =
            next.fork(self.children.iter().zip(shares).enumerate().map(|(i, (child, buffers))| {
                let forward = matches!(child, Child::Forward).then(|| forward.take()).flatten();
                async move {
                    let outcome = match child {
                        Child::Write(file, delay) => {
                            next.sleep(Duration::from_millis(*delay)).await;
                            let write = WriteVectored { buffers, offset };
                            let written = next.request_on(file, write).await;
                            written.map(|(n, _)| n).map_err(|error| error.status())
                        }
                        Child::Forward => forward.expect("one of them").await,
                        Child::Hang(silent) => {
                            let read = next.request_on(silent, Read::next(vec![0; 9])).await;
                            read.map(|(n, _)| n).map_err(|error| error.status())
                        }
                        Child::Panic => panic!("wanted"),
                    };
                    self.log.lock().unwrap().push((i, outcome));
                    outcome
                }
            }));
        match self.policy {
            Policy::All => Ok(fork.all().await.filter(Result::is_ok).count()),
            Policy::FirstError => Ok(fork.first_error().await?.count()),
            Policy::FirstSuccess => fork.first_success().await,
            Policy::Quorum(n) => Ok(fork.quorum(n).await?.filter(Result::is_ok).count()),
        }
    }
}

/// What the children of a test are made of: files that take everything, one that fails, and a silent
/// socket.
struct Rig {
    dir: Dir,
    files: Vec<File>,
    full: File,
    peer: TcpStream,
    silent: TcpStream,
}

const FULL: Status = Status::DISK_FULL;

impl Rig {
    async fn new() -> Rig {
        let dir = Dir::new();
        let options = OpenOptions::new().read(true).write(true).create(true);
        let mut files = Vec::new();
        for name in ["a", "b"] {
            files.push(options.clone().open(dir.path(name)).await.unwrap());
        }
        let full = Arc::new(Failing::new(MajorSet::of(&[Major::Write]), FULL));
        let full = options.clone().on(full).open("full").await.unwrap();
        let (peer, silent) = pair().await;
        Rig { dir, files, full, peer, silent }
    }

    fn write(&self, i: usize) -> Child {
        Child::Write(self.files[i].object().handle(), 0)
    }
    fn slow(&self, i: usize) -> Child {
        Child::Write(self.files[i].object().handle(), 20)
    }
    fn fail(&self) -> Child {
        Child::Write(self.full.object().handle(), 5)
    }
    fn hang(&self) -> Child {
        Child::Hang(self.silent.object().handle())
    }

    async fn contents(&self, i: usize) -> Vec<u8> {
        let (n, mut bytes) = self.files[i].read_at(vec![0; 100], 0).await.unwrap();
        bytes.truncate(n);
        bytes
    }

    async fn open(&self, policy: Policy, children: Vec<Child>) -> Under {
        let log = Arc::default();
        let forks = Forks { policy, children, log: Arc::clone(&log) };
        let options = OpenOptions::new().read(true).write(true).create(true);
        let file = options.filter(forks.into_driver()).open(self.dir.path("below")).await.unwrap();
        Under { file, log }
    }

    /// What four bytes written by the policy have come to (the number of successes, but for the first
    /// one, which is what that was), and what became of the children, by number.
    async fn run(&self, policy: Policy, children: Vec<Child>) -> (Outcome, Vec<Outcome>) {
        let under = self.open(policy, children).await;
        let written = under.file.write_at("four", 0).await;
        (written.map(|(n, _)| n).map_err(|error| error.status()), under.ended())
    }
}

struct Under {
    file: File,
    log: Arc<Mutex<Vec<(usize, Outcome)>>>,
}

impl Under {
    fn ended(&self) -> Vec<Outcome> {
        let mut log = self.log.lock().unwrap().clone();
        log.sort_by_key(|(i, _)| *i);
        log.into_iter().map(|(_, outcome)| outcome).collect()
    }
}

const OFF: Outcome = Err(Status::CANCELLED);

#[test]
fn all_have_their_ends() {
    both(async |_| {
        let rig = Rig::new().await;
        let children = vec![rig.slow(0), rig.fail(), rig.write(1), Child::Forward];
        let (outcome, ended) = rig.run(Policy::All, children).await;
        assert_eq!((outcome, &ended[..]), (Ok(3), &[Ok(4), Err(FULL), Ok(4), Ok(4)][..]));
        assert_eq!(
            (rig.contents(0).await, rig.contents(1).await),
            (b"four".into(), b"four".into())
        );
        assert_eq!(std::fs::read(rig.dir.path("below")).unwrap(), b"four");
    });
}

#[test]
fn no_children_at_all() {
    both(async |_| {
        let rig = Rig::new().await;
        for policy in [Policy::All, Policy::FirstError, Policy::Quorum(0)] {
            assert_eq!(rig.run(policy, vec![]).await.0, Ok(0), "{policy:?}");
        }
        for policy in [Policy::FirstSuccess, Policy::Quorum(1)] {
            assert_eq!(rig.run(policy, vec![]).await.0, Err(Status::DRIVER_INTERNAL_ERROR));
        }
    });
}

#[test]
fn the_first_error_calls_the_others_off() {
    both(async |_| {
        let rig = Rig::new().await;
        // One that hangs before it, and one behind.
        let children = vec![rig.hang(), rig.fail(), rig.write(0), rig.hang()];
        let (outcome, ended) = rig.run(Policy::FirstError, children).await;
        assert_eq!((outcome, ended[0], ended[1], ended[3]), (Err(FULL), OFF, Err(FULL), OFF));
        assert!(matches!(ended[2], Ok(4) | OFF), "as fast as it was");
        // Nothing but the call wakes it.
        let (outcome, ended) = rig.run(Policy::FirstError, vec![rig.hang(), rig.fail()]).await;
        assert_eq!((outcome, &ended[..]), (Err(FULL), &[OFF, Err(FULL)][..]));
        // what was called off has lost nothing.
        rig.peer.write_all("later").await.unwrap();
        assert_eq!(rig.silent.read(vec![0; 5]).await.unwrap().1, b"later");
        let (outcome, _) = rig.run(Policy::FirstError, vec![rig.write(0), rig.slow(1)]).await;
        assert_eq!(outcome, Ok(2), "no error");
    });
}

#[test]
fn the_first_success_calls_the_others_off() {
    both(async |_| {
        let rig = Rig::new().await;
        let children = vec![rig.hang(), rig.fail(), rig.slow(0), rig.hang()];
        let (outcome, ended) = rig.run(Policy::FirstSuccess, children).await;
        assert_eq!((outcome, &ended[..]), (Ok(4), &[OFF, Err(FULL), Ok(4), OFF][..]));
        let (outcome, ended) = rig.run(Policy::FirstSuccess, vec![rig.hang(), rig.slow(0)]).await;
        assert_eq!((outcome, &ended[..]), (Ok(4), &[OFF, Ok(4)][..]));
        // Nobody succeeds: the first failure.
        let closed = rig.files[1].object().handle();
        let never = Child::Write(closed, 50);
        let (outcome, ended) = rig.run(Policy::FirstSuccess, vec![never, rig.fail()]).await;
        assert_eq!((outcome, ended[1]), (Ok(4), Err(FULL)), "a failure does not end it");
        let (outcome, _) = rig.run(Policy::FirstSuccess, vec![rig.fail(), rig.fail()]).await;
        assert_eq!(outcome, Err(FULL));
    });
}

#[test]
fn a_quorum_lets_the_rest_go_on() {
    both(async |_| {
        let rig = Rig::new().await;
        // Reached before the slow one ends, which does all the same.
        let children = vec![rig.write(0), rig.fail(), rig.slow(1)];
        let (outcome, ended) = rig.run(Policy::Quorum(1), children).await;
        assert_eq!((outcome, &ended[..]), (Ok(2), &[Ok(4), Err(FULL), Ok(4)][..]));
        assert_eq!(rig.contents(1).await, b"four");
        // Impossible before it ends.
        let children = vec![rig.fail(), rig.slow(1), rig.fail()];
        let (outcome, ended) = rig.run(Policy::Quorum(2), children).await;
        assert_eq!((outcome, &ended[..]), (Err(FULL), &[Err(FULL), Ok(4), Err(FULL)][..]));
    });
}

/// the client's cancel reaches every child, by whichever policy.
#[test]
fn x1_a_cancel_is_told_to_all_children() {
    both(async |_| {
        let rig = Rig::new().await;
        use Policy::*;
        for policy in [All, FirstError, FirstSuccess, Quorum(2)] {
            let under = rig.open(policy, vec![rig.hang(), rig.slow(0), rig.hang()]).await;
            let mut write = under.file.write_at("four", 0);
            assert!(poll_once(&mut write).is_pending());
            under.file.object().cancel_requests();
            let outcome = write.await.map(|(n, _)| n).map_err(|error| error.status());
            // A sleep that has been cut short, and a write that may have gone all the same.
            let ended = under.ended();
            assert_eq!((ended.len(), ended[0], ended[2]), (3, OFF, OFF), "{policy:?}");
            let expected = match (policy, ended[1]) {
                (FirstSuccess, Ok(_)) => Ok(4),
                (All, ended) => Ok(usize::from(ended.is_ok())),
                _ => OFF,
            };
            assert_eq!(outcome, expected, "{policy:?}, {ended:?}");
        }
        rig.peer.write_all("later").await.unwrap();
        assert_eq!(rig.silent.read(vec![0; 5]).await.unwrap().1, b"later");
    });
}

/// V-43: the panic of a child is the request's end, and nobody else's.
#[test]
fn a_child_panics() {
    both(async |_| {
        let rig = Rig::new().await;
        use Policy::*;
        for policy in [All, FirstError, FirstSuccess, Quorum(1)] {
            let under = rig.open(policy, vec![rig.hang(), rig.slow(0), Child::Panic]).await;
            let error = under.file.write_at("four", 0).await.unwrap_err();
            assert_eq!(error.status(), Status::DRIVER_INTERNAL_ERROR, "{policy:?}");
            assert_eq!(error.into_buf(), "four", "the buffer is back, and nobody else's");
            assert!(under.file.object().stack().devices().next().unwrap().is_faulted());
            assert!(under.ended().is_empty(), "the others have been dropped");
        }
        assert_eq!(rig.run(Policy::All, vec![rig.write(0)]).await.0, Ok(1));
    });
}

/// What is below in the request's own name is called off as the rest is.
#[test]
fn a_forward_is_called_off() {
    /// Reads, and gives up when a file cannot be written.
    struct Guarded(FileHandle);
    impl Filter for Guarded {
        type Open = ();
        fn name(&self) -> &str {
            "guarded"
        }
        fn hooks(&self) -> MajorSet {
            MajorSet::of(&[Major::Read])
        }
        async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Outcome {
            let mut forward = Some(next.forward(&mut io));
            let fork = next.fork([true, false, true].map(|forwards| {
                let forward = if forwards { forward.take() } else { None };
                async move {
                    if let Some(forward) = forward {
                        return forward.await;
                    }
                    next.sleep(Duration::from_millis(5)).await;
                    let write = WriteVectored { buffers: vec!["no"], offset: 0 };
                    let written = next.request_on(&self.0, write).await;
                    written.map(|(n, _)| n).map_err(|error| error.status())
                }
            }));
            let outcome = fork.first_error().await;
            assert!(next.is_cancelled(), "it was the request itself that was called off");
            outcome.map(Iterator::sum)
        }
    }
    both(async |_| {
        let rig = Rig::new().await;
        let object = rig.silent.object();
        let guarded = Guarded(rig.full.object().handle()).into_driver();
        let (at, _) = object.attach(overlapped::driver::Place::Top, guarded).unwrap();
        let error = rig.silent.read(vec![0; 5]).await.unwrap_err();
        assert_eq!(error.status(), FULL);
        object.detach(&at).unwrap().await;
        rig.peer.write_all("later").await.unwrap();
        assert_eq!(rig.silent.read(vec![0; 5]).await.unwrap().1, b"later");
    });
}

/// A fork in a child of another: who is called off, is so all the way down; and what has been called off
/// begins nothing.
#[test]
fn forks_within_forks() {
    struct Nested(FileHandle, Arc<AtomicUsize>);
    impl Filter for Nested {
        type Open = ();
        fn name(&self) -> &str {
            "nested"
        }
        fn hooks(&self) -> MajorSet {
            MajorSet::of(&[Major::Flush])
        }
        async fn flush(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Outcome {
            let mut forward = Some(next.forward(&mut io));
            let outcome = next
                .fork([0, 1].map(|i| {
                    let forward = if i == 0 { forward.take() } else { None };
                    async move {
                        let Some(forward) = forward else {
                            next.sleep(Duration::from_millis(5)).await;
                            return Err::<usize, _>(FULL);
                        };
                        let hangs = [0, 1].map(|_| async {
                            let read = Read::next(vec![0; 9]);
                            let read = next.request_on(&self.0, read).await;
                            read.map(|(n, _)| n).map_err(|error| error.status())
                        });
                        // Nobody's policy here; and afterwards it is called off still.
                        let off = next.fork(hangs).all().await.filter(|end| *end == OFF).count();
                        self.1.fetch_add(off, Ordering::Relaxed);
                        assert!(next.is_cancelled());
                        next.sleep(Duration::from_secs(1000)).await;
                        assert_eq!(forward.await, OFF, "it has never been sent");
                        Ok(0)
                    }
                }))
                .first_error()
                .await;
            assert!(!next.is_cancelled(), "the filter's function has not been");
            outcome.map(Iterator::sum)
        }
    }
    both(async |_| {
        let rig = Rig::new().await;
        let off = Arc::new(AtomicUsize::new(0));
        let nested = Nested(rig.silent.object().handle(), off.clone()).into_driver();
        let options = OpenOptions::new().write(true).create(true).filter(nested);
        let file = options.open(rig.dir.path("f")).await.unwrap();
        assert_eq!(status(file.sync_all().await), FULL);
        assert_eq!(off.load(Ordering::Relaxed), 2);
    });
}

/// Sends requests in pieces.
struct Pieces {
    size: usize,
    at_once: usize,
}

impl Filter for Pieces {
    type Open = ();
    fn name(&self) -> &str {
        "pieces"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Outcome {
        let pieces = pieces(io.len(), self.size);
        next.split(&mut io, pieces, self.at_once).await
    }
    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Outcome {
        let pieces = pieces(io.len(), self.size);
        next.split(&mut io, pieces, self.at_once).await
    }
}

fn pieces(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(size).map(move |at| at..len.min(at + size))
}

/// Below the pieces: what begins at one offset fails, or comes short; and how many are here at once.
#[derive(Default)]
struct Below {
    fails: Option<(u64, Outcome)>,
    now: AtomicUsize,
    most: Arc<AtomicUsize>,
    /// They wait for each other until there have been so many at once.
    wanted: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<u64>>>,
}

impl Below {
    async fn pass<'a>(&'a self, next: Next<'a>, mut io: Io<'a>) -> Outcome {
        self.seen.lock().unwrap().push(io.offset());
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        let outcome = match self.fails {
            Some((at, how)) if at == io.offset() => {
                next.sleep(Duration::from_millis(2)).await;
                if io.major() == Major::Read {
                    io.put(0, &vec![0; how.unwrap_or(0)]);
                }
                how
            }
            // What is beyond it waits until it is called off.
            Some((at, _)) if at < io.offset() => {
                next.sleep(Duration::from_secs(1000)).await;
                assert!(next.is_cancelled());
                OFF
            }
            _ => {
                // In vain, at last: then the test says so.
                for _ in 0..5000 {
                    next.sleep(Duration::from_millis(1)).await;
                    if self.most.load(Ordering::Relaxed) >= self.wanted.load(Ordering::Relaxed) {
                        break;
                    }
                }
                next.forward(&mut io).await
            }
        };
        self.now.fetch_sub(1, Ordering::Relaxed);
        outcome
    }
}

impl Filter for Below {
    type Open = ();
    fn name(&self) -> &str {
        "below"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    async fn read(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Outcome {
        self.pass(next, io).await
    }
    async fn write(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Outcome {
        self.pass(next, io).await
    }
}

struct Split {
    file: File,
    path: PathBuf,
    _dir: Dir,
    most: Arc<AtomicUsize>,
    wanted: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<u64>>>,
}

async fn split(size: usize, at_once: usize, fails: Option<(u64, Outcome)>) -> Split {
    let dir = Dir::new();
    let path = dir.file("f", pattern(1000));
    let below = Below { fails, ..Below::default() };
    let (most, seen) = (below.most.clone(), below.seen.clone());
    let wanted = below.wanted.clone();
    let options = OpenOptions::new().read(true).write(true);
    let pieces = Pieces { size, at_once };
    let options = options.filter(pieces.into_driver()).filter(below.into_driver());
    Split { file: options.open(&path).await.unwrap(), path, _dir: dir, most, wanted, seen }
}

#[test]
fn a_request_in_pieces() {
    both(async |_| {
        for at_once in [0, 1, 3, 100, usize::MAX] {
            let split = split(7, at_once, None).await;
            split.wanted.store(at_once.clamp(1, 15), Ordering::Relaxed);
            let (n, bytes) = split.file.read_at(vec![0; 100], 5).await.unwrap();
            assert!(n == 100 && bytes == pattern(1000)[5..105]);
            assert_eq!(split.seen.lock().unwrap().len(), 15);
            assert_eq!(split.most.load(Ordering::Relaxed), at_once.clamp(1, 15));
            // Over segments, and to the file's end.
            let room = vec![Vec::with_capacity(10), Vec::with_capacity(90)];
            let (n, bytes) = split.file.read_vectored_at(room, 950).await.unwrap();
            assert!(n == 50 && bytes.concat() == pattern(1000)[950..]);
            let data = pattern(60).iter().map(|byte| !byte).collect::<Vec<_>>();
            let (one, other) = data.split_at(13);
            let parts = vec![one.to_vec(), other.to_vec()];
            assert_eq!(split.file.write_vectored_at(parts, 20).await.unwrap().0, 60);
            assert_eq!(split.file.write_at(data.clone(), 990).await.unwrap().0, 60);
            let there = std::fs::read(&split.path).unwrap();
            assert!(there[20..80] == data && there[990..] == data);
            assert_eq!(split.file.read_at(vec![], 0).await.unwrap().0, 0);
        }
    });
}

/// The bytes in a row from the start; what is beyond a failed or short piece is called off, or never sent.
#[test]
fn a_piece_fails_or_comes_short() {
    both(async |_| {
        for at_once in [1, 2, 5] {
            for (at, how, expected) in [
                (30, Err(FULL), Ok(30)),
                (30, Ok(4), Ok(34)),
                (0, Ok(4), Ok(4)),
                (0, Ok(0), Ok(0)),
                (0, Err(FULL), Err(FULL)),
            ] {
                let split = split(10, at_once, Some((at, how))).await;
                let read = split.file.read_at(vec![0; 100], 0).await;
                let read = read.map(|(n, _)| n).map_err(|error| error.status());
                assert_eq!(read, expected, "{at_once} at once, {how:?} at {at}");
                let written = split.file.write_at(vec![0; 100], 0).await;
                let written = written.map(|(n, _)| n).map_err(|error| error.status());
                assert_eq!(written, expected, "{at_once} at once, {how:?} at {at}");
                let seen = split.seen.lock().unwrap();
                let beyond = seen.iter().filter(|offset| **offset > at).count();
                assert!(beyond <= 2 * (at_once - 1), "no more than were on their way: {seen:?}");
            }
        }
    });
}

///
#[test]
fn x1_pieces_are_cancelled() {
    both(async |_| {
        let split = split(10, 2, Some((20, OFF))).await;
        let mut read = split.file.read_at(vec![0; 100], 0);
        assert!(poll_once(&mut read).is_pending());
        until(|| split.seen.lock().unwrap().contains(&30)).await;
        split.file.object().cancel_requests();
        assert_eq!(read.await.unwrap().0, 20);
        assert_eq!(split.seen.lock().unwrap().len(), 4);
    });
}

/// Where offsets do not say where a piece goes, its place among the others does.
#[test]
fn pieces_that_follow_each_other() {
    both(async |_| {
        let dir = Dir::new();
        let (below, path) = (Below::default(), dir.path("f"));
        let most = below.most.clone();
        let pieces = Pieces { size: 7, at_once: 5 };
        let options = OpenOptions::new().append(true).create(true);
        let options = options.filter(pieces.into_driver()).filter(below.into_driver());
        let file = options.open(&path).await.unwrap();
        assert_eq!(file.write_at(pattern(100), 0).await.unwrap().0, 100);
        assert_eq!(most.load(Ordering::Relaxed), 1);
        assert!(std::fs::read(&path).unwrap() == pattern(100));

        let (peer, stream) = pair().await;
        let pieces = Pieces { size: 7, at_once: 5 };
        let top = overlapped::driver::Place::Top;
        stream.object().attach(top, pieces.into_driver()).map(drop).unwrap();
        assert_eq!(stream.write(pattern(20)).await.unwrap().0, 20);
        assert_eq!(peer.read_exact(vec![0; 20]).await.unwrap().1, pattern(20));
        assert_eq!(status(stream.read(vec![0; 9]).await), Status::NOT_SUPPORTED);
        assert_eq!(status(stream.read_lease().await), Status::NOT_SUPPORTED);
        let whole = overlapped::operation::Write::whole("all");
        let whole = overlapped::Request::new(stream.object(), whole).await;
        assert_eq!(status(whole), Status::NOT_SUPPORTED);
    });
}
