//! Filters that go on every stack, by their altitudes. They are the process's: each test has one of its
//! own.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use overlapped::Status;
use overlapped::driver::bottom::Memory;
use overlapped::driver::filter::{PassKind, Xor, pass};
use overlapped::driver::text::Text;
use overlapped::driver::{
    Altitude, Change, ChangeError, Disposition, Driver, FileObject, Filter, Io, Irp, Limits, Lower,
    MAX_LOCATIONS, Major, MajorSet, Next, Opening, Place, Registration, register_filter,
};
use overlapped::fs::{self, OpenOptions};
use overlapped::net::{TcpListener, TcpStream, UdpSocket, stack_of};
use support::{Dir, alone, local, multi, pattern, poll_once, status, until};

const HERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Counts reads and writes.
struct Count {
    name: &'static str,
    stays: AtomicBool,
    passed: AtomicUsize,
}

impl Count {
    fn new(name: &'static str) -> Arc<Count> {
        Arc::new(Count { name, stays: AtomicBool::new(false), passed: AtomicUsize::new(0) })
    }
    fn take(&self) -> usize {
        self.passed.swap(0, Ordering::Relaxed)
    }
}

impl Driver for Count {
    fn name(&self) -> &str {
        self.name
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write, Major::SendTo, Major::SetInformation])
    }
    fn may_detach(&self, _: &FileObject) -> Result<(), Status> {
        if self.stays.load(Ordering::Relaxed) { Err(Status::DEVICE_BUSY) } else { Ok(()) }
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        self.passed.fetch_add(1, Ordering::Relaxed);
        lower.skip(irp)
    }
}

fn altitude(text: &str) -> Altitude {
    text.parse().unwrap()
}

