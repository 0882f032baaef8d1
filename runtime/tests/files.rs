//! Files: every function of `overlapped::fs` where all goes well, and the plain errors.

mod support;

use std::io::{ErrorKind, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use overlapped::Status;
use overlapped::buf::IoBufMut;
use overlapped::fs::{self, File, OpenOptions};
use support::{Dir, both, kind, pattern, status};

#[test]
fn reads_and_writes_at_offsets() {
    both(async |_| {
        let dir = Dir::new();
        let options = OpenOptions::new().read(true).write(true).create(true);
        let file = options.open(dir.path("f")).await.unwrap();
        assert_eq!(file.write_at(b"hello world".to_vec(), 0).await.unwrap().0, 11);
        assert_eq!(file.write_at(&b"W"[..], 6).await.unwrap().0, 1);
        // A hole.
        assert_eq!(file.write_at(Box::<[u8]>::from(&b"!"[..]), 20).await.unwrap().0, 1);
        let (n, buf) = file.read_at(Vec::with_capacity(64), 0).await.unwrap();
        assert_eq!((n, &buf[..]), (21, &b"hello World\0\0\0\0\0\0\0\0\0!"[..]));
        let (n, buf) = file.read_at(vec![0; 5].into_boxed_slice(), 6).await.unwrap();
        assert_eq!((n, &buf[..]), (5, &b"World"[..]));
        // A slice of a buffer: only the slice is filled.
        let (n, slice) = file.read_at(vec![b'.'; 6].slice_mut(1..3), 0).await.unwrap();
        assert_eq!((n, &slice.into_inner()[..3]), (2, &b".he"[..]));
    });
}

#[test]
fn reads_past_the_end_yield_nothing() {
    both(async |_| {
        let dir = Dir::new();
        let file = File::open(dir.file("f", "12345")).await.unwrap();
        for offset in [5, 6, 1 << 20, (1 << 62) - 64] {
            let (n, buf) = file.read_at(Vec::with_capacity(64), offset).await.unwrap();
            assert_eq!((n, buf.len()), (0, 0));
        }
        let (n, buf) = file.read_at(Vec::with_capacity(64), 3).await.unwrap();
        assert_eq!((n, &buf[..]), (2, &b"45"[..]));
        let error = file.read_exact_at(Vec::with_capacity(4), 3).await.unwrap_err();
        assert_eq!(error.status(), Status::END_OF_FILE);
        assert_eq!(kind::<()>(Err(error)), ErrorKind::UnexpectedEof);
        let error = file.read_exact_at(Vec::with_capacity(4), 5).await.unwrap_err();
        assert_eq!(error.status(), Status::END_OF_FILE);
        let ((), buf) = file.read_exact_at(Vec::with_capacity(2), 3).await.unwrap();
        assert_eq!(buf, b"45");
    });
}

#[test]
fn empty_buffers_are_no_errors() {
    both(async |_| {
        let dir = Dir::new();
        let options = OpenOptions::new().read(true).write(true);
        let file = options.open(dir.file("f", "12345")).await.unwrap();
        assert_eq!(file.read_at(Vec::new(), 0).await.unwrap().0, 0);
        assert_eq!(file.write_at(Vec::new(), 0).await.unwrap().0, 0);
        file.read_exact_at(Vec::new(), 9).await.unwrap();
        file.write_all_at(Vec::new(), 9).await.unwrap();
        assert_eq!(file.read_vectored_at(Vec::<Vec<u8>>::new(), 0).await.unwrap().0, 0);
        assert_eq!(file.write_vectored_at(Vec::<Vec<u8>>::new(), 0).await.unwrap().0, 0);
        let empty = vec![Vec::new(), Vec::with_capacity(2), Vec::new()];
        let (n, buffers) = file.read_vectored_at(empty, 1).await.unwrap();
        assert_eq!((n, &buffers[1][..]), (2, &b"23"[..]));
        assert_eq!(file.metadata().await.unwrap().len(), 5);
    });
}

#[test]
fn offsets_that_overflow_are_refused_with_the_buffer() {
    both(async |_| {
        let dir = Dir::new();
        let options = OpenOptions::new().read(true).write(true);
        let file = options.open(dir.file("f", "12345")).await.unwrap();
        for offset in [i64::MAX as u64, i64::MAX as u64 - 2, 1 << 63, u64::MAX - 1] {
            let error = file.read_at(vec![7; 3].into_boxed_slice(), offset).await.unwrap_err();
            assert_eq!(error.status(), Status::OFFSET_OVERFLOW);
            assert_eq!(&error.into_buf()[..], [7; 3]);
            let error = file.write_at(vec![7; 3], offset).await.unwrap_err();
            assert_eq!(error.status(), Status::OFFSET_OVERFLOW);
            assert_eq!(error.into_buf(), [7; 3]);
            let two = || vec![vec![7; 2], vec![8; 1]];
            assert_eq!(status(file.read_vectored_at(two(), offset).await), Status::OFFSET_OVERFLOW);
            let written = file.write_vectored_at(two(), offset).await;
            assert_eq!(status(written), Status::OFFSET_OVERFLOW);
            assert!(file.write_all_at(two().remove(0), offset).await.is_err());
        }
        assert_eq!(status(file.set_len(u64::MAX).await), Status::OFFSET_OVERFLOW);
        // Others are left alone.
        assert_eq!(file.read_at(Vec::with_capacity(9), 0).await.unwrap().1, b"12345");
    });
}

#[test]
fn the_largest_offset_is_no_current_position() {
    // `u64::MAX` stands for "current" inside; a caller's must not be taken for that.
    both(async |_| {
        let dir = Dir::new();
        let options = OpenOptions::new().read(true).write(true);
        let file = options.open(dir.file("f", "12345")).await.unwrap();
        let read = file.read_at(Vec::with_capacity(3), u64::MAX).await;
        assert_eq!(status(read), Status::OFFSET_OVERFLOW);
        let write = file.write_at(vec![1; 3], u64::MAX).await;
        assert_eq!(status(write), Status::OFFSET_OVERFLOW);
        let read = file.read_vectored_at(vec![vec![0; 3]], u64::MAX).await;
        assert_eq!(status(read), Status::OFFSET_OVERFLOW);
        let write = file.write_vectored_at(vec![vec![0; 3]], u64::MAX).await;
        assert_eq!(status(write), Status::OFFSET_OVERFLOW);
    });
}

#[test]
fn vectored_reads_and_writes() {
    both(async |_| {
        let dir = Dir::new();
        let options = OpenOptions::new().read(true).write(true).create(true);
        let file = options.open(dir.path("f")).await.unwrap();
        let parts = vec![b"one".to_vec(), b"".to_vec(), b"three".to_vec()];
        let (n, parts) = file.write_vectored_at(parts, 2).await.unwrap();
        assert_eq!((n, parts.len(), &parts[2][..]), (8, 3, &b"three"[..]));
        let room = vec![Vec::with_capacity(4), Vec::with_capacity(2), Vec::with_capacity(50)];
        let (n, room) = file.read_vectored_at(room, 0).await.unwrap();
        assert_eq!((n, &room[0][..], &room[1][..]), (10, &b"\0\0on"[..], &b"et"[..]));
        assert_eq!(room[2], b"hree");
        // Buffers behind the end are empty.
        let (n, room) = file.read_vectored_at(vec![vec![1; 9], vec![2; 9]], 8).await.unwrap();
        assert_eq!((n, &room[0][..], &room[1][..]), (2, &b"ee"[..], &b""[..]));
        // The limit, and one more.
        let many = |n| vec![vec![b'x']; n];
        assert_eq!(file.write_vectored_at(many(1024), 0).await.unwrap().0, 1024);
        let error = file.write_vectored_at(many(1025), 0).await.unwrap_err();
        assert_eq!((error.status(), error.buf().len()), (Status::INVALID_PARAMETER, 1025));
        let error = file.read_vectored_at(many(1025), 0).await.unwrap_err();
        assert_eq!((error.status(), error.buf().len()), (Status::INVALID_PARAMETER, 1025));
    });
}

#[test]
fn appending_goes_to_the_end() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.file("f", "12345");
        let file = OpenOptions::new().append(true).open(&path).await.unwrap();
        file.write_at(b"67".to_vec(), 0).await.unwrap();
        file.write_all_at(b"89".to_vec(), 1 << 40).await.unwrap();
        file.write_vectored_at(vec![b"a".to_vec(), b"b".to_vec()], 3).await.unwrap();
        file.close().await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"123456789ab");
    });
}

