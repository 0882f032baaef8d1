//! Behaviour that was wrong once and that ordinary programs can meet.

mod support;

use std::future::Future;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use futures_util::future;
use overlapped::driver::filter::Xor;
use overlapped::driver::{
    Completion, Disposition, Driver, Irp, Lower, Major, MajorSet, On, Stack, Unwinding,
};
use overlapped::net::{TcpListener, TcpStream, stack_of};
use overlapped::time::{interval, sleep, timeout};
use overlapped::{Builder, Request, Status, fs, operation};
use support::{
    Dir, Flag, alone, backends, both, descriptors, kind, multi, poll_once, status, until, watch,
};

const HERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn pair_on(stack: Arc<Stack>) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(HERE).await.unwrap();
    let connect = TcpStream::connect_with(listener.local_addr().unwrap(), stack);
    let (client, server) = future::join(connect, listener.accept()).await;
    (client.unwrap(), server.unwrap().0)
}

async fn pair() -> (TcpStream, TcpStream) {
    pair_on(stack_of([]).unwrap()).await
}

/// Long enough for what is under way on this machine.
async fn a_while() {
    sleep(Duration::from_millis(20)).await;
}

/// A filter for reads made of two closures.
struct Reads<D, C>(D, C);

impl<D, C> Driver for Reads<D, C>
where
    D: Fn(Irp<'_>, Lower<'_>) -> Disposition + Send + Sync + 'static,
    C: Fn(Unwinding<'_>) -> Completion + Send + Sync + 'static,
{
    fn name(&self) -> &str {
        "reads"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        (self.0)(irp, lower)
    }
    fn completed(&self, irp: Unwinding<'_>) -> Completion {
        (self.1)(irp)
    }
}

fn answering(status: Status, info: usize) -> Arc<dyn Driver> {
    let dispatch = move |irp: Irp<'_>, _: Lower<'_>| irp.complete(status, info);
    Arc::new(Reads(dispatch, |irp: Unwinding<'_>| irp.proceed()))
}

#[test]
fn bytes_of_a_dropped_receive_are_transformed_once() {
    both(async |_| {
        let xor = || stack_of([Arc::new(Xor(0x55)) as Arc<dyn Driver>]).unwrap();
        let plain: Vec<u8> = b"hello".iter().map(|b| b ^ 0x55).collect();
        // Complete, and not looked at; and cancelled before anything came.
        for finished in [true, false] {
            let (filtered, peer) = pair_on(xor()).await;
            let mut first = filtered.read(vec![0; 5]);
            assert!(poll_once(&mut first).is_pending());
            if finished {
                peer.write(plain.clone()).await.unwrap();
                a_while().await;
                drop(first);
            } else {
                drop(first);
                peer.write(plain.clone()).await.unwrap();
            }
            assert_eq!(filtered.read(Vec::with_capacity(9)).await.unwrap().1, b"hello");
        }
    });
}

#[test]
fn bytes_of_a_dropped_receive_come_first_although_others_wait() {
    both(async |_| {
        let (a, b) = pair().await;
        let [mut one, mut two, mut three, mut four] = [0; 4].map(|_| b.read(vec![0; 1]));
        for read in [&mut one, &mut two, &mut three, &mut four] {
            assert!(poll_once(read).is_pending());
        }
        a.write("1").await.unwrap();
        a_while().await;
        drop(one);
        a.write("234").await.unwrap();
        let (two, (three, four)) = future::join(two, future::join(three, four)).await;
        assert_eq!([two, three, four].map(|read| read.unwrap().1[0]), *b"123");
    });
}

#[test]
fn the_oldest_receive_that_waits_gets_the_bytes_of_a_dropped_one() {
    both(async |_| {
        let (a, b) = pair().await;
        let [mut one, mut two, mut three] = [0; 3].map(|_| b.read(vec![0; 9]));
        for read in [&mut one, &mut two, &mut three] {
            assert!(poll_once(read).is_pending());
        }
        a.write("first").await.unwrap();
        a_while().await;
        drop(one);
        assert_eq!(two.await.unwrap().1[..5], *b"first");
        a.write("second").await.unwrap();
        assert_eq!(three.await.unwrap().1[..6], *b"second");
    });
}

#[test]
fn older_bytes_come_first_although_they_are_dropped_elsewhere() {
    both(async |_| {
        let listener = std::net::TcpListener::bind(HERE).unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_nodelay(true).unwrap();
        let stream = TcpStream::from_std(listener.accept().unwrap().0).unwrap();
        let handle = stream.object().handle();
        for _ in 0..50 {
            let read = operation::Read::next(vec![0u8; 8]);
            let mut one = Request::<'static, _>::owned(handle.clone(), read);
            assert!(poll_once(&mut one).is_pending());
            peer.write_all(b"older").unwrap();
            let mut two = stream.read(vec![0u8; 8]);
            assert!(poll_once(&mut two).is_pending());
            sleep(Duration::from_millis(1)).await;
            let mut writer = peer.try_clone().unwrap();
            let dropper = std::thread::spawn(move || {
                drop(one);
                writer.write_all(b"newer").unwrap();
            });
            let (n, got) = two.await.unwrap();
            dropper.join().unwrap();
            assert!(b"oldernewer".starts_with(&got[..n]));
            let mut left = 10 - n;
            while left > 0 {
                left -= stream.read(vec![0u8; left]).await.unwrap().0;
            }
        }
    });
}

#[test]
fn far_deadlines_are_far() {
    both(async |_| {
        let (a, b) = pair().await;
        for limit in [Duration::from_millis(u64::MAX), Duration::MAX] {
            let read = b.read(vec![0; 5]).deadline(limit);
            let write = async {
                a_while().await;
                a.write("hello").await.unwrap();
            };
            assert_eq!(future::join(read, write).await.0.unwrap().0, 5);
            assert!(timeout(Duration::from_millis(5), sleep(limit)).await.is_err());
        }
        interval(Duration::MAX).tick().await;
    });
    for backend in backends() {
        multi(backend, 1).shutdown(Duration::MAX);
    }
}

#[test]
fn a_far_sleep_keeps_no_worker_busy() {
    for backend in backends() {
        let _watch = watch(format!("a far sleep on {backend}"));
        let runtime = multi(backend, 1);
        let task = runtime.spawn(sleep(Duration::from_millis(u64::MAX)));
        let turns = || runtime.handle().metrics()[0].turns;
        std::thread::sleep(Duration::from_millis(20));
        let before = turns();
        std::thread::sleep(Duration::from_millis(100));
        assert!(turns() < before + 100, "{} turns", turns() - before);
        task.abort();
        assert!(runtime.block_on(task).unwrap_err().is_cancelled());
    }
}

#[test]
fn an_append_to_a_full_pipe_stops_nobody() {
    let dir = Dir::new();
    for backend in backends() {
        let _watch = watch(format!("a full pipe on {backend}"));
        let path = dir.path(&format!("pipe-{backend}"));
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let mut other = std::fs::File::options();
        other.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let mut other = other.open(&path).unwrap();
        support::local(backend).block_on(async {
            let file = fs::OpenOptions::new().append(true).open(&path).await.unwrap();
            let mut full = 0;
            while let Ok(n) = other.write(&[7; 4096]) {
                full += n;
            }
            let mut write = file.write_at(vec![7; 4096], 0);
            assert!(poll_once(&mut write).is_pending());
            // This thread goes on, and so there is somebody to empty the pipe.
            other.read_exact(&mut vec![0; full]).unwrap();
            assert_eq!(write.await.unwrap().0, 4096);
        });
    }
}

#[test]
fn a_wakers_drop_may_use_timers() {
    struct Owning(
        #[expect(dead_code, reason = "for its drop")] Mutex<Pin<Box<overlapped::time::Sleep>>>,
    );
    impl Wake for Owning {
        fn wake(self: Arc<Self>) {}
    }
    both(async |_| {
        let mut inner = Box::pin(sleep(Duration::from_secs(60)));
        assert!(poll_once(&mut inner).is_pending());
        let waker = Waker::from(Arc::new(Owning(Mutex::new(inner))));
        let mut outer = Box::pin(sleep(Duration::from_secs(60)));
        assert!(outer.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        // Takes the waker's place, and so drops it.
        assert!(poll_once(&mut outer).is_pending());
    });
}

#[test]
fn a_wakers_drop_that_panics_ends_nobody_else() {
    struct Bomb;
    impl Wake for Bomb {
        fn wake(self: Arc<Self>) {}
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(std::thread::panicking(), "wanted");
        }
    }
    for backend in backends() {
        let _watch = watch(format!("a waker's drop on {backend}"));
        let runtime = multi(backend, 1);
        let task = runtime.spawn(async {
            let (_a, b) = pair().await;
            let mut read = b.read(vec![0; 9]);
            let waker = Waker::from(Arc::new(Bomb));
            assert!(Pin::new(&mut read).poll(&mut Context::from_waker(&waker)).is_pending());
            drop(waker);
            drop(read);
            a_while().await;
            7
        });
        assert_eq!(runtime.block_on(task).unwrap(), 7);
    }
}

#[test]
fn sockets_given_back_to_std_lose_nothing() {
    both(async |_| {
        // Late bytes refuse the way back; when they have been read, it is open.
        for read_them in [false, true] {
            let (a, b) = pair().await;
            let mut read = b.read(vec![0; 9]);
            let woken = Arc::new(Flag::default());
            let waker = Waker::from(woken.clone());
            assert!(Pin::new(&mut read).poll(&mut Context::from_waker(&waker)).is_pending());
            a.write("hello").await.unwrap();
            until(|| woken.0.load(Ordering::SeqCst)).await;
            drop(read);
            if !read_them {
                assert_eq!(kind(b.into_std()), ErrorKind::ResourceBusy);
                continue;
            }
            assert_eq!(b.read(Vec::with_capacity(5)).await.unwrap().1, b"hello");
            a.write("world").await.unwrap();
            let mut got = [0; 5];
            b.into_std().unwrap().read_exact(&mut got).unwrap();
            assert_eq!(&got, b"world");
        }

        let listener = TcpListener::bind(HERE).await.unwrap();
        let address = listener.local_addr().unwrap();
        let clients: Vec<_> =
            (0..3).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let first = listener.accept().await.unwrap().0;
        a_while().await;
        let (std, ready) = listener.into_std().await.unwrap();
        std.set_nonblocking(true).unwrap();
        let waiting = std::iter::from_fn(|| std.accept().ok()).count();
        assert_eq!(1 + ready.len() + waiting, clients.len());
        drop((first, ready));
    });
}

#[test]
fn a_listener_in_std_s_hands_blocks_again() {
    both(async |_| {
        let listener = TcpListener::bind(HERE).await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        listener.accept().await.unwrap();
        let (std, _) = listener.into_std().await.unwrap();
        let accept = overlapped::spawn_blocking(move || std.accept().map(drop));
        a_while().await;
        drop(std::net::TcpStream::connect(address).unwrap());
        accept.await.unwrap().unwrap();
        drop(client);
    });
}

#[test]
fn an_open_file_is_not_opened_again() {
    alone("an_open_file_is_not_opened_again", |backend| {
        support::local(backend).block_on(async {
            let file = fs::File::open("/dev/null").await.unwrap();
            let before = descriptors();
            let create = || operation::Create { path: c"/dev/null".into(), flags: 0, mode: 0 };
            for _ in 0..10 {
                let again = Request::new(file.object(), create()).await;
                assert_eq!(status(again), Status::INVALID_PARAMETER);
            }
            assert_eq!(descriptors(), before);
        });
    });
}

#[test]
fn a_filter_that_always_retries_ends_with_a_cancel() {
    both(async |_| {
        let dispatch = |irp: Irp<'_>, lower: Lower<'_>| lower.forward(irp, On::ERROR);
        let retry = Reads(dispatch, |irp: Unwinding<'_>| irp.retry(On::ERROR));
        let (a, _b) = pair_on(stack_of([Arc::new(retry) as Arc<dyn Driver>]).unwrap()).await;
        let read = a.read(vec![0; 5]).deadline(Duration::from_millis(5));
        assert_eq!(read.await.unwrap_err().status(), Status::IO_TIMEOUT);
        let read = timeout(Duration::from_millis(5), a.read(vec![0; 5])).await;
        assert!(read.is_err(), "nothing came");
        // Dropped: this ends only when that has.
        a.close().await.unwrap();
    });
}

#[test]
fn a_retry_has_nothing_of_what_a_driver_below_prepared() {
    both(async |_| {
        let offsets = Arc::new(Mutex::new(Vec::new()));
        let retried = AtomicUsize::new(0);
        let change = |mut irp: Irp<'_>, lower: Lower<'_>| {
            irp.next().set_offset(1000);
            lower.forward(irp, On::ALL)
        };
        let once = move |irp: Unwinding<'_>| match retried.fetch_add(1, Ordering::SeqCst) {
            0 => irp.retry(On::ALL),
            _ => irp.proceed(),
        };
        let seen = offsets.clone();
        let prepare = move |mut irp: Irp<'_>, _: Lower<'_>| {
            seen.lock().unwrap().push(irp.offset());
            // And then it answers by itself.
            irp.next().set_offset(7);
            irp.complete(Status::SUCCESS, 0)
        };
        let dir = Dir::new();
        let path = dir.file("file", "hello");
        let file = fs::OpenOptions::new()
            .read(true)
            .filter(Arc::new(Reads(change, once)))
            .filter(Arc::new(Reads(prepare, |irp: Unwinding<'_>| irp.proceed())));
        file.open(&path).await.unwrap().read_at(vec![0; 5], 5).await.unwrap();
        // A retry sends a copy of the driver's own location down (I-8).
        assert_eq!(*offsets.lock().unwrap(), [1000, 5]);
    });
}

#[test]
fn a_drivers_name_is_asked_when_it_is_put_into_a_stack_and_not_again() {
    struct Named(AtomicUsize);
    impl Driver for Named {
        fn name(&self) -> &str {
            assert_eq!(self.0.fetch_add(1, Ordering::SeqCst), 0, "asked again");
            "named"
        }
        fn hooks(&self) -> MajorSet {
            MajorSet::of(&[Major::Write])
        }
        fn dispatch(&self, _: Irp<'_>, _: Lower<'_>) -> Disposition {
            panic!("wanted")
        }
    }
    both(async |_| {
        let stack = stack_of([Arc::new(Named(AtomicUsize::new(0))) as Arc<dyn Driver>]).unwrap();
        let (a, b) = pair_on(stack.clone()).await;
        // A report of the driver names it; its own code stays out of that.
        assert_eq!(status(a.write("x").await), Status::DRIVER_INTERNAL_ERROR);
        let device = stack.devices().next().unwrap();
        assert_eq!((device.name(), device.is_faulted()), ("named", true));
        // The thread goes on.
        b.write("y").await.unwrap();
        assert_eq!(a.read(Vec::with_capacity(1)).await.unwrap().1, b"y");
    });
    let panicking = || Stack::new([], Arc::new(Named(AtomicUsize::new(1))));
    assert!(catch_unwind(panicking).is_err(), "whoever makes the stack is told");
}

#[test]
fn a_filter_that_says_what_cannot_be_is_an_error() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.file("file", "hello");
        for lie in [answering(Status::PENDING, 0), answering(Status::SUCCESS, 1_000_000)] {
            let file = fs::OpenOptions::new().read(true).filter(lie).open(&path).await.unwrap();
            let error = file.read_at(vec![0; 5], 0).await.unwrap_err();
            assert_eq!(error.status(), Status::DRIVER_INTERNAL_ERROR);
        }
    });
}

#[test]
fn a_plain_threads_drop_closes() {
    alone("a_plain_threads_drop_closes", |_| {
        let listener = std::net::TcpListener::bind(HERE).unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = TcpStream::from_std(listener.accept().unwrap().0).unwrap();
        stream.write("bye").wait().unwrap();
        drop(stream);
        // This thread waits for the peer's end now, and not in the runtime.
        let mut got = String::new();
        peer.read_to_string(&mut got).unwrap();
        assert_eq!(got, "bye");
        let file = fs::OpenOptions::new().read(true).open_wait("/dev/null").unwrap();
        let open = descriptors();
        drop(file);
        support::until_blocking(|| descriptors() < open);
    });
}

#[test]
fn literals_go_out_from_spawned_tasks() {
    both(async |_| {
        let dir = Dir::new();
        let file = fs::File::create(dir.path("file")).await.unwrap();
        let (a, b) = pair().await;
        let task = overlapped::spawn(async move {
            file.write_all_at("text", 0).await.unwrap();
            file.write_at(b"bytes", 4).await.unwrap();
            a.write_all(b"bytes").await.unwrap();
        });
        task.await.unwrap();
        assert_eq!(std::fs::read(dir.path("file")).unwrap(), b"textbytes");
        assert_eq!(b.read(Vec::with_capacity(9)).await.unwrap().1, b"bytes");
    });
}

#[test]
fn a_copy_that_cannot_be_changes_nothing() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.file("important", "contents");
        assert_eq!(kind(fs::copy(dir.path(""), &path).await), ErrorKind::InvalidInput);
        assert_eq!(kind(fs::copy(&path, &path).await), ErrorKind::InvalidInput);
        // By other names.
        let (hard, symbolic) = (dir.path("hard"), dir.path("symbolic"));
        std::fs::hard_link(&path, &hard).unwrap();
        std::os::unix::fs::symlink(&path, &symbolic).unwrap();
        assert_eq!(kind(fs::copy(&path, &hard).await), ErrorKind::InvalidInput);
        assert_eq!(kind(fs::copy(&symbolic, &path).await), ErrorKind::InvalidInput);
        assert_eq!(std::fs::read(&path).unwrap(), b"contents");
    });
}

