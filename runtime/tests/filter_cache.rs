//! The cache filter: what is where, and when.

#[path = "support/probe.rs"]
mod probe;
mod support;

use std::sync::Arc;

use overlapped::driver::filter::cache::{Cache, Handle, Mode, Settings};
use overlapped::driver::testing::conformance::file_filters;
use overlapped::driver::text::Text;
use overlapped::driver::{
    ChangeError, Driver, Filter, Major, Place, bottom::Memory, filter::Later, heap_futures,
};
use overlapped::fs::{File, OpenOptions};
use overlapped::{Backend, Status};
use probe::Probe;
use support::{Dir, both, pattern, poll_once, status, until};

const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;

struct Rig {
    file: File,
    probe: Probe,
    handle: Handle,
    memory: Arc<Memory>,
}

fn write_back() -> Settings {
    Settings { size: 64 << 12, mode: Mode::WriteBack, ..Settings::default() }
}

/// A cache on 1 MiB of bytes in memory, which answer at once or not.
async fn rig(settings: Settings) -> Rig {
    let cache = Cache::new(settings).unwrap();
    let (handle, probe) = (cache.handle(), Probe::new());
    let memory = Arc::new(Memory::of_size(MIB as u64));
    let raw = raw(&memory).await;
    raw.write_all_at(pattern(MIB), 0).await.unwrap();
    let options = OpenOptions::new().read(true).write(true).filter(cache.into_driver());
    let options = options.filter(probe.driver()).filter(Arc::new(Later));
    let file = options.on(memory.clone()).open("disk").await.unwrap();
    probe.take();
    Rig { file, probe, handle, memory }
}

async fn raw(memory: &Arc<Memory>) -> File {
    OpenOptions::new().read(true).write(true).on(memory.clone()).open("raw").await.unwrap()
}

async fn bytes(file: &File, at: usize, len: usize) -> Vec<u8> {
    let ((), bytes) = file.read_exact_at(vec![0; len], at as u64).await.unwrap();
    bytes
}

impl Rig {
    /// What is below.
    async fn below(&self, at: usize, len: usize) -> Vec<u8> {
        bytes(&raw(&self.memory).await, at, len).await
    }

    fn count(&self, major: Major) -> usize {
        self.probe.count(major)
    }
}

#[test]
fn what_was_read_is_here() {
    both(async |_| {
        let rig = rig(Settings::default()).await;
        let all = pattern(MIB);
        // Past a block's end, at odd places.
        assert_eq!(bytes(&rig.file, 5000, 6000).await, all[5000..11_000]);
        let reads = rig.count(Major::Read);
        for (at, len) in [(5000, 6000), (4096, 1), (8191, 2), (4096, 8192)] {
            assert_eq!(bytes(&rig.file, at, len).await, all[at..at + len]);
        }
        assert_eq!(rig.count(Major::Read), reads, "hits");
        // The blocks beside it are missing, and are all that is read.
        rig.probe.take();
        assert_eq!(bytes(&rig.file, 0, 16_384).await, all[..16_384]);
        assert_eq!(rig.probe.take(), [(Major::Read, 0, 4096), (Major::Read, 12_288, 4096)]);
        let counts = rig.handle.counts();
        assert_eq!((counts.hits, counts.misses), (4, 2));
        // Into several buffers, and past the end.
        let buffers = vec![vec![0; 100], vec![0; 5000]];
        let (n, buffers) = rig.file.read_vectored_at(buffers, (MIB - 200) as u64).await.unwrap();
        assert_eq!((n, &buffers[0][..]), (200, &all[MIB - 200..MIB - 100]));
        assert_eq!(buffers[1][..100], all[MIB - 100..]);
        assert_eq!(rig.file.read_at(vec![0; 10], MIB as u64).await.unwrap().0, 0);
        rig.file.close().await.unwrap();
    });
}

