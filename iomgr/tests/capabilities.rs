//! What drivers can do beside reading and writing, and what the I/O manager does in their place.

#![cfg(not(loom))]

mod support;

use std::ops::Range;
use std::sync::Arc;

use overlapped_iomgr::driver::{Capabilities, Limits};
use overlapped_iomgr::filter::{Filter as Level2, Io, Next};
use overlapped_iomgr::{
    Class, Done, Driver, FileHandle, Major, MajorSet, Operation, Place, Request, Setup, Stack,
    StackError, Status, Why, minor,
};
use support::*;

/// Can everything, and says what it is asked for.
struct Disk(Log);

impl Level2 for Disk {
    type Open = ();
    fn name(&self) -> &str {
        "disk"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Write, Major::Flush, Major::FileSystemControl])
    }
    fn limits(&self, below: Limits) -> Limits {
        Limits { can: Capabilities::ALL, ..below }
    }
    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let how = if io.is_write_through() { "through" } else { "write" };
        self.0.add(format!("{how} {}+{}", io.offset(), io.len()));
        next.forward(&mut io).await
    }
    async fn flush(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        self.0.add("flush");
        next.forward(&mut io).await
    }
    async fn other(&self, _: &(), _: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        let what = if io.minor() == minor::ZERO_DATA { "discard" } else { "zero" };
        self.0.add(format!("{what} {}+{}", io.offset(), io.arg()));
        Ok(0)
    }
}

/// Changes the bytes; of blocks, and by requests of its own, if `blocks`.
struct Secret {
    blocks: bool,
    class: Class,
    not: Capabilities,
}

impl Secret {
    const PLAIN: Secret =
        Secret { blocks: false, class: Class::Transform, not: Capabilities::NONE };
}

impl Level2 for Secret {
    type Open = ();
    fn name(&self) -> &str {
        "secret"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    fn class(&self) -> Class {
        self.class
    }
    fn limits(&self, below: Limits) -> Limits {
        let block = if self.blocks { 64 } else { 1 };
        Limits { block, can: below.can.without(self.not), ..below }
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let n = next.forward(&mut io).await?;
        io.received_mut(n).flatten().for_each(|byte| *byte ^= 0x55);
        Ok(n)
    }
    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let secret: Vec<u8> = io.segments().flatten().map(|byte| byte ^ 0x55).collect();
        if self.blocks {
            let written = next.request(Write { buf: secret, offset: io.offset() }).await;
            return written.map(|(n, _)| n).map_err(|error| error.status());
        }
        next.forward(&mut io).from(secret).await.0
    }
}

/// Zeroes for a range, or a hole.
struct Zero {
    minor: u8,
    range: Range<u64>,
}

impl Operation for Zero {
    type Output = Status;
    fn major(&self) -> Major {
        Major::FileSystemControl
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.minor(self.minor).offset(self.range.start).arg(self.range.end - self.range.start);
    }
    fn finish(done: &mut Done<'_>) -> Status {
        done.status()
    }
    fn refuse(self, status: Status) -> Status {
        status
    }
}

fn zero(harness: &Harness, file: &FileHandle, range: Range<u64>) -> Status {
    harness.block_on(Request::new(file, Zero { minor: minor::ZERO_RANGE, range }))
}

fn discard(harness: &Harness, file: &FileHandle, range: Range<u64>) -> Status {
    harness.block_on(Request::new(file, Zero { minor: minor::ZERO_DATA, range }))
}

/// A write that is to be durable.
struct Through(Vec<u8>, u64);

impl Operation for Through {
    type Output = Status;
    fn major(&self) -> Major {
        Major::Write
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.write_through().offset(self.1).data_out(self.0);
    }
    fn finish(done: &mut Done<'_>) -> Status {
        done.status()
    }
    fn refuse(self, status: Status) -> Status {
        status
    }
}

fn through(harness: &Harness, file: &FileHandle, bytes: &[u8], at: u64) -> Status {
    harness.block_on(Request::new(file, Through(bytes.to_vec(), at)))
}

