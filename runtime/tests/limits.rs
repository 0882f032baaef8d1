//! Limits: small rings, few descriptors, many connections, an empty pool, and no io_uring.

mod support;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future;
use overlapped::fs::{File, OpenOptions};
use overlapped::net::{TcpListener, TcpStream};
use overlapped::time::timeout;
use overlapped::{Backend, Builder, HardwareConfig, LocalRuntime, Runtime};
use support::{
    Dir, alone, backends, child, descriptors, is_child, local, multi, pattern, status, watch,
};

const HERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(HERE).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = future::join(TcpStream::connect(address), listener.accept()).await;
    (client.unwrap(), server.unwrap().0)
}

fn small(backend: Backend) -> Builder {
    let mut config = HardwareConfig::default();
    config.backend = Some(backend);
    config.uring.entries = 8;
    config.uring.cq_entries = 16;
    config.uring.pool_buffers = 8;
    config.epoll.buffers = 8;
    Builder::new().hardware(config)
}

#[test]
fn ten_thousand_requests_through_eight_entries() {
    for backend in backends() {
        let _watch = watch(format!("8 entries on {backend}"));
        let dir = Dir::new();
        let path = dir.file("f", pattern(1 << 20));
        let runtime = small(backend).build_local().unwrap();
        runtime.block_on(async {
            let whole = pattern(1 << 20);
            let options = OpenOptions::new().read(true).write(true);
            let file = options.open(path).await.unwrap();
            // All at once.
            let reads = (0..10_000u64).map(|i| file.read_at(Vec::with_capacity(100), i * 100));
            for (i, read) in future::join_all(reads).await.into_iter().enumerate() {
                let (n, buf) = read.unwrap();
                assert!(n == 100 && buf == whole[i * 100..][..100]);
            }
            // The kinds mixed: writes, syncs, vectored, and reads that wait.
            let (a, b) = pair().await;
            let waits = (0..1000).map(|_| b.read(vec![0; 1]));
            let writes = (0..9000u64).map(|i| file.write_at(i.to_le_bytes().to_vec(), i * 8));
            let syncs = (0..20).map(|_| file.sync_data());
            let send = async {
                for _ in 0..1000 {
                    a.write(vec![7]).await.unwrap();
                }
            };
            let (waits, writes, syncs, ()) = future::join4(
                future::join_all(waits),
                future::join_all(writes),
                future::join_all(syncs),
                send,
            )
            .await;
            assert!(waits.into_iter().all(|r| r.unwrap() == (1, vec![7])));
            assert!(writes.into_iter().all(|r| r.unwrap().0 == 8));
            assert!(syncs.into_iter().all(|r| r.is_ok()));
            let (_, buf) = file.read_at(Vec::with_capacity(72_000), 0).await.unwrap();
            assert!(buf.chunks(8).zip(0u64..).all(|(b, i)| b == i.to_le_bytes()));
        });
    }
}

#[test]
fn ten_thousand_idle_receives_are_cancelled() {
    for backend in backends() {
        let _watch = watch(format!("idle receives on {backend}"));
        let runtime = small(backend).build_local().unwrap();
        runtime.block_on(async {
            let mut pairs = Vec::new();
            for _ in 0..500 {
                pairs.push(pair().await);
            }
            let receives = (0..20).flat_map(|_| pairs.iter().map(|(_, b)| b.read(vec![0; 1])));
            let all = future::join_all(receives.collect::<Vec<_>>());
            assert!(timeout(Duration::from_millis(50), all).await.is_err());
            for (i, (a, b)) in pairs.iter().enumerate() {
                a.write(vec![i as u8]).await.unwrap();
                assert_eq!(b.read(vec![0; 9]).await.unwrap().1, [i as u8]);
            }
        });
    }
}

#[test]
fn an_empty_pool_stops_nobody() {
    for backend in backends() {
        let _watch = watch(format!("an empty pool on {backend}"));
        let runtime = small(backend).build_local().unwrap();
        runtime.block_on(async {
            let (a, b) = pair().await;
            let mut held = Vec::new();
            for i in 0..100u8 {
                let lease = future::join(b.read_lease(), a.write(vec![i; 1000])).await.0.unwrap();
                assert!(lease.iter().all(|&byte| byte == i));
                held.push(lease);
            }
            assert!((0..).zip(&held).all(|(i, lease)| lease.iter().all(|&byte| byte == i)));
            // Buffers come home, also from other threads, and serve again.
            std::thread::spawn(move || drop(held)).join().unwrap();
            for i in 0..100u8 {
                let lease = future::join(b.read_lease(), a.write(vec![i; 1000])).await.0.unwrap();
                assert!(!lease.is_empty() && lease.iter().all(|&byte| byte == i));
            }
            // Many that wait at once for few buffers.
            let mut pairs = Vec::new();
            for _ in 0..100 {
                pairs.push(pair().await);
            }
            let receives = future::join_all(pairs.iter().map(|(_, b)| b.read_lease()));
            let sends = future::join_all(pairs.iter().map(|(a, _)| a.write(vec![9; 100])));
            let (leases, _) = future::join(receives, sends).await;
            assert!(leases.into_iter().all(|lease| lease.unwrap()[..] == [9; 100]));
        });
        // A lease outlives its runtime.
        let lease = runtime.block_on(async {
            let (a, b) = pair().await;
            future::join(b.read_lease(), a.write(b"kept".to_vec())).await.0.unwrap()
        });
        drop(runtime);
        assert_eq!(lease[..], *b"kept");
    }
}

