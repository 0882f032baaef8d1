//! Memory stays sound whatever safe code does: operations, drivers, wakers and buffers that lie,
//! panic, or do in one place what they should do in another. Most of these corrupted memory once;
//! run them under the address sanitizer as well.

mod support;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use overlapped::net::{TcpListener, TcpStream};
use overlapped::operation::{Flush, Read, ReadVectored, ReceiveLease, Write, WriteVectored};
use overlapped::time::timeout;
use overlapped_drivers::hal::{self, Config};
use overlapped_iomgr::buf::Lease;
use overlapped_iomgr::{
    CancelSafeQueue, Completion, CompletionPort, Disposition, Done, Driver, FileHandle, FileObject,
    Held, Irp, Late, Lower, Major, MajorSet, On, Operation, Part, Processor, Request, Setup, Stack,
    Status, Unwinding, minor,
};

type Dispatch = dyn for<'a> Fn(Irp<'a>, Lower<'a>) -> Disposition + Send + Sync;
type Completed = dyn for<'a> Fn(Unwinding<'a>) -> Completion + Send + Sync;
type Abandoned = dyn for<'a> Fn(&FileObject, Late<'a>) + Send + Sync;
type File = dyn Fn(&FileObject) + Send + Sync;

/// A driver made of closures.
struct D {
    dispatch: Box<Dispatch>,
    completed: Box<Completed>,
    abandoned: Box<Abandoned>,
    close_now: Box<File>,
    settled: Box<File>,
}

impl D {
    fn new(
        dispatch: impl for<'a> Fn(Irp<'a>, Lower<'a>) -> Disposition + Send + Sync + 'static,
    ) -> D {
        D {
            dispatch: Box::new(dispatch),
            completed: Box::new(|irp| irp.proceed()),
            abandoned: Box::new(|_, _| ()),
            close_now: Box::new(|_| ()),
            settled: Box::new(|_| ()),
        }
    }
}

impl Driver for D {
    fn name(&self) -> &str {
        "d"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write, Major::Flush, Major::Private])
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        (self.dispatch)(irp, lower)
    }
    fn completed(&self, irp: Unwinding<'_>) -> Completion {
        (self.completed)(irp)
    }
    fn abandoned(&self, file: &FileObject, late: Late<'_>) {
        (self.abandoned)(file, late)
    }
    fn close_now(&self, file: &FileObject) {
        (self.close_now)(file)
    }
    fn settled(&self, file: &FileObject) {
        (self.settled)(file)
    }
}

fn processor() -> Processor {
    Processor::new(|| hal::new(&Config::default())).unwrap()
}

fn stack(filters: Vec<D>, bottom: D) -> Arc<Stack> {
    let filters = filters.into_iter().map(|f| Arc::new(f) as Arc<dyn Driver>);
    Stack::new(filters, Arc::new(bottom)).unwrap()
}