fn on(filters: Vec<Arc<dyn Driver>>) -> Arc<Stack> {
    Stack::new(filters, Arc::new(Bottom::default())).unwrap()
}

/// A disk below a filter, its file, and what the disk is asked for.
fn disk(above: Option<Secret>) -> (Harness, FileHandle, Log) {
    let (harness, log) = (Harness::new(), Log::default());
    harness.sim.set_file(FD, vec![0x55; 300]);
    let above = above.map(Level2::into_driver);
    let disk = Disk(log.clone()).into_driver();
    let file = open(&on(above.into_iter().chain([disk]).collect()), FD);
    (harness, file, log)
}

#[test]
fn what_a_driver_can_it_is_asked_for() {
    let (harness, file, log) = disk(None);
    assert_eq!(file.stack().to_string(), "disk | bottom");
    assert_eq!(file.stack().limits().can, Capabilities::ALL);
    assert_eq!(zero(&harness, &file, 10..30), Status::SUCCESS);
    assert_eq!(discard(&harness, &file, 5..6), Status::SUCCESS);
    assert_eq!(through(&harness, &file, b"abc", 7), Status::SUCCESS);
    assert_eq!(log.take(), ["zero 10+20", "discard 5+1", "through 7+3"]);
    drop(file);
    harness.finish();
}

/// A filter that transforms data cannot have zeroes made below it: they are written through it. Holes are
/// refused. What it forwards stays durable.
#[test]
fn what_goes_through_a_transforming_filter() {
    let (harness, file, log) = disk(Some(Secret::PLAIN));
    let stack = file.stack();
    assert_eq!(stack.to_string(), "emulate | secret | disk | bottom");
    assert_eq!(stack.limits().can, Capabilities::WRITE_THROUGH);
    assert_eq!(stack.can(), Capabilities::ZERO.with(Capabilities::WRITE_THROUGH));
    let why: Vec<_> = stack.explain(Major::FileSystemControl).map(|v| v.why).collect();
    assert_eq!(why, [Why::Limits, Why::Refuses, Why::Hooks, Why::Bottom]);
    assert_eq!(stack.explain(Major::Write).count(), 3, "writes do not meet it");
    let json = stack.to_json();
    assert!(json.contains("\"messages\":false,\"can\":[\"zero\",\"write-through\"]"), "{json}");

    through(&harness, &file, &[7; 100], 0);
    log.take();
    // Behind the file's end there is nothing to be zeroed, nor where there are zeroes.
    assert_eq!(zero(&harness, &file, 10..1000), Status::SUCCESS);
    assert_eq!(log.take(), ["write 10+290"]);
    let (n, bytes) = harness.block_on(read(&file, 1000, 0)).unwrap();
    assert_eq!(n, 300);
    assert!(bytes[..10] == [7; 10] && bytes[10..] == [0; 290]);
    assert_eq!(zero(&harness, &file, 10..300), Status::SUCCESS);
    assert_eq!(zero(&harness, &file, 0..0), Status::INVALID_PARAMETER);
    assert_eq!(discard(&harness, &file, 0..10), Status::NOT_SUPPORTED);
    assert!(log.take().is_empty());
    assert_eq!(through(&harness, &file, b"abc", 7), Status::SUCCESS);
    assert_eq!(log.take(), ["through 7+3"]);
    drop(file);
    harness.finish();
}

/// What a filter writes for a write that is to be durable is so too, and what is made whole for it.
#[test]
fn its_own_writes_are_durable_too() {
    let (harness, file, log) = disk(Some(Secret { blocks: true, ..Secret::PLAIN }));
    assert_eq!(file.stack().to_string(), "emulate | align | secret | disk | bottom");
    assert_eq!(through(&harness, &file, b"abc", 70), Status::SUCCESS);
    assert_eq!(log.take(), ["through 64+64"]);
    harness.block_on(write(&file, b"abc", 70)).unwrap();
    assert_eq!(log.take(), ["write 64+64"]);
    assert_eq!(zero(&harness, &file, 70..80), Status::SUCCESS);
    assert_eq!(log.take(), ["write 64+64"]);
    drop(file);
    harness.finish();
}

