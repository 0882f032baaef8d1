//! Directories: listing them, however large, changing or odd; making and removing trees, also while
//! somebody else is at them.

mod support;

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::{StreamExt, TryStreamExt, future};
use overlapped::driver::{Disposition, Driver, Irp, Lower, Major, MajorSet};
use overlapped::fs::{self, DirBuilder, OpenOptions, ReadDir, Volume};
use support::{Dir, both, kind, poll_once, status, until, workers};

async fn names(mut entries: ReadDir) -> Vec<OsString> {
    let mut names = Vec::new();
    while let Some(entry) = entries.next_entry().await.unwrap() {
        names.push(entry.file_name());
    }
    assert!(entries.next_entry().await.unwrap().is_none(), "the end stays");
    names.sort();
    names
}

#[test]
fn entries_say_what_they_are() {
    both(async |_| {
        let dir = Dir::new();
        dir.file("file", "12345");
        fs::create_dir(dir.path("directory")).await.unwrap();
        fs::symlink("file", dir.path("link")).await.unwrap();
        let pipe = std::ffi::CString::new(dir.path("pipe").to_str().unwrap()).unwrap();
        // SAFETY: a C string.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        let mut seen = 0;
        let mut entries = fs::read_dir(dir.path("")).await.unwrap();
        while let Some(entry) = entries.next_entry().await.unwrap() {
            let name = entry.file_name().into_string().unwrap();
            let (kind, metadata) =
                (entry.file_type().await.unwrap(), entry.metadata().await.unwrap());
            assert_eq!(kind, metadata.file_type());
            assert_eq!(metadata.identity().1, entry.ino());
            assert_eq!(entry.path(), dir.path(&name));
            let expected = match &name[..] {
                "file" => kind.is_file() && metadata.len() == 5,
                "directory" => kind.is_dir(),
                "link" => kind.is_symlink(),
                "pipe" => kind.is_fifo(),
                _ => panic!("{name}"),
            };
            assert!(expected, "{entry:?}: {kind:?}");
            seen += 1;
        }
        assert_eq!(seen, 4);
        // An entry outlives its list, and knows its directory wherever that is.
        let mut entries = fs::read_dir(dir.path("")).await.unwrap();
        let entry = loop {
            let entry = entries.next_entry().await.unwrap().unwrap();
            if entry.file_name() == "file" {
                break entry;
            }
        };
        drop(entries);
        let moved = dir.path("").with_extension("moved");
        fs::rename(dir.path(""), &moved).await.unwrap();
        assert_eq!(entry.metadata().await.unwrap().len(), 5);
        fs::remove_file(moved.join("file")).await.unwrap();
        assert_eq!(kind(entry.metadata().await), ErrorKind::NotFound);
        fs::remove_dir_all(&moved).await.unwrap();
    });
}

#[test]
fn what_cannot_be_listed() {
    both(async |_| {
        let dir = Dir::new();
        assert!(names(fs::read_dir(dir.path("")).await.unwrap()).await.is_empty());
        assert_eq!(kind(fs::read_dir(dir.path("no")).await), ErrorKind::NotFound);
        assert_eq!(kind(fs::read_dir(dir.file("f", "")).await), ErrorKind::NotADirectory);
        assert_eq!(kind(fs::read_dir("").await), ErrorKind::NotFound);
        // Removed meanwhile: no entries, as in std.
        fs::create_dir(dir.path("d")).await.unwrap();
        let entries = fs::read_dir(dir.path("d")).await.unwrap();
        fs::remove_dir(dir.path("d")).await.unwrap();
        assert!(names(entries).await.is_empty());
        // Through links.
        fs::symlink(".", dir.path("here")).await.unwrap();
        assert_eq!(names(fs::read_dir(dir.path("here")).await.unwrap()).await, ["f", "here"]);
    });
}

/// Counts requests for entries.
#[derive(Default)]
struct Batches(AtomicUsize);

impl Driver for Batches {
    fn name(&self) -> &str {
        "batches"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::DirectoryControl])
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        self.0.fetch_add(1, Ordering::Relaxed);
        lower.skip(irp)
    }
}

const MANY: usize = 20_000;

