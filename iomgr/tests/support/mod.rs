//! What the integration tests share: simulated hardware, a bottom driver for it, a driver made of
//! closures, operations on byte buffers, and a harness that drives a processor by hand.
//!
//! Nothing here reads a clock or the network: time is the number of turns.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod hal;

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use overlapped_iomgr::buf::{BufError, BufResult, IoBuf, IoBufMut};
use overlapped_iomgr::hal::{Completion as HalDone, Op, Wait};
use overlapped_iomgr::{
    Class, Completion, Device, Disposition, Done, Driver, FileHandle, FileObject, Irp, Late, Lower,
    Major, MajorSet, Operation, Processor, Request, Setup, Stack, Status, Unwinding, minor,
};

pub use hal::{Sim, Step};

/// A read into `buf`. Its result gives the buffer back.
pub struct Read<B> {
    pub buf: B,
    pub offset: u64,
}

impl<B: IoBufMut> Operation for Read<B> {
    type Output = BufResult<usize, B>;
    fn major(&self) -> Major {
        Major::Read
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.offset(self.offset).data_in(self.buf);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        let mut buf = done.take::<B>();
        if done.status().is_error() {
            return Err(BufError::new(done.status(), buf));
        }
        // SAFETY: the I/O manager never reports more bytes than were filled (I-29).
        unsafe { buf.set_len(done.info()) };
        Ok((done.info(), buf))
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(BufError::new(status, self.buf))
    }
}

/// A write of `buf`.
pub struct Write<B> {
    pub buf: B,
    pub offset: u64,
}

impl<B: IoBuf> Operation for Write<B> {
    type Output = BufResult<usize, B>;
    fn major(&self) -> Major {
        Major::Write
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.offset(self.offset).data_out(self.buf);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        let buf = done.take::<B>();
        if done.status().is_error() {
            return Err(BufError::new(done.status(), buf));
        }
        Ok((done.info(), buf))
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(BufError::new(status, self.buf))
    }
}

/// A vectored read or write.
pub struct Vectored {
    pub bufs: Vec<Vec<u8>>,
    pub offset: u64,
    pub write: bool,
}

impl Operation for Vectored {
    type Output = (Status, usize, Vec<Vec<u8>>);
    fn major(&self) -> Major {
        if self.write { Major::Write } else { Major::Read }
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.offset(self.offset);
        if self.write {
            setup.vectored_out(self.bufs)
        } else {
            setup.vectored_in(self.bufs)
        };
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        let bufs = done.take::<overlapped_iomgr::buf::Vectored<Vec<u8>>>();
        (done.status(), done.info(), bufs.into_inner())
    }
    fn refuse(self, status: Status) -> Self::Output {
        (status, 0, self.bufs)
    }
}

/// An operation without data: its result is the bare status and information.
pub struct Plain {
    pub major: Major,
    pub arg: u64,
    pub check: Status,
}

impl Plain {
    pub fn new(major: Major) -> Plain {
        Plain { major, arg: 0, check: Status::SUCCESS }
    }
}

impl Operation for Plain {
    type Output = (Status, usize);
    fn major(&self) -> Major {
        self.major
    }
    fn check(&self) -> Status {
        self.check
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.arg(self.arg);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        (done.status(), done.info())
    }
    fn refuse(self, status: Status) -> Self::Output {
        (status, 0)
    }
}

/// Asks for, or sets, the current offset of a synchronous file object.
pub struct Position(pub Option<u64>);

impl Operation for Position {
    type Output = (Status, usize);
    fn major(&self) -> Major {
        if self.0.is_some() { Major::SetInformation } else { Major::QueryInformation }
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.minor(minor::POSITION).arg(self.0.unwrap_or(0));
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        (done.status(), done.info())
    }
    fn refuse(self, status: Status) -> Self::Output {
        (status, 0)
    }
}

/// An operation that carries a value there and back.
pub struct Carry<T>(pub T);

