//! Requests on file objects of their own, what requests carry, and files that a request needs beside
//! its own.

#![cfg(not(loom))]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use overlapped_iomgr::hal::{Op, Wait};
use overlapped_iomgr::processor::set_hardware_factory;
use overlapped_iomgr::wait::{self, Alertable};
use overlapped_iomgr::{
    CompletionPort, Disposition, Driver, FileHandle, FileObject, Irp, Lower, Major, MajorSet, On,
    RelatedFile, Request, Stack, Status,
};
use support::*;

/// A file object's context that says when it goes.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Box<Alive> {
        count.fetch_add(1, SeqCst);
        Box::new(Alive(count.clone()))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// A request that carries a text, on a file object of its own.
fn own(
    stack: &Arc<Stack>,
    alive: &Arc<AtomicUsize>,
    text: &'static str,
) -> Request<'static, Carry<&'static str>> {
    let (stack, alive) = (stack.clone(), alive.clone());
    Request::on_its_own(move || FileObject::new(stack, "own", Alive::new(&alive)), Carry(text))
}

/// Notes what it sees: major, file name, payload.
fn watching(log: &Log) -> Filter {
    let (down, up) = (log.clone(), log.clone());
    Filter::new("watch", move |irp, lower| {
        down.add(format!("{:?} {} {:?}", irp.major(), irp.file().name(), irp.payload::<&str>()));
        lower.forward(irp, On::ALL)
    })
    .completed(move |irp| {
        up.add(format!("up {:?} {:?}", irp.payload::<&str>(), irp.payload::<String>()));
        irp.proceed()
    })
    .hooks(&Major::ALL)
}

/// It travels the stack like others; nobody sees a create, cleanup or close (O-31: they balance).
#[test]
fn o31_own_file_of_a_request() {
    let h = Harness::new();
    let (log, alive) = (Log::default(), Arc::default());
    let stack = stack(vec![watching(&log)], Bottom::default());
    let mut request = own(&stack, &alive, "a");
    assert_eq!(alive.load(SeqCst), 0, "made when it is issued");
    assert_eq!(now(&mut request), (Status::SUCCESS, Some("a")));
    assert_eq!(log.take(), ["Private own Some(\"a\")", "up Some(\"a\") None"]);
    assert_eq!(alive.load(SeqCst), 0, "goes with the request");
    h.finish();
}

/// The end of the issuing call is no cleanup: the request goes on (X-33 is about handles' ends).
#[test]
fn x33_pending_requests_keep_their_own_file() {
    let h = Harness::new();
    let (log, alive) = (Log::default(), Arc::default());
    let stack = stack(vec![watching(&log)], Bottom::default());
    h.sim.script([Step::GATED]);
    let mut request = own(&stack, &alive, "b");
    assert!(poll(&mut request).is_pending());
    h.turns(3);
    assert_eq!((h.sim.cancels(), alive.load(SeqCst)), (0, 1));
    h.sim.open_gate();
    h.turn();
    assert_eq!(now(&mut request), (Status::SUCCESS, Some("b")));
    assert_eq!(alive.load(SeqCst), 0);
    assert_eq!(log.take().len(), 2);
    h.finish();
}

#[test]
fn x1_dropped_with_its_own_file() {
    let h = Harness::new();
    let alive = Arc::default();
    let stack = stack(vec![], Bottom::default());
    for step in [Step::GATED, Step::after(3).deaf()] {
        h.sim.script([step]);
        let mut request = own(&stack, &alive, "c");
        assert!(poll(&mut request).is_pending());
        drop(request);
        assert_eq!(alive.load(SeqCst), 1, "the hardware has it");
        h.turns(4);
        assert_eq!(alive.load(SeqCst), 0);
    }
    assert_eq!(h.sim.cancels(), 2);
    // Not issued: not made.
    drop(own(&stack, &alive, "never"));
    h.finish();
}

