//! Bottoms that are memory: `fs::File` on them does what it does on a real file, by all six routes,
//! through filters, answered inside dispatch (I-27) or later (I-14).

mod support;

use std::io::{ErrorKind, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use futures_util::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use overlapped::driver::bottom::{Failing, Full, Memory, Null, Pattern, Zero};
use overlapped::driver::filter::{Later, Xor};
use overlapped::driver::{Disposition, Driver, Irp, Lower, Major, MajorSet, On};
use overlapped::fs::{Advice, File, OpenOptions};
use overlapped::operation::{Accept, Close, Read, Shutdown, Write};
use overlapped::wait::{self, Alertable, Event};
use overlapped::{CompletionPort, Request, Status};
use support::{
    Dir, alone, both, descriptors, kind, local, pattern, poll_once, status, until, workers,
};

/// For reading and writing.
fn options() -> OpenOptions {
    OpenOptions::new().read(true).write(true)
}

/// The same, on a bottom, whose answers come at once or later.
fn on(bottom: impl Driver, later: bool) -> OpenOptions {
    let options = options().on(Arc::new(bottom));
    if later { options.filter(Arc::new(Later)) } else { options }
}

/// The current position, as an offset.
const CURRENT: u64 = u64::MAX;

/// What a program sees of a file, line by line.
async fn story(options: OpenOptions, name: &std::path::Path) -> Vec<String> {
    let mut story = Vec::new();
    macro_rules! tell {
        ($($what:tt)*) => { story.push(format!("{}: {:?}", line!(), $($what)*)) };
    }
    let file = options.clone().truncate(true).open(name).await.unwrap();
    tell!(file.read_at(vec![1; 9], 0).await.unwrap());
    tell!(file.write_at("hello, memory", 0).await.unwrap().0);
    tell!(file.write_at(vec![7; 10_000], 5000).await.unwrap().0);
    tell!(file.read_at(Vec::with_capacity(20_000), 0).await.unwrap());
    tell!(file.read_at(Vec::with_capacity(100), 14_990).await.unwrap());
    tell!(file.read_at(Vec::with_capacity(100), 15_000).await.unwrap());
    tell!(file.read_at(Vec::with_capacity(100), 1 << 40).await.unwrap());
    tell!(file.read_at(Vec::<u8>::new(), 3).await.unwrap());
    tell!(file.write_at("", 99_999).await.unwrap().0);
    tell!(file.metadata().await.unwrap().len());
    let three = || (0..3).map(|i| vec![i; 3000 * i as usize]).collect::<Vec<_>>();
    tell!(file.write_vectored_at(three(), 4090).await.unwrap().0);
    let room = |n: usize| Vec::<u8>::with_capacity(n);
    tell!(file.read_vectored_at(vec![room(4095), room(0), room(99_999)], 1).await.unwrap());
    tell!(file.set_len(4097).await);
    tell!(file.set_len(20_000).await);
    tell!(file.read_at(room(20_001), 0).await.unwrap());
    tell!(file.write_all_at(vec![9; 12_288], 0).await.unwrap());
    tell!(file.punch_hole(10, 9000).await);
    tell!(status(file.punch_hole(10, 0).await));
    tell!(file.punch_hole(19_000, 9000).await);
    tell!(file.read_at(room(20_001), 0).await.unwrap());
    tell!((file.sync_all().await, file.sync_data().await, file.advise(0, 0, Advice::Random).await));
    let info = file.metadata().await.unwrap();
    tell!((info.len(), info.is_file(), info.links()));
    for (offset, len) in [(i64::MAX as u64, 1), (i64::MAX as u64 - 1, 5)] {
        tell!(status(file.write_at(vec![1; len], offset).await));
    }
    tell!(status(file.set_len(1 << 63).await));
    // The current position, which there is not (I-36).
    let object = file.object();
    tell!(status(Request::new(object, Write::next("one")).await));
    tell!(status(Request::new(object, Read::next(room(4))).await));
    let mut cursor = file.cursor(3);
    tell!(cursor.seek(SeekFrom::End(-4)).await.unwrap());
    tell!(cursor.write_all("the end of it").await.unwrap().0);
    tell!((cursor.position(), cursor.get_ref().metadata().await.unwrap().len()));
    let mut compat = cursor.compat();
    compat.seek(SeekFrom::Start(2)).await.unwrap();
    compat.write_all(b"by traits").await.unwrap();
    compat.flush().await.unwrap();
    compat.seek(SeekFrom::Start(0)).await.unwrap();
    let mut all = Vec::new();
    tell!(compat.read_to_end(&mut all).await.unwrap());
    tell!(all);
    drop(compat);
    // Other ways to open it.
    let appends = options.clone().append(true).open(name).await.unwrap();
    tell!(appends.write_at("appended", 0).await.unwrap().0);
    tell!(appends.read_at(room(100), 20_000).await.unwrap());
    tell!(Request::new(appends.object(), Write::at("!", 5)).await.unwrap().0);
    tell!(appends.metadata().await.unwrap().len());
    let reads = options.clone().write(false).open(name).await.unwrap();
    tell!(status(reads.write_at("x", 0).await));
    tell!(status(reads.set_len(1).await));
    tell!(status(reads.punch_hole(1, 1).await));
    tell!(reads.read_at(room(9), 0).await.unwrap());
    let writes = options.clone().read(false).open(name).await.unwrap();
    tell!(status(writes.read_at(room(9), 0).await));
    tell!(status(options.clone().create_new(true).open(name).await));
    tell!(status(options.clone().read(false).write(false).open(name).await));
    tell!(writes.close().await.is_ok());
    let file = options.truncate(true).open(name).await.unwrap();
    tell!((file.metadata().await.unwrap().len(), file.close().await.is_ok()));
    story
}

#[test]
fn a_file_in_memory_does_what_a_file_does() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.file("f", "");
        let real = story(options(), &path).await;
        for later in [false, true] {
            let made = story(on(Memory::new(), later), &path).await;
            for (real, made) in real.iter().zip(&made) {
                assert_eq!(real, made, "later: {later}");
            }
            assert_eq!(real.len(), made.len());
        }
    });
}

