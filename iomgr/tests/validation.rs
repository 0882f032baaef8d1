//! The order in which a request is checked, as its event shows it (I-6, I-31, I-39): an invalid file
//! object, and an APC where there is a port, leave the event alone; whatever fails after that leaves it
//! reset, by every route, with the buffer in the result and nothing else told.

#![cfg(not(loom))]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use overlapped_iomgr::buf::BufError;
use overlapped_iomgr::processor::set_hardware_factory;
use overlapped_iomgr::wait::Event;
use overlapped_iomgr::{
    CompletionPort, Disposition, Driver, FileHandle, FileObject, Irp, IssuerScope, Limits, Lower,
    Major, MajorSet, PortOptions, Request, Stack, Status,
};
use support::*;

/// How a request is issued; each gives the status of a refusal.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Future,
    Wait,
    Post,
    Packet,
    Start,
    Apc,
}

const ROUTES: [By; 6] = [By::Future, By::Wait, By::Post, By::Packet, By::Start, By::Apc];

type Refused = Result<(usize, Counted), BufError<Counted>>;

/// Issues it by the route and gives the status of its refusal.
fn refusal(by: By, request: Request<'_, Read<Counted>>, port: &CompletionPort) -> Status {
    let refused: Refused = match by {
        By::Future => now(&mut { request }),
        By::Wait => request.wait(),
        By::Post => request.post(port, 1).map(drop).expect_err("refused"),
        By::Packet => request.packet(1).map(drop).expect_err("refused"),
        By::Start => request.start().map(drop).expect_err("refused"),
        By::Apc => request.queue_apc(|_| panic!("refused")).map(drop).expect_err("refused"),
    };
    refused.map(drop).expect_err("refused").status()
}

/// One refusal by every route but those left out: the status, the event, and the buffer.
#[track_caller]
fn refused(
    without: &[By],
    make: impl Fn(Counted) -> Request<'static, Read<Counted>>,
    port: &CompletionPort,
    status: Status,
    reset: bool,
) {
    let alive = Arc::<AtomicUsize>::default();
    for by in ROUTES.into_iter().filter(|by| !without.contains(by)) {
        for set in [true, false] {
            let event = Event::manual(set);
            let request = make(Counted::new(8, &alive)).event(&event);
            assert_eq!(refusal(by, request, port), status, "{by:?}");
            assert_eq!(event.is_set(), set && !reset, "{by:?}: the event");
            assert_eq!(alive.load(SeqCst), 0, "{by:?}: the buffer has come back");
        }
    }
}

fn file() -> FileHandle {
    open(&stack(vec![], Bottom::default()), FD)
}

/// A bottom whose files are closed as the real ones are.
struct Closing;

impl Driver for Closing {
    fn name(&self) -> &str {
        "closing"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Close, Major::Read])
    }
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        match irp.major() {
            Major::Close => {
                // SAFETY: no descriptor of the system's.
                unsafe { irp.file().set_fd(-1) };
                match irp.when_alone() {
                    Ok(irp) => irp.complete(Status::SUCCESS, 0),
                    Err(waits) => waits,
                }
            }
            _ if irp.file().fd() < 0 => irp.complete(Status::FILE_CLOSED, 0),
            _ => irp.complete(Status::SUCCESS, 0),
        }
    }
}

fn owned(file: &FileObject, buf: Counted, offset: u64) -> Request<'static, Read<Counted>> {
    Request::owned(file.handle(), Read { buf, offset })
}

/// I-39: what is no valid file object leaves the event alone: one that cannot be made, and one that is
/// closed.
#[test]
fn i39_invalid_files() {
    let h = Harness::new();
    let port = CompletionPort::new();
    let make = |buf| Request::on_its_own(|| Err(Status::NOT_FOUND), Read { buf, offset: 0 });
    refused(&[], make, &port, Status::NOT_FOUND, false);
    let closed = open(&Stack::new([], Arc::new(Closing)).unwrap(), FD);
    assert_eq!(now(&mut plain(&closed, Major::Close)), (Status::SUCCESS, 0));
    refused(&[], |buf| owned(&closed, buf, 0), &port, Status::FILE_CLOSED, false);
    // Without an event the driver says so.
    assert_eq!(now(&mut read(&closed, 1, 0)).unwrap_err().status(), Status::FILE_CLOSED);
    assert_eq!((port.depth(), port.outstanding()), (0, 0));
    drop(closed);
    h.finish();
}

