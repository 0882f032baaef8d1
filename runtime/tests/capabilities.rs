//! What files can do beside reading and writing, on real ones: durable writes, zeroes, and filters between.

mod support;

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use overlapped::driver::filter::cache::{Cache, Mode, Settings};
use overlapped::driver::filter::luks::{Format, Luks};
use overlapped::driver::filter::{Later, Xor};
use overlapped::driver::{Capabilities, Driver, Filter};
use overlapped::fs::{File, OpenOptions};
use overlapped::{Request, Status, operation};
use support::{Dir, both, kind, pattern, status};

fn options() -> OpenOptions {
    OpenOptions::new().read(true).write(true).create(true)
}

/// `cachestat(2)`: pages of a file that are not on the medium yet.
fn dirty_pages(path: &Path) -> u64 {
    const CACHESTAT: libc::c_long = 451;
    let file = std::fs::File::open(path).unwrap();
    // Offset and length, where 0 is all; then: cached, dirty, in writeback, evicted, recently so.
    let (range, mut found) = ([0u64; 2], [0u64; 5]);
    // SAFETY: both arrays have the layouts that the call reads and writes, and live through it.
    let done = unsafe {
        libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), found.as_mut_ptr(), 0u32)
    };
    assert_eq!(done, 0, "Linux 6.5 or later: {}", std::io::Error::last_os_error());
    found[1] + found[2]
}

/// A write that is to be durable is on the medium when it completes: no page of it is dirty.
#[test]
fn a_durable_write_is_on_the_medium() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.path("file");
        let file = options().open(&path).await.unwrap();
        file.write_all_at(pattern(10_000), 0).await.unwrap();
        assert!(
            dirty_pages(&path) > 0,
            "the test's directory is on a file system that keeps pages"
        );
        file.sync_all().await.unwrap();
        assert_eq!(dirty_pages(&path), 0);
        for (len, at) in [(10_000, 0), (1, 5), (100_000, 10_000)] {
            assert_eq!(file.write_through_at(pattern(len), at).await.unwrap().0, len);
            assert_eq!(dirty_pages(&path), 0, "{len} bytes");
        }
        // Several at once, so that none is alone on its thread.
        let many = (0..8).map(|i| file.write_through_at(pattern(4096), i * 8192));
        for written in futures_util::future::join_all(many).await {
            assert_eq!(written.unwrap().0, 4096);
        }
        assert_eq!(dirty_pages(&path), 0);
        let (_, bytes) = file.read_at(vec![0; 100_000], 10_000).await.unwrap();
        assert!(bytes[60_000..] == pattern(100_000)[60_000..]);

        let appends = OpenOptions::new().append(true).open(&path).await.unwrap();
        assert_eq!(appends.write_through_at("end", 0).await.unwrap().0, 3);
        assert_eq!(dirty_pages(&path), 0);
        assert_eq!(file.metadata().await.unwrap().len(), 110_003);
    });
}

/// Whatever filters are between: those that forward it, and one that keeps writes to itself.
#[test]
fn a_durable_write_through_filters() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.path("file");
        let settings = Settings { mode: Mode::WriteBack, ..Settings::default() };
        let cache = || Cache::new(settings.clone()).unwrap().into_driver();
        let stacks = [
            vec![Arc::new(Xor(7)) as Arc<dyn Driver>, Arc::new(Later)],
            vec![cache()],
            vec![cache(), Arc::new(Xor(9))],
        ];
        for stack in stacks {
            let with = stack.into_iter().fold(options(), OpenOptions::filter);
            let file = with.open(&path).await.unwrap();
            assert!(file.object().stack().can().has(Capabilities::WRITE_THROUGH));
            file.write_all_at(pattern(5000), 0).await.unwrap();
            file.write_through_at(pattern(3000), 5000).await.unwrap();
            file.sync_all().await.unwrap();
            file.write_through_at(pattern(3000), 2000).await.unwrap();
            assert_eq!(dirty_pages(&path), 0);
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 8000);
            file.close().await.unwrap();
            std::fs::remove_file(&path).unwrap();
        }
    });
}

async fn allocated(file: &File) -> u64 {
    file.sync_all().await.unwrap();
    file.metadata().await.unwrap().allocated()
}

