//! Cancellation tokens: who is told, that nobody is forgotten, and requests that are ended by one.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use futures_util::future;
use overlapped::net::{TcpListener, TcpStream};
use overlapped::task::{CancellationToken, JoinSet};
use overlapped::{Status, yield_now};
use proptest::prelude::*;
use support::{both, poll_once, until, workers};

#[test]
fn a_child_is_cancelled_with_its_parent_and_not_the_other_way_round() {
    let root = CancellationToken::new();
    let (left, right) = (root.child_token(), root.child_token());
    let (below, clone) = (left.child_token(), left.clone());
    assert!(format!("{root:?}").contains("false"));
    left.cancel();
    left.cancel();
    let cancelled = [&root, &left, &right, &below, &clone].map(CancellationToken::is_cancelled);
    assert_eq!(cancelled, [false, true, false, true, true]);
    assert!(left.child_token().is_cancelled());
    // Dropping cancels nothing.
    drop(right.clone());
    drop(right.child_token());
    assert!(!right.is_cancelled());
    root.cancel();
    assert!(right.is_cancelled() && root.is_cancelled());
    // Below a token that is gone.
    let root = CancellationToken::new();
    let grandchild = root.child_token().child_token();
    let orphan = CancellationToken::default().child_token().child_token();
    root.cancel();
    assert!(grandchild.is_cancelled() && !orphan.is_cancelled());
}

#[test]
fn guards() {
    let token = CancellationToken::new();
    let guard = token.clone().drop_guard();
    assert!(
        catch_unwind(AssertUnwindSafe(move || {
            let _guard = guard;
            panic!("in the middle")
        }))
        .is_err()
    );
    assert!(token.is_cancelled());
    let token = CancellationToken::new();
    assert!(!token.drop_guard().disarm().is_cancelled());
}

#[test]
fn a_long_line_of_descent_keeps_only_its_ends() {
    let root = CancellationToken::new();
    let mut last = root.child_token();
    for _ in 0..300_000 {
        last = last.child_token();
    }
    let other = last.clone();
    assert!(!other.is_cancelled());
    root.cancel();
    assert!(last.is_cancelled() && other.is_cancelled());
    // All of them held, and dropped oldest first.
    let root = CancellationToken::new();
    let mut line = vec![root.child_token()];
    for i in 0..300_000 {
        line.push(line[i].child_token());
    }
    let last = line.pop().unwrap();
    drop(line);
    root.cancel();
    assert!(last.is_cancelled());
}

/// Whether each token is cancelled, by the plainest means.
#[derive(Default)]
struct Model {
    parents: Vec<Option<usize>>,
    cancelled: Vec<bool>,
}

impl Model {
    fn cancel(&mut self, token: usize) {
        let of = |mut at: usize, parents: &[Option<usize>]| loop {
            if at == token {
                break true;
            }
            match parents[at] {
                Some(parent) => at = parent,
                None => break false,
            }
        };
        for at in 0..self.parents.len() {
            self.cancelled[at] |= of(at, &self.parents);
        }
    }
}

proptest! {
    #[test]
    fn random_families(steps in proptest::collection::vec((0..5u8, any::<prop::sample::Index>()), 1..120)) {
        let mut model = Model { parents: vec![None], cancelled: vec![false] };
        // What is held: a number in the model, and a handle of it.
        let mut held = vec![(0, CancellationToken::new())];
        for (step, index) in steps {
            if held.is_empty() {
                break;
            }
            let at = index.index(held.len());
            let (number, token) = held[at].clone();
            match step {
                0 | 1 => {
                    held.push((model.parents.len(), token.child_token()));
                    model.parents.push(Some(number));
                    model.cancelled.push(model.cancelled[number]);
                }
                2 => held.push((number, token.clone())),
                3 => drop(held.swap_remove(at)),
                _ => {
                    token.cancel();
                    model.cancel(number);
                }
            }
            for (number, token) in &held {
                prop_assert_eq!(token.is_cancelled(), model.cancelled[*number]);
            }
        }
    }
}