/// On everything that is `on`.
fn register(count: &Arc<Count>, at: &str, on: fn(&Opening<'_>) -> bool) -> Registration {
    let filter = count.clone();
    let setup = move |opening: &Opening<'_>| on(opening).then(|| filter.clone() as Arc<dyn Driver>);
    register_filter(count.name, altitude(at), setup).unwrap()
}

fn is_file(opening: &Opening<'_>) -> bool {
    opening.bottom() == "file"
}

#[test]
fn they_stand_by_their_altitudes() {
    alone("they_stand_by_their_altitudes", |backend| {
        local(backend).block_on(async {
            let dir = Dir::new();
            let path = dir.file("f", pattern(100));
            let options = OpenOptions::new().read(true).write(true).filter(Arc::new(Xor(1)));
            let before = options.clone().open(&path).await.unwrap();
            let names = ["385100.45", "385100.5", "200000", "199999.9", "30"];
            let counts: Vec<_> = names.into_iter().map(Count::new).collect();
            // In whichever order they come.
            let mut registered: Vec<_> =
                [2, 0, 4, 1, 3].map(|i| register(&counts[i], names[i], is_file)).into();
            let file = options.clone().open(&path).await.unwrap();
            // What does for `xor` what that cannot belongs to it.
            let expected = "385100.5 | 385100.45 | 200000 | emulate | xor | 199999.9 | 30 | file";
            assert_eq!(file.object().stack().to_string(), expected);
            let json = file.object().stack().to_json();
            assert!(
                json.contains(r#"{"name":"385100.5","altitude":"385100.5","class":"#),
                "{json}"
            );
            assert!(json.contains(r#"{"name":"xor","class":"#), "{json}");
            // Requests meet them, and those on files that were open before do not.
            assert_eq!(before.read_at(vec![0; 10], 0).await.unwrap().0, 10);
            assert!(counts.iter().all(|count| count.take() == 0));
            let (_, bytes) = file.read_at(vec![0; 100], 0).await.unwrap();
            assert!(bytes.iter().zip(pattern(100)).all(|(one, other)| *one == other ^ 1));
            assert!(counts.iter().all(|count| count.take() == 1));
            // What is attached later goes where it is wanted.
            let (at, _) = file.object().attach(Place::Top, pass(PassKind::Skip)).unwrap();
            assert!(file.object().stack().to_string().ends_with(&format!(" | {expected}")));
            file.object().detach(&at).unwrap().await;

            // One at each; the error says who, and what to do.
            let taken = register_filter("late", altitude("0385100.50"), |_| None).unwrap_err();
            assert_eq!((&*taken.name, &taken.altitude), ("385100.5", &altitude("385100.5")));
            let words = taken.to_string();
            assert!(words.contains("'385100.5' is at the altitude 385100.5"), "{words}");
            // Gone with its registration, for new ones.
            registered.retain(|one| !format!("{one:?}").contains("\"385100.5\""));
            assert_eq!(registered.len(), 4);
            register_filter("late", altitude("385100.5"), |_| None).map(drop).unwrap();
            let later = options.clone().open(&path).await.unwrap();
            assert_eq!(later.object().stack().to_string(), expected[11..]);
            assert_eq!(file.object().stack().to_string(), expected, "it stays");
            // The stack of one file is none of another's instances.
            let names = later.object().stack();
            drop(registered);
            assert_eq!(Arc::strong_count(&counts[0]), 3, "of what is there, two files have it");
            drop((file, later, names));
            until(|| counts.iter().all(|count| Arc::strong_count(count) == 1)).await;
            assert_eq!(
                options.open(&path).await.unwrap().object().stack().to_string(),
                "emulate | xor | file"
            );
        });
    });
}

#[test]
fn sockets_of_every_kind_and_accepted_ones() {
    alone("sockets_of_every_kind_and_accepted_ones", |backend| {
        local(backend).block_on(async {
            let (streams, datagrams) = (Count::new("streams"), Count::new("datagrams"));
            let early = TcpListener::bind_with(HERE, stack_of([]).unwrap()).await.unwrap();
            let one = register(&streams, "385100.5", |opening| opening.bottom() == "stream");
            let other = register(&datagrams, "300", |opening| opening.bottom() == "datagram");
            // Also what is accepted by one that was there before.
            let late = TcpListener::bind_with(HERE, stack_of([]).unwrap()).await.unwrap();
            for listener in [&early, &late] {
                assert_eq!(listener.object().stack().to_string(), "listener");
                let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                let server = listener.accept().await.unwrap().0;
                for stream in [&client, &server] {
                    assert_eq!(stream.object().stack().to_string(), "streams | stream");
                }
                client.write_all("text").await.unwrap();
                assert_eq!(server.read_lease().await.unwrap()[..], b"text"[..]);
                assert_eq!(streams.take(), 2);
            }
            let (a, b) =
                (UdpSocket::bind(HERE).await.unwrap(), UdpSocket::bind(HERE).await.unwrap());
            assert_eq!(a.object().stack().to_string(), "datagrams | datagram");
            a.send_to("text", b.local_addr().unwrap()).await.unwrap();
            assert_eq!((datagrams.take(), streams.take()), (1, 0));
            drop((one, other));
            let client = TcpStream::connect(late.local_addr().unwrap()).await.unwrap();
            assert_eq!(client.object().stack().to_string(), "stream");
        });
    });
}

/// Operations on paths travel a stack too.
#[test]
fn names_and_bottoms_in_memory() {
    alone("names_and_bottoms_in_memory", |backend| {
        local(backend).block_on(async {
            let dir = Dir::new();
            let count = Count::new("names");
            let _registered = register(&count, "1", |opening| opening.name().ends_with("old"));
            let path = dir.file("old", "text");
            fs::rename(&path, dir.path("new")).await.unwrap();
            assert_eq!(count.take(), 1);
            let options = OpenOptions::new().read(true).write(true);
            let memory = options.on(Arc::new(Memory::new())).open("old").await.unwrap();
            assert_eq!(memory.object().stack().to_string(), "names | memory");
        });
    });
}

#[test]
fn open_files_are_rid_of_it() {
    alone("open_files_are_rid_of_it", |backend| {
        local(backend).block_on(async {
            let dir = Dir::new();
            let path = dir.file("f", pattern(100));
            let count = Count::new("count");
            let registration =
                register(&count, "385100.5", |opening| opening.bottom() != "listener");
            let options = OpenOptions::new().read(true).write(true);
            let mut files = Vec::new();
            for _ in 0..5 {
                files.push(options.clone().open(&path).await.unwrap());
            }
            let listener = TcpListener::bind(HERE).await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let server = listener.accept().await.unwrap().0;
            // One is closed, one has been rid of it, one has a request in flight.
            files.pop().unwrap().close().await.unwrap();
            let object = files[0].object();
            object.detach(&object.attachment("count").unwrap()).unwrap().await;
            let mut silent = server.read(vec![0; 4]);
            assert!(poll_once(&mut silent).is_pending());
            // It need not agree.
            count.stays.store(true, Ordering::Relaxed);
            let refused = registration.detach();
            assert_eq!(refused.len(), 5);
            for change in refused {
                assert!(matches!(change, Err(ChangeError::Refused { .. })));
            }
            assert_eq!(files[1].object().stack().to_string(), "count | file");
            let later = options.clone().open(&path).await.unwrap();
            assert_eq!(later.object().stack().to_string(), "file", "it is registered no more");
            count.stays.store(false, Ordering::Relaxed);
            let changes = registration.detach();
            assert_eq!(changes.len(), 5);
            let is_done = |change: &&Result<_, _>| Change::is_done(change.as_ref().unwrap());
            until(|| changes.iter().filter(is_done).count() == 4).await;
            for file in &files {
                assert_eq!(file.object().stack().to_string(), "file");
            }
            assert_eq!(client.object().stack().to_string(), "stream");
            client.write_all("late").await.unwrap();
            assert_eq!(silent.await.unwrap().1, b"late");
            for change in changes {
                change.unwrap().await;
            }
            count.take();
            files[1].read_at(vec![0; 9], 0).await.unwrap();
            assert_eq!(count.take(), 0);
            assert!(registration.detach().is_empty(), "none is left");
            drop((registration, files, later, client, server));
            until(|| Arc::strong_count(&count) == 1).await;
        });
    });
}

/// A filter that is taken off everything at the very moment in which a file is given it, and when that is
/// being opened.
#[test]
fn taken_off_while_a_file_is_opened() {
    /// Takes what is registered off when a file is opened, above or below it.
    struct Off(Arc<OnceLock<Registration>>);
    impl Filter for Off {
        type Open = ();
        fn name(&self) -> &str {
            "off"
        }
        fn hooks(&self) -> MajorSet {
            MajorSet::of(&[Major::Create])
        }
        async fn other(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
            let changes = self.0.get().expect("registered").detach();
            assert_eq!((changes.len(), changes.iter().all(Result::is_ok)), (1, true));
            next.forward(&mut io).await
        }
    }
    alone("taken_off_while_a_file_is_opened", |backend| {
        local(backend).block_on(async {
            let dir = Dir::new();
            let path = dir.file("f", "text");
            let count = Count::new("count");
            let registration = Arc::<OnceLock<Registration>>::default();
            let (mine, filter) = (registration.clone(), count.clone());
            let registered = register_filter("count", altitude("1"), move |_| {
                // In time to be asked, and too late to be given.
                assert!(mine.get().expect("registered").detach().is_empty());
                Some(filter.clone())
            });
            registration.set(registered.unwrap()).unwrap();
            let options = OpenOptions::new().read(true);
            let file = options.clone().open(&path).await.unwrap();
            assert_eq!(file.object().stack().to_string(), "file");

            for at in ["1", "385100.5"] {
                let registration = Arc::<OnceLock<Registration>>::default();
                registration.set(register(&count, at, is_file)).unwrap();
                let off = Off(registration.clone()).into_driver();
                let file = options.clone().filter(off).open(&path).await.unwrap();
                assert_eq!(file.object().stack().to_string(), "off | file");
                assert_eq!(file.read_at(vec![0; 9], 0).await.unwrap().1, b"text");
            }
            assert_eq!(count.take(), 0);
        });
    });
}

/// A file that is being opened when the filter is taken off everything, and refuses to be rid of it, is
/// found by the next call as any other.
#[test]
fn a_file_that_is_opened_meanwhile_may_refuse_too() {
    alone("a_file_that_is_opened_meanwhile_may_refuse_too", |backend| {
        local(backend).block_on(async {
            let dir = Dir::new();
            let path = dir.file("f", "text");
            let count = Count::new("count");
            count.stays.store(true, Ordering::Relaxed);
            let registration = Arc::<OnceLock<Registration>>::default();
            let (mine, filter) = (registration.clone(), count.clone());
            let registered = register_filter("count", altitude("1"), move |_| {
                assert!(mine.get().expect("registered").detach().is_empty());
                Some(filter.clone())
            });
            registration.set(registered.unwrap()).unwrap();
            let registration = registration.get().unwrap();
            let file = OpenOptions::new().read(true).open(&path).await.unwrap();
            assert_eq!(file.object().stack().to_string(), "count | file");
            let refused = registration.detach();
            assert!(matches!(refused[..], [Err(ChangeError::Refused { .. })]), "{refused:?}");
            count.stays.store(false, Ordering::Relaxed);
            for change in registration.detach() {
                change.unwrap().await;
            }
            assert_eq!(file.object().stack().to_string(), "file");
            assert!(registration.detach().is_empty(), "none is left");
        });
    });
}

/// Files are opened, used and closed by several threads while filters come and go: each file has all of
/// a filter or nothing of it, and in the end nobody has any.
#[test]
fn files_are_opened_while_filters_come_and_go() {
    alone("files_are_opened_while_filters_come_and_go", |backend| {
        let dir = Dir::new();
        let path = dir.file("f", [0; 64]);
        let runtime = multi(backend, 2);
        let stop = Arc::new(AtomicBool::new(false));
        let users: Vec<_> = (0..4)
            .map(|_| {
                let (path, stop) = (path.clone(), stop.clone());
                runtime.spawn(async move {
                    let (mut with, mut without) = (0, 0);
                    let mut last = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let options = OpenOptions::new().read(true).write(true);
                        let file = options.open(&path).await.unwrap();
                        let (n, bytes) = file.read_at(vec![9; 64], 0).await.unwrap();
                        // Both of the pair, which undo each other, or one, or none: never half a one.
                        assert_eq!(n, 64);
                        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{bytes:?}");
                        let has = file.object().stack().devices().len() > 1;
                        with += usize::from(has);
                        without += usize::from(!has);
                        last.push(file);
                        if last.len() > 4 {
                            last.remove(0).close().await.unwrap();
                            last.remove(0);
                        }
                        overlapped::yield_now().await;
                    }
                    (with, without, last)
                })
            })
            .collect();
        let mut taken_off = 0;
        for i in 0..300u32 {
            let xor: Arc<dyn Driver> = Arc::new(Xor(5));
            let one = xor.clone();
            let at = Altitude::from(100_000 + i * 1000);
            let upper = register_filter("upper", at, move |_| Some(one.clone())).unwrap();
            let lower = register_filter("lower", Altitude::from(i), |_| Some(Arc::new(Xor(5))));
            let lower = lower.unwrap();
            std::thread::sleep(std::time::Duration::from_micros(500));
            drop(lower);
            for change in upper.detach() {
                change.unwrap().wait().unwrap();
                taken_off += 1;
            }
            drop(upper);
            // What is being opened at this moment is in nobody's hands yet.
            support::until_blocking(|| Arc::strong_count(&xor) == 1);
        }
        stop.store(true, Ordering::Relaxed);
        for user in users {
            let (with, without, last) = runtime.block_on(user).unwrap();
            assert!(with > 0 && without > 0, "{with} and {without}");
            drop(last);
        }
        assert!(taken_off > 0);
    });
}

/// Stands on nothing.
struct Nowhere;

impl Driver for Nowhere {
    fn name(&self) -> &str {
        "nowhere"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::NONE
    }
    fn may_stand_on(&self, _: Limits) -> Result<(), Status> {
        Err(Status::DEVICE_BUSY)
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        lower.skip(irp)
    }
}

#[test]
fn what_cannot_be_set_up_is_not_opened() {
    alone("what_cannot_be_set_up_is_not_opened", |backend| {
        local(backend).block_on(async {
            let dir = Dir::new();
            let path = dir.file("f", "text");
            let panics = register_filter("panics", altitude("1"), |_| panic!("wanted")).unwrap();
            let options = OpenOptions::new().read(true);
            let refused = status(options.clone().open(&path).await);
            assert_eq!(refused, Status::DRIVER_INTERNAL_ERROR);
            drop(panics);
            let nowhere = register_filter("nowhere", altitude("1"), |_| Some(Arc::new(Nowhere)));
            let nowhere = nowhere.unwrap();
            assert_eq!(status(options.clone().open(&path).await), Status::DEVICE_BUSY);
            drop(nowhere);
            // As many as there is room for, and one more.
            let deep = (0..MAX_LOCATIONS - 1)
                .fold(options.clone(), |options, _| options.filter(pass(PassKind::Skip)));
            drop(deep.clone().open(&path).await.unwrap());
            let count = Count::new("one more");
            let registered = register(&count, "1", is_file);
            assert_eq!(status(deep.open(&path).await), Status::INVALID_PARAMETER);
            assert_eq!(options.open(&path).await.unwrap().object().stack().devices().len(), 2);
            drop(registered);
        });
    });
}

#[test]
fn as_text() {
    alone("as_text", |backend| {
        local(backend).block_on(async {
            let dir = Dir::new();
            let path = dir.file("f", "text");
            let text: Text = "xor(key=0x20)".parse().unwrap();
            let registered = text.register(altitude("140000.5"), is_file).unwrap();
            let file = OpenOptions::new().read(true).open(&path).await.unwrap();
            assert_eq!(file.read_at(vec![0; 9], 0).await.unwrap().1, b"TEXT");
            let taken = text.register(altitude("140000.5"), is_file).map(drop).unwrap_err();
            assert_eq!(taken.kind(), std::io::ErrorKind::AlreadyExists);
            drop(registered);
            for (wrong, says) in [
                ("xor | xor", "one filter"),
                ("memory", "one filter"),
                ("xor | memory", "one filter"),
                ("xor(kee=1)", "no parameter 'kee'"),
            ] {
                let text: Text = wrong.parse().unwrap();
                let error = text.register(altitude("1"), is_file).map(drop).unwrap_err();
                assert!(error.to_string().contains(says), "{error}");
            }
        });
    });
}