/// Zeroes, and the space for them stays; on file systems that know such ranges, and one that does not.
#[test]
fn zeroes_keep_their_space() {
    both(async |_| {
        let dir = Dir::new();
        let shm = format!("/dev/shm/overlapped-zeroes-{}", std::process::id());
        for path in [dir.path("file"), shm.into()] {
            let file = options().open(&path).await.unwrap();
            file.write_all_at(vec![7; 100_000], 0).await.unwrap();
            let before = allocated(&file).await;
            file.zero_range(10, 49_990).await.unwrap();
            assert!(allocated(&file).await >= before);
            file.zero_range(90_000, 50_000).await.unwrap();
            let (n, bytes) = file.read_at(vec![1; 200_000], 0).await.unwrap();
            assert_eq!(n, 100_000, "the length stays");
            let zero = |i| (10..50_000).contains(&i) || i >= 90_000;
            assert!((0..n).all(|i| bytes[i] == if zero(i) { 0 } else { 7 }), "{path:?}");
            assert_eq!(kind(file.zero_range(0, 0).await), std::io::ErrorKind::InvalidInput);
            assert_eq!(status(file.zero_range(u64::MAX, 1).await), Status::OFFSET_OVERFLOW);
            std::fs::remove_file(&path).unwrap();
        }
    });
}

/// In memory too, and on a simulated machine.
#[test]
fn zeroes_elsewhere() {
    both(async |_| {
        let file = options().open_stack("memory").await.unwrap();
        file.write_all_at(vec![7; 100], 0).await.unwrap();
        file.zero_range(10, 1000).await.unwrap();
        let (n, bytes) = file.read_at(vec![1; 200], 0).await.unwrap();
        assert!(n == 100 && bytes[..10] == [7; 10] && bytes[10..100] == [0; 90]);
    });
    let ((), report) = overlapped::sim::Simulation::new(1).run(async {
        let file = options().open("file").await.unwrap();
        file.write_all_at(vec![7; 100], 0).await.unwrap();
        file.zero_range(10, 1000).await.unwrap();
        file.write_through_at("x", 0).await.unwrap();
        let (n, bytes) = file.read_at(vec![1; 200], 0).await.unwrap();
        assert!(n == 100 && bytes[..10] == *b"x\x07\x07\x07\x07\x07\x07\x07\x07\x07");
        assert!(bytes[10..100] == [0; 90]);
    });
    assert!(report.left.is_nothing(), "{}", report.left);
}

/// An encrypted volume has zeroes where it is zeroed, and its file has not.
#[test]
fn zeroes_are_enciphered() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.path("volume");
        let raw = options().open(&path).await.unwrap();
        Luks::format(raw.object(), "key", &Format::luks2().pbkdf2(1000)).await.unwrap();
        let file = options().filter(Luks::new("key").into_driver()).open(&path).await.unwrap();
        file.write_all_at(pattern(300_000), 0).await.unwrap();
        let header = raw.metadata().await.unwrap().len() - file.metadata().await.unwrap().len();
        let stack = file.object().stack();
        assert_eq!(stack.to_string(), "emulate | align | luks | file");
        assert!(!stack.limits().can.has(Capabilities::ZERO));
        file.zero_range(1000, 298_000).await.unwrap();
        let (_, bytes) = file.read_at(vec![1; 300_000], 0).await.unwrap();
        assert!(bytes[..1000] == pattern(1000)[..] && bytes[1000..299_000].iter().all(|b| *b == 0));
        assert!(bytes[299_000..] == pattern(300_000)[299_000..]);
        let (_, secret) = raw.read_at(vec![0; 4096], header + 8192).await.unwrap();
        assert!(secret.iter().filter(|b| **b == 0).count() < 100, "nobody sees where it is zero");
        assert_eq!(status(file.punch_hole(0, 4096).await), Status::NOT_SUPPORTED);
        file.sync_all().await.unwrap();
        file.write_through_at(pattern(100), 77).await.unwrap();
        assert_eq!(dirty_pages(&path), 0);
    });
}

/// Neither sockets nor pipes have a medium.
#[test]
fn no_medium() {
    both(async |_| {
        let (one, _other) = overlapped::net::UnixStream::pair().unwrap();
        let write = operation::Write::next("x").through();
        assert_eq!(status(Request::new(one.object(), write).await), Status::NOT_SUPPORTED);
    });
}