#[test]
fn readers_of_one_block_cause_one_read() {
    both(async |_| {
        let rig = rig(Settings::default()).await;
        rig.probe.close_gate();
        let mut reads: Vec<_> =
            (0..5).map(|i| rig.file.read_at(vec![0; 100], 4096 + i * 100)).collect();
        for read in &mut reads {
            assert!(poll_once(read).is_pending());
        }
        until(|| rig.count(Major::Read) == 1).await;
        // The one that reads it is cancelled: another takes over.
        drop(reads.remove(0));
        until(|| rig.count(Major::Read) == 2).await;
        rig.probe.open_gate();
        for (i, read) in (1..).zip(reads) {
            let (n, bytes) = read.await.unwrap();
            assert_eq!((n, &bytes[..]), (100, &pattern(MIB)[4096 + i * 100..][..100]));
        }
        assert_eq!(rig.count(Major::Read), 2);
    });
}

#[test]
fn a_sequential_reader_is_read_ahead_of() {
    both(async |_| {
        let rig = rig(Settings { size: 1 << 20, ..Settings::default() }).await;
        let all = pattern(MIB);
        for at in (0..MIB / 2).step_by(BLOCK) {
            assert_eq!(bytes(&rig.file, at, BLOCK).await, all[at..at + BLOCK]);
        }
        let reads = rig.count(Major::Read);
        assert!(reads < 12, "128 blocks by {reads} reads");
        assert!(rig.handle.counts().read_ahead > 400_000);
        // One who jumps about is not.
        rig.probe.take();
        for at in [900_000, 600_000, 800_000, 700_000] {
            bytes(&rig.file, at, 10).await;
        }
        assert!(rig.probe.take().iter().all(|seen| seen.2 == BLOCK));
        // Trouble ahead is not the reader's.
        let rig = self::rig(Settings::default()).await;
        bytes(&rig.file, 0, BLOCK).await;
        rig.probe.fail(Major::Read, 1, Status::DATA_ERROR);
        bytes(&rig.file, BLOCK, BLOCK).await;
        let sizes: Vec<usize> = rig.probe.take().iter().map(|seen| seen.2).collect();
        assert_eq!(sizes, [BLOCK, 5 * BLOCK, BLOCK]);
    });
}

#[test]
fn written_through() {
    both(async |_| {
        let rig = rig(Settings::default()).await;
        bytes(&rig.file, 0, 8192).await;
        rig.file.write_all_at(vec![1; 3000], 3000).await.unwrap();
        rig.file.write_all_at(vec![2; 8192], 40_960).await.unwrap();
        assert_eq!(rig.below(3000, 3000).await, [1; 3000]);
        rig.probe.take();
        // Read from here, the changed and the new blocks.
        assert_eq!(bytes(&rig.file, 2999, 3001).await[1..], [1; 3000]);
        assert_eq!(bytes(&rig.file, 40_960, 8192).await, [2; 8192]);
        assert_eq!(rig.probe.take(), []);
        // What failed may have happened: it is read again.
        rig.probe.fail(Major::Write, 1, Status::DATA_ERROR);
        let failed = rig.file.write_at(vec![3; 10], 0).await.unwrap_err();
        assert_eq!(failed.status(), Status::DATA_ERROR);
        rig.probe.take();
        assert_eq!(bytes(&rig.file, 0, 10).await, pattern(10));
        assert_eq!(rig.count(Major::Read), 1);
        rig.file.sync_all().await.unwrap();
    });
}

#[test]
fn written_back_by_a_flush_in_this_order() {
    both(async |_| {
        let rig = rig(write_back()).await;
        for at in [50_000, 8192, 12_288, 50_500] {
            rig.file.write_all_at(vec![7; 4096], at).await.unwrap();
        }
        assert_eq!(rig.count(Major::Write), 0);
        assert_eq!(rig.below(8192, 4096).await, pattern(MIB)[8192..12_288], "not yet");
        assert_eq!(bytes(&rig.file, 8192, 8192).await, [7; 8192], "from here");
        rig.probe.take();
        rig.file.sync_all().await.unwrap();
        let mut seen = rig.probe.take();
        assert_eq!(seen.pop(), Some((Major::Flush, 0, 0)), "behind the writes");
        seen.sort_by_key(|seen| seen.1);
        // Neighbours in one.
        assert_eq!(seen, [(Major::Write, 8192, 8192), (Major::Write, 49_152, 8192)]);
        assert_eq!(rig.below(8192, 8192).await, [7; 8192]);
        let at = 49_152;
        let mut expected = pattern(MIB)[at..at + 8192].to_vec();
        expected[848..848 + 4596].fill(7);
        assert_eq!(rig.below(at, 8192).await, expected);
        // It is clean now.
        rig.file.sync_data().await.unwrap();
        assert_eq!(rig.probe.take(), [(Major::Flush, 0, 0)]);
        let counts = rig.handle.counts();
        assert_eq!((counts.writes_taken, counts.blocks_written_back), (4, 4));
    });
}

