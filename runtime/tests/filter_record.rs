//! Logs of writes: QEMU's `blklogwrites` makes the same bytes, and every moment that a flush ended comes back.
//!
//! Needs `qemu-io` (qemu-utils).

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use futures_util::future::join_all;
use overlapped::driver::filter::Record;
use overlapped::driver::filter::record::{Flags, LogError, Replay};
use overlapped::driver::{Filter, Io, Major, MajorSet, Next};
use overlapped::fs::{File, OpenOptions};
use overlapped::wait::Event;
use overlapped::{LocalRuntime, Status};
use support::{Dir, Random, alone, backends, both, kind, local, status};

const SIZE: u64 = 1 << 20;

/// A runtime on one of the backends.
fn one() -> LocalRuntime {
    local(backends()[0])
}

fn options() -> OpenOptions {
    OpenOptions::new().read(true).write(true).create(true)
}

/// A disk of zeroes.
fn disk(dir: &Dir, name: &str) -> String {
    let path = dir.file(name, vec![0; SIZE as usize]);
    path.to_str().unwrap().to_owned()
}

async fn recorded(disk: &str, record: &Record) -> File {
    options().filter(record.clone().into_driver()).open(disk).await.unwrap()
}

/// Runs commands on a disk whose writes QEMU logs.
fn qemu(disk: &str, log: &Path, more: &str, commands: &[&str]) {
    let image = format!(
        "driver=blklogwrites,discard=unmap,file.driver=file,file.filename={disk},file.discard=unmap,\
         log.driver=file,log.filename={}{more}",
        log.display()
    );
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    let output = Command::new("qemu-io").args(["--image-opts", &image]).args(commands).output();
    let output = output.expect("qemu-io (Debian: qemu-utils)");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("failed"), "{said}");
}

async fn content(file: &File) -> Vec<u8> {
    let len = file.metadata().await.unwrap().len() as usize;
    file.read_exact_at(vec![0; len], 0).await.unwrap().1
}

async fn all_of(log: &Path, target: &str) -> Vec<u8> {
    let target = options().open(target).await.unwrap();
    let mut replay = Replay::open(log).await.unwrap();
    assert!(replay.until_entry(replay.entries(), target.object()).await.unwrap());
    content(&target).await
}

#[test]
fn the_same_bytes_as_qemu() {
    both(async |_| {
        let dir = Dir::new();
        let (theirs, ours) = (disk(&dir, "theirs"), disk(&dir, "ours"));
        let (their_log, our_log) = (dir.file("their.log", ""), dir.path("our.log"));
        qemu(
            &theirs,
            &their_log,
            "",
            &[
                "write -P 1 0 4096",
                "flush",
                // A part of two sectors.
                "write -P 2 1000 50",
                "discard 8192 4096",
                "write -P 3 20480 70000",
                "write -P 3 20480 70000",
            ],
        );
        // It flushes now and then by itself, and when it goes. Done again through the filter, its log comes
        // out once more.
        let record = Record::to(&our_log);
        let file = recorded(&ours, &record).await;
        let mut replay = Replay::open(&their_log).await.unwrap();
        let mut seen = Vec::new();
        while let Some(entry) = replay.step(file.object()).await.unwrap() {
            if entry.flags == Flags::FLUSH {
                file.sync_data().await.unwrap();
            } else {
                seen.push((entry.offset, entry.len, entry.flags));
            }
        }
        file.close().await.unwrap();
        let (many, discard) = ((20480, 70144, Flags::NONE), (8192, 4096, Flags::DISCARD));
        let (first, part) = ((0, 4096, Flags::NONE), (512, 1024, Flags::NONE));
        assert_eq!(seen, [first, part, discard, many, many]);
        let (their, our) = (std::fs::read(&their_log).unwrap(), std::fs::read(&our_log).unwrap());
        assert_eq!(their.len(), our.len());
        let differs = their.iter().zip(&our).position(|(a, b)| a != b);
        assert_eq!(differs, None);
        assert!(std::fs::read(&theirs).unwrap() == std::fs::read(&ours).unwrap());

        // The same by requests of the same kinds, parts of sectors among them.
        let (alike, log) = (disk(&dir, "alike"), dir.path("alike.log"));
        let record = Record::to(&log);
        let file = recorded(&alike, &record).await;
        file.write_all_at(vec![1; 4096], 0).await.unwrap();
        file.write_all_at(vec![2; 50], 1000).await.unwrap();
        file.punch_hole(8192, 4096).await.unwrap();
        for _ in 0..2 {
            let (one, two) = (vec![3; 30_000], vec![3; 40_000]);
            let (n, _) = file.write_vectored_at(vec![one, two], 20480).await.unwrap();
            assert_eq!(n, 70_000);
        }
        file.close().await.unwrap();
        let mut replay = Replay::open(&log).await.unwrap();
        for expected in seen {
            let entry = replay.skip().await.unwrap().unwrap();
            assert_eq!((entry.offset, entry.len, entry.flags), expected);
        }
        assert!(all_of(&log, &disk(&dir, "again")).await == std::fs::read(&theirs).unwrap());

        // Each rebuilds the other's disk, and QEMU goes on with our log.
        let target = disk(&dir, "target");
        assert!(all_of(&their_log, &target).await == std::fs::read(&ours).unwrap());
        qemu(&ours, &our_log, ",log-append=on", &["write -P 9 4096 512", "discard 0 512", "flush"]);
        let target = disk(&dir, "another");
        assert!(all_of(&our_log, &target).await == std::fs::read(&ours).unwrap());
    });
}