#[test]
fn data_is_copied_between_memory_and_real_files() {
    both(async |_| {
        let dir = Dir::new();
        let real = options().open(dir.file("f", pattern(300_000))).await.unwrap();
        let memory = Arc::new(Memory::new());
        let one = options().on(memory.clone()).open("one").await.unwrap();
        assert_eq!(real.copy_range(1, &one, 5, 1 << 30).await.unwrap(), 299_999);
        let two = on(Memory::new(), true).open("two").await.unwrap();
        assert_eq!(one.copy_range(5, &two, 0, 250_000).await.unwrap(), 250_000);
        assert_eq!(two.copy_range(0, &real, 1_000_000, 250_000).await.unwrap(), 250_000);
        let (_, back) = real.read_at(Vec::with_capacity(250_000), 1_000_000).await.unwrap();
        assert!(back == pattern(300_000)[1..][..250_000]);
        // Ranges of one file that overlap, also through another open of it.
        let again = options().on(memory).open("again").await.unwrap();
        assert_eq!(kind(one.copy_range(0, &again, 10, 100).await), ErrorKind::InvalidInput);
    });
}

/// The bytes, by each route of a task.
async fn routes_of_a_task(file: &File, bytes: &[u8]) {
    let read = || file.read_at(Vec::<u8>::with_capacity(64), 0);
    assert_eq!(read().await.unwrap().1, bytes);
    let port = CompletionPort::new();
    read().post(&port, 7).unwrap();
    let packet = port.next().await.unwrap();
    assert_eq!(packet.key(), 7);
    assert_eq!(packet.into_output::<Read<Vec<u8>>>().unwrap().1, bytes);
    let event = Event::manual(false);
    let block = read().signal(&event).unwrap();
    event.signalled().await;
    assert_eq!((block.status(), block.info()), (Status::SUCCESS, bytes.len()));
    assert_eq!(block.take().unwrap().unwrap().1, bytes);
    let block = read().start().unwrap();
    until(|| block.is_done()).await;
    assert_eq!(block.take().unwrap().unwrap().1, bytes);
}