/// A filter that keeps writes to itself is flushed after one that is to be durable.
#[test]
fn a_write_and_a_flush() {
    let not = Capabilities::WRITE_THROUGH;
    let (harness, file, log) = disk(Some(Secret { not, class: Class::Router, ..Secret::PLAIN }));
    assert_eq!(file.stack().to_string(), "emulate | secret | disk | bottom");
    assert_eq!(file.stack().limits().can, Capabilities::ZERO.with(Capabilities::DISCARD));
    assert_eq!(file.stack().can(), Capabilities::ALL);
    assert_eq!(through(&harness, &file, b"abc", 7), Status::SUCCESS);
    let told = log.take();
    assert_eq!((told.len(), &told[1][..]), (2, "flush"), "{told:?}");
    harness.block_on(write(&file, b"abc", 7)).unwrap();
    assert_eq!(log.take(), ["write 7+3"]);
    // It fails as a write, or as a flush, does.
    let fails = Step::INLINE.result(-5);
    for steps in [vec![fails], vec![Step::INLINE, fails]] {
        harness.sim.script(steps);
        assert_eq!(through(&harness, &file, b"abc", 7), Status::from_errno(5));
    }
    drop(file);
    harness.finish();
}

/// Where nobody can see to it, a write that is to be durable is refused, and a filter that comes and goes
/// changes what may be asked for.
#[test]
fn it_is_refused_where_nobody_can() {
    let harness = Harness::new();
    let file = open(&on(vec![]), FD);
    assert_eq!(file.stack().can(), Capabilities::NONE);
    assert_eq!(through(&harness, &file, b"abc", 7), Status::NOT_SUPPORTED);
    let (disk, _) = file.attach(Place::Top, Disk(Log::default()).into_driver()).unwrap();
    assert_eq!(through(&harness, &file, b"abc", 7), Status::SUCCESS);
    drop(file.detach(&disk).unwrap());
    assert_eq!(through(&harness, &file, b"abc", 7), Status::NOT_SUPPORTED);
    drop(file);
    harness.finish();
}

/// Makes messages of what is below, or wants a stream there.
struct Framed {
    makes: bool,
}

impl Level2 for Framed {
    type Open = ();
    fn name(&self) -> &str {
        if self.makes { "frames" } else { "wants" }
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::NONE
    }
    fn limits(&self, below: Limits) -> Limits {
        Limits { messages: below.messages || self.makes, ..below }
    }
    fn may_stand_on(&self, below: Limits) -> Result<(), Status> {
        if below.messages && !self.makes { Err(Status::NOT_SUPPORTED) } else { Ok(()) }
    }
}

/// A filter of streams is not put on messages, neither at first nor later, and says so by name.
#[test]
fn who_cannot_stand_on_messages_does_not() {
    let harness = Harness::new();
    let of = |makes| Framed { makes }.into_driver();
    let bottom = || Arc::new(Bottom::default());
    assert!(Stack::new([of(true), of(false)], bottom()).is_ok());
    let refused = Stack::new([of(false), of(true)], bottom()).unwrap_err();
    let (driver, below) = (String::from("wants"), String::from("frames"));
    assert_eq!(refused, StackError::Refused { driver, below, status: Status::NOT_SUPPORTED });
    let said = refused.to_string();
    assert!(
        said.starts_with("the driver 'wants' cannot work on 'frames': NOT_SUPPORTED"),
        "{said}"
    );

    let file = open(&on(vec![of(true)]), FD);
    assert!(file.stack().limits().messages);
    assert!(file.attach(Place::Top, of(false)).is_err());
    let (wants, _) = file.attach(Place::Below("frames"), of(false)).unwrap();
    assert_eq!(file.stack().to_string(), "frames | wants | bottom");
    // Nor is it put above one by what is put below it.
    assert!(file.attach(Place::Below("wants"), of(true)).is_err());
    drop(file.detach(&wants).unwrap());
    drop(file);
    harness.finish();
}