/// Writes of any kind, several at a time: whenever a flush has ended, the log has what the file has.
#[test]
fn every_flush_comes_back() {
    both(async |_| {
        let dir = Dir::new();
        let (path, log) = (disk(&dir, "disk"), dir.path("log"));
        let record = Record::to(&log);
        let file = recorded(&path, &record).await;
        let mut random = Random(1);
        let mut moments = Vec::new();
        for round in 0..12 {
            let writes = (0..8u64).map(|i| {
                // Of several at once to the same bytes nobody knows the order.
                let begin = i * SIZE / 8;
                let at = begin + random.below(SIZE / 8 - 40_000);
                let len = 1 + random.below(40_000) as usize;
                let bytes = random.bytes(len);
                (at, bytes)
            });
            let writes: Vec<_> = writes.collect();
            join_all(writes.into_iter().map(|(at, bytes)| file.write_all_at(bytes, at)))
                .await
                .into_iter()
                .for_each(|result| drop(result.unwrap()));
            let at = random.below(SIZE - 60_000);
            file.punch_hole(at, 1 + random.below(60_000)).await.unwrap();
            if round == 5 {
                record.mark("half").await.unwrap();
            }
            file.sync_data().await.unwrap();
            moments.push(content(&file).await);
        }
        // A shorter file that grows again.
        file.set_len(300_001).await.unwrap();
        file.set_len(SIZE).await.unwrap();
        file.sync_all().await.unwrap();
        moments.push(content(&file).await);
        file.close().await.unwrap();

        let target = options().open(disk(&dir, "target")).await.unwrap();
        let mut replay = Replay::open(&log).await.unwrap();
        assert_eq!((replay.sector_size(), replay.position()), (512, 0));
        for (i, moment) in moments.iter().enumerate() {
            assert!(replay.until_flush(target.object()).await.unwrap(), "flush {i}");
            assert!(content(&target).await == *moment, "flush {i}");
        }
        assert_eq!(replay.position(), replay.entries());
        assert!(!replay.until_flush(target.object()).await.unwrap());

        // Up to a mark, and up to a number.
        let target = options().open(disk(&dir, "another")).await.unwrap();
        replay.rewind();
        assert!(replay.until_mark("half", target.object()).await.unwrap());
        assert!(content(&target).await == moments[5]);
        let marked = replay.position();
        assert!(!replay.until_mark("half", target.object()).await.unwrap());
        let target = options().open(disk(&dir, "third")).await.unwrap();
        replay.rewind();
        assert!(replay.until_entry(marked, target.object()).await.unwrap());
        assert!(content(&target).await == moments[5]);
        let next = replay.skip().await.unwrap().unwrap();
        assert!(next.flags == Flags::FLUSH && next.number == marked && next.len == 0);
    });
}

/// Holds flushes back.
struct Gate {
    event: Event,
    fails: bool,
    /// How many flushes are held.
    holds: AtomicUsize,
}

impl Gate {
    fn new(event: &Event, fails: bool, holds: usize) -> Gate {
        Gate { event: event.clone(), fails, holds: AtomicUsize::new(holds) }
    }
}

impl Filter for Gate {
    type Open = ();
    fn name(&self) -> &str {
        "gate"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Flush])
    }
    async fn flush(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        if self.holds.load(Relaxed) > 0 {
            self.holds.fetch_sub(1, Relaxed);
            self.event.signalled().await;
        }
        if self.fails { Err(Status::IO_DEVICE_ERROR) } else { next.forward(&mut io).await }
    }
}