#[test]
fn own_files_by_every_route() {
    let h = Harness::new();
    let alive = Arc::default();
    let stack = stack(vec![], Bottom::default());
    let port = CompletionPort::new();
    h.sim.script([Step::after(2), Step::INLINE]);
    own(&stack, &alive, "posted").post(&port, 1).unwrap();
    own(&stack, &alive, "posted, done").post(&port, 2).unwrap();
    h.turns(3);
    assert_eq!((port.depth(), alive.load(SeqCst)), (2, 0), "packets need no file");
    // SAFETY: nothing in it minds which thread drives it.
    unsafe { set_hardware_factory(hardware_after::<2>) };
    let request = own(&stack, &alive, "waited for");
    let result = std::thread::spawn(move || request.wait()).join().unwrap();
    assert_eq!(result, (Status::SUCCESS, Some("waited for")));
    // A status block, an APC; and a packet for no port, which nobody hears of.
    let requests = ["started", "given an APC", "for no port"].map(|text| own(&stack, &alive, text));
    std::thread::spawn(move || {
        let [started, apc, nowhere] = requests;
        let block = started.start().map_err(drop).unwrap();
        nowhere.packet(7).map_err(drop).unwrap();
        let seen = Arc::new(AtomicUsize::new(0));
        let count = seen.clone();
        let done = move |(status, text)| {
            assert_eq!((status, text), (Status::SUCCESS, Some("given an APC")));
            count.fetch_add(1, SeqCst);
        };
        apc.queue_apc(done).map_err(drop).unwrap();
        while seen.load(SeqCst) == 0 {
            wait::sleep(Some(Duration::from_millis(1)), Alertable::Yes).unwrap();
        }
        while !block.is_done() {
            wait::sleep(Some(Duration::from_millis(1)), Alertable::No).unwrap();
        }
        assert_eq!(block.take().map_err(drop).unwrap(), (Status::SUCCESS, Some("started")));
    })
    .join()
    .unwrap();
    assert_eq!(alive.load(SeqCst), 0);
    drop(port);
    h.finish();
}

#[test]
fn own_files_that_cannot_be_made() {
    let h = Harness::new();
    let refuse = || Request::on_its_own(|| Err(Status::NO_SUCH_DEVICE), Carry("back"));
    assert_eq!(now(&mut refuse()), (Status::NO_SUCH_DEVICE, Some("back")));
    // SAFETY: nothing in it minds which thread drives it.
    unsafe { set_hardware_factory(hardware_after::<2>) };
    let waited = std::thread::spawn(move || refuse().wait()).join().unwrap();
    assert_eq!(waited, (Status::NO_SUCH_DEVICE, Some("back")));
    let port = CompletionPort::new();
    let posted = refuse().post(&port, 0).err();
    assert_eq!(posted, Some((Status::NO_SUCH_DEVICE, Some("back"))));
    // Made, and then refused.
    let alive = Arc::default();
    let stack = stack(vec![], Bottom::default());
    let operation = Plain { check: Status::INVALID_PARAMETER, ..Plain::new(Major::Flush) };
    let (made, context) = (stack.clone(), Alive::new(&alive));
    let mut request =
        Request::on_its_own(move || FileObject::new(made, "refused", context), operation);
    assert_eq!(now(&mut request), (Status::INVALID_PARAMETER, 0));
    assert_eq!(alive.load(SeqCst), 0);
    h.finish();
}

/// A driver may keep a handle longer than the request, and drop it anywhere.
#[test]
fn own_files_kept_by_a_driver() {
    let h = Harness::new();
    let alive = Arc::default();
    let kept: Arc<Mutex<Vec<FileHandle>>> = Arc::default();
    let shelf = kept.clone();
    let keeper = Filter::new("keeper", move |irp, lower| {
        shelf.lock().unwrap().push(irp.file().handle());
        lower.skip(irp)
    });
    let stack = stack(vec![keeper.hooks(&[Major::Private])], Bottom::default());
    for elsewhere in [false, true] {
        assert_eq!(now(&mut own(&stack, &alive, "d")).0, Status::SUCCESS);
        assert_eq!(alive.load(SeqCst), 1);
        let handles = std::mem::take(&mut *kept.lock().unwrap());
        if elsewhere {
            std::thread::spawn(move || drop(handles)).join().unwrap();
        } else {
            drop(handles);
        }
        h.until("the file object goes", || alive.load(SeqCst) == 0);
    }
    h.finish();
}

