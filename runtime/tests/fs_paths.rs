//! Operations on paths: where all goes well, the system's errors, odd names, filters that see them,
//! every route, and futures that are dropped.

mod support;

use std::ffi::OsStr;
use std::fs::Permissions;
use std::future::Future;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::future;
use overlapped::driver::filter::Xor;
use overlapped::driver::{
    Completion, Disposition, Driver, Irp, Lower, Major, MajorSet, On, Unwinding, minor,
};
use overlapped::fs::{self, File, OpenOptions, Volume};
use overlapped::operation::{
    Delete, Link, MakeDirectory, Name, NormalizeName, QueryAttributes, ReadLink, Rename,
    SetSecurity, SymbolicLink,
};
use overlapped::{CompletionPort, Status};
use support::{Dir, both, kind, poll_once, status, until, workers};

fn mode(bits: u32) -> Permissions {
    Permissions::from_mode(bits)
}

#[test]
fn files_get_other_names() {
    both(async |_| {
        let dir = Dir::new();
        let (a, b) = (dir.file("a", "one"), dir.file("b", "two"));
        fs::rename(&a, &b).await.unwrap();
        assert!(!a.exists());
        assert_eq!(fs::read_to_string(&b).await.unwrap(), "one");
        // A directory in the place of an empty one, and not of a full one, and none in itself.
        let (c, d) = (dir.path("c"), dir.path("d"));
        fs::create_dir(&c).await.unwrap();
        fs::create_dir(&d).await.unwrap();
        fs::rename(&c, &d).await.unwrap();
        fs::create_dir(&c).await.unwrap();
        std::fs::write(d.join("x"), "").unwrap();
        assert_eq!(kind(fs::rename(&c, &d).await), ErrorKind::DirectoryNotEmpty);
        assert_eq!(kind(fs::rename(&d, d.join("in")).await), ErrorKind::InvalidInput);
        assert_eq!(kind(fs::rename(&b, &c).await), ErrorKind::IsADirectory);
        assert_eq!(kind(fs::rename(&c, &b).await), ErrorKind::NotADirectory);
        assert_eq!(kind(fs::rename(&a, &b).await), ErrorKind::NotFound);
        assert_eq!(kind(fs::rename(&b, dir.path("no/b")).await), ErrorKind::NotFound);
        assert_eq!(std::fs::read(&b).unwrap(), b"one");
    });
}

#[test]
fn files_and_directories_are_removed() {
    both(async |_| {
        let dir = Dir::new();
        let file = dir.file("f", "x");
        // Open ones go when they are closed.
        let open = File::open(&file).await.unwrap();
        fs::remove_file(&file).await.unwrap();
        assert_eq!(open.metadata().await.unwrap().links(), 0);
        assert_eq!(open.read_at(Vec::with_capacity(9), 0).await.unwrap().1, b"x");
        assert_eq!(kind(fs::remove_file(&file).await), ErrorKind::NotFound);
        // A link, not what it stands for.
        let target = dir.file("target", "");
        std::os::unix::fs::symlink(&target, dir.path("link")).unwrap();
        fs::remove_file(dir.path("link")).await.unwrap();
        assert!(target.exists());
        let inner = dir.path("d");
        fs::create_dir(&inner).await.unwrap();
        assert_eq!(kind(fs::remove_file(&inner).await), ErrorKind::IsADirectory);
        assert_eq!(kind(fs::remove_dir(&target).await), ErrorKind::NotADirectory);
        std::fs::write(inner.join("x"), "").unwrap();
        assert_eq!(kind(fs::remove_dir(&inner).await), ErrorKind::DirectoryNotEmpty);
        fs::remove_file(inner.join("x")).await.unwrap();
        fs::remove_dir(&inner).await.unwrap();
        assert_eq!(kind(fs::remove_dir(&inner).await), ErrorKind::NotFound);
    });
}