#[test]
fn a_directory_with_many_entries() {
    let dir = Dir::new();
    for i in 0..MANY {
        std::fs::File::create(dir.path(&format!("entry-{i:05}"))).unwrap();
    }
    both(async |_| {
        let batches = Arc::new(Batches::default());
        let volume = Volume::new([batches.clone() as Arc<dyn Driver>]).unwrap();
        let all = names(volume.read_dir(dir.path("")).await.unwrap()).await;
        assert_eq!(all.len(), MANY);
        assert!((0..).zip(&all).all(|(i, name)| *name == *format!("entry-{i:05}")));
        let requests = batches.0.load(Ordering::Relaxed);
        assert!(requests < MANY / 100, "one request brings many entries, not {requests} all");
        // As a stream, with other requests in between.
        let entries = fs::read_dir(dir.path("")).await.unwrap();
        let lens = entries.map_ok(|entry| async move { entry.metadata().await.map(|m| m.len()) });
        let lens: Vec<u64> = lens.try_buffer_unordered(50).try_collect().await.unwrap();
        assert_eq!((lens.len(), lens.iter().sum::<u64>()), (MANY, 0));
    });
    // Two at once do not disturb each other, nor does one that stops in the middle.
    workers(2, |_| {
        let path = dir.path("");
        async move {
            let count = |path| async move {
                let entries = fs::read_dir(path).await.unwrap();
                entries.map(Result::unwrap).count().await
            };
            let some = fs::read_dir(&path).await.unwrap().take(500).count();
            let task = overlapped::spawn(count(path.clone()));
            assert_eq!(future::join(some, count(path)).await, (500, MANY));
            assert_eq!(task.await.unwrap(), MANY);
        }
    });
}

#[test]
fn a_reader_that_keeps_dropping_futures_misses_no_entry() {
    let dir = Dir::new();
    for i in 0..5000 {
        std::fs::File::create(dir.path(&i.to_string())).unwrap();
    }
    both(async |_| {
        let mut entries = fs::read_dir(dir.path("")).await.unwrap();
        let (mut seen, mut dropped) = (HashSet::new(), 0);
        loop {
            let polled = poll_once(&mut Box::pin(entries.next_entry()));
            match polled {
                std::task::Poll::Pending => {
                    dropped += 1;
                    overlapped::yield_now().await;
                }
                std::task::Poll::Ready(entry) => {
                    let Some(entry) = entry.unwrap() else { break };
                    assert!(seen.insert(entry.file_name()), "twice");
                }
            }
        }
        assert_eq!(seen.len(), 5000);
        assert!(dropped > 0);
    });
}

#[test]
fn directories_that_are_dropped_are_closed() {
    support::alone("directories_that_are_dropped_are_closed", |backend| {
        support::local(backend).block_on(async {
            let dir = Dir::new();
            for i in 0..100 {
                dir.file(&i.to_string(), "");
            }
            let before = support::descriptors();
            for round in 0..100 {
                let mut entries = fs::read_dir(dir.path("")).await.unwrap();
                match round % 4 {
                    // Not read; a batch under way; in the middle; an entry left.
                    0 => {}
                    1 => drop(poll_once(&mut Box::pin(entries.next_entry()))),
                    2 => drop(entries.next_entry().await.unwrap()),
                    _ => {
                        let entry = entries.next_entry().await.unwrap().unwrap();
                        drop(entries);
                        entry.metadata().await.unwrap();
                    }
                }
            }
            until(|| support::descriptors() <= before).await;
        });
    });
}