fn file(stack: &Arc<Stack>) -> FileHandle {
    FileObject::new(stack.clone(), "x", Box::new(())).unwrap()
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn flush() -> Flush {
    Flush { data_only: false }
}

type Slot<T> = Arc<Mutex<Option<T>>>;

/// A bottom that holds what it gets, one at a time.
fn holding(held: &Slot<Held>) -> D {
    let slot = held.clone();
    D::new(move |irp, _| {
        let (held, disposition) = irp.hold();
        *slot.lock().unwrap() = Some(held);
        disposition
    })
}

/// A bottom that parks what it gets.
fn parking(queue: &Arc<CancelSafeQueue>) -> D {
    let queue = queue.clone();
    D::new(move |irp, _| irp.park(&queue))
}

/// A filter that makes two halves of 32 bytes of every request with data.
fn splitting() -> D {
    D::new(|irp, _| {
        let part = |start| Part { start, len: 32, offset: start.into() };
        irp.split(&[part(0), part(32)])
    })
}

fn take<T>(slot: &Slot<T>) -> T {
    slot.lock().unwrap().take().unwrap()
}

/// An operation made of closures.
struct Op<F, P, O> {
    major: F,
    prepare: P,
    finish: PhantomData<O>,
}

trait Finish {
    type Out: Default;
    fn finish(done: &mut Done<'_>) -> Self::Out;
}

/// Yields the information.
struct Info;

impl Finish for Info {
    type Out = usize;
    fn finish(done: &mut Done<'_>) -> usize {
        done.info()
    }
}

/// Takes the result for that of a read.
struct AsRead;

impl Finish for AsRead {
    type Out = Option<Vec<u8>>;
    fn finish(done: &mut Done<'_>) -> Self::Out {
        Some(<Read<Vec<u8>> as Operation>::finish(done).unwrap().1)
    }
}

impl<F: Fn() -> Major, P: FnOnce(&mut Setup<'_>), O: Finish> Operation for Op<F, P, O> {
    type Output = O::Out;
    fn major(&self) -> Major {
        (self.major)()
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        (self.prepare)(setup)
    }
    fn finish(done: &mut Done<'_>) -> O::Out {
        O::finish(done)
    }
    fn refuse(self, _: Status) -> O::Out {
        O::Out::default()
    }
}

fn op<O: Finish, F: Fn() -> Major, P: FnOnce(&mut Setup<'_>)>(major: F, prepare: P) -> Op<F, P, O> {
    Op { major, prepare, finish: PhantomData }
}

fn answering() -> D {
    D::new(|mut irp, _| {
        let n = irp.copy_in(0, &[1u8; 100]);
        irp.complete(Status::SUCCESS, n)
    })
}

/// A filter cannot replace what it has lent while the driver below is about to use it.
#[test]
fn scratch_does_not_free_a_buffer_in_use() {
    let processor = processor();
    let filter = D::new(|mut irp, lower| {
        irp.next().lend(vec![1u8; 1 << 12]);
        irp.set_scratch(0u64);
        lower.forward(irp, On::ALL)
    });
    let bottom = D::new(|irp, _| irp.complete(Status::SUCCESS, 1));
    let f = file(&stack(vec![filter], bottom));
    let mut write = Request::new(&f, Write::next(vec![0u8; 1]));
    let Poll::Ready(Err(error)) = poll(&mut write) else { panic!("it panics, and is reported") };
    assert_eq!(error.status(), Status::DRIVER_INTERNAL_ERROR);
    drop(write);
    drop(f);
    drop(processor);
}

/// A second buffer lent in place of the first is the one the driver below sees.
#[test]
fn the_last_buffer_lent_counts() {
    let processor = processor();
    let sum = Arc::new(AtomicUsize::new(0));
    let filter = D::new(|mut irp, lower| {
        irp.next().lend(vec![1u8; 1 << 12]).lend(vec![2u8; 1 << 12]);
        lower.forward(irp, On::ALL)
    });
    let bottom = D::new({
        let sum = sum.clone();
        move |irp, _| {
            sum.store(irp.segments().flatten().map(|&b| usize::from(b)).sum(), SeqCst);
            irp.complete(Status::SUCCESS, 1)
        }
    });
    let f = file(&stack(vec![filter], bottom));
    assert!(poll(&mut Request::new(&f, Write::next(vec![0u8; 1]))).is_ready());
    assert_eq!(sum.load(SeqCst), 2 << 12);
    drop(f);
    drop(processor);
}

/// What a late result shows cannot be taken away from under it.
#[test]
fn a_late_results_buffer_stays() {
    let processor = processor();
    let held = Slot::<Held>::default();
    let sum = Arc::new(AtomicUsize::new(0));
    let mut bottom = holding(&held);
    bottom.abandoned = Box::new({
        let sum = sum.clone();
        move |_, mut late| {
            assert!(late.take_payload::<Vec<u8>>().is_none());
            sum.store(late.received().flatten().map(|&b| usize::from(b)).sum(), SeqCst);
        }
    });
    let f = file(&stack(vec![], bottom));
    let mut read = Request::new(&f, Read::next(Vec::<u8>::with_capacity(4096)));
    assert!(poll(&mut read).is_pending());
    drop(read);
    let mut held = take(&held);
    held.copy_in(0, &[1u8; 4096]);
    held.complete(Status::SUCCESS, 4096);
    assert_eq!(sum.load(SeqCst), 4096);
    drop(f);
    drop(processor);
}

/// An operation sets its data once, last, and in the direction of its major.
#[test]
fn an_operation_cannot_misstate_its_data() {
    let processor = processor();
    let f = file(&stack(vec![], answering()));
    let room = || Vec::<u8>::with_capacity(10);
    type Prepare = Box<dyn FnOnce(&mut Setup<'_>)>;
    let attempts: Vec<(Major, Prepare)> = vec![
        (Major::Read, Box::new(move |s| _ = s.data_in(room()).payload(0u8))),
        (Major::Read, Box::new(move |s| _ = s.data_in(room()).limit(100))),
        (Major::Read, Box::new(|s| _ = s.data_in(vec![16u8; 16]).minor(minor::VECTORED))),
        (Major::Read, Box::new(|s| _ = s.minor(minor::VECTORED).data_in(vec![16u8; 16]))),
        (Major::Read, Box::new(|s| _ = s.minor(minor::POOLED).data_in(vec![16u8; 16]))),
        (Major::Read, Box::new(|s| _ = s.minor(minor::VECTORED))),
        (Major::Write, Box::new(|s| _ = s.minor(minor::POOLED))),
        (Major::Flush, Box::new(|s| _ = s.minor(minor::VECTORED).data_out(vec![16u8; 16]))),
        (Major::Read, Box::new(|s| _ = s.data_out(Arc::<[u8]>::from([0u8; 100])))),
        (Major::Write, Box::new(move |s| _ = s.data_in(room()))),
        (Major::Write, Box::new(|s| _ = s.data_out("once").data_out("twice"))),
    ];
    for (i, (major, prepare)) in attempts.into_iter().enumerate() {
        let mut request = Request::new(&f, op::<Info, _, _>(move || major, prepare));
        let polled = catch_unwind(AssertUnwindSafe(|| poll(&mut request)));
        assert!(polled.is_err(), "attempt {i}");
    }
    assert_eq!(processor.live(), 0);
    drop(f);
    drop(processor);
}

/// The major is asked once, so that slot and route fit.
#[test]
fn an_operations_major_cannot_change() {
    let processor = processor();
    struct Private;
    impl Driver for Private {
        fn name(&self) -> &str {
            "private"
        }
        fn hooks(&self) -> MajorSet {
            MajorSet::of(&[Major::Private])
        }
        fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
            lower.forward(irp, On::ALL)
        }
    }
    let filters = (0..63).map(|_| Arc::new(Private) as Arc<dyn Driver>);
    let bottom = D::new(|irp, _| irp.complete(Status::SUCCESS, 7));
    let f = file(&Stack::new(filters, Arc::new(bottom)).unwrap());
    let calls = AtomicUsize::new(0);
    let major = || if calls.fetch_add(1, SeqCst) == 0 { Major::Flush } else { Major::Private };
    assert_eq!(poll(&mut Request::new(&f, op::<Info, _, _>(major, |_| ()))), Poll::Ready(7));
    assert_eq!(calls.load(SeqCst), 1);
    drop(f);
    drop(processor);
}

/// A result is believed as far as its own request has filled its own buffer.
#[test]
fn a_result_taken_for_a_reads_exposes_nothing() {
    let processor = processor();
    let f = file(&stack(vec![], D::new(|irp, _| irp.complete(Status::SUCCESS, 1 << 16))));
    let flush = op::<AsRead, _, _>(|| Major::Flush, |s| _ = s.payload(Vec::<u8>::with_capacity(8)));
    let Poll::Ready(Some(bytes)) = poll(&mut Request::new(&f, flush)) else { panic!() };
    assert_eq!(bytes.len(), 0);
    drop(f);
    drop(processor);
}

/// A packet knows which operation it is of.
#[test]
fn a_packet_of_another_operation_panics() {
    hal::install();
    let f = file(&stack(vec![], D::new(|irp, _| irp.complete(Status::SUCCESS, 4096))));
    let port = CompletionPort::new();
    let buffers = vec![vec![7u8; 4096]];
    let write = WriteVectored { buffers, offset: u64::MAX };
    assert!(Request::new(&f, write).post(&port, 1).is_ok());
    let packet = port.remove(None).unwrap();
    let taken = AssertUnwindSafe(|| packet.into_output::<ReadVectored<Vec<u8>>>());
    let panic = catch_unwind(taken).unwrap_err();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains("not of the operation") && message.contains("ReadVectored"));
}

/// A pooled receive that has its buffer keeps it until it goes down again.
#[test]
fn a_leased_buffer_is_not_replaced_in_place() {
    let processor = processor();
    let held = Slot::<Held>::default();
    let second = AtomicBool::new(false);
    let mut filter = D::new(move |mut irp, lower| {
        if !second.swap(true, SeqCst) {
            return lower.forward(irp, On::ALL);
        }
        // It has let go of the lease, and so has nothing to copy into.
        irp.set_payload(0u8);
        let n = irp.copy_in(0, &[7u8; 4096]);
        irp.complete(Status::SUCCESS, n)
    });
    filter.completed = Box::new({
        let slot = held.clone();
        move |irp| {
            let (held, completion) = irp.reclaim();
            *slot.lock().unwrap() = Some(held);
            completion
        }
    });
    let bottom = D::new(|irp, _| irp.complete_with_lease(Lease::from(vec![1u8; 4096])));
    let f = file(&stack(vec![filter], bottom));
    let mut receive = Request::new(&f, ReceiveLease { most: 0 });
    assert!(poll(&mut receive).is_pending());
    take(&held).redispatch();
    let Poll::Ready(result) = poll(&mut receive) else { panic!("it has completed") };
    assert_eq!(result.unwrap().len(), 0);
    drop(receive);
    drop(f);
    drop(processor);
}

/// A handle made while the file is closed without a processor keeps the file.
#[test]
fn a_handle_made_in_close_now_keeps_the_file() {
    let kept = Slot::<FileHandle>::default();
    let mut bottom = D::new(|irp, _| irp.complete(Status::SUCCESS, 0));
    bottom.close_now = Box::new({
        let kept = kept.clone();
        move |file| {
            // SAFETY: a number that this test made up.
            unsafe { file.set_fd(-1) };
            *kept.lock().unwrap() = Some(file.handle());
        }
    });
    let stack = stack(vec![], bottom);
    let processor = processor();
    let f = file(&stack);
    // SAFETY: as above; nothing uses it.
    unsafe { f.set_fd(1000) };
    drop(processor);
    drop(f);
    assert_eq!(take(&kept).name(), "x");
}

/// Dropping the waker of an earlier poll may complete the request; the new one is told.
#[test]
fn dropping_the_old_waker_may_complete_the_request() {
    struct Old(Slot<Held>);
    impl Wake for Old {
        fn wake(self: Arc<Self>) {}
    }
    impl Drop for Old {
        fn drop(&mut self) {
            let held = self.0.lock().unwrap().take();
            if let Some(held) = held {
                held.complete(Status::SUCCESS, 0);
            }
        }
    }
    let processor = processor();
    let held = Slot::<Held>::default();
    let f = file(&stack(vec![], holding(&held)));
    let mut request = Request::new(&f, flush());
    {
        let old = Waker::from(Arc::new(Old(held.clone())));
        assert!(Pin::new(&mut request).poll(&mut Context::from_waker(&old)).is_pending());
    }
    // Either told now, or by this waker.
    assert!(poll(&mut request).is_ready());
    drop(request);
    drop(f);
    drop(processor);
}

thread_local! {
    static PROCESSOR: RefCell<Option<Processor>> = const { RefCell::new(None) };
    static REQUEST: RefCell<Option<Request<'static, Flush>>> = const { RefCell::new(None) };
}

/// The thread's processor is dropped from within: it ends when the last call into it returns.
#[test]
fn a_processor_dropped_by_an_operations_check() {
    struct Dropping;
    impl Operation for Dropping {
        type Output = Status;
        fn major(&self) -> Major {
            Major::Flush
        }
        fn check(&self) -> Status {
            PROCESSOR.with(|p| drop(p.take()));
            Status::SUCCESS
        }
        fn prepare(self, _: &mut Setup<'_>) {}
        fn finish(done: &mut Done<'_>) -> Status {
            done.status()
        }
        fn refuse(self, status: Status) -> Status {
            status
        }
    }
    PROCESSOR.with(|p| *p.borrow_mut() = Some(processor()));
    let f = file(&stack(vec![], D::new(|irp, _| irp.complete(Status::SUCCESS, 0))));
    let refused = poll(&mut Request::new(&f, Dropping));
    assert_eq!(refused, Poll::Ready(Status::SHUTDOWN_IN_PROGRESS));
    // Gone, so that there can be another.
    drop(processor());
}

/// The same by a waker that a driver's completion runs.
#[test]
fn a_processor_dropped_by_a_waker() {
    struct Dropping;
    impl Wake for Dropping {
        fn wake(self: Arc<Self>) {
            REQUEST.with(|r| drop(r.take()));
            PROCESSOR.with(|p| drop(p.take()));
        }
    }
    PROCESSOR.with(|p| *p.borrow_mut() = Some(processor()));
    let held = Slot::<Held>::default();
    let f = file(&stack(vec![], holding(&held)));
    let mut request = Request::<'static, _>::owned(f.clone(), flush());
    let waker = Waker::from(Arc::new(Dropping));
    assert!(Pin::new(&mut request).poll(&mut Context::from_waker(&waker)).is_pending());
    REQUEST.with(|r| *r.borrow_mut() = Some(request));
    take(&held).complete(Status::SUCCESS, 0);
    drop(f);
    drop(processor());
}

/// A loop's borrowed processor may outlive the thread's own at the thread's end.
#[test]
fn a_lent_processor_outlives_its_thread() {
    hal::install();
    let thread = std::thread::spawn(|| {
        thread_local! {
            static LENT: RefCell<Option<Processor>> = const { RefCell::new(None) };
        }
        // Touched first, so dropped last.
        LENT.with(|_| ());
        let port = CompletionPort::new();
        assert!(port.remove(Some(Duration::from_millis(1))).is_err());
        LENT.with(|l| *l.borrow_mut() = Some(Processor::new(|| unreachable!()).unwrap()));
    });
    thread.join().unwrap();
}

/// Two finished requests of a processor that is gone let go of their file on two threads: it is
/// closed once, by the last.
#[test]
fn orphans_of_one_file_race() {
    const FILES: usize = 256;
    let closes = Arc::new(AtomicUsize::new(0));
    let queue = CancelSafeQueue::new();
    let mut bottom = D::new(move |irp, _| irp.park(&queue));
    bottom.close_now = Box::new({
        let closes = closes.clone();
        move |file| {
            // SAFETY: a number that this test made up.
            unsafe { file.set_fd(-1) };
            closes.fetch_add(1, SeqCst);
        }
    });
    let stack = stack(vec![], bottom);
    for round in 0..20 {
        closes.store(0, SeqCst);
        let issue = || {
            let processor = processor();
            let pairs: Vec<_> = (0..FILES)
                .map(|_| {
                    let f = file(&stack);
                    // SAFETY: as above; nothing uses it.
                    unsafe { f.set_fd(1000) };
                    let request = || Request::<'static, _>::owned(f.clone(), flush());
                    let (mut a, mut b) = (request(), request());
                    assert!(poll(&mut a).is_pending() && poll(&mut b).is_pending());
                    (a, b)
                })
                .collect();
            // Cancels all: finished, not looked at.
            drop(processor);
            pairs
        };
        let pairs = std::thread::scope(|scope| scope.spawn(issue).join().unwrap());
        let (mine, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let meet = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for request in theirs {
                    meet.wait();
                    drop(request);
                }
            });
            for request in mine {
                meet.wait();
                drop(request);
            }
        });
        assert_eq!(closes.load(SeqCst), FILES, "round {round}");
    }
}

