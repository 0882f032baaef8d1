//! A file's space and ranges: reserving, holes, advice, copies; and files without a name.

mod support;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future;
use overlapped::driver::filter::Xor;
use overlapped::driver::{
    Class, Completion, Disposition, Driver, Irp, Lower, Major, MajorSet, On, Unwinding, minor,
};
use overlapped::fs::{self, Advice, File, OpenOptions};
use overlapped::operation::CopyRange;
use overlapped::{Request, Status};
use support::{Dir, both, kind, pattern, poll_once, status, until, workers};

const MIB: u64 = 1 << 20;

fn everything() -> OpenOptions {
    OpenOptions::new().read(true).write(true).create(true)
}

async fn with_bytes(path: PathBuf, bytes: Vec<u8>) -> File {
    let file = everything().open(path).await.unwrap();
    file.write_all_at(bytes, 0).await.unwrap();
    file
}

async fn contents(file: &File) -> Vec<u8> {
    let len = file.metadata().await.unwrap().len() as usize;
    file.read_exact_at(Vec::with_capacity(len), 0).await.unwrap().1
}

/// A directory in memory, where files have holes too; removed at the end.
struct Memory(PathBuf);

impl Memory {
    fn new(name: &str) -> Option<Memory> {
        let path = PathBuf::from(format!("/dev/shm/overlapped-{name}-{}", std::process::id()));
        let made = std::fs::create_dir(&path);
        made.inspect_err(|error| println!("skipped: no file system in memory: {error}")).ok()?;
        Some(Memory(path))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn space_is_reserved_and_given_back() {
    let memory = Memory::new("space");
    both(async |_| {
        let dir = Dir::new();
        let places = [Some(dir.path("")), memory.as_ref().map(|m| m.0.clone())];
        for place in places.into_iter().flatten() {
            let file = fs::tempfile_in(&place).await.unwrap();
            file.allocate(0, 2 * MIB).await.unwrap();
            let metadata = file.metadata().await.unwrap();
            assert!(metadata.len() == 0 && metadata.allocated() >= 2 * MIB, "{metadata:?}");
            // What is there stays.
            file.write_all_at(pattern(1 << 20), 0).await.unwrap();
            file.allocate(0, MIB).await.unwrap();
            assert!(contents(&file).await == pattern(1 << 20));

            let before = file.metadata().await.unwrap().allocated();
            file.punch_hole(100, MIB / 2).await.unwrap();
            let metadata = file.metadata().await.unwrap();
            assert_eq!(metadata.len(), MIB);
            assert!(before - metadata.allocated() >= MIB / 2 - 2 * 4096, "{before}, {metadata:?}");
            let mut expected = pattern(1 << 20);
            expected[100..100 + (1 << 19)].fill(0);
            assert!(contents(&file).await == expected);
            // Behind the end: nothing to see, and no longer file.
            file.punch_hole(MIB / 2, 8 * MIB).await.unwrap();
            assert_eq!(file.metadata().await.unwrap().len(), MIB);
            expected[1 << 19..].fill(0);
            assert!(contents(&file).await == expected);
        }
    });
}

#[test]
fn ranges_that_cannot_be() {
    both(async |_| {
        let dir = Dir::new();
        let file = with_bytes(dir.path("f"), pattern(5000)).await;
        assert_eq!(kind(file.allocate(0, 0).await), ErrorKind::InvalidInput);
        assert_eq!(kind(file.punch_hole(9, 0).await), ErrorKind::InvalidInput);
        let max = i64::MAX as u64;
        for (offset, len) in [(max, 1), (1, max), (u64::MAX, 1), (u64::MAX, u64::MAX), (0, 1 << 63)]
        {
            let overflow = Status::OFFSET_OVERFLOW;
            assert_eq!(status(file.allocate(offset, len).await), overflow);
            assert_eq!(status(file.punch_hole(offset, len).await), overflow);
            assert_eq!(status(file.advise(offset, len, Advice::Normal).await), overflow);
        }
        // Larger than any file. (Less would fill the disk before it fails.)
        assert_eq!(kind(file.allocate(0, max).await), ErrorKind::FileTooLarge);
        assert_eq!(contents(&file).await, pattern(5000));
        // Not for writing; no file; closed.
        let reader = File::open(dir.path("f")).await.unwrap();
        assert_eq!(status(reader.allocate(0, 1).await).errno(), Some(libc::EBADF));
        assert_eq!(status(reader.punch_hole(0, 1).await).errno(), Some(libc::EBADF));
        let directory = File::open(dir.path("")).await.unwrap();
        assert!(directory.allocate(0, 1).await.is_err());
        let closed = everything().open(dir.path("f")).await.unwrap();
        let requests = (closed.allocate(0, 1), closed.advise(0, 1, Advice::Random));
        // SAFETY: nobody uses the descriptor but through the file.
        let close = unsafe { overlapped::operation::Close::new() };
        Request::new(closed.object(), close).await.unwrap();
        assert_eq!(status(requests.0.await), Status::FILE_CLOSED);
        assert_eq!(status(requests.1.await), Status::FILE_CLOSED);
        assert_eq!(status(closed.hard_link(dir.path("g")).await), Status::FILE_CLOSED);
        let copied = Request::new(file.object(), CopyRange::new(closed.object(), 0, 0, 1)).await;
        assert_eq!(status(copied), Status::FILE_CLOSED);
        let copied = Request::new(closed.object(), CopyRange::new(file.object(), 0, 0, 1)).await;
        assert_eq!(status(copied), Status::FILE_CLOSED);
    });
}

#[test]
fn a_full_file_system() {
    let dir = Dir::new();
    let mount = dir.path("small");
    std::fs::create_dir(&mount).unwrap();
    let target = std::ffi::CString::new(mount.to_str().unwrap()).unwrap();
    // SAFETY: all are C strings.
    let mounted = unsafe {
        let options = c"size=1m".as_ptr().cast();
        libc::mount(c"none".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), 0, options)
    };
    if mounted != 0 {
        println!("skipped: no tmpfs can be mounted: {}", std::io::Error::last_os_error());
        return;
    }
    let tested = std::panic::catch_unwind(|| {
        both(async |_| {
            let file = fs::tempfile_in(&mount).await.unwrap();
            assert_eq!(kind(file.allocate(0, 2 * MIB).await), ErrorKind::StorageFull);
            file.allocate(0, MIB / 2).await.unwrap();
            // What was reserved can be written, though others take the rest.
            let greedy = fs::tempfile_in(&mount).await.unwrap();
            let source = fs::tempfile_in(dir.path("")).await.unwrap();
            source.write_all_at(pattern(2 << 20), 0).await.unwrap();
            let copied = source.copy_range(0, &greedy, 0, 2 * MIB).await;
            assert_eq!(kind(copied), ErrorKind::StorageFull);
            file.write_all_at(pattern(1 << 19), 0).await.unwrap();
            assert!(contents(&file).await == pattern(1 << 19));
            // A hole makes room.
            file.punch_hole(0, MIB / 2).await.unwrap();
            let all = greedy.metadata().await.unwrap().len();
            greedy.write_all_at(pattern(1 << 18), all).await.unwrap();
        });
    });
    // SAFETY: a C string.
    unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    tested.unwrap();
}

#[test]
fn a_file_system_without_space() {
    both(async |_| {
        // procfs keeps no data.
        let file = OpenOptions::new().write(true).open("/proc/self/comm").await.unwrap();
        for error in [file.allocate(0, 4096).await, file.punch_hole(0, 4096).await] {
            let errno = status(error).errno();
            assert!(matches!(errno, Some(libc::EOPNOTSUPP | libc::ENODEV)), "{errno:?}");
        }
        let temporary = fs::tempfile_in("/proc").await;
        assert_eq!(status(temporary).errno(), Some(libc::EOPNOTSUPP));
    });
}

#[test]
fn advice_is_taken_and_changes_nothing() {
    both(async |_| {
        let dir = Dir::new();
        let file = with_bytes(dir.path("f"), pattern(100_000)).await;
        file.sync_all().await.unwrap();
        use Advice::*;
        for advice in [Sequential, Random, WillNeed, DontNeed, NoReuse, Normal] {
            file.advise(0, 0, advice).await.unwrap();
            file.advise(4096, 9000, advice).await.unwrap();
            // More than a ring's entry has room for; behind the end.
            file.advise(0, 1 << 40, advice).await.unwrap();
            file.advise(1 << 40, 1, advice).await.unwrap();
            assert!(contents(&file).await == pattern(100_000), "{advice:?}");
        }
        let name = std::ffi::CString::new(dir.path("pipe").to_str().unwrap()).unwrap();
        // SAFETY: a C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let pipe = everything().open(dir.path("pipe")).await.unwrap();
        assert_eq!(kind(pipe.advise(0, 1, Normal).await), ErrorKind::NotSeekable);
    });
}

#[test]
fn ranges_are_copied() {
    both(async |_| {
        let dir = Dir::new();
        let whole = pattern(300_000);
        let from = with_bytes(dir.path("from"), whole.clone()).await;
        let to = everything().open(dir.path("to")).await.unwrap();
        assert_eq!(from.copy_range(1000, &to, 7, 200_000).await.unwrap(), 200_000);
        let (copy, zeroes) = (contents(&to).await, vec![0; 7]);
        assert!(copy[..7] == zeroes && copy[7..] == whole[1000..201_000]);
        // As far as it goes; nothing; behind the end.
        assert_eq!(from.copy_range(299_990, &to, 0, u64::MAX).await.unwrap(), 10);
        assert_eq!(contents(&to).await[..10], whole[299_990..]);
        assert_eq!(from.copy_range(0, &to, 0, 0).await.unwrap(), 0);
        assert_eq!(from.copy_range(300_000, &to, 0, 9).await.unwrap(), 0);
        assert_eq!(from.copy_range(1 << 40, &to, 0, 9).await.unwrap(), 0);
        assert_eq!(to.metadata().await.unwrap().len(), 200_007);
        // Inside one file.
        assert_eq!(from.copy_range(0, &from, 200_000, 100_000).await.unwrap(), 100_000);
        assert!(contents(&from).await[200_000..] == whole[..100_000]);
        for (offset, target) in [(0, 1), (1, 0), (5000, 5000), (0, 99_999)] {
            let overlaps = from.copy_range(offset, &from, target, 100_000).await;
            assert_eq!(kind(overlaps), ErrorKind::InvalidInput, "{offset} {target}");
        }
        // Overflows, and accesses that were not asked for.
        let overflow = Status::OFFSET_OVERFLOW;
        assert_eq!(status(from.copy_range(u64::MAX, &to, 0, 9).await), overflow);
        assert_eq!(status(from.copy_range(0, &to, u64::MAX, 9).await), overflow);
        let reader = File::open(dir.path("to")).await.unwrap();
        assert_eq!(status(from.copy_range(0, &reader, 0, 9).await).errno(), Some(libc::EBADF));
        let writer = OpenOptions::new().write(true).open(dir.path("from")).await.unwrap();
        assert_eq!(status(writer.copy_range(0, &to, 0, 9).await).errno(), Some(libc::EBADF));
        let append = OpenOptions::new().append(true).open(dir.path("to")).await.unwrap();
        assert_eq!(kind(from.copy_range(0, &append, 0, 9).await), ErrorKind::InvalidInput);
        let directory = File::open(dir.path("")).await.unwrap();
        assert!(directory.copy_range(0, &to, 0, 9).await.is_err());
    });
}

#[test]
fn long_copies_go_in_several_steps() {
    both(async |_| {
        let dir = Dir::new();
        let (from, to) = (fs::tempfile_in(dir.path("")).await.unwrap(), dir.path("to"));
        let to = everything().open(to).await.unwrap();
        // Across the step of 64 MiB, with a hole between.
        let at = (64 * MIB) - 5000;
        from.write_all_at(pattern(10_000), 0).await.unwrap();
        from.write_all_at(pattern(10_000), at).await.unwrap();
        assert_eq!(from.copy_range(0, &to, 3, u64::MAX).await.unwrap(), at + 10_000);
        assert_eq!(to.metadata().await.unwrap().len(), at + 10_003);
        for offset in [3, at + 3] {
            let (_, bytes) = to.read_exact_at(Vec::with_capacity(10_000), offset).await.unwrap();
            assert!(bytes == pattern(10_000));
        }
        let (_, zeroes) = to.read_exact_at(Vec::with_capacity(9000), at - 9000).await.unwrap();
        assert!(zeroes.iter().all(|&byte| byte == 0));
    });
}

#[test]
fn what_the_system_does_not_copy_is_copied_all_the_same() {
    let memory = Memory::new("copy");
    both(async |_| {
        let dir = Dir::new();
        let to = everything().open(dir.path("to")).await.unwrap();
        // Files whose length the system does not know.
        let from = File::open("/proc/self/cmdline").await.unwrap();
        let expected = std::fs::read("/proc/self/cmdline").unwrap();
        let len = expected.len() as u64;
        assert_eq!(from.copy_range(0, &to, 0, MIB).await.unwrap(), len);
        assert_eq!(from.copy_range(0, &to, len, 3).await.unwrap(), 3);
        assert_eq!(contents(&to).await, [&expected[..], &expected[..3]].concat());
        // Between file systems.
        let Some(memory) = &memory else { return };
        let there = everything().truncate(true).open(memory.0.join("f")).await.unwrap();
        let from = with_bytes(dir.path("from"), pattern(500_000)).await;
        assert_eq!(from.copy_range(1, &there, 0, 400_000).await.unwrap(), 400_000);
        assert!(contents(&there).await == pattern(500_000)[1..400_001]);
        assert_eq!(there.copy_range(0, &from, 0, MIB).await.unwrap(), 400_000);
        assert!(contents(&from).await[..400_000] == pattern(500_000)[1..400_001]);
    });
}

/// Notes what passes; of the class given.
struct Watch {
    class: Class,
    hooks: MajorSet,
    seen: std::sync::Mutex<Vec<(Major, u8, u64)>>,
}

impl Watch {
    fn new(class: Class, majors: &[Major]) -> Arc<Watch> {
        Arc::new(Watch { class, hooks: MajorSet::of(majors), seen: Default::default() })
    }
}

impl Driver for Watch {
    fn name(&self) -> &str {
        "watch"
    }
    fn class(&self) -> Class {
        self.class
    }
    fn hooks(&self) -> MajorSet {
        self.hooks
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        lower.forward(irp, On::ALL)
    }
    fn completed(&self, irp: Unwinding<'_>) -> Completion {
        self.seen.lock().unwrap().push((irp.major(), irp.minor(), irp.offset()));
        irp.proceed()
    }
}

/// A filter that transforms data is not passed by.
#[test]
fn transforming_filters_refuse_holes_and_see_copies() {
    both(async |_| {
        let dir = Dir::new();
        let xor = |name: &str, key| everything().filter(Arc::new(Xor(key))).open(dir.path(name));
        let (plain, secret) = (with_bytes(dir.path("p"), pattern(70_000)).await, xor("s", 9).await);
        let secret = secret.unwrap();
        // Into it, out of it, from one to another, inside it.
        assert_eq!(plain.copy_range(0, &secret, 5, 70_000).await.unwrap(), 70_000);
        assert!(contents(&secret).await[5..] == pattern(70_000));
        let raw = std::fs::read(dir.path("s")).unwrap();
        assert!(raw[5..].iter().zip(pattern(70_000)).all(|(raw, plain)| *raw == plain ^ 9));
        let back = everything().open(dir.path("b")).await.unwrap();
        assert_eq!(secret.copy_range(5, &back, 0, MIB).await.unwrap(), 70_000);
        assert!(contents(&back).await == pattern(70_000));
        let other = xor("o", 77).await.unwrap();
        assert_eq!(secret.copy_range(5, &other, 0, MIB).await.unwrap(), 70_000);
        assert!(contents(&other).await == pattern(70_000));
        assert_eq!(secret.copy_range(5, &secret, 70_005, 70_000).await.unwrap(), 70_000);
        assert!(contents(&secret).await[70_005..] == pattern(70_000));
        assert_eq!(kind(secret.copy_range(0, &secret, 9, 100).await), ErrorKind::InvalidInput);

        assert_eq!(status(secret.punch_hole(0, 9).await), Status::NOT_SUPPORTED);
        let request = CopyRange::new(plain.object(), 0, 0, 9);
        assert_eq!(status(Request::new(secret.object(), request).await), Status::NOT_SUPPORTED);
        let request = CopyRange::new(secret.object(), 0, 0, 9);
        assert_eq!(status(Request::new(plain.object(), request).await), Status::NOT_SUPPORTED);
        // These change no data.
        secret.allocate(0, MIB).await.unwrap();
        secret.advise(0, 0, Advice::Random).await.unwrap();

        // One that knows about them sees them, with their place.
        let knows = Watch::new(Class::Transform, &[Major::FileSystemControl]);
        let known = everything().filter(knows.clone()).open(dir.path("k")).await.unwrap();
        known.punch_hole(4096, 9).await.unwrap();
        let request = CopyRange::new(plain.object(), 0, 8192, 100);
        assert_eq!(Request::new(known.object(), request).await.unwrap(), 100);
        let seen = std::mem::take(&mut *knows.seen.lock().unwrap());
        let major = Major::FileSystemControl;
        assert_eq!(seen, [(major, minor::ZERO_DATA, 4096), (major, minor::COPY_RANGE, 8192)]);
        // One that only looks does not keep the system from copying.
        let looks = Watch::new(Class::Observe, &[Major::Read, Major::Write]);
        let looked = everything().filter(looks.clone()).open(dir.path("l")).await.unwrap();
        assert_eq!(plain.copy_range(0, &looked, 0, 9).await.unwrap(), 9);
        assert_eq!(looks.seen.lock().unwrap()[..], []);
    });
}

/// a source that is closed while it is copied from stays open until the copy has ended.
#[test]
fn sources_closed_during_copies() {
    workers(2, |_| async {
        let dir = Dir::new();
        let to = Arc::new(everything().open(dir.path("to")).await.unwrap());
        for round in 0..30 {
            let from = with_bytes(dir.path("from"), pattern(2 << 20)).await;
            let copy = Request::new(to.object(), CopyRange::new(from.object(), 0, 0, 2 * MIB));
            let task = {
                let to = to.clone();
                let copy = CopyRange::new(from.object(), 0, 0, 2 * MIB);
                overlapped::spawn(async move { Request::new(to.object(), copy).await })
            };
            let closing = async move {
                if round % 2 == 0 {
                    overlapped::yield_now().await;
                }
                // The number goes to other files at once, if it is free.
                from.close().await
            };
            let (copied, closed) = future::join(copy, closing).await;
            for copied in [copied, task.await.unwrap()] {
                match copied {
                    Ok(n) => assert!(n > 0 && n <= 2 * MIB),
                    Err(error) => assert_eq!(Status::from(error), Status::FILE_CLOSED),
                }
            }
            closed.unwrap();
            let bytes = contents(&to).await;
            assert!(bytes == pattern(2 << 20)[..bytes.len()]);
        }
    });
}

#[test]
fn files_without_names() {
    both(async |_| {
        let dir = Dir::new();
        let count = |path: &Path| std::fs::read_dir(path).unwrap().count();
        let file = fs::tempfile_in(dir.path("")).await.unwrap();
        assert_eq!((count(&dir.path("")), file.metadata().await.unwrap().links()), (0, 0));
        assert_eq!(file.metadata().await.unwrap().mode() & 0o777, 0o600);
        file.write_all_at(pattern(10_000), 0).await.unwrap();
        assert!(contents(&file).await == pattern(10_000));
        // It appears whole, as often as wanted, where there is nothing yet.
        let occupied = dir.file("occupied", "mine");
        assert_eq!(kind(file.hard_link(&occupied).await), ErrorKind::AlreadyExists);
        assert_eq!(kind(file.hard_link(dir.path("no/f")).await), ErrorKind::NotFound);
        for name in ["one", "two"] {
            file.hard_link(dir.path(name)).await.unwrap();
            assert!(fs::read(dir.path(name)).await.unwrap() == pattern(10_000));
        }
        assert_eq!(file.metadata().await.unwrap().links(), 2);
        file.close().await.unwrap();
        assert_eq!(fs::read_to_string(&occupied).await.unwrap(), "mine");
        // One that has a name gets another.
        let file = File::open(dir.path("one")).await.unwrap();
        file.hard_link(dir.path("three")).await.unwrap();
        assert_eq!(fs::metadata(dir.path("two")).await.unwrap().links(), 3);
        // Without one it goes.
        drop(fs::tempfile_in(dir.path("")).await.unwrap());
        fs::tempfile_in(dir.path("")).await.unwrap().close().await.unwrap();
        assert_eq!(count(&dir.path("")), 4);
        assert_eq!(kind(fs::tempfile_in(dir.path("one")).await), ErrorKind::NotADirectory);
        assert_eq!(kind(fs::tempfile_in(dir.path("no")).await), ErrorKind::NotFound);
        let here = fs::tempfile().await.unwrap();
        here.write_all_at("x", 0).await.unwrap();
    });
}

#[test]
fn dropped_operations_on_ranges() {
    support::alone("dropped_operations_on_ranges", |backend| {
        support::local(backend).block_on(async {
            let dir = Dir::new();
            let from = with_bytes(dir.path("from"), pattern(1 << 20)).await;
            let to = everything().open(dir.path("to")).await.unwrap();
            let before = support::descriptors();
            for round in 0..200u64 {
                let target = fs::tempfile_in(dir.path("")).await.unwrap();
                macro_rules! dropped {
                    ($($request:expr),* $(,)?) => {$({
                        let mut request = $request;
                        let _ = poll_once(&mut request);
                        if round % 3 == 0 {
                            overlapped::yield_now().await;
                        }
                        drop(request);
                    })*};
                }
                dropped!(
                    to.allocate(round * 4096, 4096),
                    to.punch_hole(round * 4096, 8192),
                    to.advise(0, 0, Advice::DontNeed),
                    Request::new(target.object(), CopyRange::new(from.object(), 0, 0, MIB)),
                    Box::pin(from.copy_range(0, &target, 0, MIB)),
                    target.hard_link(dir.path(&format!("name-{round}"))),
                );
            }
            until(|| support::descriptors() <= before).await;
            // The source was kept from closing only as long as it was needed.
            from.close().await.unwrap();
            assert!(fs::read(dir.path("from")).await.unwrap() == pattern(1 << 20));
        });
    });
}