#[test]
fn open_options_as_in_std() {
    both(async |_| {
        let dir = Dir::new();
        for bits in 0..64u32 {
            let [read, write, append, truncate, create, new] =
                std::array::from_fn(|i| bits & (1 << i) != 0);
            for exists in [false, true] {
                let name = |who| format!("{who}-{bits}-{exists}");
                let (ours, theirs) = (dir.path(&name("ours")), dir.path(&name("theirs")));
                if exists {
                    std::fs::write(&ours, "12345").unwrap();
                    std::fs::write(&theirs, "12345").unwrap();
                }
                let options = OpenOptions::new().read(read).write(write).append(append);
                let options = options.truncate(truncate).create(create).create_new(new);
                let opened = options.open(&ours).await;
                let mut options = std::fs::OpenOptions::new();
                options.read(read).write(write).append(append);
                let expected =
                    options.truncate(truncate).create(create).create_new(new).open(&theirs);
                let case = format!("{bits:06b} {exists}");
                match (&opened, &expected) {
                    (Ok(_), Ok(_)) => {}
                    (Err(ours), Err(theirs)) => assert_eq!(ours.kind(), theirs.kind(), "{case}"),
                    _ => panic!("{case}: {opened:?}, std: {expected:?}"),
                }
                let contents = |path: &Path| std::fs::read(path).ok();
                assert_eq!(contents(&ours), contents(&theirs), "{case}");
            }
        }
    });
}