/// `settled` lets the requester go, and the slot is another request's: that one is not robbed.
#[test]
fn settling_may_free_the_request() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    thread_local! {
        static ONE: RefCell<Option<Request<'static, Flush>>> = const { RefCell::new(None) };
        static TWO: RefCell<Option<Request<'static, Flush>>> = const { RefCell::new(None) };
    }
    let processor = processor();
    let wakes = Arc::new(Count(AtomicUsize::new(0)));
    let held = Arc::new(Mutex::new(Vec::new()));
    let mut bottom = D::new({
        let list = held.clone();
        move |mut irp, _| {
            irp.notify_settled();
            let (held, disposition) = irp.hold();
            list.lock().unwrap().push(held);
            disposition
        }
    });
    let waker = Waker::from(wakes.clone());
    bottom.settled = Box::new(move |file| {
        if let Some(one) = ONE.with(|o| o.take()) {
            drop(one);
            let mut two = Request::<'static, _>::owned(file.handle(), flush());
            assert!(Pin::new(&mut two).poll(&mut Context::from_waker(&waker)).is_pending());
            TWO.with(|t| *t.borrow_mut() = Some(two));
        }
    });
    let f = file(&stack(vec![], bottom));
    let mut one = Request::<'static, _>::owned(f.clone(), flush());
    assert!(poll(&mut one).is_pending());
    ONE.with(|o| *o.borrow_mut() = Some(one));
    let next = || held.lock().unwrap().pop().unwrap();
    next().complete(Status::SUCCESS, 0);
    assert_eq!(wakes.0.load(SeqCst), 0, "the second has not completed");
    next().complete(Status::SUCCESS, 0);
    assert_eq!(wakes.0.load(SeqCst), 1);
    let mut two = TWO.with(|t| t.take()).unwrap();
    assert!(poll(&mut two).is_ready());
    drop((two, f));
    drop(processor);
}

