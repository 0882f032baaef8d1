//! Files at their edges: direct I/O, closes, files that change meanwhile, full disks, filters,
//! and the traits of `futures`.

mod support;

use std::io::{ErrorKind, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{
    AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, AsyncWriteExt, StreamExt, future, stream,
};
use overlapped::Status;
use overlapped::buf::{AlignedBuf, IoBuf, IoBufMut};
use overlapped::driver::filter::{PassKind, Xor, pass};
use overlapped::driver::{Disposition, Driver, Irp, Lower, MAX_LOCATIONS, Major, MajorSet};
use overlapped::fs::{File, OpenOptions};
use support::{Dir, both, descriptors, kind, pattern, poll_once, status, workers};

const BLOCK: usize = 4096;

fn everything() -> OpenOptions {
    OpenOptions::new().read(true).write(true).create(true)
}

/// A file open for direct I/O, or `None` where the file system has none.
async fn direct(path: PathBuf) -> Option<File> {
    match everything().direct(true).open(path).await {
        Ok(file) => Some(file),
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            println!("skipped: the file system has no direct I/O");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn aligned(byte: u8) -> AlignedBuf {
    let mut buf = AlignedBuf::new(2 * BLOCK, BLOCK);
    buf.fill(byte);
    buf
}

#[test]
fn direct_io_with_aligned_buffers() {
    both(async |_| {
        let dir = Dir::new();
        let Some(file) = direct(dir.path("f")).await else { return };
        for (i, byte) in (0..8).zip(b'a'..) {
            let offset = i * 2 * BLOCK as u64;
            assert_eq!(file.write_at(aligned(byte), offset).await.unwrap().0, 2 * BLOCK);
        }
        let (n, buf) = file.read_at(aligned(0), BLOCK as u64).await.unwrap();
        assert_eq!(n, 2 * BLOCK);
        assert!(buf[..BLOCK].iter().all(|&b| b == b'a') && buf[BLOCK..].iter().all(|&b| b == b'b'));
        // A slice of it that is aligned too.
        let slice = aligned(0).slice_mut(BLOCK..2 * BLOCK);
        let (n, slice) = file.read_at(slice, 4 * BLOCK as u64).await.unwrap();
        assert_eq!((n, slice.into_inner()[BLOCK]), (BLOCK, b'c'));
        // At the end, short, and past it.
        let (n, buf) = file.read_at(aligned(0), 15 * BLOCK as u64).await.unwrap();
        assert_eq!((n, buf[0]), (BLOCK, b'h'));
        assert_eq!(file.read_at(aligned(0), 16 * BLOCK as u64).await.unwrap().0, 0);
        let (n, buffers) = file.read_vectored_at(vec![aligned(0), aligned(0)], 0).await.unwrap();
        assert_eq!((n, buffers[0][0], buffers[1][0]), (4 * BLOCK, b'a', b'b'));
    });
}

#[test]
fn unaligned_direct_io_says_so() {
    both(async |_| {
        let dir = Dir::new();
        let Some(file) = direct(dir.path("f")).await else { return };
        file.write_at(aligned(7), 0).await.unwrap();
        // Offset, length, memory.
        let error = file.read_at(aligned(1), 7).await.unwrap_err();
        assert_eq!(error.status(), Status::UNALIGNED);
        assert_eq!(error.into_buf()[0], 1);
        let slice = |range| aligned(1).slice_mut(range);
        assert_eq!(status(file.read_at(slice(0..100), 0).await), Status::UNALIGNED);
        assert_eq!(status(file.read_at(slice(1..BLOCK + 1), 0).await), Status::UNALIGNED);
        assert_eq!(status(file.write_at(aligned(1), 7).await), Status::UNALIGNED);
        assert_eq!(status(file.write_at(aligned(1).slice(..100), 0).await), Status::UNALIGNED);
        let parts = vec![aligned(1).slice(..100), aligned(1).slice(..50)];
        assert_eq!(status(file.write_vectored_at(parts, 0).await), Status::UNALIGNED);
        // With O_DIRECT as a custom flag too.
        let options = everything().custom_flags(libc::O_DIRECT);
        let custom = options.open(dir.path("f")).await.unwrap();
        assert_eq!(status(custom.read_at(aligned(1), 7).await), Status::UNALIGNED);
        assert_eq!(file.read_at(aligned(0), 0).await.unwrap().1[0], 7);
    });
}

#[test]
fn closing_reports_and_gives_the_descriptor_back() {
    both(async |_| {
        let dir = Dir::new();
        let file = everything().open(dir.path("f")).await.unwrap();
        file.write_at(b"x".to_vec(), 0).await.unwrap();
        file.close().await.unwrap();
    });
}

#[test]
fn closing_tells_what_the_system_says() {
    // Alone, as the number may become another test's file.
    support::alone("closing_tells_what_the_system_says", |backend| {
        support::local(backend).block_on(async {
            let dir = Dir::new();
            let file = everything().open(dir.path("f")).await.unwrap();
            // SAFETY: it is ours; the file finds it gone.
            assert_eq!(unsafe { libc::close(std::os::fd::AsRawFd::as_raw_fd(&file)) }, 0);
            assert_eq!(status(file.close().await).errno(), Some(libc::EBADF));
        });
    });
}

#[test]
fn closed_files_refuse_requests() {
    both(async |_| {
        let dir = Dir::new();
        let file = everything().open(dir.path("f")).await.unwrap();
        let late = file.read_at(Vec::with_capacity(1), 0);
        // SAFETY: nobody uses the descriptor but through the file.
        let close = unsafe { overlapped::operation::Close::new() };
        overlapped::Request::new(file.object(), close).await.unwrap();
        assert_eq!(status(late.await), Status::FILE_CLOSED);
        let error = file.write_at(b"mine".to_vec(), 0).await.unwrap_err();
        assert_eq!(error.status(), Status::FILE_CLOSED);
        assert_eq!(error.into_buf(), b"mine");
        assert_eq!(status(file.sync_all().await), Status::FILE_CLOSED);
        assert_eq!(status(file.set_len(1).await), Status::FILE_CLOSED);
        assert_eq!(status(file.metadata().await), Status::FILE_CLOSED);
        assert_eq!(status(file.read_vectored_at(vec![vec![0]], 0).await), Status::FILE_CLOSED);
        assert_eq!(status(file.close().await), Status::FILE_CLOSED);
    });
}

#[test]
fn dropping_and_closing_with_requests_in_flight() {
    support::alone("dropping_and_closing_with_requests_in_flight", |backend| {
        let runtime = support::local(backend);
        let before = descriptors();
        runtime.block_on(async {
            let dir = Dir::new();
            let path = dir.file("f", pattern(1 << 20));
            for close in [false, true] {
                for _ in 0..50 {
                    let file = everything().open(&path).await.unwrap();
                    let mut reads: Vec<_> = (0..64)
                        .map(|i| file.read_at(Vec::with_capacity(BLOCK), i * BLOCK as u64))
                        .collect();
                    reads.iter_mut().for_each(|read| drop(poll_once(read)));
                    drop(reads);
                    if close {
                        file.close().await.unwrap();
                    }
                }
            }
            support::until(|| descriptors() <= before).await;
        });
    });
}

#[test]
fn files_cut_during_reads() {
    workers(2, |_| async {
        let dir = Dir::new();
        let path = dir.path("f");
        let file = Arc::new(everything().open(&path).await.unwrap());
        let over = Arc::new(AtomicBool::new(false));
        let whole = pattern(1 << 20);
        let readers: Vec<_> = (0..4u64)
            .map(|i| {
                let (file, over, whole) = (file.clone(), over.clone(), whole.clone());
                overlapped::spawn(async move {
                    let mut buf = Vec::with_capacity(64 * 1024);
                    let mut offset = i * 64 * 1024;
                    while !over.load(Ordering::Relaxed) {
                        let n;
                        (n, buf) = file.read_at(buf, offset).await.unwrap();
                        assert_eq!(buf.len(), n);
                        let expected = &whole[offset as usize..offset as usize + n];
                        // A file that grows has zeroes until they are written over.
                        assert!(buf.iter().zip(expected).all(|(&b, &e)| b == e || b == 0));
                        offset = (offset + 64 * 1024) % (1 << 20);
                    }
                })
            })
            .collect();
        for _ in 0..30 {
            file.write_all_at(whole.clone(), 0).await.unwrap();
            file.set_len(100).await.unwrap();
        }
        over.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.await.unwrap();
        }
    });
}

#[test]
fn full_disks_say_so() {
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
            let path = mount.join("f");
            let file = everything().open(&path).await.unwrap();
            let error = file.write_all_at(pattern(2 << 20), 0).await.unwrap_err();
            assert_eq!(error.status().errno(), Some(libc::ENOSPC));
            assert_eq!(error.buf().len(), 2 << 20);
            assert_eq!(kind::<()>(Err(error)), ErrorKind::StorageFull);
            // What fitted is there, and the file works on.
            let len = file.metadata().await.unwrap().len();
            assert!(len <= 1 << 20);
            let (_, buf) = file.read_at(Vec::with_capacity(1000), 0).await.unwrap();
            assert_eq!(buf, pattern(1000));
            file.set_len(0).await.unwrap();
            file.write_all_at(pattern(1000), 0).await.unwrap();
            let copied = overlapped::fs::copy("/proc/self/exe", mount.join("copy")).await;
            assert_eq!(kind(copied), ErrorKind::StorageFull);
            file.close().await.unwrap();
            std::fs::remove_file(mount.join("copy")).unwrap();
            std::fs::remove_file(&path).unwrap();
        });
    });
    // SAFETY: a C string.
    unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    tested.unwrap();
}