#[test]
fn links_of_both_kinds() {
    both(async |_| {
        let dir = Dir::new();
        let (file, hard) = (dir.file("f", "text"), dir.path("hard"));
        fs::hard_link(&file, &hard).await.unwrap();
        let (one, two) = future::join(fs::metadata(&file), fs::metadata(&hard)).await;
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!((one.identity(), one.links()), (two.identity(), 2));
        assert_eq!(kind(fs::hard_link(&file, &hard).await), ErrorKind::AlreadyExists);
        let missing = fs::hard_link(dir.path("no"), dir.path("g")).await;
        assert_eq!(kind(missing), ErrorKind::NotFound);
        let directory = fs::hard_link(dir.path(""), dir.path("g")).await;
        assert_eq!(kind(directory), ErrorKind::PermissionDenied);

        let soft = dir.path("soft");
        fs::symlink("f", &soft).await.unwrap();
        assert_eq!(fs::read_link(&soft).await.unwrap(), Path::new("f"));
        assert!(fs::metadata(&soft).await.unwrap().is_file());
        let link = fs::symlink_metadata(&soft).await.unwrap();
        assert!(link.is_symlink() && !link.is_file() && !link.is_dir());
        assert_eq!(link.len(), 1);
        assert_eq!(kind(fs::symlink("f", &soft).await), ErrorKind::AlreadyExists);
        assert_eq!(kind(fs::symlink("", dir.path("x")).await), ErrorKind::NotFound);
        assert_eq!(kind(fs::read_link(&file).await), ErrorKind::InvalidInput);
        assert_eq!(kind(fs::read_link(dir.path("no")).await), ErrorKind::NotFound);
        // A hard link of a symbolic link is one, as in std.
        fs::hard_link(&soft, dir.path("soft2")).await.unwrap();
        assert!(fs::symlink_metadata(dir.path("soft2")).await.unwrap().is_symlink());
        // A long text, longer than most buffers.
        let long = "x/".repeat(2000);
        fs::symlink(&long, dir.path("long")).await.unwrap();
        assert_eq!(fs::read_link(dir.path("long")).await.unwrap(), Path::new(&long));
        // Stands for nothing; for itself.
        fs::symlink("nothing", dir.path("dangling")).await.unwrap();
        assert!(!fs::try_exists(dir.path("dangling")).await.unwrap());
        fs::symlink("loop", dir.path("loop")).await.unwrap();
        let errno = status(fs::metadata(dir.path("loop")).await).errno();
        assert_eq!(errno, Some(libc::ELOOP));
        assert!(fs::try_exists(dir.path("loop")).await.is_err());
    });
}

#[test]
fn attributes_are_those_that_std_sees() {
    both(async |_| {
        let dir = Dir::new();
        let file = dir.file("f", vec![7; 10_000]);
        fs::set_permissions(&file, mode(0o640)).await.unwrap();
        fs::symlink("f", dir.path("l")).await.unwrap();
        let paths = [file, dir.path(""), dir.path("l"), "/dev/null".into(), "/proc".into()];
        for path in &paths {
            let (ours, theirs) =
                (fs::metadata(path).await.unwrap(), std::fs::metadata(path).unwrap());
            assert_eq!(ours.len(), theirs.len());
            assert_eq!(ours.mode(), theirs.mode() & 0o7777);
            assert_eq!(ours.permissions(), mode(theirs.mode() & 0o7777));
            assert_eq!(ours.identity(), (theirs.dev(), theirs.ino()));
            assert_eq!(u64::from(ours.links()), theirs.nlink());
            assert_eq!(ours.owner(), (theirs.uid(), theirs.gid()));
            assert_eq!(ours.allocated(), theirs.blocks() * 512);
            assert_eq!(ours.modified().unwrap(), theirs.modified().unwrap());
            assert_eq!(ours.accessed().unwrap(), theirs.accessed().unwrap());
            assert_eq!(ours.created(), theirs.created().ok());
            assert_eq!((ours.is_file(), ours.is_dir()), (theirs.is_file(), theirs.is_dir()));
            let file = File::open(path).await.unwrap();
            assert_eq!(file.metadata().await.unwrap().identity(), ours.identity());
        }
        assert!(fs::metadata("/dev/null").await.unwrap().file_type().is_char_device());
        assert_eq!(kind(fs::metadata(dir.path("no")).await), ErrorKind::NotFound);
        assert_eq!(kind(fs::metadata(dir.path("f/x")).await), ErrorKind::NotADirectory);
        assert!(fs::try_exists(dir.path("f")).await.unwrap());
        assert!(!fs::try_exists(dir.path("no")).await.unwrap());
    });
}

