//! The compare filter: two stacks that are the same, and two that are not.

#[path = "support/probe.rs"]
mod probe;
mod support;

use std::sync::Arc;

use overlapped::Status;
use overlapped::driver::filter::compare::{Compare, Differences, What};
use overlapped::driver::filter::{Later, Side};
use overlapped::driver::testing::conformance::file_filters;
use overlapped::driver::text::{Bottom, Text};
use overlapped::driver::{Driver, Filter, Major, Place, bottom::Memory};
use overlapped::fs::{File, OpenOptions};
use probe::Probe;
use support::{Dir, Random, both, pattern, poll_once, status, until};

const LEN: usize = 100_000;

async fn open(memory: &Arc<Memory>, filters: Vec<Arc<dyn Driver>>) -> File {
    let mut options = OpenOptions::new().read(true).write(true);
    for filter in filters {
        options = options.filter(filter);
    }
    options.on(memory.clone()).open("file").await.unwrap()
}

struct Rig {
    file: File,
    below: Arc<Memory>,
    there: Arc<Memory>,
    differences: Differences,
    /// Below the filter, and on the other side.
    probes: [Probe; 2],
}

async fn rig(set: impl FnOnce(Compare) -> Compare) -> Rig {
    let (below, there) = (Arc::new(Memory::new()), Arc::new(Memory::new()));
    let probes = [Probe::new(), Probe::new()];
    let bottom: Arc<dyn Driver> = there.clone();
    let side = Side::stack([probes[1].driver(), Arc::new(Later)], Bottom::Driver(bottom));
    let compare = set(Compare::with(side));
    let differences = compare.differences();
    let file = open(&below, vec![compare.into_driver(), probes[0].driver()]).await;
    Rig { file, below, there, differences, probes }
}

async fn spoil(memory: &Arc<Memory>, at: u64, byte: u8) {
    open(memory, vec![]).await.write_all_at(vec![byte], at).await.unwrap();
}

#[test]
fn two_that_are_the_same() {
    both(async |_| {
        let rig = rig(|compare| compare).await;
        let file = &rig.file;
        file.write_all_at(pattern(LEN), 0).await.unwrap();
        file.write_vectored_at(vec![vec![1; 10], vec![2; 4000]], 777).await.unwrap();
        let mut random = Random(1);
        for _ in 0..50 {
            let (at, len) = (random.below(LEN as u64 + 100), random.below(5000) as usize);
            if random.below(2) == 0 {
                file.write_all_at(random.bytes(len), at).await.unwrap();
            } else {
                file.read_at(vec![0; len], at).await.unwrap();
            }
        }
        file.set_len(50_000).await.unwrap();
        file.punch_hole(100, 7000).await.unwrap();
        file.sync_all().await.unwrap();
        assert_eq!(file.metadata().await.unwrap().len(), 50_000);
        let parts = vec![vec![0; 20_000], vec![0; 50_000]];
        assert_eq!(file.read_vectored_at(parts, 0).await.unwrap().0, 50_000);
        assert_eq!(rig.differences.count(), 0, "{:?}", rig.differences.first());
        assert!(rig.differences.compared() >= 50_000);
        // Neither is faked.
        let (one, other) = (open(&rig.below, vec![]).await, open(&rig.there, vec![]).await);
        let all = |file: File| async move { file.read_at(vec![0; LEN], 0).await.unwrap() };
        assert!(all(one).await == all(other).await);
    });
}

#[test]
fn bytes_that_differ() {
    both(async |_| {
        let rig = rig(|compare| compare).await;
        rig.file.write_all_at(pattern(LEN), 0).await.unwrap();
        spoil(&rig.there, 5050, 0xEE).await;
        spoil(&rig.there, 6000, 0xEE).await;
        rig.file.read_at(vec![0; 5000], 0).await.unwrap();
        let failed = rig.file.read_at(vec![0; 5000], 5000).await.unwrap_err();
        assert_eq!(failed.status(), Status::DATA_ERROR);
        let failed = rig.file.read_at(vec![0; 10], 5995).await.unwrap_err();
        assert_eq!(failed.status(), Status::DATA_ERROR);
        assert_eq!(rig.differences.count(), 2);
        let first = rig.differences.first().unwrap();
        assert_eq!((first.major, first.offset, first.len), (Major::Read, 5050, 5000));
        let below = pattern(LEN)[5050..5066].to_vec();
        let mut there = below.clone();
        there[0] = 0xEE;
        assert_eq!(first.what, What::Bytes { below, there });
        // Over several buffers.
        let parts = vec![vec![0; 30], vec![0; 100]];
        assert_eq!(status(rig.file.read_vectored_at(parts, 5000).await), Status::DATA_ERROR);
        // Made right by a write of both.
        rig.file.write_all_at(vec![0; 2000], 5000).await.unwrap();
        rig.file.read_at(vec![0; 5000], 5000).await.unwrap();
        assert!(first.to_string().starts_with("Read of 5000 bytes, at 5050: [a9,"), "{first}");
    });
}