#[test]
fn each_route_of_a_task() {
    for later in [false, true] {
        workers(2, move |_| async move {
            let options = on(Memory::new(), later).filter(Arc::new(Xor(3)));
            let file = options.filter(Arc::new(Xor(5))).open("f").await.unwrap();
            file.write_all_at("by each route", 0).await.unwrap();
            routes_of_a_task(&file, b"by each route").await;
        });
        both(async |_| {
            let file = on(Memory::new(), later).open("f").await.unwrap();
            file.write_all_at("by each route", 0).await.unwrap();
            routes_of_a_task(&file, b"by each route").await;
        });
    }
}

#[test]
fn each_route_of_a_plain_thread() {
    alone("each_route_of_a_plain_thread", |_| {
        for later in [false, true] {
            let options = on(Memory::new(), later).filter(Arc::new(Xor(3)));
            let file = options.open_wait("f").unwrap();
            let bytes = b"by each route";
            assert_eq!(file.write_at(bytes.to_vec(), 0).wait().unwrap().0, bytes.len());
            let read = || file.read_at(Vec::<u8>::with_capacity(64), 0);
            assert_eq!(read().wait().unwrap().1, bytes);
            let port = CompletionPort::new();
            read().post(&port, 7).unwrap();
            let packet = port.remove(None).unwrap();
            assert_eq!(packet.into_output::<Read<Vec<u8>>>().unwrap().1, bytes);
            let event = Event::manual(false);
            let block = read().signal(&event).unwrap();
            assert_eq!(event.wait(None), Ok(true));
            assert_eq!(block.take().unwrap().unwrap().1, bytes);
            let (send, receive) = mpsc::channel();
            read().queue_apc(move |done| send.send(done.unwrap().1).unwrap()).unwrap();
            while receive.try_recv().map(|got| assert_eq!(got, bytes)).is_err() {
                wait::sleep(Some(Duration::from_millis(50)), Alertable::Yes).unwrap();
            }
            let block = read().start().unwrap();
            support::until_blocking(|| block.is_done());
            assert_eq!(block.take().unwrap().unwrap().1, bytes);
            // The future, on this thread and in a runtime.
            local(overlapped::Backend::from_environment().unwrap().unwrap())
                .block_on(routes_of_a_task(&file, bytes));
            assert_eq!(file.metadata().wait().unwrap().len(), bytes.len() as u64);
            file.set_len(3).wait().unwrap();
            file.sync_all().wait().unwrap();
            assert_eq!(read().wait().unwrap().1, b"by ");
            file.close_wait().unwrap();
        }
    });
}

/// I-35: a synchronous file object keeps the position, which its requests move in their order.
#[test]
fn i35_a_synchronous_file_in_memory() {
    alone("i35_a_synchronous_file_in_memory", |_| {
        for later in [false, true] {
            let file = on(Memory::new(), later).open_wait("f").unwrap();
            let object = file.object();
            object.make_synchronous(Alertable::No).unwrap();
            for word in ["one ", "two ", "three"] {
                Request::new(object, Write::at(word, CURRENT)).wait().unwrap();
            }
            file.set_position(4).wait().unwrap();
            let read = Request::new(object, Read::at(Vec::with_capacity(3), CURRENT)).wait();
            assert_eq!(read.unwrap().1, b"two");
            assert_eq!(object.current_offset(), Some(7));
        }
    });
}