#[test]
fn a_flush_waits_for_what_others_write_back_and_not_for_what_comes_later() {
    both(async |_| {
        let rig = rig(write_back()).await;
        rig.file.write_all_at(vec![1; 10], 0).await.unwrap();
        rig.probe.close_gate();
        let mut first = rig.file.sync_all();
        assert!(poll_once(&mut first).is_pending());
        until(|| rig.count(Major::Write) == 1).await;
        // The same block, changed while it is on its way, and another flush.
        rig.file.write_all_at(vec![2; 5], 5).await.unwrap();
        assert_eq!(bytes(&rig.file, 0, 10).await, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
        let mut second = rig.file.sync_all();
        assert!(poll_once(&mut second).is_pending());
        // Of the block, one at a time.
        for _ in 0..20 {
            overlapped::yield_now().await;
        }
        assert_eq!(rig.count(Major::Write), 1);
        rig.probe.open_gate();
        first.await.unwrap();
        second.await.unwrap();
        assert_eq!(rig.below(0, 10).await, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
        let seen: Vec<_> = rig.probe.take().iter().map(|seen| seen.0).collect();
        assert_eq!(seen.last(), Some(&Major::Flush));
        assert_eq!(seen.iter().filter(|major| **major == Major::Write).count(), 2);
    });
}

#[test]
fn many_dirty_blocks_are_written_back_from_the_high_mark_to_the_low_one() {
    both(async |_| {
        let (high, low) = (Some(16 << 12), Some(4 << 12));
        let rig = rig(Settings { high, low, ..write_back() }).await;
        for block in 0..16 {
            rig.file.write_all_at(vec![block as u8; BLOCK], block * 8192).await.unwrap();
        }
        assert_eq!(rig.count(Major::Write), 0);
        rig.file.write_all_at(vec![16; BLOCK], 16 * 8192).await.unwrap();
        let written = rig.count(Major::Write);
        assert!((13..17).contains(&written), "{written}");
        for block in 0..17 {
            assert_eq!(bytes(&rig.file, block * 8192, BLOCK).await, [block as u8; BLOCK]);
        }
        rig.file.close().await.unwrap();
        assert_eq!(rig.probe.count(Major::Write), 17);
    });
}

#[test]
fn a_block_that_cannot_be_written_is_kept_and_the_next_flush_says_so() {
    both(async |_| {
        let (high, low) = (Some(4 << 12), Some(0));
        let rig = rig(Settings { high, low, ..write_back() }).await;
        rig.probe.fail(Major::Write, 1, Status::DATA_ERROR);
        for block in 0..5 {
            rig.file.write_all_at(vec![9; BLOCK], block * 8192).await.unwrap();
        }
        assert_eq!(rig.handle.counts().failed_write_backs, 1, "in the background");
        assert_eq!(status(rig.file.sync_all().await), Status::DATA_ERROR);
        rig.file.sync_all().await.unwrap();
        for block in 0..5 {
            assert_eq!(rig.below(block * 8192, BLOCK).await, [9; BLOCK]);
        }
        // A flush that is given up has told nobody.
        rig.probe.fail(Major::Write, 1, Status::DATA_ERROR);
        for block in 0..5 {
            rig.file.write_all_at(vec![8; BLOCK], block * 8192).await.unwrap();
        }
        rig.probe.close_gate();
        let mut flush = rig.file.sync_all();
        assert!(poll_once(&mut flush).is_pending());
        drop(flush);
        rig.probe.open_gate();
        until(|| rig.file.object().requests() == 0).await;
        assert_eq!(status(rig.file.sync_all().await), Status::DATA_ERROR);
        rig.file.sync_all().await.unwrap();
        // In a flush.
        rig.file.write_all_at(vec![1; BLOCK], 0).await.unwrap();
        rig.probe.fail(Major::Write, 2, Status::DISK_FULL);
        for _ in 0..2 {
            rig.probe.take();
            assert_eq!(status(rig.file.sync_all().await), Status::DISK_FULL);
            assert_eq!(rig.count(Major::Flush), 0, "a flush below would promise too much");
            assert_eq!(bytes(&rig.file, 0, BLOCK).await, [1; BLOCK]);
        }
        rig.file.sync_all().await.unwrap();
        assert_eq!(rig.below(0, BLOCK).await, [1; BLOCK]);
        // When it is closed.
        rig.file.write_all_at(vec![2; BLOCK], 0).await.unwrap();
        rig.probe.fail(Major::Write, 100, Status::DATA_ERROR);
        assert_eq!(status(rig.file.close().await), Status::DATA_ERROR);
        assert_eq!(rig.handle.counts().blocks_lost, 1);
    });
}

/// Writes that cannot be taken because nothing can be written back fail by themselves.
#[test]
fn a_full_cache_says_what_is_wrong() {
    both(async |_| {
        let rig = rig(write_back()).await;
        rig.probe.fail(Major::Write, usize::MAX, Status::DATA_ERROR);
        let mut taken = 0;
        let failed = loop {
            match rig.file.write_at(vec![5; BLOCK], taken * 8192).await {
                Ok(_) => taken += 1,
                Err(error) => break error.status(),
            }
        };
        assert_eq!((failed, taken), (Status::DATA_ERROR, 56));
        rig.probe.fail(Major::Write, 0, Status::DATA_ERROR);
        assert_eq!(status(rig.file.sync_all().await), Status::DATA_ERROR, "those before");
        rig.file.sync_all().await.unwrap();
        for block in 0..taken as usize {
            assert_eq!(rig.below(block * 8192, BLOCK).await, [5; BLOCK]);
        }
    });
}

#[test]
fn a_cancelled_flush_loses_nothing() {
    both(async |_| {
        let rig = rig(write_back()).await;
        rig.file.write_all_at(vec![3; 100_000], 1000).await.unwrap();
        rig.probe.close_gate();
        let mut flush = rig.file.sync_all();
        assert!(poll_once(&mut flush).is_pending());
        until(|| rig.count(Major::Write) == 1).await;
        drop(flush);
        let mut flush = rig.file.sync_all();
        assert!(poll_once(&mut flush).is_pending());
        rig.probe.open_gate();
        flush.await.unwrap();
        assert_eq!(rig.below(1000, 100_000).await, vec![3; 100_000]);
        assert_eq!(rig.handle.counts().failed_write_backs, 0);
    });
}

#[test]
fn a_close_writes_back_even_if_nobody_waits_for_it() {
    both(async |_| {
        for how in 0..3 {
            let Rig { file, probe, memory, .. } = rig(write_back()).await;
            file.write_all_at(vec![3; 100_000], 1000).await.unwrap();
            match how {
                0 => file.close().await.unwrap(),
                1 => drop(file),
                _ => {
                    probe.close_gate();
                    let mut close = Box::pin(file.close());
                    assert!(poll_once(&mut close).is_pending());
                    until(|| probe.count(Major::Write) > 0).await;
                    drop(close);
                    for _ in 0..50 {
                        overlapped::yield_now().await;
                    }
                    probe.open_gate();
                }
            }
            let raw = raw(&memory).await;
            while bytes(&raw, 1000, 100_000).await != vec![3; 100_000] {
                overlapped::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
    });
}

#[test]
fn large_and_lengthening_writes_go_around() {
    both(async |_| {
        let rig = rig(Settings { around: 16_384, ..write_back() }).await;
        rig.file.write_all_at(vec![1; 100], 8200).await.unwrap();
        rig.file.write_all_at(vec![2; 16_384], 8192 + 300).await.unwrap();
        assert_eq!(rig.probe.take().last(), Some(&(Major::Write, 8492, 16_384)));
        assert_eq!(bytes(&rig.file, 8200, 100).await, [1; 100]);
        assert_eq!(bytes(&rig.file, 8492, 16_384).await, [2; 16_384]);
        rig.file.sync_all().await.unwrap();
        assert_eq!(rig.below(8200, 100).await, [1; 100]);
        assert_eq!(rig.below(8492, 16_384).await, [2; 16_384]);
        // A disk's end is found at once, as without a cache.
        let end = MIB as u64;
        assert_eq!(rig.file.write_at(vec![4; 100], end - 10).await.unwrap().0, 10);
        let full = rig.file.write_at(vec![4; 100], end).await.unwrap_err();
        assert_eq!(full.status(), Status::from_errno(libc::ENOSPC));
        assert_eq!(bytes(&rig.file, MIB - 10, 10).await, [4; 10]);
    });
}

/// Each kind of open, as without a cache.
#[test]
fn files_opened_for_one_thing_or_by_appending() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.file("file", pattern(10_000));
        let cached = |options: OpenOptions| {
            let cache = Cache::new(write_back()).unwrap();
            options.filter(cache.into_driver()).open(path.clone())
        };
        let file = cached(OpenOptions::new().read(true)).await.unwrap();
        assert_eq!(bytes(&file, 9000, 1000).await, pattern(10_000)[9000..]);
        let refused = file.write_at(vec![1], 0).await.unwrap_err();
        assert_eq!(refused.status(), Status::from_errno(libc::EBADF));
        file.close().await.unwrap();

        let file = cached(OpenOptions::new().write(true)).await.unwrap();
        file.write_all_at(vec![1; 10], 5).await.unwrap();
        let refused = file.read_at(vec![1], 0).await.unwrap_err();
        assert_eq!(refused.status(), Status::from_errno(libc::EBADF));
        file.close().await.unwrap();
        assert_eq!(
            std::fs::read(&path).unwrap()[..16],
            [0, 1, 2, 3, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 15]
        );

        let file = cached(OpenOptions::new().read(true).append(true)).await.unwrap();
        assert_eq!(bytes(&file, 9000, 1000).await, pattern(10_000)[9000..]);
        file.write_all_at(vec![8; 3000], 0).await.unwrap();
        assert_eq!(bytes(&file, 10_000, 3000).await, [8; 3000]);
        assert_eq!(file.read_at(vec![0; 10], 13_000).await.unwrap().0, 0);
        file.close().await.unwrap();

        let options = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DSYNC);
        let file = cached(options).await.unwrap();
        file.write_all_at(vec![6; 10], 5).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[5..15], [6; 10]);
    });
}