/// C-6, I-39: an APC on a file that has a port is refused before the event is touched.
#[test]
fn c6_an_apc_and_a_port() {
    let h = Harness::new();
    let port = CompletionPort::new();
    let file = file();
    port.associate(&file, 1).unwrap();
    let others = [By::Future, By::Wait, By::Post, By::Packet, By::Start];
    refused(&others, |buf| owned(&file, buf, 0), &port, Status::INVALID_PARAMETER, false);
    assert_eq!(h.sim.submits(), 0);
    drop(file);
    h.finish();
}

/// I-39: parameters, offsets and limits are looked at later; and I-31: what the device refuses at
/// once.
#[test]
fn i39_valid_files() {
    let h = Harness::new();
    let port = CompletionPort::new();
    let file = file();
    let negative = |buf| owned(&file, buf, u64::MAX - 1);
    refused(&[By::Wait], negative, &port, Status::INVALID_PARAMETER, true);
    let only_wait = [By::Future, By::Post, By::Packet, By::Start, By::Apc];
    refused(&only_wait, |buf| owned(&file, buf, 0), &port, Status::WOULD_DEADLOCK, true);
    let event = Event::manual(true);
    let checked = Plain { check: Status::OFFSET_OVERFLOW, ..Plain::new(Major::Flush) };
    let request = Request::new(&file, checked).event(&event);
    assert_eq!(now(&mut { request }).0, Status::OFFSET_OVERFLOW);
    assert!(!event.is_set());
    // Limits: of a scope, in requests and in bytes; a scope that is closed.
    let requests = IssuerScope::with_limits(Limits { requests: 0, ..Limits::NONE });
    let bytes = IssuerScope::with_limits(Limits { bytes: 7, ..Limits::NONE });
    for scope in [&requests, &bytes] {
        scope.run(|| {
            let read = |buf| owned(&file, buf, 0);
            refused(&[By::Wait], read, &port, Status::QUOTA_EXCEEDED, true);
        });
        assert_eq!((scope.live(), scope.bytes()), (0, 0));
    }
    let closed = IssuerScope::new();
    assert_eq!(closed.close_wait(Some(Duration::ZERO)), Ok(true));
    closed.run(|| {
        refused(&[By::Wait], |buf| owned(&file, buf, 0), &port, Status::CANCELLED, true);
    });
    assert_eq!(h.sim.submits(), 0);
    // The device's own errors.
    h.sim.default_step(Step::INLINE.result(-5));
    let errno = Status::from_errno(5);
    refused(&[By::Wait], |buf| owned(&file, buf, 0), &port, errno, true);
    // Limits of a port.
    let full = PortOptions::new().limit(0).create();
    let not_post = [By::Future, By::Wait, By::Packet, By::Start, By::Apc];
    refused(&not_post, |buf| owned(&file, buf, 0), &full, Status::QUOTA_EXCEEDED, true);
    full.associate(&file, 1).unwrap();
    let not_packet = [By::Future, By::Wait, By::Post, By::Start, By::Apc];
    refused(&not_packet, |buf| owned(&file, buf, 0), &full, Status::QUOTA_EXCEEDED, true);
    for port in [&port, &full] {
        assert_eq!((port.depth(), port.outstanding()), (0, 0));
    }
    drop(file);
    h.finish();
}

/// The same on plain threads, where a request can be waited for.
#[test]
fn i39_on_plain_threads() {
    // SAFETY: nothing in it minds which thread drives it.
    unsafe { set_hardware_factory(hardware_after::<1>) };
    let thread = std::thread::spawn(|| {
        let port = CompletionPort::new();
        let file = file();
        let negative = |buf| owned(&file, buf, 1 << 63);
        refused(&[], negative, &port, Status::INVALID_PARAMETER, true);
        let make = |buf| Request::on_its_own(|| Err(Status::NOT_FOUND), Read { buf, offset: 0 });
        refused(&[], make, &port, Status::NOT_FOUND, false);
        let scope = IssuerScope::with_limits(Limits { requests: 0, ..Limits::NONE });
        scope.run(|| refused(&[], |buf| owned(&file, buf, 0), &port, Status::QUOTA_EXCEEDED, true));
    });
    thread.join().unwrap();
}