#[test]
fn the_other_bottoms_do_as_their_devices() {
    both(async |_| {
        for later in [false, true] {
            let devices: [(&str, Arc<dyn Driver>); 3] = [
                ("/dev/null", Arc::new(Null)),
                ("/dev/zero", Arc::new(Zero)),
                ("/dev/full", Arc::new(Full)),
            ];
            for (path, bottom) in devices {
                let real = options().open(path).await.unwrap();
                let mut made = options().on(bottom);
                if later {
                    made = made.filter(Arc::new(Later));
                }
                let made = made.open(path).await.unwrap();
                for offset in [0, 5, 1 << 40] {
                    let (a, b) = (
                        real.read_at(vec![1; 9999], offset).await,
                        made.read_at(vec![1; 9999], offset).await,
                    );
                    assert_eq!(a.unwrap(), b.unwrap(), "{path}");
                    let (a, b) = (
                        real.write_at(vec![1; 9999], offset).await,
                        made.write_at(vec![1; 9999], offset).await,
                    );
                    assert_eq!(a.as_ref().map(|ok| ok.0).ok(), b.as_ref().map(|ok| ok.0).ok());
                    assert_eq!(status(a), status(b), "{path}");
                }
                let (a, b) = (real.metadata().await.unwrap(), made.metadata().await.unwrap());
                assert_eq!((a.file_type(), a.len()), (b.file_type(), b.len()), "{path}");
                assert_eq!(status(real.set_len(5).await), status(made.set_len(5).await), "{path}");
            }
        }
    });
}

#[test]
fn a_disk_of_a_size_is_full_at_its_end() {
    both(async |_| {
        let file = on(Memory::of_size(1000), false).truncate(true).open("disk").await.unwrap();
        assert_eq!(file.metadata().await.unwrap().len(), 1000, "not truncated");
        assert_eq!(file.read_at(vec![1; 2000], 0).await.unwrap(), (1000, vec![0; 1000]));
        assert_eq!(file.write_at(vec![1; 300], 900).await.unwrap().0, 100);
        assert_eq!(kind(file.write_at(vec![1; 300], 1000).await), ErrorKind::StorageFull);
        assert_eq!(kind(file.set_len(999).await), ErrorKind::InvalidInput);
        let two = || vec![vec![2; 300], vec![3; 300]];
        assert_eq!(file.write_vectored_at(two(), 600).await.unwrap().0, 400);
        let (_, bytes) = file.read_at(Vec::with_capacity(2000), 600).await.unwrap();
        assert_eq!(bytes, [vec![2; 300], vec![3; 100]].concat());
    });
}

#[test]
fn a_pattern_reads_what_may_be_written() {
    both(async |_| {
        for later in [false, true] {
            let model = Pattern::new(42, 1 << 50);
            let file = on(Pattern::new(42, 1 << 50), later).open("pattern").await.unwrap();
            for (at, len) in [(0, 1), (3, 9000), ((1 << 50) - 100, 5000), (1 << 40, 77)] {
                let (n, bytes) = file.read_at(Vec::with_capacity(len), at).await.unwrap();
                let mut right = vec![0; n];
                model.fill(at, &mut right);
                assert!(bytes == right && n == len.min(((1 << 50) - at) as usize));
                assert_eq!(file.write_at(bytes.clone(), at).await.unwrap().0, n);
                let halves = vec![bytes[..n / 2].to_vec(), bytes[n / 2..].to_vec()];
                assert_eq!(file.write_vectored_at(halves, at).await.unwrap().0, n);
                // One bit, anywhere.
                for wrong in [0, n / 2, n - 1] {
                    let mut bytes = bytes.clone();
                    bytes[wrong] ^= 4;
                    let refused = file.write_at(bytes, at).await;
                    assert_eq!(status(refused), Status::DATA_ERROR, "{wrong} of {n}");
                }
            }
            assert_eq!(kind(file.write_at("x", 1 << 50).await), ErrorKind::StorageFull);
            let other = on(Pattern::new(43, 1 << 50), later).open("another").await.unwrap();
            let (_, bytes) = file.read_at(vec![0; 64], 0).await.unwrap();
            assert_eq!(status(other.write_at(bytes, 0).await), Status::DATA_ERROR);
            assert_eq!(file.metadata().await.unwrap().len(), 1 << 50);
        }
        // A filter that changes the data on the way down is found out, one that undoes it is not.
        let once = on(Pattern::new(1, 1000), false).filter(Arc::new(Xor(1)));
        let twice = once.clone().filter(Arc::new(Xor(1))).open("twice").await.unwrap();
        let once = once.open("once").await.unwrap();
        let mut right = vec![0; 1000];
        Pattern::new(1, 1000).fill(0, &mut right);
        assert_eq!(status(once.write_at(right.clone(), 0).await), Status::DATA_ERROR);
        assert_eq!(twice.write_at(right, 0).await.unwrap().0, 1000);
    });
}