#[test]
fn permissions_and_absolute_paths() {
    both(async |_| {
        let dir = Dir::new();
        let file = dir.file("f", "");
        fs::symlink("f", dir.path("l")).await.unwrap();
        // Through the link.
        fs::set_permissions(dir.path("l"), mode(0o4711)).await.unwrap();
        assert_eq!(fs::metadata(&file).await.unwrap().mode(), 0o4711);
        let open = File::open(&file).await.unwrap();
        open.set_permissions(mode(0o600)).await.unwrap();
        assert_eq!(open.metadata().await.unwrap().mode(), 0o600);
        let missing = fs::set_permissions(dir.path("no"), mode(0)).await;
        assert_eq!(kind(missing), ErrorKind::NotFound);

        let winding = dir.path("./../").join(dir.path("").file_name().unwrap()).join("l");
        let real = fs::canonicalize(&winding).await.unwrap();
        assert_eq!(real, std::fs::canonicalize(&file).unwrap());
        assert_eq!(fs::canonicalize(".").await.unwrap(), std::env::current_dir().unwrap());
        assert_eq!(kind(fs::canonicalize(dir.path("no")).await), ErrorKind::NotFound);
        assert_eq!(kind(fs::canonicalize("").await), ErrorKind::NotFound);
    });
}

#[test]
fn whole_files_as_text() {
    both(async |_| {
        let dir = Dir::new();
        let text = fs::read_to_string(dir.file("t", "grüße")).await.unwrap();
        assert_eq!(text, "grüße");
        let bytes = fs::read_to_string(dir.file("b", b"\xff")).await;
        assert_eq!(kind(bytes), ErrorKind::InvalidData);
        assert_eq!(kind(fs::read_to_string(dir.path("no")).await), ErrorKind::NotFound);
    });
}

/// What every operation on the path says.
async fn all_errors(path: &Path, good: &Path) -> Vec<Status> {
    let fresh = good.with_file_name("fresh");
    vec![
        status(fs::rename(path, &fresh).await),
        status(fs::rename(good, path).await),
        status(fs::remove_file(path).await),
        status(fs::remove_dir(path).await),
        status(fs::remove_dir_all(path).await),
        status(fs::hard_link(path, &fresh).await),
        status(fs::hard_link(good, path).await),
        status(fs::symlink("x", path).await),
        status(fs::read_link(path).await),
        status(fs::metadata(path).await),
        status(fs::symlink_metadata(path).await),
        status(fs::try_exists(path).await),
        status(fs::canonicalize(path).await),
        status(fs::set_permissions(path, mode(0o600)).await),
        status(fs::create_dir(path).await),
        status(fs::create_dir_all(path).await),
        status(fs::read_dir(path).await),
        status(fs::tempfile_in(path).await),
        status(File::open(good).await.unwrap().hard_link(path).await),
    ]
}