impl<T: Send + 'static> Operation for Carry<T> {
    type Output = (Status, Option<T>);
    fn major(&self) -> Major {
        Major::Private
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.payload(self.0);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        (done.status(), done.try_take())
    }
    fn refuse(self, status: Status) -> Self::Output {
        (status, Some(self.0))
    }
}

pub fn read(file: &FileObject, len: usize, offset: u64) -> Request<'_, Read<Vec<u8>>> {
    Request::new(file, Read { buf: Vec::with_capacity(len), offset })
}

pub fn write<'f>(file: &'f FileObject, bytes: &[u8], offset: u64) -> Request<'f, Write<Vec<u8>>> {
    Request::new(file, Write { buf: bytes.to_vec(), offset })
}

pub fn plain(file: &FileObject, major: Major) -> Request<'_, Plain> {
    Request::new(file, Plain::new(major))
}

/// A buffer that counts how many of its kind are alive.
pub struct Counted {
    bytes: Box<[u8]>,
    alive: Arc<AtomicUsize>,
}

impl Counted {
    pub fn new(len: usize, alive: &Arc<AtomicUsize>) -> Counted {
        alive.fetch_add(1, SeqCst);
        Counted { bytes: vec![0; len].into(), alive: alive.clone() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, SeqCst);
    }
}

// SAFETY: the bytes are a box's, which owns them and keeps their address; the rest is not touched.
unsafe impl IoBuf for Counted {
    fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }
    fn len(&self) -> usize {
        self.bytes.len()
    }
}

// SAFETY: as above.
unsafe impl IoBufMut for Counted {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }
    fn capacity(&self) -> usize {
        self.bytes.len()
    }
    unsafe fn set_len(&mut self, _n: usize) {}
}

/// What happened, in order, for tests of order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn add(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Counts the calls of the bottom's rarer routines.
#[derive(Default)]
pub struct BottomCounts {
    pub abandoned: AtomicUsize,
    pub abandoned_bytes: AtomicUsize,
    pub settled: AtomicUsize,
    pub closed: AtomicUsize,
    pub closed_now: AtomicUsize,
}

/// What a bottom does beyond the ordinary; tests set it.
#[derive(Default)]
pub struct Quirks {
    /// Asks for `settled` with every read.
    pub settle: bool,
    /// Reports that many bytes more than there are.
    pub overstate: usize,
    pub panic_in: Mutex<Option<&'static str>>,
}

/// The driver at the bottom: files of the simulated hardware.
#[derive(Default)]
pub struct Bottom {
    pub counts: Arc<BottomCounts>,
    pub quirks: Arc<Quirks>,
}

impl Bottom {
    fn panic_if(&self, place: &str) {
        let mut wanted = self.quirks.panic_in.lock().unwrap();
        if *wanted == Some(place) {
            *wanted = None;
            drop(wanted);
            panic!("wanted, in {place}");
        }
    }
}