/// Counts creates, cleanups and closes.
#[derive(Default)]
struct Ends(Mutex<[usize; 3]>);

impl Driver for Ends {
    fn name(&self) -> &str {
        "ends"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Create, Major::Cleanup, Major::Close])
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        let which = match irp.major() {
            Major::Create => 0,
            Major::Cleanup => 1,
            _ => 2,
        };
        self.0.lock().unwrap()[which] += 1;
        lower.forward(irp, On::ALL)
    }
}

/// O-31, X-33: each open has one create, one cleanup and one close, with no descriptor anywhere.
#[test]
fn o31_creates_and_closes_balance() {
    alone("o31_creates_and_closes_balance", |backend| {
        let runtime = local(backend);
        let before = descriptors();
        for later in [false, true] {
            let ends = Arc::new(Ends::default());
            let seen = |ends: &Ends| *ends.0.lock().unwrap();
            runtime.block_on(async {
                let options = on(Memory::new(), later).filter(ends.clone());
                let file = options.clone().open("dropped").await.unwrap();
                file.write_at("x", 0).await.unwrap();
                assert_eq!((file.as_raw_fd(), file.object().is_open()), (-1, true));
                assert_eq!(file.object().cancel_io_ex(), Err(Status::NOT_FOUND));
                assert_eq!(descriptors(), before);
                drop(file);
                until(|| seen(&ends) == [1, 1, 1]).await;
                let file = options.clone().open("closed").await.unwrap();
                let object = file.object().handle();
                file.close().await.unwrap();
                assert!(!object.is_open());
                // Nothing more happens on it.
                let read = Request::new(&object, Read::at(vec![0; 9], 0)).await;
                assert_eq!(status(read), Status::FILE_CLOSED);
                // SAFETY: it has no descriptor.
                let close = Request::new(&object, unsafe { Close::new() }).await;
                assert_eq!(status(close), Status::FILE_CLOSED);
                drop(object);
                // An open that nobody waits for any more, X-35.
                let mut open = Box::pin(options.clone().open("abandoned"));
                assert_eq!(poll_once(&mut open).is_pending(), later);
                drop(open);
                // One that fails is never closed.
                let refused = options.create_new(true).open("refused").await;
                assert_eq!(kind(refused), ErrorKind::AlreadyExists);
            });
            runtime.block_on(async {
                let live = || overlapped::live_requests(Duration::ZERO).requests.len();
                until(|| live() == 0).await;
            });
            // The refused one has a create alone, and of the closed one a second close was asked for.
            // The abandoned one is closed; or, with `Later`, was cancelled on its way.
            assert_eq!(seen(&ends), if later { [3, 2, 3] } else { [4, 3, 4] });
        }
        drop(runtime);
        // From plain threads, on a home that has gone.
        let ends = Arc::new(Ends::default());
        let options = on(Memory::new(), false).filter(ends.clone());
        let file = std::thread::spawn(move || options.open_wait("f").unwrap()).join().unwrap();
        assert_eq!(file.write_at("far", 0).wait().unwrap().0, 3);
        drop(file);
    });
}

/// a close waits for the requests that are in flight, which are cancelled first.
#[test]
fn x33_a_close_waits_for_what_is_in_flight() {
    both(async |_| {
        let memory = Arc::new(Memory::new());
        let options = options().on(memory).filter(Arc::new(Later));
        let file = options.clone().open("f").await.unwrap();
        let port = CompletionPort::new();
        for i in 0..10 {
            file.write_at(vec![1; 10], i * 10).post(&port, i).unwrap();
        }
        file.close().await.unwrap();
        for _ in 0..10 {
            let packet = port.next().await.unwrap();
            assert_eq!(packet.status(), Status::CANCELLED);
        }
        // None of them has written.
        let file = options.open("f").await.unwrap();
        assert_eq!(file.metadata().await.unwrap().len(), 0);
        // Nor does one that is dropped.
        let mut write = file.write_at("dropped", 0);
        assert!(poll_once(&mut write).is_pending());
        drop(write);
        file.sync_all().await.unwrap();
        assert_eq!(file.metadata().await.unwrap().len(), 0);
    });
}