/// Cancelling a split request ends its children; the last one's end frees the parent, whose buffer's
/// drop issues another request, split too, in the same slot. That one goes on.
#[test]
fn a_cancel_stops_when_the_parent_has_gone() {
    thread_local! {
        static NEW: RefCell<Option<Request<'static, Write<Vec<u8>>>>> = const { RefCell::new(None) };
    }
    struct Issuing(FileHandle);
    impl AsRef<[u8]> for Issuing {
        fn as_ref(&self) -> &[u8] {
            &[0; 64]
        }
    }
    impl Drop for Issuing {
        fn drop(&mut self) {
            let write = Write::next(vec![0; 64]);
            let mut new = Request::<'static, _>::owned(self.0.clone(), write);
            assert!(poll(&mut new).is_pending());
            NEW.with(|n| *n.borrow_mut() = Some(new));
        }
    }
    let processor = processor();
    let queue = Arc::new(CancelSafeQueue::new());
    let f = file(&stack(vec![splitting()], parking(&queue)));
    let buffer = bytes::Bytes::from_owner(Issuing(f.clone()));
    let mut write = Request::new(&f, Write::next(buffer));
    assert!(poll(&mut write).is_pending());
    assert_eq!(queue.len(), 2);
    drop(write);
    let mut new = NEW.with(|n| n.take()).unwrap();
    assert!(poll(&mut new).is_pending(), "nobody has cancelled it");
    assert_eq!(queue.len(), 2);
    while let Some(held) = queue.remove() {
        held.complete(Status::SUCCESS, 32);
    }
    let Poll::Ready(Ok((64, _))) = poll(&mut new) else { panic!("both children are done") };
    drop((new, f));
    drop(processor);
}