/// What completes while a flush is on its way stands behind it in the log, and is counted with it.
#[test]
fn a_flush_stands_where_it_began() {
    for fails in [false, true] {
        both(async |_| {
            let dir = Dir::new();
            let (path, log) = (disk(&dir, "disk"), dir.path("log"));
            let record = Record::to(&log);
            let event = Event::manual(false);
            let gate = Gate::new(&event, fails, 1).into_driver();
            let options = options().filter(record.clone().into_driver()).filter(gate);
            let file = options.open(&path).await.unwrap();
            file.write_all_at(vec![1; 512], 0).await.unwrap();
            let mut flush = file.sync_all();
            assert!(support::poll_once(&mut flush).is_pending());
            file.write_all_at(vec![2; 512], 512).await.unwrap();
            // Nobody can know yet whether the flush will succeed: it and what follows are not counted.
            let counted = Replay::open(&log).await.unwrap().entries();
            assert_eq!(counted, 0);
            event.set();
            assert_eq!(
                status(flush.await),
                if fails { Status::IO_DEVICE_ERROR } else { Status::SUCCESS }
            );
            file.close().await.unwrap();
            let mut replay = Replay::open(&log).await.unwrap();
            let mut seen = Vec::new();
            while let Some(entry) = replay.skip().await.unwrap() {
                seen.push((entry.offset, entry.len, entry.flags));
            }
            let flush = if fails { Flags::NONE } else { Flags::FLUSH };
            assert_eq!(seen, [(0, 512, Flags::NONE), (0, 0, flush), (512, 512, Flags::NONE)]);
        });
    }
}

/// a flush that waits for another one's entry ends when it is cancelled, and the log goes on.
#[test]
fn x5_a_flush_that_waits_for_the_log_is_cancelled() {
    both(async |_| {
        let dir = Dir::new();
        let (path, log) = (disk(&dir, "disk"), dir.path("log"));
        let (record, event) = (Record::to(&log), Event::manual(false));
        let gate = Gate::new(&event, false, 1).into_driver();
        let options = options().filter(record.clone().into_driver()).filter(gate);
        let file = options.open(&path).await.unwrap();
        let mut first = file.sync_all();
        assert!(support::poll_once(&mut first).is_pending());
        let second = file.sync_all().deadline(std::time::Duration::from_millis(20));
        assert_eq!(status(second.await), Status::IO_TIMEOUT);
        event.set();
        first.await.unwrap();
        file.sync_all().await.unwrap();
        assert_eq!(Replay::open(&log).await.unwrap().entries(), 3);
        file.close().await.unwrap();
    });
}

#[test]
fn as_text_and_errors() {
    both(async |_| {
        let dir = Dir::new();
        let (path, log) = (disk(&dir, "disk"), dir.path("log"));
        let stack = format!("record(log={}) | file({path})", log.display());
        let file = options().open_stack(&stack).await.unwrap();
        file.write_all_at(vec![1; 1024], 512).await.unwrap();
        file.close().await.unwrap();
        let replay = Replay::open(&log).await.unwrap();
        let entry = replay.peek().await.unwrap().unwrap();
        assert_eq!((entry.offset, entry.len, entry.name), (512, 1024, None));

        // A log that cannot be made, and one that is full.
        let nowhere = format!("record(log={}/no/such) | file({path})", log.display());
        assert_eq!(kind(options().open_stack(&nowhere).await), std::io::ErrorKind::NotADirectory);
        let full = format!("record(log=/dev/full) | file({path})");
        assert_eq!(kind(options().open_stack(&full).await), std::io::ErrorKind::StorageFull);

        let record = Record::to(&log);
        assert_eq!(record.mark(&"x".repeat(480)).await, Err(Status::INVALID_PARAMETER));
        record.mark(&"x".repeat(479)).await.unwrap();
        assert_eq!(
            Replay::open(&log).await.unwrap().peek().await.unwrap().unwrap().name.unwrap().len(),
            479
        );

        // One that is given up leaves a log that goes on.
        for _ in 0..20 {
            _ = support::poll_once(&mut Box::pin(record.mark("given up")));
        }
        record.mark("last").await.unwrap();
        assert_eq!(Replay::open(&log).await.unwrap().entries(), 22);

        // What is not seen is refused.
        let file = recorded(&path, &record).await;
        let other = options().open(dir.path("other")).await.unwrap();
        let copy = overlapped::operation::CopyRange::new(other.object(), 0, 0, 512);
        let copied = overlapped::Request::new(file.object(), copy).await;
        assert_eq!(status(copied), Status::NOT_SUPPORTED);
    });
}

