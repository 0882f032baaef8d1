//! Simulations: the same seed goes the same way, time is virtual, and what is not there says so.

mod support;

use std::cell::Cell;
use std::future::pending;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use overlapped::net::{TcpListener, TcpStream, UdpSocket, UnixStream};
use overlapped::sim::{Fault, FaultPlan, Report, Simulation, set_faults};
use overlapped::task::JoinSet;
use overlapped::time::{self, Duration, interval, now, sleep, timeout};
use overlapped::{Backend, Builder, fs};

/// Some of everything: clients and a server, files, timers, cancels.
async fn busy() -> io::Result<u64> {
    let listener = TcpListener::bind("10.0.0.1:80").await?;
    overlapped::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            overlapped::spawn(async move {
                while let Ok(lease) = stream.read_lease().await {
                    if lease.is_empty() || stream.write_all(lease).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    let mut clients = JoinSet::new();
    for id in 0..8u64 {
        clients.spawn(async move {
            let mut echoed = 0;
            let path = format!("/tmp/{id}");
            for round in 0..20 {
                let Ok(stream) = TcpStream::connect("10.0.0.1:80").await else { continue };
                if stream.write_all(vec![id as u8; 3000]).await.is_err() {
                    continue;
                }
                let limit = Duration::from_micros(200 * round);
                if let Ok(Ok((n, buf))) =
                    timeout(limit, stream.read(Vec::with_capacity(5000))).await
                {
                    echoed += n as u64;
                    let _ = fs::write(&path, buf).await;
                }
                sleep(Duration::from_millis(round)).await;
            }
            echoed + fs::metadata(&path).await.map_or(0, |found| found.len())
        });
    }
    let mut sum = 0;
    while let Some(echoed) = clients.join_next().await {
        sum += echoed.expect("no client panics");
    }
    Ok(sum)
}

fn run_busy(seed: u64, plan: FaultPlan) -> (u64, Report) {
    let (sum, report) = Simulation::new(seed).faults(plan).keep_trace().run(busy());
    (sum.expect("binding cannot fail"), report)
}

#[test]
fn the_same_seed_goes_the_same_way() {
    for plan in [FaultPlan::none(), FaultPlan { no_descriptors: 0.0, ..FaultPlan::hostile() }] {
        for seed in 0..5 {
            let (first, again) = (run_busy(seed, plan.clone()), run_busy(seed, plan.clone()));
            // The traces, byte for byte, before the hash that stands for them.
            assert!(first.1.trace == again.1.trace, "seed {seed}");
            assert_eq!(first, again, "seed {seed}");
            assert!(first.1.operations > 200 && first.1.left.is_nothing(), "{:?}", first.1.left);
        }
    }
}

#[test]
fn what_others_do_at_the_same_time_changes_nothing() {
    let alone = run_busy(3, FaultPlan::rough());
    let stop = AtomicBool::new(false);
    let among_others = std::thread::scope(|scope| {
        // Mail to every processor of the process, those of simulations too.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                overlapped::live_requests(Duration::from_millis(1));
            }
        });
        let runs: Vec<_> = (0..5).map(|_| run_busy(3, FaultPlan::rough())).collect();
        stop.store(true, Ordering::Relaxed);
        runs
    });
    for run in among_others {
        let lines = |report: &Report| report.trace.clone().unwrap();
        let (one, other) = (lines(&run.1), lines(&alone.1));
        let parts = one.lines().zip(other.lines()).enumerate().find(|(_, (a, b))| a != b);
        assert_eq!(parts, None, "the runs part");
        assert!(run == alone);
    }
}

#[test]
fn another_seed_goes_another_way() {
    let mut hashes: Vec<u64> =
        (0..20).map(|seed| run_busy(seed, FaultPlan::none()).1.trace_hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 20);
}

#[test]
fn time_is_virtual() {
    let watch = std::time::Instant::now();
    let ((), report) = Simulation::new(1).run(async {
        let start = now();
        assert_eq!(now(), start, "the clock stands still while tasks run");
        sleep(Duration::from_secs(100 * 24 * 3600)).await;
        assert_eq!(now() - start, Duration::from_secs(100 * 24 * 3600));

        let start = now();
        let mut ticks = interval(Duration::from_secs(60));
        for minute in 0..600 {
            assert_eq!(ticks.tick().await - start, Duration::from_secs(60 * minute));
        }

        let start = now();
        timeout(Duration::from_secs(5), pending::<()>()).await.expect_err("it never ends");
        assert_eq!(now() - start, Duration::from_secs(5));

        let (a, _b) = UnixStream::pair().unwrap();
        let start = now();
        let late = a.read(Vec::with_capacity(1)).deadline(Duration::from_secs(7)).await;
        assert_eq!(io::Error::from(late.unwrap_err()).kind(), ErrorKind::TimedOut);
        let took = now() - start;
        assert!((Duration::from_secs(7)..Duration::from_secs(8)).contains(&took), "{took:?}");
    });
    assert!(report.virtual_time > Duration::from_secs(100 * 24 * 3600));
    assert!(report.left.is_nothing());
    // Not a time limit: an honest clock would need a hundred days.
    assert!(watch.elapsed() < Duration::from_secs(24 * 3600));
}