#[test]
fn open_with_modes_and_flags() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.path("private");
        let options = OpenOptions::new().write(true).create(true).mode(0o600);
        let file = options.open(&path).await.unwrap();
        assert_eq!(file.metadata().await.unwrap().mode(), 0o600);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let options = OpenOptions::new().read(true);
        let through = options.clone().custom_flags(libc::O_DIRECTORY).open(&path).await;
        assert_eq!(kind(through), ErrorKind::NotADirectory);
        std::os::unix::fs::symlink(&path, dir.path("link")).unwrap();
        let followed = options.clone().custom_flags(libc::O_NOFOLLOW).open(dir.path("link")).await;
        assert_eq!(status(followed).errno(), Some(libc::ELOOP));
        // An access mode in the custom flags is no access.
        let file = options.custom_flags(libc::O_WRONLY).open(&path).await.unwrap();
        assert!(file.write_at(b"x".to_vec(), 0).await.is_err());
    });
}

#[test]
fn opening_fails_with_the_systems_reason() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.file("f", "12345");
        assert_eq!(kind(File::open(dir.path("missing")).await), ErrorKind::NotFound);
        assert_eq!(kind(File::open(path.join("below")).await), ErrorKind::NotADirectory);
        assert_eq!(kind(File::create(dir.path("")).await), ErrorKind::IsADirectory);
        assert_eq!(kind(File::open("").await), ErrorKind::NotFound);
        assert_eq!(kind(File::open("a\0b").await), ErrorKind::InvalidInput);
        let long = "x".repeat(300);
        assert_eq!(kind(File::open(dir.path(&long)).await), ErrorKind::InvalidFilename);
        // The wrong access.
        let file = File::open(&path).await.unwrap();
        let error = file.write_at(b"x".to_vec(), 0).await.unwrap_err();
        assert_eq!(error.status().errno(), Some(libc::EBADF));
        assert_eq!(error.into_buf(), b"x");
        let file = OpenOptions::new().write(true).open(&path).await.unwrap();
        assert!(file.read_at(Vec::with_capacity(1), 0).await.is_err());
        // A directory can be opened, and not read.
        let directory = File::open(dir.path("")).await.unwrap();
        assert!(directory.metadata().await.unwrap().is_dir());
        let read = directory.read_at(Vec::with_capacity(1), 0).await;
        assert_eq!(kind(read), ErrorKind::IsADirectory);
    });
}

#[test]
fn lengths_metadata_and_syncs() {
    both(async |_| {
        let dir = Dir::new();
        let file = File::create(dir.path("f")).await.unwrap();
        file.write_all_at(pattern(10_000), 0).await.unwrap();
        file.sync_data().await.unwrap();
        file.set_len(100).await.unwrap();
        assert_eq!(file.metadata().await.unwrap().len(), 100);
        file.set_len(5000).await.unwrap();
        file.sync_all().await.unwrap();
        let metadata = file.metadata().await.unwrap();
        assert_eq!(metadata.len(), 5000);
        assert!(metadata.is_file() && !metadata.is_dir());
        assert!(metadata.block_size().is_power_of_two());
        assert!(metadata.modified().unwrap().elapsed().unwrap().as_secs() < 3600);
        assert!(format!("{metadata:?}").contains("5000"));
        let bytes = std::fs::read(dir.path("f")).unwrap();
        assert_eq!(bytes[..100], pattern(100));
        assert!(bytes[100..].iter().all(|&b| b == 0));
        let file = File::open(dir.path("f")).await.unwrap();
        assert_eq!(kind(file.set_len(1).await), ErrorKind::InvalidInput);
        // What cannot be flushed says so.
        let pipe = dir.path("pipe");
        let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
        // SAFETY: the name is a C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let pipe = OpenOptions::new().read(true).write(true).open(pipe).await.unwrap();
        assert_eq!(status(pipe.sync_all().await).errno(), Some(libc::EINVAL));
    });
}

