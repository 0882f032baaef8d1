//! Filters that do what they must not, of both levels, on real files and sockets: the request that meets
//! them has a clear error or its true length, every other request goes on, and the process stays up.

mod support;

use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join;
use overlapped::Status;
use overlapped::driver::{
    Completion, Disposition, Driver, Filter, Held, Io, Irp, Lower, Major, MajorSet, Next, On,
    Unwinding,
};
use overlapped::fs::{File, OpenOptions};
use overlapped::net::{TcpListener, TcpStream, stack_of};
use overlapped::time::timeout;
use support::{Dir, backends, both, multi, watch};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Does {
    Panic,
    /// Lets go of the request.
    Drop,
    /// Says that all bytes have moved, and has not asked for any.
    Invent,
    /// Says that more have moved than there are.
    Overstate,
    /// Says that fewer have.
    Understate,
    /// Never says anything.
    Hang,
}

/// What misbehaves when a read comes, if it has been told to, once.
struct Bad {
    does: Does,
    armed: Arc<AtomicBool>,
    held: Mutex<Vec<Held>>,
}

impl Bad {
    fn is_to(&self) -> bool {
        self.armed.swap(false, SeqCst)
    }
}

struct Level1(Bad);

impl Driver for Level1 {
    fn name(&self) -> &str {
        "bad"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        if !self.0.is_to() {
            return lower.skip(irp);
        }
        match self.0.does {
            Does::Panic => panic!("wanted"),
            Does::Drop => irp.hold().1,
            Does::Invent => irp.complete(Status::SUCCESS, 4),
            Does::Overstate | Does::Understate => lower.forward(irp, On::SUCCESS),
            Does::Hang => {
                let (held, disposition) = irp.hold();
                self.0.held.lock().unwrap().push(held);
                disposition
            }
        }
    }
    fn completed(&self, mut irp: Unwinding<'_>) -> Completion {
        let n = if self.0.does == Does::Overstate { usize::MAX } else { 1 };
        irp.set_result(Status::SUCCESS, n);
        irp.proceed()
    }
}

struct Level2(Bad);

impl Filter for Level2 {
    type Open = ();
    fn name(&self) -> &str {
        "bad"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        if !self.0.is_to() {
            return next.forward(&mut io).await;
        }
        match self.0.does {
            Does::Panic => panic!("wanted"),
            Does::Drop => {
                // There is nothing to drop but what it sends.
                drop(next.forward(&mut io));
                Err(Status::IO_DEVICE_ERROR)
            }
            Does::Invent => Ok(4),
            Does::Overstate => next.forward(&mut io).await.map(|_| usize::MAX),
            Does::Understate => next.forward(&mut io).await.map(|_| 1),
            Does::Hang => pending().await,
        }
    }
}

fn bad(level: u8, does: Does) -> (Arc<dyn Driver>, Arc<AtomicBool>) {
    let armed = Arc::new(AtomicBool::new(false));
    let bad = Bad { does, armed: armed.clone(), held: Mutex::default() };
    (if level == 1 { Arc::new(Level1(bad)) } else { Level2(bad).into_driver() }, armed)
}

/// What a read of four bytes must come to: a status, and how many.
fn expected(level: u8, does: Does) -> Result<usize, Status> {
    match (does, level) {
        (Does::Drop, 2) => Err(Status::IO_DEVICE_ERROR),
        (Does::Panic | Does::Drop | Does::Invent, _) => Err(Status::DRIVER_INTERNAL_ERROR),
        (Does::Overstate, _) => Ok(4),
        (Does::Understate, _) => Ok(1),
        (Does::Hang, _) => unreachable!("it has no end"),
    }
}

const ENDS: [Does; 5] = [Does::Panic, Does::Drop, Does::Invent, Does::Overstate, Does::Understate];