#[test]
fn filters_on_files() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.path("f");
        let options = everything().filter(pass(PassKind::Routine)).filter(Arc::new(Xor(0x5a)));
        let options = options.filter(pass(PassKind::Skip)).filter(pass(PassKind::Unhooked));
        let options = options.filter(pass(PassKind::Future));
        let file = options.clone().open(&path).await.unwrap();
        file.write_all_at(pattern(100_000), 0).await.unwrap();
        file.write_vectored_at(vec![vec![1; 3], vec![2; 3]], 100_000).await.unwrap();
        let raw = std::fs::read(&path).unwrap();
        assert!(raw[..100_000].iter().zip(pattern(100_000)).all(|(r, p)| *r == p ^ 0x5a));
        let (n, buf) = file.read_at(Vec::with_capacity(200_000), 0).await.unwrap();
        assert_eq!((n, &buf[100_000..]), (100_006, &[1, 1, 1, 2, 2, 2][..]));
        assert!(buf[..100_000] == pattern(100_000));
        let room = vec![Vec::with_capacity(2), Vec::with_capacity(9)];
        let (n, room) = file.read_vectored_at(room, 100_001).await.unwrap();
        assert_eq!((n, &room[0][..], &room[1][..]), (5, &[1, 1][..], &[2, 2, 2][..]));
        file.sync_all().await.unwrap();
        assert_eq!(
            file.object().stack().to_string(),
            "pass | emulate | xor | pass | pass | pass | file"
        );
    });
}