#[test]
fn lengths_and_statuses_that_differ() {
    both(async |_| {
        for (length, there) in [(LEN as u64 + 7, LEN as u64), (LEN as u64, LEN as u64 + 7)] {
            let rig = rig(|compare| compare).await;
            rig.file.write_all_at(pattern(LEN), 0).await.unwrap();
            let longer = if there > length { &rig.there } else { &rig.below };
            spoil(longer, LEN as u64 + 6, 0).await;
            let failed = rig.file.read_at(vec![0; 500], LEN as u64 - 100).await.unwrap_err();
            assert_eq!(failed.status(), Status::DATA_ERROR);
            assert_eq!(rig.differences.first().unwrap().what, What::End { below: length, there });
            assert_eq!(status(rig.file.metadata().await), Status::DATA_ERROR);
        }
        for (side, major) in
            [(0, Major::Read), (1, Major::Read), (1, Major::Write), (1, Major::Flush)]
        {
            let rig = rig(|compare| compare).await;
            rig.file.write_all_at(pattern(LEN), 0).await.unwrap();
            rig.probes[side].fail(major, 1, Status::DISK_FULL);
            let ended = match major {
                Major::Read => status(rig.file.read_at(vec![0; 10], 0).await),
                Major::Write => status(rig.file.write_at(vec![0; 10], 0).await),
                _ => status(rig.file.sync_all().await),
            };
            assert_eq!(ended, Status::DATA_ERROR);
            let (full, fine) = (Status::DISK_FULL, Status::SUCCESS);
            let what = match side {
                0 => What::Status { below: full, there: fine },
                _ => What::Status { below: fine, there: full },
            };
            assert_eq!(rig.differences.first().unwrap().what, what, "{major:?}");
        }
        // Both fail alike: no difference.
        let rig = rig(|compare| compare).await;
        rig.probes.iter().for_each(|probe| probe.fail(Major::Read, 1, Status::DISK_FULL));
        assert_eq!(status(rig.file.read_at(vec![0; 10], 0).await), Status::DISK_FULL);
        assert_eq!(rig.differences.count(), 0);
    });
}

#[test]
fn reported_only() {
    both(async |_| {
        let rig = rig(Compare::report_only).await;
        rig.file.write_all_at(pattern(LEN), 0).await.unwrap();
        spoil(&rig.there, 50, 1).await;
        let (n, bytes) = rig.file.read_at(vec![0; 100], 0).await.unwrap();
        assert_eq!((n, bytes), (100, pattern(100)), "those below");
        assert_eq!(rig.differences.count(), 1);
    });
}

/// A read sees both sides before a write of the same bytes, or both after it.
#[test]
fn a_write_that_is_slow_on_one_side_is_no_difference() {
    both(async |_| {
        let rig = rig(|compare| compare).await;
        rig.file.write_all_at(pattern(LEN), 0).await.unwrap();
        rig.probes.iter().for_each(|probe| drop(probe.take()));
        rig.probes[0].close_gate();
        let mut write = rig.file.write_at(vec![1; 1000], 100);
        assert!(poll_once(&mut write).is_pending());
        let mut read = rig.file.read_at(vec![0; 10], 100);
        assert!(poll_once(&mut read).is_pending());
        until(|| rig.probes[1].count(Major::Write) == 1).await;
        for _ in 0..20 {
            overlapped::yield_now().await;
        }
        assert_eq!(rig.probes[1].take(), [(Major::Write, 100, 1000)]);
        rig.probes[0].open_gate();
        write.await.unwrap();
        assert_eq!(read.await.unwrap().1, [1; 10]);
        assert_eq!(rig.differences.count(), 0);
    });
}