/// A processor's requests are cancelled while another thread polls one of them: the waker that it
/// writes is not looked at. The thread sanitizer tells; here, that nobody else was cancelled.
#[test]
fn a_cancel_of_children_leaves_requests_polled_elsewhere_alone() {
    struct Nothing;
    impl Wake for Nothing {
        fn wake(self: Arc<Self>) {}
    }
    let processor = processor();
    let queue = Arc::new(CancelSafeQueue::new());
    let f = file(&stack(vec![splitting()], parking(&queue)));
    let plain = file(&stack(vec![], parking(&queue)));
    let mut other = Request::<'static, _>::owned(plain.clone(), flush());
    assert!(poll(&mut other).is_pending());
    let stop = AtomicBool::new(false);
    let mut other = std::thread::scope(|scope| {
        let poller = scope.spawn(|| {
            while !stop.load(SeqCst) {
                let waker = Waker::from(Arc::new(Nothing));
                let polled = Pin::new(&mut other).poll(&mut Context::from_waker(&waker));
                assert!(polled.is_pending());
            }
            other
        });
        for _ in 0..500 {
            let mut write = Request::new(&f, Write::next(vec![0u8; 64]));
            assert!(poll(&mut write).is_pending());
            assert_eq!(queue.len(), 3);
            drop(write);
            assert_eq!(queue.len(), 1);
        }
        stop.store(true, SeqCst);
        poller.join().unwrap()
    });
    queue.remove().unwrap().complete(Status::SUCCESS, 0);
    assert!(poll(&mut other).is_ready());
    drop((other, f, plain));
    drop(processor);
}