#[test]
fn stacks_as_deep_as_allowed_and_deeper() {
    both(async |_| {
        let dir = Dir::new();
        let deep = |n: usize| (0..n).fold(everything(), |o, _| o.filter(pass(PassKind::Routine)));
        const { assert!(MAX_LOCATIONS >= 64) };
        let file = deep(MAX_LOCATIONS - 1).open(dir.path("f")).await.unwrap();
        file.write_at(b"through".to_vec(), 0).await.unwrap();
        assert_eq!(file.read_at(Vec::with_capacity(9), 0).await.unwrap().1, b"through");
        let error = deep(MAX_LOCATIONS).open(dir.path("g")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("deeper than the limit"), "{error}");
        assert!(!dir.path("g").exists());
    });
}

#[test]
fn many_requests_at_once() {
    both(async |_| {
        let dir = Dir::new();
        let file = everything().open(dir.file("f", pattern(1 << 20))).await.unwrap();
        let reads = (0..3000u64).map(|i| {
            let file = &file;
            async move {
                let offset = i * 331 % ((1 << 20) - 1000);
                let (n, buf) = file.read_at(Vec::with_capacity(1000), offset).await.unwrap();
                assert_eq!((n, buf), (1000, pattern(1 << 20)[offset as usize..][..1000].to_vec()));
            }
        });
        // `pattern` of the whole is dear: a few are compared.
        let reads: Vec<_> = reads.step_by(100).collect();
        future::join_all(reads).await;
        let writes = stream::iter(0..5000u64)
            .map(|i| file.write_at(i.to_le_bytes().to_vec(), i * 8))
            .buffer_unordered(512);
        assert_eq!(writes.filter(|w| future::ready(w.is_ok())).count().await, 5000);
        let (_, all) = file.read_at(Vec::with_capacity(40_000), 0).await.unwrap();
        for (i, bytes) in all.chunks(8).enumerate() {
            assert_eq!(bytes, (i as u64).to_le_bytes());
        }
    });
}