#[test]
fn directories_are_made_with_their_parents() {
    both(async |_| {
        let dir = Dir::new();
        let deep = dir.path("a/b/c/d");
        assert_eq!(kind(fs::create_dir(&deep).await), ErrorKind::NotFound);
        fs::create_dir_all(&deep).await.unwrap();
        fs::create_dir_all(&deep).await.unwrap();
        fs::create_dir_all(deep.join("../x/./y")).await.unwrap();
        assert!(dir.path("a/b/c/x/y").is_dir());
        assert_eq!(kind(fs::create_dir(&deep).await), ErrorKind::AlreadyExists);
        let file = dir.file("f", "");
        assert_eq!(kind(fs::create_dir_all(&file).await), ErrorKind::AlreadyExists);
        assert_eq!(kind(fs::create_dir_all(file.join("x")).await), ErrorKind::NotADirectory);
        // Through a link, and not for one that stands for nothing.
        fs::symlink("a", dir.path("l")).await.unwrap();
        fs::create_dir_all(dir.path("l/z")).await.unwrap();
        fs::create_dir_all(dir.path("l")).await.unwrap();
        fs::symlink("nothing", dir.path("d")).await.unwrap();
        assert_eq!(kind(fs::create_dir_all(dir.path("d")).await), ErrorKind::AlreadyExists);
        fs::create_dir_all("").await.unwrap();
        fs::create_dir_all("/").await.unwrap();
        // Others' permissions.
        let private = DirBuilder::new().recursive(true).mode(0o700);
        private.create(dir.path("p/q")).await.unwrap();
        for path in ["p", "p/q"] {
            assert_eq!(fs::metadata(dir.path(path)).await.unwrap().mode(), 0o700);
        }
        let one = DirBuilder::new().mode(0o711);
        one.create(dir.path("o")).await.unwrap();
        assert_eq!(fs::metadata(dir.path("o")).await.unwrap().mode(), 0o711);
        assert_eq!(kind(one.create(dir.path("o")).await), ErrorKind::AlreadyExists);
    });
}

#[test]
fn many_make_the_same_directories_at_once() {
    workers(3, |_| async {
        let dir = Dir::new();
        for round in 0..20 {
            let path = dir.path(&format!("{round}/a/b/c/d/e"));
            let tasks: Vec<_> =
                (0..16).map(|_| overlapped::spawn(fs::create_dir_all(path.clone()))).collect();
            for task in tasks {
                task.await.unwrap().unwrap();
            }
            assert!(path.is_dir());
        }
        let removals: Vec<_> =
            (0..4).map(|_| overlapped::spawn(fs::remove_dir_all(dir.path("0")))).collect();
        // Some find it gone; what is in it is removed by one or the other.
        let mut done = 0;
        for removal in removals {
            match removal.await.unwrap() {
                Ok(()) => done += 1,
                Err(error) => assert!(
                    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty),
                    "{error}"
                ),
            }
        }
        assert!(done <= 1 || !dir.path("0").exists());
    });
}

/// Files, directories and links below `path`, and a link out of it.
fn plant(path: &Path, outside: &Path, files: usize) {
    for i in 0..5 {
        let inner = path.join(format!("{i}/a/b"));
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::create_dir(path.join(format!("{i}/empty"))).unwrap();
        for file in 0..files {
            std::fs::write(inner.join(file.to_string()), "x").unwrap();
        }
        std::os::unix::fs::symlink(outside, inner.join("out")).unwrap();
        std::os::unix::fs::symlink("nothing", inner.join("dangling")).unwrap();
    }
}

#[test]
fn trees_are_removed_and_links_are_not_followed() {
    both(async |_| {
        let dir = Dir::new();
        let (tree, outside) = (dir.path("tree"), dir.path("outside"));
        std::fs::create_dir(&outside).unwrap();
        let kept = outside.join("kept");
        std::fs::write(&kept, "x").unwrap();
        plant(&tree, &outside, 40);
        fs::remove_dir_all(&tree).await.unwrap();
        assert!(!tree.exists() && kept.exists());
        // Only the link.
        fs::symlink(&outside, dir.path("link")).await.unwrap();
        fs::remove_dir_all(dir.path("link")).await.unwrap();
        assert!(!fs::try_exists(dir.path("link")).await.unwrap() && kept.exists());
        assert_eq!(kind(fs::remove_dir_all(&kept).await), ErrorKind::NotADirectory);
        assert_eq!(kind(fs::remove_dir_all(dir.path("no")).await), ErrorKind::NotFound);
        // By a relative path, with names as long as can be, very deep.
        let mut deep = dir.path("deep");
        for _ in 0..15 {
            deep.push("x".repeat(200));
        }
        std::fs::create_dir_all(&deep).unwrap();
        fs::remove_dir_all(dir.path("deep/.")).await.unwrap_err();
        fs::remove_dir_all(dir.path("deep")).await.unwrap();
        // Dropped in the middle, and taken up again.
        plant(&tree, &outside, 40);
        let mut removal = Box::pin(fs::remove_dir_all(&tree));
        for _ in 0..20 {
            drop(future::poll_immediate(&mut removal).await);
            overlapped::yield_now().await;
        }
        drop(removal);
        fs::remove_dir_all(&tree).await.unwrap();
        assert!(!tree.exists() && kept.exists());
    });
}