/// As [`a_cancel_stops_when_the_parent_has_gone`]; the slot's next request is with the hardware.
#[test]
fn a_cancel_does_not_reach_the_hardware_for_another_request() {
    thread_local! {
        static NEW: RefCell<Option<Pin<Box<dyn Future<Output = usize>>>>> =
            const { RefCell::new(None) };
    }
    struct Issuing(FileHandle);
    impl AsRef<[u8]> for Issuing {
        fn as_ref(&self) -> &[u8] {
            &[0; 64]
        }
    }
    impl Drop for Issuing {
        fn drop(&mut self) {
            let readable = op::<Info, _, _>(|| Major::Poll, |s| _ = s.arg(1));
            let mut new = Box::pin(Request::<'static, _>::owned(self.0.clone(), readable));
            assert!(poll(&mut new).is_pending());
            NEW.with(|n| *n.borrow_mut() = Some(new));
        }
    }
    support::both(async |_| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let a = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (b, _) = listener.accept().await.unwrap();
        let queue = Arc::new(CancelSafeQueue::new());
        let f = file(&stack(vec![splitting()], parking(&queue)));
        let buffer = bytes::Bytes::from_owner(Issuing(a.object().handle()));
        let mut write = Request::new(&f, Write::next(buffer));
        assert!(poll(&mut write).is_pending());
        assert_eq!(queue.len(), 2);
        drop(write);
        let mut new = NEW.with(|n| n.take()).unwrap();
        let early = timeout(Duration::from_millis(20), &mut new).await;
        assert!(early.is_err(), "nobody has cancelled it, and nothing is there to read");
        b.write("x").await.unwrap();
        assert_eq!(new.await & 1, 1, "readable");
    });
}