/// A log that cannot be gone on with: requests fail, and say why.
#[test]
fn a_log_that_fails_is_heard_of() {
    alone("a_log_that_fails_is_heard_of", |backend| {
        // No file of this process gets larger, and there is no signal that says so.
        let most = libc::rlimit { rlim_cur: SIZE, rlim_max: SIZE };
        // SAFETY: plain system calls.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &most), 0);
        }
        local(backend).block_on(async {
            let dir = Dir::new();
            let (path, log) = (disk(&dir, "disk"), dir.path("log"));
            let record = Record::to(&log);
            let file = recorded(&path, &record).await;
            file.write_all_at(vec![1; 512], 0).await.unwrap();
            file.sync_all().await.unwrap();
            let too_large = std::io::ErrorKind::FileTooLarge;
            assert_eq!(kind(file.write_at(vec![2; SIZE as usize], 0).await), too_large);
            assert_eq!(kind(file.write_at(vec![3; 512], 0).await), too_large);
            assert_eq!(kind(file.sync_all().await), too_large);
            assert_eq!(kind(file.punch_hole(0, 512).await), too_large);
            assert_eq!(kind(record.mark("no").await), too_large);
            file.close().await.unwrap();
            assert_eq!(Replay::open(&log).await.unwrap().entries(), 2);
        });
    });
}

#[test]
fn damaged_logs() {
    one().block_on(async {
        let dir = Dir::new();
        let (path, log) = (disk(&dir, "disk"), dir.path("log"));
        let record = Record::to(&log);
        let file = recorded(&path, &record).await;
        file.write_all_at(vec![1; 1024], 0).await.unwrap();
        record.mark("a name").await.unwrap();
        file.write_all_at(vec![2; 1024], 1024).await.unwrap();
        file.close().await.unwrap();
        let good = std::fs::read(&log).unwrap();
        assert_eq!(good.len(), 512 + 3 * 512 + 2 * 1024);
        let target = options().open(disk(&dir, "target")).await.unwrap();
        let target = target.object();
        let with = async |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            std::fs::write(&log, bad).unwrap();
            let mut replay = Replay::open(&log).await?;
            replay.until_entry(3, target).await
        };
        assert_eq!(with(0, b"?").await, Err(LogError::NotALog));
        assert_eq!(with(8, b"\x02").await, Err(LogError::Version(2)));
        assert_eq!(with(24, b"\x01").await, Err(LogError::SectorSize(513)));
        assert_eq!(with(24, &[0; 4]).await, Err(LogError::SectorSize(0)));
        assert_eq!(with(16, b"\x02").await, Ok(false));
        // Offsets, lengths, flags and names that cannot be.
        assert_eq!(with(512 + 7, b"\xff").await, Err(LogError::Damaged(0)));
        assert_eq!(with(512 + 10, b"\xff").await, Err(LogError::Damaged(0)));
        assert_eq!(with(512 + 17, b"\xff").await, Err(LogError::Damaged(0)));
        assert_eq!(with(2048 + 25, b"\x02").await, Err(LogError::Damaged(1)));
        assert_eq!(with(2048, b"").await, Ok(true));
        for len in [0, 16, 31, 511, 600, 1100, 2100, good.len() - 1] {
            std::fs::write(&log, &good[..len]).unwrap();
            let end = match Replay::open(&log).await {
                Ok(mut replay) => replay.until_entry(3, target).await.err(),
                Err(error) => Some(error),
            };
            let expected = match len {
                0..32 => LogError::NotALog,
                32..2048 => LogError::Damaged(0),
                2048..2560 => LogError::Damaged(1),
                _ => LogError::Damaged(2),
            };
            assert_eq!(end, Some(expected), "{len} bytes");
        }
        assert_eq!(kind(Replay::open(dir.path("none")).await), std::io::ErrorKind::NotFound);
    });
}

/// On a simulated machine the log is one of its files.
#[test]
fn on_a_simulated_machine() {
    let ((), report) = overlapped::sim::Simulation::new(1).run(async {
        let record = Record::to("/tmp/log");
        let file = recorded("/tmp/disk", &record).await;
        file.write_all_at(vec![1; 1000], 100).await.unwrap();
        file.sync_all().await.unwrap();
        file.write_all_at(vec![2; 1000], 100).await.unwrap();
        file.close().await.unwrap();
        let target = options().open("/tmp/target").await.unwrap();
        let mut replay = Replay::open("/tmp/log").await.unwrap();
        for (flushes, byte) in [(true, 1), (false, 2)] {
            assert_eq!(replay.until_flush(target.object()).await.unwrap(), flushes);
            assert_eq!(content(&target).await[100..1100], vec![byte; 1000]);
        }
    });
    assert!(report.left.is_nothing(), "{}", report.left);
}

#[test]
fn it_conforms() {
    let dir = Dir::new();
    let make = || Ok(vec![Record::to(dir.path("log")).into_driver()]);
    overlapped::driver::testing::conformance::file_filters(make, 4).unwrap();
}