#[test]
fn several_timers_go_off_in_order_and_together() {
    Simulation::new(2).run(async {
        let start = now();
        let mut naps = JoinSet::new();
        for nap in [30, 10, 20, 10] {
            naps.spawn(async move {
                sleep(Duration::from_secs(nap)).await;
                (nap, (now() - start).as_secs())
            });
        }
        let mut woken = Vec::new();
        while let Some(nap) = naps.join_next().await {
            woken.push(nap.unwrap());
        }
        assert_eq!(woken, [(10, 10), (10, 10), (20, 20), (30, 30)]);
    });
}

#[test]
fn a_task_that_asks_again_and_again_is_answered() {
    let ((), report) = Simulation::new(4).run(async {
        let task = overlapped::spawn(async { fs::write("/tmp/a", "done").await });
        while !task.is_finished() {
            overlapped::yield_now().await;
        }
        let end = now() + Duration::from_millis(3);
        while now() < end {
            overlapped::yield_now().await;
        }
    });
    assert!(report.virtual_time >= Duration::from_millis(3));
}

#[test]
fn blocking_code_runs_on_the_simulations_thread() {
    let (thread, _) = Simulation::new(5).run(async {
        let ran = overlapped::spawn_blocking(|| std::thread::current().id()).await.unwrap();
        let panicked = overlapped::spawn_blocking(|| panic!("as it should")).await;
        assert!(panicked.unwrap_err().is_panic());
        ran
    });
    assert_eq!(thread, std::thread::current().id());
}

fn message(payload: Box<dyn std::any::Any + Send>) -> String {
    *payload.downcast::<String>().expect("a message with something in it")
}

#[test]
fn a_simulation_that_is_stuck_says_so() {
    let stuck = catch_unwind(|| {
        Simulation::new(6).run(async {
            let listener = TcpListener::bind("127.0.0.1:1").await.unwrap();
            listener.accept().await.map(drop)
        })
    });
    let message = message(stuck.unwrap_err());
    assert!(message.contains("stuck") && message.contains("Accept"), "{message}");
    // And leaves the thread as it was.
    Simulation::new(6).run(sleep(Duration::from_secs(1)));
}

#[test]
fn a_failure_prints_its_seed() {
    const NAME: &str = "a_failure_prints_its_seed";
    if support::is_child(NAME) {
        let failed = catch_unwind(|| Simulation::new(4711).run(async { panic!("on purpose") }));
        assert!(failed.is_err());
        return;
    }
    let said = support::child(NAME, |_| ());
    assert!(said.contains("the simulation failed with the seed 4711"), "{said}");
}

#[test]
fn a_panic_in_the_middle_leaves_nothing_in_the_way() {
    let dropped = Rc::new(Cell::new(false));
    let witness = dropped.clone();
    let failed = catch_unwind(AssertUnwindSafe(|| {
        Simulation::new(7).run(async move {
            struct Flag(Rc<Cell<bool>>);
            impl Drop for Flag {
                fn drop(&mut self) {
                    self.0.set(true);
                }
            }
            let flag = Flag(witness);
            overlapped::spawn_local(async move {
                let (a, _b) = UnixStream::pair().unwrap();
                let _ = a.read(vec![0; 10]).await;
                drop(flag);
            });
            sleep(Duration::from_secs(1)).await;
            panic!("on purpose");
        })
    }));
    assert!(failed.is_err() && dropped.get());
    assert_eq!(run_busy(0, FaultPlan::none()), run_busy(0, FaultPlan::none()));
}

#[test]
fn a_simulation_that_ends_in_the_middle_leaves_nothing_behind() {
    for seed in 0..40 {
        let plan = FaultPlan { no_descriptors: 0.0, slow: 0.2, ..FaultPlan::hostile() };
        let ((), report) = Simulation::new(seed).faults(plan).run(async move {
            let busy = overlapped::spawn(busy());
            sleep(Duration::from_millis(seed)).await;
            drop(busy);
        });
        assert!(report.tasks > 0, "seed {seed}");
        assert!(report.left.is_nothing(), "seed {seed}: {}", report.left);
    }
}