#[test]
fn the_traits_of_futures() {
    both(async |_| {
        let dir = Dir::new();
        let file = everything().open(dir.path("f")).await.unwrap();
        let mut io = file.cursor(0).compat();
        io.write_all(&pattern(300_000)).await.unwrap();
        io.write_all(b"line one\nline two\n").await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(io.seek(SeekFrom::End(-18)).await.unwrap(), 300_000);
        let mut line = String::new();
        assert_eq!(io.read_line(&mut line).await.unwrap(), 9);
        assert_eq!(line, "line one\n");
        // Reading ahead does not move what is written next.
        io.write_all(b"LINE").await.unwrap();
        assert_eq!(io.seek(SeekFrom::Current(0)).await.unwrap(), 300_013);
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b" two\n");
        io.seek(SeekFrom::Start(0)).await.unwrap();
        rest.clear();
        io.read_to_end(&mut rest).await.unwrap();
        assert!(rest[..300_000] == pattern(300_000) && rest.ends_with(b"one\nLINE two\n"));
        assert_eq!(kind(io.seek(SeekFrom::Start(1 << 63)).await), ErrorKind::InvalidInput);
        io.close().await.unwrap();
        // An error of a write is told by the next call.
        let mut io = File::open(dir.path("f")).await.unwrap().cursor(0).compat();
        let written = io.write_all(b"x").await;
        assert!(written.is_err() || io.flush().await.is_err());
    });
}

/// Writes down what comes down to it.
#[derive(Default)]
struct Ends(Mutex<Vec<Major>>);

impl Driver for Ends {
    fn name(&self) -> &str {
        "ends"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Cleanup, Major::Close])
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        self.0.lock().unwrap().push(irp.major());
        lower.skip(irp)
    }
}

/// cleanup comes once, and before the close, however the file ends.
#[test]
fn x33_cleanup_before_each_close() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.file("f", "x");
        let both = [Major::Cleanup, Major::Close];
        let open = async |ends: &Arc<Ends>| {
            let options = OpenOptions::new().read(true).filter(ends.clone());
            options.open(&path).await.unwrap()
        };
        let ends = Arc::<Ends>::default();
        open(&ends).await.close().await.unwrap();
        assert_eq!(*ends.0.lock().unwrap(), both, "closed");
        let ends = Arc::<Ends>::default();
        let file = open(&ends).await;
        let other = file.object().handle();
        file.close().await.unwrap();
        drop(other);
        overlapped::yield_now().await;
        assert_eq!(*ends.0.lock().unwrap(), both, "closed while there is another handle");
        let ends = Arc::<Ends>::default();
        drop(open(&ends).await);
        support::until(|| ends.0.lock().unwrap().len() == 2).await;
        assert_eq!(*ends.0.lock().unwrap(), both, "dropped");
    });
}
