//! An orderly end: all are told, waited for and counted.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future;
use overlapped::net::{TcpListener, TcpStream};
use overlapped::task::{CancellationToken, Graceful, JoinSet};
use overlapped::yield_now;
use support::{both, until, workers};

/// Longer than the watchdog's patience: whoever waits for it hangs.
const LONG: Duration = Duration::from_secs(1000);
const SHORT: Duration = Duration::from_millis(20);

#[test]
fn with_nobody_tracked_it_ends_at_once() {
    both(async |_| {
        let graceful = Graceful::new();
        assert!(format!("{graceful:?}").contains("false"));
        assert_eq!(graceful.shutdown(LONG).await, 0);
        assert!(graceful.token().is_cancelled());
        assert_eq!(graceful.shutdown(LONG).await, 0);
    });
}

#[test]
fn tasks_finish_what_they_are_at() {
    both(async |_| {
        let graceful = Graceful::default();
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..100 {
            let (token, done) = (graceful.token().clone(), done.clone());
            overlapped::spawn(graceful.track(async move {
                token.cancelled().await;
                for _ in 0..10 {
                    yield_now().await;
                }
                done.fetch_add(1, Ordering::SeqCst);
            }));
        }
        assert_eq!(graceful.tasks(), 100);
        assert_eq!(graceful.shutdown(LONG).await, 0);
        assert_eq!(done.load(Ordering::SeqCst), 100);
        // Telling them is one thing, waiting another.
        let graceful = Graceful::new();
        let token = graceful.token().clone();
        let task = overlapped::spawn(graceful.track(async move { token.cancelled().await }));
        graceful.token().cancel();
        task.await.unwrap();
        assert_eq!(graceful.shutdown(LONG).await, 0);
    });
}

#[test]
fn those_who_stay_are_counted() {
    both(async |_| {
        let graceful = Graceful::new();
        let gate = CancellationToken::new();
        for i in 0..5 {
            let (token, gate) = (graceful.token().clone(), gate.clone());
            overlapped::spawn(graceful.track(async move {
                if i < 2 { token.cancelled().await } else { gate.cancelled().await }
            }));
        }
        assert_eq!(graceful.shutdown(SHORT).await, 3);
        // Abandoned in the middle, and by two at once.
        assert!(future::poll_immediate(graceful.shutdown(LONG)).await.is_none());
        let again = graceful.clone();
        let other = overlapped::spawn(async move { again.shutdown(LONG).await });
        let (left, ()) = future::join(graceful.shutdown(LONG), async { gate.cancel() }).await;
        assert_eq!((left, other.await.unwrap()), (0, 0));
    });
}

#[test]
fn a_task_counts_until_its_future_is_gone() {
    both(async |_| {
        let graceful = Graceful::new();
        // Never polled, aborted, panicked.
        drop(graceful.track(async {}));
        let aborted = overlapped::spawn(graceful.track(future::pending::<()>()));
        let panicked = overlapped::spawn(graceful.track(async { panic!("an end as well") }));
        yield_now().await;
        aborted.abort();
        assert!(aborted.await.is_err() && panicked.await.is_err());
        until(|| graceful.tasks() == 0).await;
        // In a set, by the set.
        let mut set = JoinSet::new();
        for _ in 0..3 {
            set.spawn(graceful.track(future::pending::<()>()));
        }
        assert_eq!(graceful.tasks(), 3);
        set.shutdown().await;
        assert_eq!(graceful.shutdown(LONG).await, 0);
        let kept = graceful.track(async {});
        assert!(format!("{kept:?}").contains('1'));
    });
}

#[test]
fn a_server_ends_in_order() {
    workers(2, |_| async {
        let graceful = Graceful::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = overlapped::spawn(graceful.track({
            let graceful = graceful.clone();
            async move {
                let token = graceful.token();
                while let Some(accepted) = token.run_until_cancelled(listener.accept()).await {
                    let (stream, _) = accepted.unwrap();
                    let token = token.clone();
                    overlapped::spawn(graceful.track(async move {
                        // An answer that has begun is finished.
                        while let Some(read) =
                            token.run_until_cancelled(stream.read(vec![0; 64])).await
                        {
                            let (n, buf) = read.unwrap();
                            if n == 0 {
                                break;
                            }
                            stream.write_all(buf[..n].to_vec()).await.unwrap();
                        }
                    }));
                }
                // Dropped, it would be closed soon after.
                listener.close().await.unwrap();
            }
        }));
        let mut clients = Vec::new();
        for i in 0..20u8 {
            let client = TcpStream::connect(address).await.unwrap();
            client.write_all(vec![i; 5]).await.unwrap();
            let (n, buf) = client.read(Vec::with_capacity(64)).await.unwrap();
            assert_eq!(buf, vec![i; n]);
            clients.push(client);
        }
        assert_eq!(graceful.tasks(), 21);
        assert_eq!(graceful.shutdown(LONG).await, 0);
        server.await.unwrap();
        // The connections are closed and nobody listens.
        for client in clients {
            let mut last = client.read(Vec::with_capacity(64)).await;
            while matches!(last, Ok((n, _)) if n > 0) {
                last = client.read(Vec::with_capacity(64)).await;
            }
        }
        assert!(TcpStream::connect(address).await.is_err());
    });
}
