//! Limits: a driver that takes whole blocks only gets nothing else, whatever clients ask for.

#![cfg(not(loom))]

mod support;

use std::sync::Arc;

use overlapped_iomgr::driver::Limits;
use overlapped_iomgr::filter::{Filter as Level2, Io, Next};
use overlapped_iomgr::{
    Class, Driver, Group, Major, MajorSet, Place, Request, Stack, Status, Why, minor,
};
use proptest::prelude::*;
use support::*;

const BLOCK: u32 = 64;

/// Changes whole blocks, each by its number; fails what is not whole.
struct Blocks {
    limits: Limits,
}

impl Blocks {
    fn taking(most: u32) -> Arc<dyn Driver> {
        let (block, preferred) = (BLOCK, 4096);
        let limits = Limits { block, most, one_piece: true, preferred, ..Limits::NONE };
        Blocks { limits }.into_driver()
    }

    fn check(&self, io: &Io<'_>) -> Result<(), Status> {
        let whole = |n: u64| n.is_multiple_of(u64::from(self.limits.block));
        let right = whole(io.offset())
            && whole(io.len() as u64)
            && io.len() as u32 <= self.limits.most
            && io.minor() == minor::NONE;
        if right { Ok(()) } else { Err(Status::DATATYPE_MISALIGNMENT) }
    }
}

fn change(bytes: &mut [u8], offset: u64) {
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte ^= ((offset + i as u64) / u64::from(BLOCK)) as u8 + 1;
    }
}

impl Level2 for Blocks {
    type Open = ();
    fn name(&self) -> &str {
        "blocks"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    fn class(&self) -> Class {
        Class::Transform
    }
    fn limits(&self, below: Limits) -> Limits {
        Limits { most: self.limits.most.min(below.most), ..self.limits }
    }
    fn group(&self) -> Option<Group> {
        Some(Group::Encrypt)
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        self.check(&io)?;
        let offset = io.offset();
        let n = next.forward(&mut io).await?;
        io.received_mut(n).for_each(|part| change(part, offset));
        Ok(n)
    }
    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        self.check(&io)?;
        let mut secret = vec![0; io.len()];
        io.copy_out(0, &mut secret);
        change(&mut secret, io.offset());
        next.forward(&mut io).from(secret).await.0
    }
}

/// Changes nothing, and takes whole blocks only.
struct Whole;