#[test]
fn on_a_file() {
    let dir = Dir::new();
    let path = dir.file("file", "0123456789");
    both(async |_| {
        for level in [1, 2] {
            for does in ENDS {
                let (driver, armed) = bad(level, does);
                let file = OpenOptions::new().read(true).filter(driver).open(&path).await.unwrap();
                armed.store(true, SeqCst);
                let (first, second) =
                    join(async { file.read_at(Vec::with_capacity(4), 0).await }, async {
                        file.read_at(Vec::with_capacity(4), 4).await
                    })
                    .await;
                let first = first.map_err(|error| error.status());
                let what = format!("{does:?}, level {level}");
                match expected(level, does) {
                    Err(status) => assert_eq!(first.map(|(n, _)| n), Err(status), "{what}"),
                    Ok(n) => assert_eq!(first.unwrap(), (n, b"0123"[..n].to_vec()), "{what}"),
                }
                assert_eq!(second.unwrap().1, b"4567", "{what}");
                // Panics mark the device; what has been cut, or was let go of, is counted.
                let stack = file.object().stack();
                let device = stack.devices().next().unwrap();
                assert_eq!(device.is_faulted(), does == Does::Panic, "{what}");
                let is_fine = does == Does::Understate || (does, level) == (Does::Drop, 2);
                assert_eq!(device.bugs() == 0, is_fine, "{what}: {}", device.bugs());
                file.close().await.unwrap();
            }
        }
    });
}

#[test]
fn on_a_socket() {
    both(async |_| {
        for level in [1, 2] {
            for does in ENDS {
                let (driver, armed) = bad(level, does);
                let stack = stack_of([driver]).unwrap();
                let listener = TcpListener::bind_with("127.0.0.1:0", stack).await.unwrap();
                let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                let (server, _) = listener.accept().await.unwrap();
                client.write_all("01234567").await.unwrap();
                armed.store(true, SeqCst);
                let first = server.read(Vec::with_capacity(4)).await;
                let first = first.map(|(n, _)| n).map_err(|error| error.status());
                assert_eq!(first, expected(level, does), "{does:?}, level {level}");
                // The connection goes on, both ways; what was not received is there.
                let from = if matches!(does, Does::Overstate | Does::Understate) { 4 } else { 0 };
                let rest = server.read_exact(Vec::with_capacity(8 - from)).await.unwrap().1;
                assert_eq!(rest, b"01234567"[from..], "{does:?}, level {level}");
                server.write_all("answer").await.unwrap();
                assert_eq!(client.read_exact(vec![0; 6]).await.unwrap().1, b"answer");
            }
        }
    });
}

async fn hangs(file: &File, armed: &AtomicBool) {
    armed.store(true, SeqCst);
    let hung = timeout(Duration::from_millis(20), file.read_at(Vec::with_capacity(4), 0)).await;
    assert!(hung.is_err(), "nobody has answered it");
    assert_eq!(file.read_at(Vec::with_capacity(4), 4).await.unwrap().1, b"4567");
}

/// A request that a filter never gives back is the only one that waits; who has it is said at the end, and
/// its memory is not used again.
#[test]
fn a_filter_that_hangs() {
    let dir = Dir::new();
    let path = dir.file("file", "0123456789");
    for backend in backends() {
        for level in [1, 2] {
            let _watch = watch(format!("level {level} on {backend}"));
            let runtime = multi(backend, 2);
            let path = path.clone();
            let task = runtime.spawn(async move {
                let (driver, armed) = bad(level, Does::Hang);
                let options = OpenOptions::new().read(true);
                let file = options.clone().filter(driver).open(&path).await.unwrap();
                hangs(&file, &armed).await;
                // Others do not even see that.
                let other = options.open(&path).await.unwrap();
                assert_eq!(other.read_at(Vec::with_capacity(4), 0).await.unwrap().1, b"0123");
                other.close().await.unwrap();
            });
            runtime.block_on(task).unwrap();
            let report = runtime.shutdown(Duration::from_millis(200));
            assert_eq!(report.leaked_requests, 1, "level {level}: {report:?}");
            assert!(format!("{:?}", report.leaks).contains("bad"), "level {level}: {report:?}");
        }
    }
}