#[test]
fn names_that_cannot_be() {
    both(async |_| {
        let dir = Dir::new();
        let good = dir.file("good", "stays");
        for (n, status) in all_errors(&dir.path("a\0b"), &good).await.into_iter().enumerate() {
            assert_eq!(
                (status, status.kind()),
                (Status::NUL_IN_NAME, ErrorKind::InvalidInput),
                "{n}"
            );
        }
        let symlink = fs::symlink("a\0b", dir.path("x")).await;
        assert_eq!(status(symlink), Status::NUL_IN_NAME);
        for long in [dir.path(&"x".repeat(256)), dir.path(&"x/".repeat(3000))] {
            for (n, status) in all_errors(&long, &good).await.into_iter().enumerate() {
                // Of a path that is too long as a whole, the C library looks at the parts.
                let parts = n == 12 && status.errno() == Some(libc::ENOENT);
                assert!(parts || status.errno() == Some(libc::ENAMETOOLONG), "{n}: {status}");
            }
        }
        // A file on the way.
        for (n, status) in all_errors(&good.join("x"), &good).await.into_iter().enumerate() {
            assert_eq!(status.errno(), Some(libc::ENOTDIR), "{n}");
        }
        let names: Vec<_> = std::fs::read_dir(dir.path("")).unwrap().collect();
        assert_eq!((names.len(), std::fs::read(&good).unwrap()), (1, b"stays".to_vec()));
        // The longest there is.
        let longest = dir.path(&"x".repeat(255));
        fs::create_dir(&longest).await.unwrap();
        fs::remove_dir(&longest).await.unwrap();
    });
}

#[test]
fn names_that_are_no_text() {
    both(async |_| {
        let dir = Dir::new();
        let name = |bytes: &'static [u8]| dir.path("").join(OsStr::from_bytes(bytes));
        let (odd, odder) = (name(b"\xff\xfe \n"), name(b"\xc3("));
        fs::write(&odd, "x").await.unwrap();
        fs::rename(&odd, &odder).await.unwrap();
        fs::symlink(&odder, &odd).await.unwrap();
        assert_eq!(fs::read_link(&odd).await.unwrap(), odder);
        assert_eq!(fs::read_to_string(&odd).await.unwrap(), "x");
        let real = fs::canonicalize(&odd).await.unwrap();
        assert_eq!(real.file_name().unwrap().as_bytes(), b"\xc3(");
        fs::hard_link(&odder, name(b"\x80")).await.unwrap();
        fs::set_permissions(name(b"\x80"), mode(0o400)).await.unwrap();
        assert_eq!(fs::metadata(&odder).await.unwrap().mode(), 0o400);
        let mut entries = fs::read_dir(dir.path("")).await.unwrap();
        let mut names = Vec::new();
        while let Some(entry) = entries.next_entry().await.unwrap() {
            assert_eq!(entry.path(), dir.path("").join(entry.file_name()));
            names.push(entry.file_name().as_bytes().to_vec());
        }
        names.sort();
        assert_eq!(names, [&b"\x80"[..], b"\xc3(", b"\xff\xfe \n"]);
        fs::remove_file(&odd).await.unwrap();
        fs::remove_dir_all(dir.path("")).await.unwrap();
    });
}

/// Errors that root gets too.
#[test]
fn what_nobody_may_do() {
    both(async |_| {
        let dir = Dir::new();
        let kept = dir.file("f", "");
        let proc = Path::new("/proc/self/status");
        assert_eq!(kind(fs::remove_file(proc).await), ErrorKind::PermissionDenied);
        assert!(fs::rename(&kept, proc).await.is_err());
        // Another file system.
        let other = PathBuf::from(format!("/dev/shm/overlapped-{}", std::process::id()));
        let here = fs::metadata(&kept).await.unwrap().identity().0;
        match fs::metadata("/dev/shm").await {
            Ok(there) if there.identity().0 != here => {
                assert_eq!(kind(fs::rename(&kept, &other).await), ErrorKind::CrossesDevices);
                assert_eq!(kind(fs::hard_link(&kept, &other).await), ErrorKind::CrossesDevices);
            }
            _ => println!("skipped: no second file system"),
        }
        assert!(kept.exists());
    });
}

/// What a filter has seen: the operation, its file object's name, and its parameters.
type Seen = (Major, u8, PathBuf, String);

#[derive(Default)]
struct Watch(Mutex<Vec<Seen>>);

