//! The filter `stats`: its numbers are those of what was done.

mod support;

use std::sync::Arc;

use overlapped::driver::bottom::{Failing, Memory};
use overlapped::driver::filter::Stats;
use overlapped::driver::{Driver, Major, MajorSet};
use overlapped::fs::OpenOptions;
use overlapped::net::{TcpListener, TcpStream, stack_of};
use overlapped::sim::Simulation;
use overlapped::{Status, time::Duration};
use support::{Dir, backends, both, child, is_child, multi, pattern, poll_once, until, watch};

fn options() -> OpenOptions {
    OpenOptions::new().read(true).write(true)
}

#[test]
fn counts_are_those_of_what_was_done() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.file("f", pattern(100_000));
        let stats = Arc::new(Stats::new());
        let open = || options().filter(stats.clone()).open(&path);
        let (file, other) = (open().await.unwrap(), open().await.unwrap());
        for i in 0..10 {
            file.read_at(Vec::with_capacity(4096), i * 4096).await.unwrap();
        }
        file.read_at(Vec::with_capacity(4096), 99_990).await.unwrap();
        other.write_at(vec![0; 512], 512).await.unwrap();
        other.write_vectored_at(vec![vec![1; 300], vec![2; 1]], 7).await.unwrap();
        assert!(file.set_len(i64::MAX as u64).await.is_err());
        file.sync_all().await.unwrap();

        let now = stats.snapshot();
        assert_eq!(now.files, 2);
        let read = now.of(Major::Read).unwrap();
        assert_eq!((read.count, read.errors, read.in_flight), (11, 0, 0));
        let set = now.of(Major::SetInformation).unwrap();
        assert_eq!((set.count, set.errors), (1, 1));
        assert_eq!(read.bytes, 40_960 + 10);
        assert_eq!(read.latency.len(), 11);
        assert!(read.busy >= Duration::from_nanos(read.latency.max() / 2));
        let pages = read.shapes.iter().find(|shape| shape.bits == Some(12)).unwrap();
        assert_eq!((pages.requests, pages.bytes), (11, 11 * 4096));
        let aligned = |bits| pages.aligned.iter().find(|a| a.bits == bits).map(|a| a.requests);
        // 99,990 is even; of 0 to 9 pages five are aligned to two, three to four, two to eight.
        assert_eq!([1, 12, 13, 14, 15].map(aligned), [11, 10, 5, 3, 2].map(Some));
        let write = now.of(Major::Write).unwrap();
        assert_eq!((write.count, write.bytes, write.errors), (2, 512 + 301, 0));
        assert_eq!(now.of(Major::Create).unwrap().count, 2);
        assert_eq!(now.of(Major::Flush).unwrap().count, 1);
        assert!(now.of(Major::Close).is_none());
        file.close().await.unwrap();
        other.close().await.unwrap();
        let end = stats.snapshot();
        assert_eq!((end.files, end.of(Major::Close).unwrap().count), (0, 2));
        assert_eq!(end.count(), 11 + 1 + 2 + 2 + 1 + 2 + end.of(Major::Cleanup).unwrap().count);
    });
}