#[test]
fn what_is_not_there_is_refused_clearly() {
    both(async |_| {
        for later in [false, true] {
            let file = on(Memory::new(), later).open("f").await.unwrap();
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            assert_eq!(kind(file.allocate(0, 10).await), ErrorKind::Unsupported);
            assert_eq!(kind(file.set_permissions(permissions).await), ErrorKind::Unsupported);
            assert_eq!(kind(file.hard_link("elsewhere").await), ErrorKind::Unsupported);
            let object = file.object();
            let accept = Request::new(object, Accept).await.map(drop);
            assert_eq!(status(accept), Status::INVALID_DEVICE_REQUEST);
            let shut = Request::new(object, Shutdown { how: libc::SHUT_WR }).await;
            assert_eq!(status(shut), Status::INVALID_DEVICE_REQUEST);
            assert_eq!(status(file.punch_hole(0, 1).await), Status::SUCCESS);
            // A descriptor.
            let none = catch_unwind(AssertUnwindSafe(|| file.as_fd().as_raw_fd()));
            assert!(none.is_err());
            // A transforming filter does not let holes through.
            let secret = on(Memory::new(), later).filter(Arc::new(Xor(1))).open("f").await.unwrap();
            assert_eq!(kind(secret.punch_hole(0, 1).await), ErrorKind::Unsupported);
        }
    });
}

#[test]
fn chosen_operations_fail() {
    both(async |_| {
        for later in [false, true] {
            let refused = on(Failing::new(MajorSet::ALL, Status::ACCESS_DENIED), later).open("f");
            assert_eq!(kind(refused.await), ErrorKind::PermissionDenied);
            let some = MajorSet::of(&[Major::Read, Major::Close]);
            let options = on(Failing::new(some, Status::DATA_ERROR), later);
            let file = options.filter(Arc::new(Xor(9))).open("f").await.unwrap();
            let error = file.read_at(vec![3; 7], 0).await.unwrap_err();
            assert_eq!((error.status(), error.into_buf()), (Status::DATA_ERROR, vec![3; 7]));
            assert_eq!(file.write_at("taken", 0).await.unwrap().0, 5);
            let object = file.object().handle();
            assert_eq!(status(file.close().await), Status::DATA_ERROR);
            assert!(!object.is_open(), "closed all the same");
        }
    });
}

/// Appends of many threads are whole, and none is lost.
#[test]
fn appends_are_whole() {
    alone("appends_are_whole", |_| {
        let options = OpenOptions::new().read(true).append(true).on(Arc::new(Memory::new()));
        let threads: Vec<_> = (0..4u8)
            .map(|thread| {
                let options = options.clone();
                std::thread::spawn(move || {
                    let file = options.open_wait("f").unwrap();
                    for i in 0..500u16 {
                        let [a, b] = i.to_le_bytes();
                        file.write_at(vec![thread, a, b], 0).wait().unwrap();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let file = options.open_wait("f").unwrap();
        let (_, bytes) = file.read_at(Vec::with_capacity(10_000), 0).wait().unwrap();
        let mut next = [0u16; 4];
        for line in bytes.chunks(3) {
            assert_eq!(line[1..], next[usize::from(line[0])].to_le_bytes());
            next[usize::from(line[0])] += 1;
        }
        assert_eq!(next, [500; 4]);
    });
}

/// T-122a.
#[test]
fn requests_are_listed_under_their_drivers() {
    both(async |_| {
        let file = on(Memory::new(), true).filter(Arc::new(Xor(1))).open("a name").await.unwrap();
        let mut read = file.read_at(vec![0; 9], 0);
        assert!(poll_once(&mut read).is_pending());
        let requests = overlapped::live_requests(Duration::ZERO).requests;
        let mine = requests.iter().find(|r| r.file == file.object().id()).unwrap();
        assert_eq!((&*mine.driver, &*mine.file_name, mine.state), ("later", "a name", "held"));
        read.await.unwrap();
    });
}