impl Driver for Bottom {
    fn name(&self) -> &str {
        "bottom"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[
            Major::Read,
            Major::Write,
            Major::Flush,
            Major::Close,
            Major::Accept,
            Major::Private,
        ])
    }
    fn dispatch(&self, mut irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        self.panic_if("dispatch");
        let (data, len) = irp.raw_data();
        let (fd, offset, inline) = (irp.file().fd(), irp.offset(), true);
        let vectored = irp.minor() == minor::VECTORED;
        let op = match irp.major() {
            Major::Read if vectored => Op::ReadV { fd, iov: data.cast(), count: len, offset },
            Major::Read => Op::Read { fd, buf: data, len, offset, inline },
            Major::Write if vectored => Op::WriteV {
                fd,
                iov: data.cast(),
                count: len,
                offset,
                through: irp.is_write_through(),
            },
            Major::Write => {
                let through = irp.is_write_through();
                Op::Write { fd, buf: data, len, offset, inline, through }
            }
            Major::Flush => Op::Sync { fd, data_only: false },
            Major::Accept => Op::Accept { fd },
            Major::Private => Op::Nop,
            Major::Close => Op::Close { fd, now: true },
            // Tests ask what becomes of an operation sent below the bottom.
            _ => return lower.skip(irp),
        };
        if self.quirks.settle && irp.major() == Major::Read {
            irp.notify_settled();
        }
        // SAFETY: the memory is the request's data.
        let disposition = unsafe { irp.submit(op) };
        self.panic_if("dispatch after submit");
        disposition
    }
    fn hardware(&self, irp: Irp<'_>, done: HalDone) -> Disposition {
        self.panic_if("hardware");
        if irp.major() == Major::Close {
            // SAFETY: numbers of the simulated hardware.
            unsafe { irp.file().set_fd(-1) };
            self.counts.closed.fetch_add(1, SeqCst);
        }
        let disposition = irp.complete(done.status(), done.info() + self.quirks.overstate);
        self.panic_if("hardware after complete");
        disposition
    }
    fn abandoned(&self, _file: &FileObject, late: Late<'_>) {
        self.counts.abandoned.fetch_add(1, SeqCst);
        let bytes = late.received().map(<[u8]>::len).sum();
        self.counts.abandoned_bytes.fetch_add(bytes, SeqCst);
        self.panic_if("abandoned");
    }
    fn settled(&self, _file: &FileObject) {
        self.counts.settled.fetch_add(1, SeqCst);
        self.panic_if("settled");
    }
    fn close_now(&self, file: &FileObject) {
        // SAFETY: numbers of the simulated hardware.
        unsafe { file.set_fd(-1) };
        self.counts.closed_now.fetch_add(1, SeqCst);
    }
}

type Dispatch = dyn for<'a> Fn(Irp<'a>, Lower<'a>) -> Disposition + Send + Sync;
type Completed = dyn for<'a> Fn(Unwinding<'a>) -> Completion + Send + Sync;

/// A driver made of two closures.
pub struct Filter {
    name: String,
    hooks: MajorSet,
    class: Class,
    dispatch: Box<Dispatch>,
    completed: Box<Completed>,
}

impl Filter {
    /// A filter of reads and writes; `dispatch` is its way down.
    pub fn new(
        name: impl Into<String>,
        dispatch: impl for<'a> Fn(Irp<'a>, Lower<'a>) -> Disposition + Send + Sync + 'static,
    ) -> Filter {
        Filter {
            name: name.into(),
            hooks: MajorSet::of(&[Major::Read, Major::Write]),
            class: Class::Observe,
            dispatch: Box::new(dispatch),
            completed: Box::new(|irp| irp.proceed()),
        }
    }

    /// Its way up.
    pub fn completed(
        mut self,
        completed: impl for<'a> Fn(Unwinding<'a>) -> Completion + Send + Sync + 'static,
    ) -> Filter {
        self.completed = Box::new(completed);
        self
    }

    pub fn hooks(mut self, majors: &[Major]) -> Filter {
        self.hooks = MajorSet::of(majors);
        self
    }

    pub fn class(mut self, class: Class) -> Filter {
        self.class = class;
        self
    }
}

impl Driver for Filter {
    fn name(&self) -> &str {
        &self.name
    }
    fn hooks(&self) -> MajorSet {
        self.hooks
    }
    fn class(&self) -> Class {
        self.class
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        (self.dispatch)(irp, lower)
    }
    fn completed(&self, irp: Unwinding<'_>) -> Completion {
        (self.completed)(irp)
    }
}

/// A stack of the filters given, top first, on a bottom.
pub fn stack(filters: Vec<Filter>, bottom: Bottom) -> Arc<Stack> {
    let filters = filters.into_iter().map(|f| Arc::new(f) as Arc<dyn Driver>);
    Stack::new(filters, Arc::new(bottom)).unwrap()
}