#[test]
fn sockets_and_what_is_under_way() {
    both(async |_| {
        let stats = Arc::new(Stats::new());
        let stack = stack_of([stats.clone() as Arc<dyn Driver>]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect_with(listener.local_addr().unwrap(), stack).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let mut read = client.read(Vec::with_capacity(100));
        assert!(poll_once(&mut read).is_pending());
        let now = stats.snapshot();
        let (waits, connect) = (now.of(Major::Read).unwrap(), now.of(Major::Connect).unwrap());
        assert_eq!((waits.count, waits.in_flight, connect.count), (0, 1, 1));
        server.write_all(vec![1; 60]).await.unwrap();
        assert_eq!(read.await.unwrap().0, 60);
        let mut read = client.read(Vec::with_capacity(100));
        assert!(poll_once(&mut read).is_pending());
        drop(read);
        until(|| stats.snapshot().of(Major::Read).unwrap().in_flight == 0).await;
        let now = stats.snapshot();
        let read = now.of(Major::Read).unwrap();
        assert_eq!((read.count, read.bytes, read.cancelled, read.errors), (2, 60, 1, 0));
        // Streams have no offsets.
        assert_eq!((read.shapes.len(), read.shapes[0].bits), (1, Some(6)));
        assert!(read.shapes[0].aligned.is_empty());
        client.close().await.unwrap();
    });
}

#[test]
fn the_last_close_prints_a_table() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.path("stats.txt");
        let stack = format!("stats(path={}, label=disk) | memory", path.display());
        let file = options().open_stack(&stack).await.unwrap();
        for i in 0..4 {
            file.write_at(vec![9; 1 << 20], i << 20).await.unwrap();
        }
        file.read_at(Vec::with_capacity(100), 3).await.unwrap();
        assert!(!path.exists(), "not before");
        file.close().await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for expected in [
            "disk: 8 ops, ",
            "\ncreate: 1 ops, ",
            "\nwrite: 4 ops, ",
            ", 4.00 MiB, ",
            "\n  latency: p50 ",
            "\n  request size and alignment:\n    20 bits: 100.0% (4 reqs, 4.00 MiB total)\n",
            "\n        20 bit aligned: 100.0% (4)\n",
            "\nread: 1 ops, ",
            "\n     6 bits: 100.0% (1 reqs, 100 B total)\n         0 bit aligned: 100.0% (1)\n",
            "\ncleanup: 1 ops, ",
            "\nclose: 1 ops, ",
        ] {
            assert!(text.contains(expected), "'{expected}' is missing:\n{text}");
        }
    });
}

#[test]
fn to_standard_error() {
    const NAME: &str = "to_standard_error";
    if is_child(NAME) {
        return overlapped::block_on(async {
            let file = options().open_stack("stats(label=here) | memory").await.unwrap();
            file.write_at("abc", 0).await.unwrap();
            // Dropped, not closed: the runtime ends after its requests.
            drop(file);
        });
    }
    for backend in backends() {
        let said = child(NAME, |command| {
            command.env("OVERLAPPED_BACKEND", backend.to_string());
        });
        assert!(said.contains("here: 4 ops, ") && said.contains("write: 1 ops, "), "{said}");
    }
}

#[test]
fn errors_are_no_bytes() {
    both(async |_| {
        let stats = Arc::new(Stats::new());
        let failing = MajorSet::of(&[Major::Write, Major::Create]);
        let bottom = Arc::new(Failing::new(failing, Status::DISK_FULL));
        let open = || options().filter(stats.clone()).on(bottom.clone()).open("f");
        assert!(open().await.is_err());
        let now = stats.snapshot();
        assert_eq!((now.files, now.of(Major::Create).unwrap().errors), (0, 1));
    });
}

/// Threads add to numbers that they share with others.
#[test]
fn nothing_is_lost_between_threads() {
    for backend in backends() {
        let _watch = watch("threads");
        let runtime = multi(backend, 4);
        let stats = Arc::new(Stats::new());
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let options = options().filter(stats.clone()).on(Arc::new(Memory::new()));
                runtime.spawn(async move {
                    let file = options.open("m").await.unwrap();
                    for i in 0..500 {
                        file.write_at(vec![1; 10], i * 10).await.unwrap();
                        overlapped::yield_now().await;
                    }
                    file.close().await.unwrap();
                })
            })
            .collect();
        for task in tasks {
            runtime.block_on(task).unwrap();
        }
        let now = stats.snapshot();
        let write = now.of(Major::Write).unwrap();
        assert_eq!((write.count, write.bytes, write.in_flight), (8000, 80_000, 0));
        assert_eq!(write.latency.len(), 8000);
        assert_eq!(now.files, 0);
    }
}

#[test]
fn virtual_time() {
    let dir = Dir::new();
    let path = dir.path("stats.txt");
    let stats = Arc::new(Stats::new().print_to(&path));
    let of = stats.clone();
    let (done, _) = Simulation::new(3).run(async move {
        let file = options().create(true).filter(of).open("/tmp/f").await?;
        overlapped::time::sleep(Duration::from_secs(3600)).await;
        file.write_at("x", 0).await?;
        file.close().await
    });
    done.unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("stats: ") && text.contains(" 3600."), "{text}");
}