#[test]
fn a_cursor_moves_along() {
    both(async |_| {
        let dir = Dir::new();
        let options = OpenOptions::new().read(true).write(true);
        let file = options.open(dir.file("f", "0123456789")).await.unwrap();
        let mut cursor = file.cursor(2);
        assert_eq!(cursor.read(Vec::with_capacity(3)).await.unwrap().1, b"234");
        cursor.write(b"five".to_vec()).await.unwrap();
        assert_eq!(cursor.position(), 9);
        assert_eq!(cursor.read(Vec::with_capacity(9)).await.unwrap().1, b"9");
        assert_eq!(cursor.read(Vec::with_capacity(9)).await.unwrap().0, 0);
        assert_eq!(cursor.seek(SeekFrom::Start(4)).await.unwrap(), 4);
        assert_eq!(cursor.seek(SeekFrom::Current(-2)).await.unwrap(), 2);
        assert_eq!(cursor.seek(SeekFrom::End(-3)).await.unwrap(), 7);
        // Seeks that fail move nothing.
        let back = cursor.seek(SeekFrom::Current(-8)).await;
        assert_eq!(kind(back), ErrorKind::InvalidInput);
        for far in [SeekFrom::Current(i64::MAX), SeekFrom::Start(1 << 63), SeekFrom::End(i64::MIN)]
        {
            assert_eq!(status(cursor.seek(far).await), Status::OFFSET_OVERFLOW);
        }
        assert_eq!(cursor.position(), 7);
        // Past the end is allowed, and leaves a hole.
        cursor.seek(SeekFrom::End(2)).await.unwrap();
        cursor.write_all(b"end".to_vec()).await.unwrap();
        assert_eq!(cursor.position(), 15);
        assert_eq!(cursor.get_ref().metadata().await.unwrap().len(), 15);
        cursor.seek(SeekFrom::Start(i64::MAX as u64)).await.unwrap();
        assert_eq!(status(cursor.write(vec![1]).await), Status::OFFSET_OVERFLOW);
        assert_eq!(cursor.position(), i64::MAX as u64);
        cursor.into_inner().close().await.unwrap();
        assert_eq!(fs::read(dir.path("f")).await.unwrap(), b"01234five9\0\0end");
    });
}

#[test]
fn whole_files() {
    const CHUNK: usize = 128 * 1024;
    both(async |_| {
        let dir = Dir::new();
        let (one, two) = (dir.path("one"), dir.path("two"));
        let edges = [CHUNK, 4 * CHUNK, 5 * CHUNK];
        let sizes = [0, 1, 4096].into_iter().chain(edges.iter().flat_map(|&n| [n - 1, n, n + 1]));
        for size in sizes {
            fs::write(&one, pattern(size)).await.unwrap();
            assert_eq!(std::fs::read(&one).unwrap(), pattern(size));
            assert_eq!(fs::copy(&one, &two).await.unwrap(), size as u64);
            assert!(fs::read(&two).await.unwrap() == pattern(size), "{size}");
        }
        // A shorter copy leaves nothing of the longer one.
        fs::write(&one, "short").await.unwrap();
        std::fs::set_permissions(&one, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::fs::remove_file(&two).unwrap();
        fs::copy(&one, &two).await.unwrap();
        assert_eq!(fs::read(&two).await.unwrap(), b"short");
        assert_eq!(std::fs::metadata(&two).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(kind(fs::read(dir.path("no")).await), ErrorKind::NotFound);
        assert_eq!(kind(fs::write(dir.path("no/no"), "x").await), ErrorKind::NotFound);
        assert_eq!(kind(fs::copy(dir.path("no"), &one).await), ErrorKind::NotFound);
        assert_eq!(kind(fs::copy(&one, dir.path("no/no")).await), ErrorKind::NotFound);
        // A file whose size says nothing.
        let status = fs::read("/proc/self/status").await.unwrap();
        assert!(status.starts_with(b"Name:"));
    });
}