/// Sets how many descriptors the process may have.
fn allow_descriptors(count: u64) {
    // SAFETY: the structure is plain numbers, which the calls read and write.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = count.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
}

#[test]
fn accepting_recovers_from_exhausted_descriptors() {
    alone("accepting_recovers_from_exhausted_descriptors", |backend| {
        let runtime = local(backend);
        runtime.block_on(async {
            let listener = TcpListener::bind(HERE).await.unwrap();
            let address = listener.local_addr().unwrap();
            // Connections that wait in the kernel, made by what may have more descriptors.
            let clients: Vec<_> =
                (0..50).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            allow_descriptors(descriptors() as u64 + 10);
            let mut accepted = Vec::new();
            let error = loop {
                match listener.accept().await {
                    Ok((stream, _)) => accepted.push(stream),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
            assert!(accepted.len() < 50);
            // Everything else goes on; and the error is told again.
            let (client, mut theirs) = (&accepted[0], &clients[0]);
            std::io::Write::write_all(&mut theirs, b"on").unwrap();
            assert_eq!(client.read(vec![0; 9]).await.unwrap().1, b"on");
            let again = timeout(Duration::from_secs(10), listener.accept()).await.unwrap();
            assert_eq!(status(again).errno(), Some(libc::EMFILE));
            let opened = File::open("/proc/self/exe").await.map(drop);
            assert_eq!(status(opened).errno(), Some(libc::EMFILE));
            let connected = TcpStream::connect(address).await.map(drop);
            assert_eq!(status(connected).errno(), Some(libc::EMFILE));
            // Freed: every connection is there.
            allow_descriptors(1000);
            while accepted.len() < 50 {
                accepted.push(listener.accept().await.unwrap().0);
            }
            drop(clients);
            for stream in accepted {
                stream.read(vec![0; 9]).await.unwrap();
            }
        });
    });
}

#[test]
fn ten_thousand_connections_under_load() {
    const CONNECTIONS: usize = 10_000;
    // One address of the loopback network each, so that ports do not run out.
    for (backend, host) in backends().into_iter().zip(2..) {
        let _watch = watch(format!("10,000 connections on {backend}"));
        let runtime = multi(backend, 2);
        let served = Arc::new(AtomicUsize::new(0));
        let all = runtime.spawn({
            let served = served.clone();
            async move {
                let address: SocketAddr = (Ipv4Addr::new(127, 0, 0, host), 0).into();
                let listener = TcpListener::bind(address).await.unwrap();
                let address = listener.local_addr().unwrap();
                let server = overlapped::spawn(async move {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        let served = served.clone();
                        overlapped::spawn(async move {
                            loop {
                                let lease = stream.read_lease().await.unwrap();
                                if lease.is_empty() {
                                    break;
                                }
                                stream.write_all(lease).await.unwrap();
                            }
                            served.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
                let clients: Vec<_> = (0..200)
                    .map(|i| {
                        overlapped::spawn(async move {
                            for round in 0..CONNECTIONS / 200 {
                                let stream = TcpStream::connect(address).await.unwrap();
                                let bytes = pattern(i + round + 1);
                                stream.write_all(bytes.clone()).await.unwrap();
                                let room = Vec::with_capacity(bytes.len());
                                let ((), back) = stream.read_exact(room).await.unwrap();
                                assert!(back == bytes);
                            }
                        })
                    })
                    .collect();
                for client in clients {
                    client.await.unwrap();
                }
                server.abort();
            }
        });
        runtime.block_on(async {
            all.await.unwrap();
            support::until(|| served.load(Ordering::Relaxed) == CONNECTIONS).await;
        });
    }
}

/// From now on the kernel answers `EPERM` to `io_uring_setup`, as container run-times make it.
fn forbid_io_uring() {
    let statement = |code: u32, k: u32, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        // The number of the call; is it this one; refuse it; allow the others.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            libc::SYS_io_uring_setup as u32,
            0,
            1,
        ),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program lives until the call has copied it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program), 0);
    }
}

#[test]
fn without_io_uring_there_is_epoll_and_it_is_said_once() {
    const NAME: &str = "without_io_uring_there_is_epoll_and_it_is_said_once";
    if !is_child(NAME) {
        let said = child(NAME, |command| {
            command.env_remove("OVERLAPPED_BACKEND");
        });
        assert_eq!(said.matches("using epoll").count(), 1, "{said}");
        assert!(said.contains("EPERM") || said.contains("not permitted"), "{said}");
        return;
    }
    let _watch = watch(NAME);
    tracing_subscriber::fmt().with_ansi(false).init();
    forbid_io_uring();
    let work = || async {
        assert!(overlapped::fs::read("/proc/self/status").await.unwrap().starts_with(b"Name:"));
        let (a, b) = pair().await;
        let read = future::join(b.read_lease(), a.write(b"hello".to_vec())).await.0;
        assert_eq!(read.unwrap()[..], *b"hello");
    };
    overlapped::block_on(work());
    let runtime = Builder::new().workers(3).build().unwrap();
    let tasks: Vec<_> = (0..10).map(|_| runtime.spawn(work())).collect();
    runtime.block_on(async {
        work().await;
        for task in tasks {
            task.await.unwrap();
        }
    });
    let plain = std::thread::spawn(|| {
        let file = OpenOptions::new().read(true).open_wait("/proc/self/status").unwrap();
        file.read_at(Vec::with_capacity(9), 0).wait().unwrap().0
    });
    assert!(plain.join().unwrap() > 0);
    // Whoever asks for io_uring by name is told.
    let builder = || Builder::new().backend(Backend::IoUring);
    let error: std::io::Error = builder().build_local().map(drop::<LocalRuntime>).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("asked for"), "{error}");
    assert!(builder().build().map(drop::<Runtime>).is_err());
}

#[test]
fn a_thread_that_has_waited_still_gets_the_backend_asked_for() {
    const NAME: &str = "a_thread_that_has_waited_still_gets_the_backend_asked_for";
    if !is_child(NAME) {
        child(NAME, |command| {
            command.env("OVERLAPPED_BACKEND", "epoll");
        });
        return;
    }
    forbid_io_uring();
    drop(OpenOptions::new().read(true).open_wait("/proc/self/status").unwrap());
    // Its processor is on epoll: what was asked for by name cannot be had.
    let runtime = Builder::new().backend(Backend::IoUring).build_local();
    assert!(runtime.is_err(), "the backend asked for was silently replaced by another");
}

#[test]
fn a_nonsensical_backend_is_an_error_that_names_it() {
    const NAME: &str = "a_nonsensical_backend_is_an_error_that_names_it";
    if !is_child(NAME) {
        child(NAME, |command| {
            command.env("OVERLAPPED_BACKEND", "nonsense");
        });
        return;
    }
    for error in [
        Builder::new().build_local().map(drop::<LocalRuntime>).unwrap_err(),
        Builder::new().build().map(drop::<Runtime>).unwrap_err(),
        Runtime::new_default().map(drop::<Runtime>).unwrap_err(),
        Backend::from_environment().map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("nonsense"), "{error}");
        assert!(error.to_string().contains("io_uring or epoll"), "{error}");
    }
    let panic = std::panic::catch_unwind(|| overlapped::block_on(async {})).unwrap_err();
    assert!(panic.downcast_ref::<String>().unwrap().contains("nonsense"));
    assert!(OpenOptions::new().read(true).open_wait("/proc/self/status").is_err());
    // A builder that says what it wants does not care.
    for backend in [Backend::IoUring, Backend::Epoll] {
        local(backend).block_on(async {});
    }
    assert!("iouring".parse::<Backend>().unwrap_err().to_string().contains("io_uring or epoll"));
}