/// What is cancelled may have happened on one side: no difference until it is written anew.
#[test]
fn a_cancelled_write_is_no_difference() {
    both(async |_| {
        let rig = rig(|compare| compare).await;
        rig.file.write_all_at(pattern(LEN), 0).await.unwrap();
        rig.probes[0].close_gate();
        let mut write = rig.file.write_at(vec![9; 100], 1000);
        assert!(poll_once(&mut write).is_pending());
        drop(write);
        rig.probes[0].open_gate();
        rig.file.read_at(vec![0; 5000], 0).await.unwrap();
        rig.file.write_all_at(vec![8; 100], 1000).await.unwrap();
        spoil(&rig.there, 1050, 1).await;
        assert_eq!(status(rig.file.read_at(vec![0; 5000], 0).await), Status::DATA_ERROR);
    });
}

#[test]
fn as_text_and_on_real_files() {
    both(async |_| {
        let dir = Dir::new();
        let (one, other) = (dir.file("one", pattern(LEN)), dir.file("other", pattern(LEN)));
        let options = OpenOptions::new().read(true).write(true);
        for text in [
            format!("compare(other={}) | file({})", other.display(), one.display()),
            format!(
                "compare(other=\"xor(key=1) | xor(key=1) | file({})\", fail=no) | file({})",
                other.display(),
                one.display()
            ),
        ] {
            let file = options.clone().open_stack(&text).await.unwrap();
            file.write_all_at(vec![5; 1000], 99_500).await.unwrap();
            assert_eq!(file.read_at(vec![0; LEN], 0).await.unwrap().0, LEN);
            file.close().await.unwrap();
        }
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&other).unwrap());
        let missing = dir.path("missing");
        let text = format!("compare(other={}) | file({})", missing.display(), one.display());
        let error = options.clone().open_stack(&text).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        // Opened as the file itself is.
        let new = dir.path("new");
        let text = format!("compare(other={}) | file({})", missing.display(), new.display());
        options.clone().create(true).open_stack(&text).await.unwrap();
        assert!(new.exists() && missing.exists());
        for (other, words) in [
            ("\"xor(key=1)\"", "a stack with a bottom"),
            ("\"xr | memory\"", "there is no filter or bottom 'xr'"),
            ("\"\"", "a path"),
        ] {
            let text = format!("compare(other={other}) | memory");
            let error = options.clone().open_stack(&text).await.unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
        let error = options.clone().open_stack("compare | memory").await.unwrap_err();
        assert!(error.to_string().contains("needs the parameter 'other'"), "{error}");
        // With a file that is open, and attached to one that is.
        let (file, there) =
            (options.clone().open(&one).await.unwrap(), options.open(&other).await.unwrap());
        let compare = Compare::with(Side::open(there.object()));
        let differences = compare.differences();
        drop(file.object().attach(Place::Top, compare.into_driver()).unwrap());
        there.write_all_at(vec![77], 10).await.unwrap();
        assert_eq!(status(file.read_at(vec![0; 100], 0).await), Status::DATA_ERROR);
        assert_eq!(differences.first().unwrap().offset, 10);
    });
}

/// A cache and none, side by side, whatever is asked of them.
#[test]
fn a_cache_beside_a_plain_file() {
    both(async |_| {
        for seed in 0..4 {
            let dir = Dir::new();
            let (one, other) = (dir.file("one", pattern(LEN)), dir.file("other", pattern(LEN)));
            let text = format!(
                "compare(other={}) | cache(size=64K, mode=writeback) | file({})",
                other.display(),
                one.display()
            );
            let options = OpenOptions::new().read(true).write(true);
            let file = options.open_stack(&text).await.unwrap();
            let mut random = Random(seed);
            for _ in 0..200 {
                let at = random.below(LEN as u64 + 5000);
                let len = random.below(9000) as usize;
                match random.below(10) {
                    0..=3 => drop(file.read_at(vec![0; len], at).await.unwrap()),
                    4..=6 => file.write_all_at(random.bytes(len), at).await.map(drop).unwrap(),
                    7 => file.set_len(at).await.unwrap(),
                    8 => file.punch_hole(at, 1 + len as u64).await.unwrap(),
                    _ => drop(file.metadata().await.unwrap()),
                }
            }
            file.close().await.unwrap();
            assert!(std::fs::read(&one).unwrap() == std::fs::read(&other).unwrap());
        }
    });
}

#[test]
fn it_conforms() {
    for text in [
        "compare(other=\"memory()\")",
        "compare(other=\"cache(mode=writeback, size=32K) | memory()\")",
    ] {
        // Each time another one beside it.
        let make = || Ok(text.parse::<Text>()?.build()?.filters);
        file_filters(make, 11).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}