#[test]
fn ranges_that_become_something_else() {
    both(async |_| {
        let dir = Dir::new();
        let (path, other) = (dir.file("file", pattern(50_000)), dir.file("other", [9; 50_000]));
        let cache = Cache::new(write_back()).unwrap();
        let options = OpenOptions::new().read(true).write(true);
        let file = options.clone().filter(cache.into_driver()).open(&path).await.unwrap();
        let mut model = pattern(50_000);
        let mut write = async |at: usize, byte: u8| {
            model[at..at + 5000].fill(byte);
            file.write_all_at(vec![byte; 5000], at as u64).await.unwrap();
            model.clone()
        };
        write(0, 1).await;
        write(10_000, 2).await;
        let mut model = write(40_000, 3).await;
        file.punch_hole(2000, 11_000).await.unwrap();
        model[2000..13_000].fill(0);
        assert_eq!(bytes(&file, 0, 50_000).await, model);
        let source = options.open(&other).await.unwrap();
        assert_eq!(source.copy_range(0, &file, 41_000, 3000).await.unwrap(), 3000);
        model[41_000..44_000].fill(9);
        assert_eq!(bytes(&file, 0, 50_000).await, model);
        // The source's own blocks would not be seen.
        file.write_all_at(vec![4; 10], 0).await.unwrap();
        model[..10].fill(4);
        assert_eq!(file.copy_range(0, &source, 0, 20).await.unwrap(), 20);
        assert_eq!(std::fs::read(&other).unwrap()[..20], model[..20]);
        file.set_len(41_500).await.unwrap();
        file.set_len(60_000).await.unwrap();
        model.truncate(41_500);
        model.resize(60_000, 0);
        assert_eq!(bytes(&file, 0, 60_000).await, model);
        assert_eq!(file.metadata().await.unwrap().len(), 60_000);
        file.close().await.unwrap();
        assert!(std::fs::read(&path).unwrap() == model);
    });
}