/// Resident bytes of this process.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// The buffers of pooled receives cost memory as they are used: not the whole pool at once.
#[test]
fn a_pool_costs_what_is_used_of_it() {
    alone("a_pool_costs_what_is_used_of_it", |backend| {
        let mut config = HardwareConfig::default();
        config.backend = Some(backend);
        let pool = usize::from(config.uring.pool_buffers) * config.uring.pool_buffer_size as usize;
        assert!(pool >= 32 << 20, "large enough to be seen");
        let runtime = Builder::new().hardware(config).build_local().unwrap();
        runtime.block_on(async {
            let (a, b) = pair().await;
            let before = resident();
            for _ in 0..100 {
                a.write_all(vec![7; 1000]).await.unwrap();
                assert_eq!(b.read_lease().await.unwrap()[..], [7; 1000]);
            }
            let grown = resident().saturating_sub(before);
            assert!(grown < pool / 4, "{grown} bytes for a pool of {pool}");
        });
    });
}

/// A thread's request reports by status, which has no words: the log says why it cannot do I/O.
#[test]
fn why_a_thread_cannot_do_io_is_in_the_log() {
    const NAME: &str = "why_a_thread_cannot_do_io_is_in_the_log";
    if !is_child(NAME) {
        let said = child(NAME, |command| {
            command.env("OVERLAPPED_BACKEND", "iocp");
        });
        assert!(
            said.contains(r#"OVERLAPPED_BACKEND is "iocp"; it may be io_uring or epoll"#),
            "{said}"
        );
        return;
    }
    let _watch = watch(NAME);
    tracing_subscriber::fmt().with_ansi(false).init();
    let error = OpenOptions::new().read(true).open_wait("/proc/self/status").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}