#[test]
fn all_who_wait_are_told() {
    workers(3, |_| async {
        let root = CancellationToken::new();
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut set = JoinSet::new();
        for i in 0..300 {
            let token = if i % 2 == 0 { root.clone() } else { root.child_token() };
            let waiting = waiting.clone();
            set.spawn(async move {
                waiting.fetch_add(1, Ordering::SeqCst);
                future::join(token.cancelled(), token.child_token().cancelled()).await;
                assert!(token.is_cancelled());
            });
        }
        until(|| waiting.load(Ordering::SeqCst) == 300).await;
        std::thread::spawn(move || root.cancel()).join().unwrap();
        set.join_all().await.unwrap();
    });
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Fuse;

impl Wake for Fuse {
    fn wake(self: Arc<Self>) {
        panic!("a foreign waker");
    }
}

#[test]
fn wakers_are_kept_once_and_given_back() {
    let token = CancellationToken::new();
    let [first, second] = [(); 2].map(|()| Arc::new(Count(AtomicUsize::new(0))));
    let wakers = [&first, &second].map(|count| Waker::from(count.clone()));
    let mut wait = token.cancelled();
    for _ in 0..3 {
        for waker in &wakers {
            assert!(Pin::new(&mut wait).poll(&mut Context::from_waker(waker)).is_pending());
        }
    }
    assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (2, 3));
    let mut dropped = token.cancelled();
    assert!(Pin::new(&mut dropped).poll(&mut Context::from_waker(&wakers[0])).is_pending());
    drop(dropped);
    assert_eq!(Arc::strong_count(&first), 2);
    // One that panics keeps none from being woken.
    let fuse = Waker::from(Arc::new(Fuse));
    let mut burning = token.cancelled();
    assert!(Pin::new(&mut burning).poll(&mut Context::from_waker(&fuse)).is_pending());
    let mut late = token.cancelled();
    assert!(Pin::new(&mut late).poll(&mut Context::from_waker(&wakers[0])).is_pending());
    token.cancel();
    assert_eq!([&first, &second].map(|count| count.0.load(Ordering::SeqCst)), [1, 1]);
    assert!(poll_once(&mut wait).is_ready() && poll_once(&mut late).is_ready());
    drop((wait, burning, late));
}

#[test]
fn running_until_cancelled() {
    both(async |_| {
        let token = CancellationToken::new();
        assert_eq!(token.run_until_cancelled(async { 5 }).await, Some(5));
        let other = token.clone();
        let task = overlapped::spawn(async move {
            other.run_until_cancelled(future::pending::<()>()).await.is_none()
        });
        yield_now().await;
        token.cancel();
        assert!(task.await.unwrap());
        // Nothing is begun.
        let begun = AtomicUsize::new(0);
        let begin = async { begun.fetch_add(1, Ordering::SeqCst) };
        assert_eq!(token.run_until_cancelled(begin).await, None);
        assert_eq!(begun.load(Ordering::SeqCst), 0);
        // Ready together with the cancel is ready.
        let token = CancellationToken::new();
        let both = async {
            token.cancel();
            6
        };
        assert_eq!(token.run_until_cancelled(both).await, Some(6));
    });
}

/// what a cancelled request brings late is the next one's.
#[test]
fn requests_that_a_token_ends_lose_nothing() {
    both(async |_| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let token = CancellationToken::new();
        let cancel = async {
            yield_now().await;
            token.cancel();
        };
        let (accepted, ()) =
            future::join(token.run_until_cancelled(listener.accept()), cancel).await;
        assert!(accepted.is_none());
        let client = TcpStream::connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let mut received = Vec::new();
        for i in 0..100u8 {
            let token = CancellationToken::new();
            let send = async {
                client.write(vec![i; 3]).await.unwrap();
                if i % 3 != 0 {
                    yield_now().await;
                }
                token.cancel();
            };
            let read = token.run_until_cancelled(server.read(Vec::with_capacity(64)));
            if let (Some(read), ()) = future::join(read, send).await {
                received.extend_from_slice(&read.unwrap().1);
            }
        }
        while received.len() < 300 {
            let (n, buf) = server.read(Vec::with_capacity(64)).await.unwrap();
            assert!(n > 0);
            received.extend_from_slice(&buf);
        }
        let expected: Vec<u8> = (0..100).flat_map(|i| [i; 3]).collect();
        assert_eq!(received, expected);
    });
}