#[test]
fn two_opens_of_one_file_have_blocks_of_their_own() {
    both(async |_| {
        let rig = rig(write_back()).await;
        rig.file.write_all_at(vec![1; 10], 0).await.unwrap();
        let raw = raw(&rig.memory).await;
        assert_eq!(bytes(&raw, 0, 10).await, pattern(10));
        rig.file.sync_all().await.unwrap();
        assert_eq!(bytes(&raw, 0, 10).await, [1; 10]);
        raw.write_all_at(vec![2; 10], 0).await.unwrap();
        assert_eq!(bytes(&rig.file, 0, 10).await, [1; 10], "stale, as documented");
    });
}

#[test]
fn attached_and_detached() {
    both(async |_| {
        let memory = Arc::new(Memory::of_size(MIB as u64));
        let file = raw(&memory).await;
        let cache = |mode| -> Arc<dyn Driver> {
            Cache::new(Settings { mode, ..write_back() }).unwrap().into_driver()
        };
        let (through, _) = file.object().attach(Place::Top, cache(Mode::WriteThrough)).unwrap();
        file.write_all_at(vec![1; 10], 0).await.unwrap();
        assert_eq!(bytes(&file, 0, 10).await, [1; 10]);
        file.object().detach(&through).unwrap().await;
        // It has not seen how the file was opened: it takes no writes.
        let (back, _) = file.object().attach(Place::Top, cache(Mode::WriteBack)).unwrap();
        file.write_all_at(vec![2; 10], 0).await.unwrap();
        assert_eq!(bytes(&raw(&memory).await, 0, 10).await, [2; 10]);
        let refused = file.object().detach(&back).map(drop).unwrap_err();
        assert!(matches!(refused, ChangeError::Refused { status: Status::DEVICE_BUSY, .. }));
        file.close().await.unwrap();
    });
}