impl Level2 for Whole {
    type Open = ();
    fn name(&self) -> &str {
        "whole"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    fn limits(&self, below: Limits) -> Limits {
        Limits { block: BLOCK, ..below }
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let whole = |n: u64| n.is_multiple_of(u64::from(BLOCK));
        assert!(whole(io.offset()) && whole(io.len() as u64));
        next.forward(&mut io).await
    }
}

/// Zeroes for a range.
struct Zero {
    minor: u8,
    range: std::ops::Range<u64>,
}

impl overlapped_iomgr::Operation for Zero {
    type Output = Status;
    fn major(&self) -> Major {
        Major::FileSystemControl
    }
    fn prepare(self, setup: &mut overlapped_iomgr::Setup<'_>) {
        setup.minor(self.minor).offset(self.range.start).arg(self.range.end - self.range.start);
    }
    fn finish(done: &mut overlapped_iomgr::Done<'_>) -> Status {
        done.status()
    }
    fn refuse(self, status: Status) -> Status {
        status
    }
}

fn on(filters: Vec<Arc<dyn Driver>>) -> Arc<Stack> {
    Stack::new(filters, Arc::new(Bottom::default())).unwrap()
}

#[derive(Clone, Debug)]
enum Act {
    Read(u16, u16),
    Write(u16, u16, u8),
    Vectored(u16, Vec<u8>, bool),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let at = 0u16..1000;
    let act = prop_oneof![
        (at.clone(), 0u16..400).prop_map(|(at, len)| Act::Read(at, len)),
        (at.clone(), 0u16..400, any::<u8>()).prop_map(|(at, len, b)| Act::Write(at, len, b)),
        (at, proptest::collection::vec(0u8..90, 1..4), any::<bool>())
            .prop_map(|(at, lens, write)| Act::Vectored(at, lens, write)),
    ];
    proptest::collection::vec(act, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// B-7: with a filter of blocks in the stack, a file is an array of bytes like any other.
    #[test]
    fn b7_any_request_fits(acts in acts(), pend in 0u32..3, most in 1u32..5) {
        let harness = Harness::new();
        harness.sim.default_step(Step::after(pend));
        let mut model = vec![0u8; 2048];
        let mut stored = model.clone();
        change(&mut stored, 0);
        harness.sim.set_file(FD, stored);
        let file = open(&on(vec![Blocks::taking(most * BLOCK)]), FD);
        for act in acts {
            match act {
                Act::Read(at, len) => {
                    let (at, len) = (usize::from(at), usize::from(len));
                    let (n, bytes) = harness.block_on(read(&file, len, at as u64)).unwrap();
                    prop_assert_eq!((n, &bytes[..]), (len, &model[at..at + len]));
                }
                Act::Write(at, len, byte) => {
                    let (at, len) = (usize::from(at), usize::from(len));
                    let bytes: Vec<u8> = (0..len).map(|i| byte.wrapping_add(i as u8)).collect();
                    let (n, _) = harness.block_on(write(&file, &bytes, at as u64)).unwrap();
                    prop_assert_eq!(n, len);
                    model[at..at + len].copy_from_slice(&bytes);
                }
                Act::Vectored(at, lens, is_write) => {
                    let (at, mut begin) = (usize::from(at), usize::from(at));
                    let bufs: Vec<Vec<u8>> = lens.iter().map(|len| {
                        if is_write { vec![*len; usize::from(*len)] }
                        else { Vec::with_capacity(usize::from(*len)) }
                    }).collect();
                    let rooms: Vec<usize> = bufs.iter().map(|b| if is_write { b.len() } else { b.capacity() }).collect();
                    let all: usize = rooms.iter().sum();
                    let op = Vectored { bufs, offset: at as u64, write: is_write };
                    let (status, n, mut bufs) = harness.block_on(Request::new(&file, op));
                    prop_assert_eq!((status, n), (Status::SUCCESS, all));
                    for (buf, room) in bufs.iter_mut().zip(rooms) {
                        if is_write {
                            model[begin..begin + room].copy_from_slice(buf);
                        } else {
                            // SAFETY: all have been filled.
                            unsafe { buf.set_len(room) };
                            prop_assert_eq!(&buf[..], &model[begin..begin + room]);
                        }
                        begin += room;
                    }
                }
            }
        }
        change(&mut model, 0);
        prop_assert_eq!(harness.sim.file(FD), model);
        drop(file);
        harness.finish();
    }
}

/// Writes into one block at the same time keep each other's bytes.
#[test]
fn neighbours_survive() {
    let harness = Harness::new();
    harness.sim.set_file(FD, vec![0; 1024]);
    let file = open(&on(vec![Blocks::taking(u32::MAX)]), FD);
    let mut requests = Vec::new();
    for i in 0..128u64 {
        harness.sim.default_step(Step::after(i as u32 * 7 % 5));
        let (at, len) = if i % 16 == 15 { (0, 64) } else { (i * 4, 4) };
        let mut request = write(&file, &vec![i as u8 + 1; len], at);
        if poll(&mut request).is_pending() {
            requests.push(request);
        }
        harness.turns(usize::from(i % 3 == 0));
    }
    for request in requests {
        harness.block_on(request).unwrap();
    }
    let mut bytes = harness.sim.file(FD);
    change(&mut bytes, 0);
    for (i, chunk) in bytes[..512].chunks(4).enumerate().skip(16) {
        if i % 16 != 15 {
            assert_eq!(chunk, [i as u8 + 1; 4], "write {i}");
        }
    }
    drop(file);
    harness.finish();
}

/// The end of a file is the end of its last whole block.
#[test]
fn at_the_end_of_a_file() {
    let harness = Harness::new();
    harness.sim.set_file(FD, vec![]);
    let file = open(&on(vec![Blocks::taking(u32::MAX)]), FD);
    assert_eq!(harness.block_on(read(&file, 10, 0)).unwrap().0, 0);
    assert_eq!(harness.block_on(write(&file, b"end", 70)).unwrap().0, 3);
    assert_eq!(harness.sim.file(FD).len(), 128);
    let (n, bytes) = harness.block_on(read(&file, 100, 68)).unwrap();
    assert_eq!((n, &bytes[..6]), (60, &b"\0\0end\0"[..]));
    let beyond = harness.block_on(read(&file, 10, u64::MAX - 100)).unwrap_err();
    assert!(beyond.status().is_error());
    drop(file);
    harness.finish();
}

/// A read that comes short is gone on with: only the file's end is an end.
#[test]
fn a_short_transfer_is_not_the_end() {
    let harness = Harness::new();
    let stored: Vec<u8> = (0..1000).map(|i| i as u8).collect();
    harness.sim.set_file(FD, stored.clone());
    let file = open(&on(vec![Whole.into_driver()]), FD);
    // Whole blocks and a part, again and again.
    harness.sim.default_step(Step::INLINE.limit(100));
    let (n, bytes) = harness.block_on(read(&file, 700, 3)).unwrap();
    assert_eq!((n, &bytes[..]), (700, &stored[3..703]));
    // The end is in a block.
    let (n, bytes) = harness.block_on(read(&file, 700, 903)).unwrap();
    assert_eq!((n, &bytes[..]), (97, &stored[903..]));
    // Less than a block each time: nobody knows what is behind, and nothing is put in its place.
    harness.sim.default_step(Step::INLINE.limit(10));
    let failed = harness.block_on(write(&file, b"new", 70)).unwrap_err();
    assert_eq!(failed.status(), Status::UNEXPECTED_IO_ERROR);
    assert_eq!(harness.sim.file(FD), stored);
    drop(file);
    harness.finish();
}

/// What a file is cut to, or zeroed, meanwhile, is not put back by a write beside it.
#[test]
fn what_is_zeroed_stays_so() {
    let harness = Harness::new();
    harness.sim.set_file(FD, vec![7; 256]);
    let zeroes = Filter::new("zeroes", |irp, _| irp.complete(Status::SUCCESS, 0));
    let zeroes = zeroes.hooks(&[Major::FileSystemControl]);
    let file = open(&on(vec![Whole.into_driver(), Arc::new(zeroes)]), FD);
    harness.sim.default_step(Step::after(2));
    let mut writes = write(&file, b"new", 0);
    assert!(poll(&mut writes).is_pending());
    let mut zeroes = Request::new(&file, Zero { minor: minor::ZERO_RANGE, range: 32..64 });
    assert!(
        poll(&mut zeroes).is_pending(),
        "it is not done between the write's read and its write"
    );
    harness.block_on(writes).unwrap();
    assert_eq!(harness.block_on(zeroes), Status::SUCCESS);
    drop(file);
    harness.finish();
}

#[test]
fn stacks_say_what_they_do_and_why() {
    let harness = Harness::new();
    let spy = || Arc::new(Filter::new("spy", |irp, lower| lower.skip(irp))) as Arc<dyn Driver>;
    let stack = on(vec![spy(), Blocks::taking(BLOCK * 4), spy()]);
    let names = |stack: &Stack| stack.to_string();
    assert_eq!(names(&stack), "spy | align | blocks | spy | bottom");
    assert_eq!((stack.limits().block, stack.limits().preferred), (BLOCK, 4096));
    let why: Vec<_> =
        stack.explain(Major::Private).map(|v| (v.device.name().to_owned(), v.why)).collect();
    assert_eq!(why, [("blocks".to_owned(), Why::Refuses), ("bottom".to_owned(), Why::Bottom)]);
    assert_eq!(stack.explain(Major::Read).count(), 5);
    assert_eq!(stack.explain_text(Major::Flush), "Flush: bottom (bottom)",);
    assert!(stack.to_json().contains("\"name\":\"blocks\",\"class\":\"Transform\",\"block\":64"));
    assert!(stack.to_dot().contains("d0 -> d1;"));

    // What keeps the limits goes with the one that sets them, and stays through other changes.
    let file = open(&on(vec![]), FD);
    let (blocks, attached) = file.attach(Place::Top, Blocks::taking(BLOCK)).unwrap();
    let aligner =
        |stack: &Stack| std::ptr::from_ref(stack.devices().find(|d| d.name() == "align").unwrap());
    // On top, until what was under way is done and the stack is changed again, is what waits for that.
    assert_eq!(names(&file.stack()), "settling | align | blocks | bottom");
    harness.block_on(async { attached.await });
    let before = aligner(&file.stack());
    drop(file.attach(Place::Above("blocks"), spy()).unwrap());
    drop(file.attach(Place::Top, spy()).unwrap());
    assert_eq!(names(&file.stack()), "spy | spy | align | blocks | bottom");
    assert_eq!(aligner(&file.stack()), before);
    assert!(file.attachment("align").is_none());
    let detached = file.detach(&blocks).unwrap();
    assert_eq!(names(&file.stack()), "settling | spy | spy | bottom");
    harness.block_on(async { detached.await });
    drop(file.attach(Place::Top, spy()).unwrap());
    assert_eq!(names(&file.stack()), "spy | spy | spy | bottom");
    drop(file);
    harness.finish();
}

struct Of(&'static str, Option<Group>);

impl Level2 for Of {
    type Open = ();
    fn name(&self) -> &str {
        self.0
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::NONE
    }
    fn group(&self) -> Option<Group> {
        self.1
    }
}

#[test]
fn an_order_that_is_wrong_is_named() {
    let of = |name, group| Of(name, group).into_driver();
    let stack = on(vec![
        of("luks", Some(Group::Encrypt)),
        of("mine", None),
        of("cache", Some(Group::Cache)),
        of("trace", Some(Group::Trace)),
    ]);
    let wrong: Vec<String> = stack.out_of_order().iter().map(ToString::to_string).collect();
    assert_eq!(
        wrong,
        [
            "the filter 'cache' (Cache) stands below 'luks' (Encrypt), and belongs above it",
            "the filter 'trace' (Trace) stands below 'cache' (Cache), and belongs above it",
        ]
    );
    assert!(
        on(vec![of("a", Some(Group::Trace)), of("b", Some(Group::Cache))])
            .out_of_order()
            .is_empty()
    );
}

/// Where an appending write would go is not known, so it cannot be made whole.
#[test]
fn appending_is_refused() {
    let harness = Harness::new();
    let file = open(&on(vec![Blocks::taking(u32::MAX)]), FD);
    file.set_seekable();
    file.set_appends();
    for len in [1, BLOCK as usize] {
        let failed = harness.block_on(write(&file, &vec![1; len], u64::MAX)).unwrap_err();
        assert_eq!(failed.status(), Status::NOT_SUPPORTED);
    }
    drop(file);
    harness.finish();
}