/// A file object that is open as `fd`.
pub fn open(stack: &Arc<Stack>, fd: i32) -> FileHandle {
    let file = FileObject::new(stack.clone(), "simulated", Box::new(())).unwrap();
    // SAFETY: numbers of the simulated hardware.
    unsafe { file.set_fd(fd) };
    file
}

pub fn device(stack: &Stack, name: &str) -> (bool, u64) {
    let found: Vec<&Device> = stack.devices().filter(|d| d.name() == name).collect();
    assert_eq!(found.len(), 1, "one device is called {name}");
    (found[0].is_faulted(), found[0].bugs())
}

/// A waker that counts.
#[derive(Default)]
pub struct Wakes(AtomicUsize);

impl Wakes {
    pub fn count(&self) -> usize {
        self.0.load(SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Polls once, with a waker that does nothing.
pub fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls once, with a counting waker.
pub fn poll_counting<F: Future + Unpin>(future: &mut F, wakes: &Arc<Wakes>) -> Poll<F::Output> {
    let waker = Waker::from(wakes.clone());
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}

/// Polls a request that is complete now.
pub fn now<F: Future + Unpin>(future: &mut F) -> F::Output {
    match poll(future) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("expected the request to be complete"),
    }
}

/// A processor on the test's thread, its simulated hardware, and the hand that turns the crank.
pub struct Harness {
    pub processor: Processor,
    pub sim: Sim,
}

/// A part of the file that harnesses have.
pub fn pattern(offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len).map(|i| i as u8).collect()
}

/// The descriptor that harnesses open.
pub const FD: i32 = 3;

impl Harness {
    /// With file `FD` holding the bytes 0, 1, 2, … 255, 0, … (4096 of them).
    pub fn new() -> Harness {
        let sim = Sim::new();
        sim.set_file(FD, (0..4096).map(|i| i as u8).collect());
        Self::with(&sim)
    }

    /// On a hardware that others use too.
    pub fn with(sim: &Sim) -> Harness {
        let sim = sim.clone();
        let hal = sim.hal();
        Harness { processor: Processor::new(|| Ok(Box::new(hal))).unwrap(), sim }
    }

    pub fn turn(&self) {
        self.processor.turn(Wait::No, || true).unwrap();
    }

    pub fn turns(&self, n: usize) {
        for _ in 0..n {
            self.turn();
        }
    }

    /// Drives the processor until the future is ready; gives up after many turns.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        for _ in 0..10_000 {
            let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(output) = polled {
                return output;
            }
            self.turn();
        }
        panic!("the future does not become ready");
    }

    /// Drives the processor until the condition holds; for what other threads do meanwhile.
    pub fn until(&self, what: &str, condition: impl Fn() -> bool) {
        for _ in 0..100_000 {
            if condition() {
                return;
            }
            self.processor.turn(Wait::For(Duration::from_millis(1)), || false).unwrap();
        }
        panic!("never happened: {what}");
    }

    /// Ends the test: nothing is left, and the shutdown is clean.
    pub fn finish(self) {
        self.turns(2);
        assert_eq!(self.processor.live(), 0, "no request is left");
        assert_eq!(self.processor.shutdown(Duration::ZERO).leaked, 0);
        assert_eq!(self.sim.in_flight(), 0, "the hardware has nothing left");
    }
}

/// For [`overlapped_iomgr::processor::set_hardware_factory`]: every plain thread gets hardware of
/// its own, with a file `FD` of 4096 bytes; all operations take `turns` turns.
pub fn hardware_after<const TURNS: u32>() -> io::Result<Box<dyn overlapped_iomgr::hal::Hal>> {
    let sim = Sim::new();
    sim.set_file(FD, (0..4096).map(|i| i as u8).collect());
    sim.default_step(Step::after(TURNS));
    Ok(Box::new(sim.hal()))
}