impl Watch {
    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Driver for Watch {
    fn name(&self) -> &str {
        "watch"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        lower.forward(irp, On::ALL)
    }
    fn completed(&self, irp: Unwinding<'_>) -> Completion {
        let last = |name: &Name| {
            let name = name.as_path().and_then(Path::file_name);
            name.map_or(String::new(), |name| name.to_string_lossy().into())
        };
        let what = match (irp.major(), irp.minor()) {
            (Major::SetInformation, minor::RENAME) => {
                let Rename { from, to } = irp.payload().unwrap();
                format!("{} to {}", last(from), last(to))
            }
            (Major::SetInformation, minor::DISPOSITION) => {
                let Delete { path, directory } = irp.payload().unwrap();
                format!("{} {directory}", last(path))
            }
            (Major::SetInformation, minor::LINK) => {
                let link = irp.payload::<Link>().unwrap();
                format!("{:?} to {}", link.from().map(last), last(link.to()))
            }
            (Major::SetInformation, minor::REPARSE_POINT) => {
                let SymbolicLink { target, path } = irp.payload().unwrap();
                format!("{} at {}", last(target), last(path))
            }
            (Major::QueryInformation, minor::FULL_ATTRIBUTES) => {
                let query = irp.payload::<QueryAttributes>().unwrap();
                format!("{} {}", last(query.path()), query.follow())
            }
            (Major::QueryInformation, minor::REPARSE_POINT) => {
                last(irp.payload::<ReadLink>().unwrap().path())
            }
            (Major::QueryInformation, minor::NORMALIZED_NAME) => {
                last(irp.payload::<NormalizeName>().unwrap().path())
            }
            (Major::DirectoryControl, minor::MAKE_DIRECTORY) => {
                let make = irp.payload::<MakeDirectory>().unwrap();
                format!("{} {:o}", last(&make.path), make.mode)
            }
            (Major::SetSecurity, _) => {
                let set = irp.payload::<SetSecurity>().unwrap();
                format!("{:?} {:o}", set.path().map(last), set.mode())
            }
            _ => String::new(),
        };
        let name = irp.file().name().into();
        self.0.lock().unwrap().push((irp.major(), irp.minor(), name, what));
        irp.proceed()
    }
}

#[test]
fn a_filter_sees_every_operation_once() {
    both(async |_| {
        let dir = Dir::new();
        let watch = Arc::new(Watch::default());
        let volume = Volume::new([watch.clone() as Arc<dyn Driver>]).unwrap();
        let (f, g, d) = (dir.file("f", "x"), dir.path("g"), dir.path("d"));
        let one = |major, minor, path: &Path, what: &str| {
            assert_eq!(watch.take(), [(major, minor, path.to_owned(), what.to_owned())]);
        };
        volume.rename(&f, &g).await.unwrap();
        one(Major::SetInformation, minor::RENAME, &f, "f to g");
        volume.hard_link(&g, &f).await.unwrap();
        one(Major::SetInformation, minor::LINK, &g, "Some(\"g\") to f");
        volume.remove_file(&f).await.unwrap();
        one(Major::SetInformation, minor::DISPOSITION, &f, "f false");
        volume.symlink("g", &f).await.unwrap();
        one(Major::SetInformation, minor::REPARSE_POINT, &f, "g at f");
        volume.read_link(&f).await.unwrap();
        one(Major::QueryInformation, minor::REPARSE_POINT, &f, "f");
        volume.metadata(&f).await.unwrap();
        one(Major::QueryInformation, minor::FULL_ATTRIBUTES, &f, "f true");
        volume.symlink_metadata(&f).await.unwrap();
        one(Major::QueryInformation, minor::FULL_ATTRIBUTES, &f, "f false");
        volume.canonicalize(&f).await.unwrap();
        one(Major::QueryInformation, minor::NORMALIZED_NAME, &f, "f");
        volume.create_dir(&d).await.unwrap();
        one(Major::DirectoryControl, minor::MAKE_DIRECTORY, &d, "d 777");
        volume.set_permissions(&d, mode(0o700)).await.unwrap();
        one(Major::SetSecurity, minor::NONE, &d, "Some(\"d\") 700");
        volume.remove_dir(&d).await.unwrap();
        one(Major::SetInformation, minor::DISPOSITION, &d, "d true");
        // Errors too.
        assert_eq!(kind(volume.remove_dir(&d).await), ErrorKind::NotFound);
        one(Major::SetInformation, minor::DISPOSITION, &d, "d true");
        // Those that are refused before they set out are not seen.
        assert_eq!(status(volume.remove_dir("\0").await), Status::NUL_IN_NAME);
        assert_eq!(watch.take(), []);
        // Files of the volume, with filters of their own above.
        let options = OpenOptions::new().read(true).write(true).volume(&volume);
        let file = options.filter(Arc::new(Xor(1))).open(&g).await.unwrap();
        file.set_permissions(mode(0o600)).await.unwrap();
        file.hard_link(&d).await.unwrap();
        let seen: Vec<_> = watch.take().into_iter().map(|s| (s.0, s.1, s.3)).collect();
        let expected = [
            (Major::Create, 0, String::new()),
            (Major::SetSecurity, 0, "None 600".into()),
            (Major::SetInformation, minor::LINK, "None to d".into()),
        ];
        assert_eq!(seen, expected);
        assert_eq!(file.object().stack().to_string(), "emulate | xor | watch | file");
    });
}

/// Sends everything by the name `from` to `to` instead.
struct Redirect {
    from: PathBuf,
    to: PathBuf,
}

impl Driver for Redirect {
    fn name(&self) -> &str {
        "redirect"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::SetInformation])
    }
    fn dispatch(&self, mut irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        if let Some(delete) = irp.payload_mut::<Delete>()
            && delete.path.as_path() == Some(&self.from)
        {
            delete.path = Name::new(&self.to);
        }
        lower.skip(irp)
    }
}