/// Requests that carry the caller's buffer show it to nobody.
#[test]
fn data_is_no_payload() {
    let h = Harness::new();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let filter = Filter::new("look", move |irp, lower| {
        count.fetch_add(usize::from(irp.payload::<Vec<u8>>().is_none()), SeqCst);
        lower.skip(irp)
    });
    let file = open(&stack(vec![filter], Bottom::default()), FD);
    now(&mut read(&file, 8, 0)).unwrap();
    now(&mut write(&file, b"x", 0)).unwrap();
    assert_eq!(seen.load(SeqCst), 2);
    drop(file);
    h.finish();
}

/// A bottom whose close waits until it is the only request left.
struct Careful(Arc<AtomicUsize>);

impl Driver for Careful {
    fn name(&self) -> &str {
        "careful"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Close])
    }
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        // SAFETY: numbers of the simulated hardware.
        unsafe { irp.file().set_fd(-1) };
        match irp.when_alone() {
            Ok(irp) => {
                self.0.fetch_add(1, SeqCst);
                // SAFETY: names no memory.
                unsafe { irp.submit(Op::Close { fd: FD, now: true }) }
            }
            Err(waits) => waits,
        }
    }
}

/// a descriptor that somebody else's request needs is not closed, whoever asks, and on
/// whichever thread the need ends.
#[test]
fn x33_related_files_are_not_closed() {
    for elsewhere in [false, true] {
        let h = Harness::new();
        let closed = Arc::new(AtomicUsize::new(0));
        let stack = Stack::new([], Arc::new(Careful(closed.clone()))).unwrap();
        let file = open(&stack, FD);
        let related = RelatedFile::new(&file);
        assert_eq!(related.fd(), FD);
        let mut close = plain(&file, Major::Close);
        assert!(poll(&mut close).is_pending());
        h.turns(3);
        assert_eq!((closed.load(SeqCst), related.fd()), (0, -1), "it waits");
        if elsewhere {
            std::thread::spawn(move || drop(related)).join().unwrap();
        } else {
            drop(related);
        }
        assert_eq!(h.block_on(&mut close).0, Status::SUCCESS);
        assert_eq!(closed.load(SeqCst), 1);
        drop(close);
        drop(file);

        // The last handle goes first.
        let file = open(&stack, FD);
        let related = RelatedFile::new(&file);
        drop(file);
        h.turns(3);
        assert_eq!((closed.load(SeqCst), related.fd()), (1, FD));
        drop(related);
        h.until("it is closed", || closed.load(SeqCst) == 2);
        h.finish();
    }
}

/// what mail has ended is counted off its file before the processor sleeps: the file's home may be
/// waiting for that, and nothing would wake the other.
#[test]
fn x33_another_home_hears_before_the_processor_sleeps() {
    let h = Harness::new();
    let (keep, kept) = mpsc::sync_channel(1);
    let hold = Filter::new("hold", move |irp, _| {
        let (held, disposition) = irp.hold();
        keep.send(held).unwrap();
        disposition
    });
    let counts = Arc::<BottomCounts>::default();
    let bottom = Bottom { counts: counts.clone(), ..Bottom::default() };
    let file = open(&stack(vec![hold], bottom), FD);
    let (elsewhere, (home_is_done, done)) = (file.clone(), mpsc::channel());
    let (go, gone) = mpsc::channel();
    let sleeper = std::thread::spawn(move || {
        let other = Harness::new();
        // The last one to go here is the request, in the turn that reads the mail.
        let mut request = Request::owned(elsewhere, Read { buf: vec![0; 4], offset: 0 });
        assert!(poll(&mut request).is_pending());
        drop(request);
        gone.recv().unwrap();
        let ready = || {
            let told = done.recv_timeout(Duration::from_secs(10));
            assert!(told.is_ok(), "the home waits for what this processor has not said");
            true
        };
        other.processor.turn(Wait::Forever, ready).unwrap();
        other.finish();
    });
    let held = kept.recv().unwrap();
    held.complete(Status::SUCCESS, 0);
    drop(file);
    go.send(()).unwrap();
    // In case it never is: the other's assertion says so.
    while counts.closed.load(SeqCst) == 0 && !sleeper.is_finished() {
        h.processor.turn(Wait::For(Duration::from_millis(1)), || false).unwrap();
    }
    let _ = home_is_done.send(());
    sleeper.join().unwrap();
    assert_eq!(counts.closed.load(SeqCst), 1);
    h.finish();
}