#[test]
fn a_copy_replaces_what_is_longer() {
    both(async |_| {
        let dir = Dir::new();
        for len in [0, 1, (64 << 10) + 1, 3 << 20] {
            let contents = support::pattern(len);
            let (from, to) = (dir.file("from", &contents), dir.file("to", vec![7; 4 << 20]));
            assert_eq!(fs::copy(&from, &to).await.unwrap(), len as u64);
            assert!(std::fs::read(&to).unwrap() == contents, "{len} bytes");
        }
    });
}

#[test]
fn closing_a_listener_frees_its_address() {
    both(async |_| {
        let listener = TcpListener::bind(HERE).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut accept = listener.accept();
        assert!(poll_once(&mut accept).is_pending());
        drop(accept);
        listener.close().await.unwrap();
        // Without the option that would let it share.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        socket.unwrap().bind(&address.into()).unwrap();
        let (a, b) = pair().await;
        a.close().await.unwrap();
        assert_eq!(b.read(vec![0; 1]).await.unwrap().0, 0);
    });
}

#[test]
fn accepts_go_on_without_the_thread_that_made_the_listener() {
    for backend in backends() {
        let _watch = watch(format!("an orphaned listener on {backend}"));
        let runtime = multi(backend, 2);
        let listener = runtime.block_on(TcpListener::bind(HERE)).unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = accepted.clone();
        let server = runtime.spawn(async move {
            for _ in 0..3 {
                listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        // This thread does nothing for the runtime meanwhile.
        let clients: Vec<_> =
            (0..3).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        support::until_blocking(|| accepted.load(Ordering::SeqCst) == 3);
        runtime.block_on(server).unwrap();
        drop(clients);
    }
}

#[test]
fn accepts_go_on_while_the_block_on_that_made_the_listener_blocks_its_thread() {
    for backend in backends() {
        let _watch = watch(format!("a listener with a blocked maker on {backend}"));
        multi(backend, 2).block_on(async {
            let listener = TcpListener::bind(HERE).await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = overlapped::spawn(async move {
                for _ in 0..3 {
                    listener.accept().await.unwrap();
                }
            });
            let clients: Vec<_> =
                (0..3).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            support::until_blocking(|| server.is_finished());
            server.await.unwrap();
            drop(clients);
        });
    }
}

#[test]
fn accepts_go_on_when_the_thread_that_made_the_listener_has_ended() {
    for backend in backends() {
        let _watch = watch(format!("a listener without its thread on {backend}"));
        let runtime = Arc::new(multi(backend, 2));
        let maker = runtime.clone();
        let bind = move || {
            maker.block_on(async {
                let listener = TcpListener::bind(HERE).await.unwrap();
                // Even one that has accepted.
                let address = listener.local_addr().unwrap();
                let (client, server) =
                    future::join(TcpStream::connect(address), listener.accept()).await;
                drop((client.unwrap(), server.unwrap()));
                listener
            })
        };
        let listener = std::thread::spawn(bind).join().unwrap();
        let address = listener.local_addr().unwrap();
        let server = runtime.spawn(async move {
            for _ in 0..3 {
                listener.accept().await.unwrap();
            }
        });
        let clients: Vec<_> =
            (0..3).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        runtime.block_on(server).unwrap();
        drop(clients);
    }
}

#[test]
fn a_listener_outlives_the_runtime_that_accepted_for_it() {
    for backend in backends() {
        let _watch = watch(format!("a listener without its runtime on {backend}"));
        let (one, two) = (multi(backend, 1), multi(backend, 1));
        let listener = Arc::new(one.block_on(TcpListener::bind(HERE)).unwrap());
        let address = listener.local_addr().unwrap();
        let first = listener.clone();
        let first = one.spawn(async move { first.accept().await.map(drop) });
        let second = listener.clone();
        let second = two.spawn(async move { second.accept().await.map(drop) });
        two.block_on(async {
            a_while().await;
        });
        one.shutdown(Duration::from_secs(5));
        let client = std::net::TcpStream::connect(address).unwrap();
        two.block_on(async {
            until(|| second.is_finished()).await;
            second.await.unwrap().unwrap();
            assert!(first.await.unwrap_err().is_cancelled());
        });
        drop(client);
    }
}

#[test]
fn a_runtime_is_shared_by_threads() {
    for backend in backends() {
        let runtime = Arc::new(Builder::new().backend(backend).workers(1).build().unwrap());
        let threads: Vec<_> = (0..3)
            .map(|i| {
                let runtime = runtime.clone();
                std::thread::spawn(move || {
                    runtime.block_on(runtime.spawn(async move { i })).unwrap()
                })
            })
            .collect();
        let sum: i32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(sum, 3);
    }
}

/// An empty segment hid those behind it from completion routines.
#[test]
fn empty_segments_hide_nothing_from_filters() {
    both(async |_| {
        let dir = Dir::new();
        let options = fs::OpenOptions::new().read(true).write(true).filter(Arc::new(Xor(1)));
        let file = options.open(dir.file("f", "idmmn")).await.unwrap();
        let buffers = vec![Vec::new(), Vec::with_capacity(2), Vec::new(), Vec::with_capacity(3)];
        let (n, buffers) = file.read_vectored_at(buffers, 0).await.unwrap();
        assert_eq!((n, &buffers.concat()[..]), (5, &b"hello"[..]));
        let parts = vec!["", "HE", "", "LLO"];
        assert_eq!(file.write_vectored_at(parts, 0).await.unwrap().0, 5);
        assert_eq!(std::fs::read(dir.path("f")).unwrap(), b"IDMMN");
    });
}