/// While a cancel goes through the children of a request, one of them ends another request, and the
/// last one's end frees the parent, whose slot becomes the next parent.
#[test]
fn a_cancel_does_not_take_the_next_parents_children_for_its_own() {
    thread_local! {
        static NEW: RefCell<Option<Request<'static, Write<Vec<u8>>>>> = const { RefCell::new(None) };
        static OTHER: RefCell<Option<Request<'static, Flush>>> = const { RefCell::new(None) };
        static ARMED: Cell<bool> = const { Cell::new(false) };
    }
    struct Issuing(FileHandle);
    impl AsRef<[u8]> for Issuing {
        fn as_ref(&self) -> &[u8] {
            &[0; 64]
        }
    }
    impl Drop for Issuing {
        fn drop(&mut self) {
            ARMED.set(true);
            let write = Write::next(vec![0; 64]);
            let mut new = Request::<'static, _>::owned(self.0.clone(), write);
            assert!(poll(&mut new).is_pending());
            NEW.with(|n| *n.borrow_mut() = Some(new));
        }
    }
    let processor = processor();
    let queue = Arc::new(CancelSafeQueue::new());
    let inner = splitting();
    let split = D::new(move |irp, lower| {
        if irp.major() != Major::Write {
            return lower.skip(irp);
        }
        if ARMED.take() {
            OTHER.with(|o| drop(o.take()));
        }
        inner.dispatch(irp, lower)
    });
    let f = file(&stack(vec![split], parking(&queue)));
    let buffer = bytes::Bytes::from_owner(Issuing(f.clone()));
    let mut write = Request::new(&f, Write::next(buffer));
    assert!(poll(&mut write).is_pending());
    let mut other = Request::<'static, _>::owned(f.clone(), flush());
    assert!(poll(&mut other).is_pending());
    OTHER.with(|o| *o.borrow_mut() = Some(other));
    assert_eq!(queue.len(), 3);
    drop(write);
    assert_eq!(queue.len(), 2, "nobody has cancelled the new request");
    let mut new = NEW.with(|n| n.take()).unwrap();
    while let Some(held) = queue.remove() {
        held.complete(Status::SUCCESS, 32);
    }
    let Poll::Ready(Ok((64, _))) = poll(&mut new) else { panic!("both children are done") };
    drop((new, f));
    drop(processor);
}