#[test]
fn as_text() {
    let open = async |text: &str| OpenOptions::new().read(true).write(true).open_stack(text).await;
    both(async |_: Backend| {
        let text = "cache(size=1M, mode=writeback, block=512, high=512K, low=64K, readahead=0, around=64K) | memory(size=2M)";
        let file = open(text).await.unwrap();
        file.write_all_at("kept", 100).await.unwrap();
        assert_eq!(bytes(&file, 100, 4).await, b"kept");
        assert_eq!(file.object().stack().limits().preferred, 512);
        for (parameters, words) in [
            ("size=1K", "takes at least 8 blocks"),
            ("block=1000", "takes a power of two"),
            ("mode=back", "takes writeback or writethrough"),
            ("high=8M", "seven eighths"),
            ("high=1M, low=2M", "at most the high mark"),
            ("readahead=2M", "at most 1M"),
            ("sise=1M", "no parameter 'sise'"),
        ] {
            let error = open(&format!("cache({parameters}) | memory")).await.unwrap_err();
            assert!(error.to_string().contains(words), "{parameters}: {error}");
        }
    });
}

/// What is here costs no memory: the futures fit into the request's chunk.
#[test]
fn hits_stay_out_of_the_heap() {
    support::alone("hits_stay_out_of_the_heap", |backend| {
        support::local(backend).block_on(async {
            let rig = rig(write_back()).await;
            bytes(&rig.file, 0, 20_000).await;
            rig.file.write_all_at(vec![1; 100], 5000).await.unwrap();
            let before = heap_futures();
            for _ in 0..50 {
                bytes(&rig.file, 4000, 9000).await;
                rig.file.write_all_at(vec![1; 100], 5000).await.unwrap();
            }
            assert_eq!(heap_futures(), before);
            rig.file.close().await.unwrap();
        });
    });
}

#[test]
fn it_conforms() {
    for text in [
        "cache(size=32K, mode=writeback)",
        "cache(size=8K, block=512, mode=writeback, low=0, around=2K)",
        "cache(size=64K)",
        "cache(mode=writeback) | xor(key=3) | cache(size=32K, readahead=0)",
    ] {
        let make = || Ok(text.parse::<Text>()?.build()?.filters);
        file_filters(make, 11).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}