#[test]
fn a_directory_swapped_for_a_link_leads_nobody_astray() {
    both(async |_| {
        let dir = Dir::new();
        let (tree, outside) = (dir.path("tree"), dir.path("outside"));
        std::fs::create_dir(&outside).unwrap();
        for i in 0..50 {
            std::fs::write(outside.join(i.to_string()), "precious").unwrap();
        }
        for _ in 0..20 {
            plant(&tree, &outside, 3);
            let over = Arc::new(AtomicBool::new(false));
            let enemy = std::thread::spawn({
                let (over, tree, outside) = (over.clone(), tree.clone(), outside.clone());
                let side = dir.path("side");
                move || {
                    while !over.load(Ordering::Relaxed) {
                        for i in 0..5 {
                            let victim = tree.join(i.to_string());
                            if std::fs::rename(&victim, &side).is_ok() {
                                let _ = std::os::unix::fs::symlink(&outside, &victim);
                                let _ = std::fs::remove_file(&victim);
                                let _ = std::fs::rename(&side, &victim);
                            }
                        }
                    }
                }
            });
            // It may find directories that are not empty, because some were away.
            let _ = fs::remove_dir_all(&tree).await;
            over.store(true, Ordering::Relaxed);
            enemy.join().unwrap();
            assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 50);
            let _ = std::fs::remove_dir_all(dir.path("side"));
            let _ = std::fs::remove_dir_all(&tree);
        }
    });
}

#[test]
fn too_few_descriptors_for_a_deep_tree() {
    support::alone("too_few_descriptors_for_a_deep_tree", |backend| {
        support::local(backend).block_on(async {
            let dir = Dir::new();
            let deep = (0..100).fold(dir.path("deep"), |path, _| path.join("d"));
            fs::create_dir_all(&deep).await.unwrap();
            let before = support::descriptors();
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: it fills, and reads, one limit.
            unsafe { assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0) };
            let few = libc::rlimit { rlim_cur: before as u64 + 30, ..limit };
            // SAFETY: as above.
            unsafe { assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &few), 0) };
            let removed = fs::remove_dir_all(dir.path("deep")).await;
            assert_eq!(status(removed).errno(), Some(libc::EMFILE));
            // SAFETY: as above.
            unsafe { assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0) };
            until(|| support::descriptors() <= before).await;
            fs::remove_dir_all(dir.path("deep")).await.unwrap();
            until(|| support::descriptors() <= before).await;
        });
    });
}

/// Counts creates, cleanups and closes.
#[derive(Default)]
struct Opens([AtomicUsize; 3]);

impl Driver for Opens {
    fn name(&self) -> &str {
        "opens"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Create, Major::Cleanup, Major::Close])
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        let index = match irp.major() {
            Major::Create => 0,
            Major::Cleanup => 1,
            _ => 2,
        };
        self.0[index].fetch_add(1, Ordering::SeqCst);
        lower.skip(irp)
    }
}

/// O-31, X-33: whatever a volume opens for its own purposes is closed too, and its filters see both;
/// what opens nothing shows neither.
#[test]
fn opens_and_closes_of_a_volume_balance() {
    both(async |_| {
        let dir = Dir::new();
        let opens = Arc::new(Opens::default());
        let volume = Volume::new([opens.clone() as Arc<dyn Driver>]).unwrap();
        volume.create_dir_all(dir.path("a/b/c")).await.unwrap();
        volume.metadata(dir.path("a")).await.unwrap();
        volume.rename(dir.path("a/b/c"), dir.path("a/b/d")).await.unwrap();
        assert_eq!(opens.0[0].load(Ordering::SeqCst), 0);
        names(volume.read_dir(dir.path("a")).await.unwrap()).await;
        volume.remove_dir_all(dir.path("a")).await.unwrap();
        let options = OpenOptions::new().write(true).create(true).volume(&volume);
        drop(options.open(dir.path("f")).await.unwrap());
        // The list, three directories to remove, the file.
        until(|| opens.0.iter().all(|count| count.load(Ordering::SeqCst) == 5)).await;
    });
}