/// the request's own result says what has become of it, and gives the buffer back.
#[test]
fn requests_that_a_token_cancels_give_their_buffers_back() {
    both(async |_| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        // From a task, from a thread, and before the request is issued.
        for how in 0..3 {
            let token = CancellationToken::new();
            let cancel = token.child_token().drop_guard().disarm();
            let theirs = token.clone();
            match how {
                0 => drop(overlapped::spawn(async move { theirs.cancel() })),
                1 => drop(std::thread::spawn(move || theirs.cancel())),
                _ => theirs.cancel(),
            }
            let buf = Vec::with_capacity(777);
            let address = buf.as_ptr();
            let error = cancel.run_request(server.read(buf)).await.unwrap_err();
            assert_eq!(error.status(), Status::CANCELLED);
            let buf = error.into_buf();
            assert_eq!((buf.as_ptr(), buf.capacity(), buf.len()), (address, 777, 0));
        }
        assert!(server.read(vec![0; 1]).cancel_handle().is_none());
        assert!(
            catch_unwind(AssertUnwindSafe(|| {
                let mut read = server.read(vec![0; 1]);
                assert!(poll_once(&mut read).is_pending() && read.cancel_handle().is_some());
                read.refuse(Status::CANCELLED)
            }))
            .is_err()
        );
        // Nobody cancels.
        client.write(b"hello".to_vec()).await.unwrap();
        let token = CancellationToken::new();
        let (n, buf) = token.run_request(server.read(Vec::with_capacity(9))).await.unwrap();
        assert_eq!((n, &buf[..]), (5, &b"hello"[..]));
        // A race between the bytes and the cancel: they are in the buffer, or still to be read.
        let mut received = Vec::new();
        for i in 0..200u8 {
            let token = CancellationToken::new();
            let race = async {
                client.write(vec![i]).await.unwrap();
                if i % 3 != 0 {
                    yield_now().await;
                }
                token.cancel();
            };
            let read = token.run_request(server.read(Vec::with_capacity(16)));
            match future::join(read, race).await.0 {
                Ok((_, buf)) => received.extend(buf),
                Err(error) => assert_eq!(error.status(), Status::CANCELLED),
            }
        }
        while received.len() < 200 {
            received.extend(server.read(Vec::with_capacity(16)).await.unwrap().1);
        }
        assert_eq!(received, (0..200).collect::<Vec<u8>>());
    });
}

/// The wake by the token moves tasks to other workers than those that own their requests.
#[test]
fn a_token_cancels_requests_of_other_workers() {
    workers(3, |_| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for _ in 0..10 {
            let root = CancellationToken::new();
            let (mut clients, mut set) = (Vec::new(), JoinSet::new());
            for _ in 0..32 {
                clients.push(TcpStream::connect(address).await.unwrap());
                let (server, _) = listener.accept().await.unwrap();
                let token = root.child_token();
                set.spawn(async move {
                    let read = token.run_request(server.read(Vec::with_capacity(64)));
                    let error = read.await.unwrap_err();
                    (error.status(), error.into_buf().capacity())
                });
            }
            yield_now().await;
            std::thread::spawn(move || root.cancel()).join().unwrap();
            let ends = set.join_all().await.unwrap();
            assert_eq!(ends, [(Status::CANCELLED, 64); 32]);
        }
    });
}