#[test]
fn filters_may_change_or_refuse_operations() {
    both(async |_| {
        let dir = Dir::new();
        let (f, g) = (dir.file("f", ""), dir.file("g", ""));
        let redirect = Redirect { from: f.clone(), to: g.clone() };
        let volume = Volume::new([Arc::new(redirect) as Arc<dyn Driver>]).unwrap();
        volume.remove_file(&f).await.unwrap();
        assert!(f.exists() && !g.exists());
        // A transforming filter lets names pass, for it changes only data.
        let volume = Volume::new([Arc::new(Xor(1)) as Arc<dyn Driver>]).unwrap();
        volume.rename(&f, &g).await.unwrap();
        volume.symlink(&g, &f).await.unwrap();
        volume.remove_file(&f).await.unwrap();
        let too_many = (0..100).map(|_| Arc::new(Xor(1)) as Arc<dyn Driver>);
        assert_eq!(kind(Volume::new(too_many)), ErrorKind::InvalidInput);
    });
}

#[test]
fn operations_on_paths_by_every_route() {
    support::alone("operations_on_paths_by_every_route", |_| {
        let dir = Dir::new();
        let (f, g) = (dir.file("f", ""), dir.path("g"));
        // A plain thread, which waits.
        fs::rename(&f, &g).wait().unwrap();
        assert_eq!(kind(fs::rename(&f, &g).wait()), ErrorKind::NotFound);
        assert_eq!(fs::canonicalize(&g).wait().unwrap(), std::fs::canonicalize(&g).unwrap());
        assert_eq!(status(fs::remove_file("a\0").wait()), Status::NUL_IN_NAME);
        // A port.
        let port = CompletionPort::new();
        fs::hard_link(&g, &f).post(&port, 7).unwrap();
        let packet = port.remove(Some(Duration::from_secs(30))).expect("a packet");
        assert_eq!(packet.key(), 7);
        packet.into_output::<Link>().unwrap();
        assert!(f.exists());
        // A thread that ends with its request under way, or just made.
        std::thread::spawn({
            let g = g.clone();
            move || fs::remove_file(&g).post(&CompletionPort::new(), 0).map(drop)
        })
        .join()
        .unwrap()
        .unwrap();
        // Built here, issued there.
        let request = fs::metadata(&f);
        assert!(std::thread::spawn(move || request.wait()).join().unwrap().unwrap().is_file());
        // Awaited by another executor.
        foreign_block_on(async {
            assert!(fs::try_exists(&f).await.unwrap());
            assert!(
                fs::read_dir(dir.path("")).await.unwrap().next_entry().await.unwrap().is_some()
            );
            fs::remove_dir_all(dir.path("")).await.unwrap();
        });
        assert!(!dir.path("").exists());
    });
}