#[test]
fn what_is_let_out_is_counted() {
    let (held, report) = Simulation::new(8).run(async {
        let file = fs::File::create("/tmp/a").await.unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        a.write("x").await.unwrap();
        let lease = b.read_lease().await.unwrap();
        let mut forgotten = Box::pin(b.read(vec![0; 1]));
        let polled = futures_util::poll!(forgotten.as_mut());
        assert!(polled.is_pending());
        std::mem::forget(forgotten);
        (file, lease)
    });
    assert_eq!((report.left.descriptors, report.left.buffers), (2, 1), "{}", report.left);
    assert_eq!(report.left.requests, 1);
    assert_eq!(&held.1[..], b"x");
    // Nobody's any more: it is not a later simulation's that has the same number by chance.
    let ((), report) = Simulation::new(8).run(async {
        let file = fs::File::create("/tmp/a").await.unwrap();
        drop(held);
        file.write_at("here", 0).await.unwrap();
    });
    assert!(report.left.is_nothing());
}

#[test]
fn what_is_not_there_says_so() {
    use overlapped::io::{EventFd, PipeReader, Readiness, TimerFd};
    let unsupported = |result: io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Unsupported);
    };
    let (system, _) = std::os::unix::net::UnixStream::pair().unwrap();
    Simulation::new(9).run(async move {
        unsupported(EventFd::new(0).map(drop));
        unsupported(TimerFd::new(overlapped::io::Clock::Monotonic).map(drop));
        unsupported(overlapped::signal::ctrl_c().await);
        unsupported(overlapped::io::stdout().map(drop));
        unsupported(PipeReader::open("/tmp/fifo").map(drop));
        unsupported(TcpStream::connect("example.org:80").await.map(drop));
        unsupported(Readiness::new(&system).map(drop));
        unsupported(UnixStream::from_std(system.try_clone().unwrap()).map(drop));
        let (a, b) = UnixStream::pair().unwrap();
        unsupported(a.peer_credentials().map(drop));
        let passed = b.write_with_descriptors("x", vec![system.into()]).await;
        unsupported(passed.map(drop).map_err(|error| error.into()));
        unsupported(a.into_std().map(drop));
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        unsupported(udp.set_gro(true));
        udp.options().set_broadcast(true).expect_err("the kernel does not know it");
        let waited = overlapped::fs::metadata("/tmp").wait();
        assert_eq!(waited.unwrap_err().kind(), ErrorKind::Deadlock);
    });
}

#[test]
fn the_simulated_backend_is_to_be_had_in_a_simulation_only() {
    let refused = Builder::new().backend(Backend::Simulated).build_local();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
    let refused = Builder::new().backend(Backend::Simulated).workers(1).build();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
    assert!("simulated".parse::<Backend>().is_err(), "the environment does not choose it");
    assert_eq!(Backend::Simulated.to_string(), "simulated");
    let nested = catch_unwind(|| {
        Simulation::new(1).run(async {
            Simulation::new(2).run(async {});
        })
    });
    assert!(nested.is_err());
    let outside = catch_unwind(|| set_faults(FaultPlan::none()));
    assert!(outside.is_err());
}

#[test]
fn names_that_need_no_network_are_found() {
    Simulation::new(10).run(async {
        let listener = TcpListener::bind("localhost:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (client, server) =
            futures_util::join!(TcpStream::connect(("localhost", port)), listener.accept());
        let (client, (server, peer)) = (client.unwrap(), server.unwrap());
        assert_eq!(client.local_addr().unwrap(), peer);
        assert_eq!(server.local_addr().unwrap(), client.peer_addr().unwrap());
        client.set_nodelay(true).unwrap();
    });
}

#[test]
fn a_hundred_thousand_requests_take_moments() {
    let run = || {
        Simulation::new(11).faults(FaultPlan::rough()).run(async {
            let mut tasks = JoinSet::new();
            for task in 0..100u64 {
                tasks.spawn(async move {
                    let options = fs::OpenOptions::new().read(true).write(true).create(true);
                    let file = options.open(format!("/tmp/{task}")).await.unwrap();
                    let mut buf = Vec::with_capacity(64);
                    for round in 0..500 {
                        file.write_all_at(format!("{task} {round}"), 64 * round).await.unwrap();
                        (_, buf) = file.read_at(buf, 64 * round).await.unwrap();
                    }
                });
            }
            while let Some(task) = tasks.join_next().await {
                task.unwrap();
            }
        })
    };
    let watch = std::time::Instant::now();
    let ((), report) = run();
    println!(
        "{} operations in {:?}, {:?} virtual",
        report.operations,
        watch.elapsed(),
        report.virtual_time
    );
    assert!(report.operations >= 100_000 && report.left.is_nothing());
    assert!(report.faults.of(Fault::ShortWrite) > 1000);
    assert_eq!(run().1, report);
}

#[test]
fn time_goes_on_outside() {
    Simulation::new(12).run(sleep(Duration::from_secs(1000)));
    let (before, here) = (std::time::Instant::now(), time::now());
    assert!(here >= before && here - before < Duration::from_secs(1000));
}