/// An executor that knows nothing of processors.
fn foreign_block_on<T>(future: impl Future<Output = T>) -> T {
    struct Thread(std::thread::Thread);
    impl Wake for Thread {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Thread(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

#[test]
fn deadlines_and_tasks() {
    workers(2, |_| async {
        let dir = Dir::new();
        let paths: Vec<_> = (0..64).map(|i| dir.path(&i.to_string())).collect();
        // Each either happened or did not.
        for path in &paths {
            let made = fs::create_dir(path).deadline(Duration::ZERO).await;
            match made {
                Ok(()) => assert!(path.is_dir()),
                Err(error) => assert_eq!(Status::from(error), Status::IO_TIMEOUT),
            }
        }
        let tasks = paths.clone().into_iter().map(|path| {
            overlapped::spawn(async move {
                let _ = fs::create_dir(&path).await;
                fs::rename(&path, path.with_extension("new")).await.unwrap();
                fs::remove_dir(path.with_extension("new")).await.unwrap();
            })
        });
        let tasks: Vec<_> = tasks.collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path("")).unwrap().count(), 0);
    });
}

#[test]
fn dropped_operations_leave_nothing_behind() {
    support::alone("dropped_operations_leave_nothing_behind", |backend| {
        let runtime = support::local(backend);
        runtime.block_on(async {
            let dir = Dir::new();
            let file = dir.file("f", "stays");
            fs::metadata(&file).await.unwrap();
            let before = support::descriptors();
            for round in 0..200 {
                let new = dir.path(&format!("new-{round}"));
                // Never issued; issued and dropped; done and not looked at.
                drop(fs::rename(&file, &new));
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
                    fs::hard_link(&file, &new),
                    fs::symlink("x", dir.path(&format!("link-{round}"))),
                    fs::create_dir(dir.path(&format!("dir-{round}"))),
                    fs::rename(dir.path(&format!("dir-{round}")), dir.path("dir")),
                    fs::metadata(&file),
                    fs::canonicalize(&file),
                    fs::read_link(&file),
                    fs::set_permissions(&file, mode(0o600)),
                    fs::remove_file(&new),
                    Box::pin(fs::read_dir(dir.path(""))),
                    Box::pin(fs::tempfile_in(dir.path(""))),
                    Box::pin(fs::create_dir_all(dir.path(&format!("deep-{round}/a/b")))),
                );
            }
            // Every request ends, everything opened is closed.
            until(|| support::descriptors() <= before).await;
            let left = || overlapped::live_requests(Duration::from_secs(5)).requests.len();
            // Listing them does not wait for this thread's own, which the turns between end.
            until(|| left() == 0).await;
            assert_eq!(fs::read_to_string(&file).await.unwrap(), "stays");
            // Both ends of each operation are possible, and nothing else is there.
            for entry in std::fs::read_dir(dir.path("")).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let known = ["f", "dir"].contains(&name.as_str())
                    || ["new-", "link-", "dir-", "deep-"].iter().any(|p| name.starts_with(p));
                assert!(known, "{name}");
            }
            fs::remove_dir_all(dir.path("")).await.unwrap();
        });
    });
}
