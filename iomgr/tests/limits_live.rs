//! Limits that come and go with a filter while writes are under way: neighbours in a block keep their bytes.

#![cfg(not(loom))]

mod support;

use std::sync::Arc;

use overlapped_iomgr::driver::Limits;
use overlapped_iomgr::filter::{Filter as Level2, Io, Next, RangeLocks};
use overlapped_iomgr::{Driver, FileHandle, Major, MajorSet, Place, Stack, Status};
use support::*;

/// Takes whole blocks only.
struct Blocks(u32);

impl Level2 for Blocks {
    type Open = ();
    fn name(&self) -> &str {
        "blocks"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::NONE
    }
    fn limits(&self, below: Limits) -> Limits {
        Limits { block: self.0, ..below }
    }
}

fn blocks(size: u32) -> Arc<dyn Driver> {
    Blocks(size).into_driver()
}

fn on(filters: Vec<Arc<dyn Driver>>) -> (Harness, FileHandle) {
    let harness = Harness::new();
    harness.sim.set_file(FD, vec![0; 256]);
    let file = open(&Stack::new(filters, Arc::new(Bottom::default())).unwrap(), FD);
    file.set_seekable();
    (harness, file)
}

/// What is written with this takes so many turns, each of its operations.
fn slow(harness: &Harness, turns: u32) {
    harness.sim.default_step(Step::after(turns));
}

#[track_caller]
fn both_are_there(harness: Harness, file: FileHandle) {
    let bytes = harness.sim.file(FD);
    assert_eq!((&bytes[..4], &bytes[8..12]), (&b"aaaa"[..], &b"bbbb"[..]));
    drop(file);
    harness.finish();
}

/// O-8, B-7: a write from before the limits is not undone by one that reads its block first.
#[test]
fn a_write_of_before_the_limits_survives() {
    let (harness, file) = on(vec![]);
    slow(&harness, 3);
    let mut old = write(&file, b"aaaa", 0);
    assert!(poll(&mut old).is_pending());
    let (_blocks, attached) = file.attach(Place::Top, blocks(64)).unwrap();
    slow(&harness, 1);
    let mut new = write(&file, b"bbbb", 8);
    assert!(poll(&mut new).is_pending());
    // Its read would be done by now, and its write come after the old one.
    slow(&harness, 5);
    harness.block_on(old).unwrap();
    harness.block_on(new).unwrap();
    harness.block_on(async { attached.await });
    both_are_there(harness, file);
}

/// O-8, B-7: nor is a write after the limits by one that has read its block under them.
#[test]
fn a_write_of_after_the_limits_survives() {
    let (harness, file) = on(vec![blocks(64)]);
    slow(&harness, 1);
    let mut old = write(&file, b"aaaa", 0);
    assert!(poll(&mut old).is_pending());
    // It has read its block, and now writes it.
    slow(&harness, 5);
    harness.turn();
    assert!(poll(&mut old).is_pending());
    let attachment = file.attachment("blocks").unwrap();
    let detached = file.detach(&attachment).unwrap();
    slow(&harness, 1);
    let mut new = write(&file, b"bbbb", 8);
    assert!(poll(&mut new).is_pending());
    harness.turns(2);
    harness.block_on(old).unwrap();
    harness.block_on(new).unwrap();
    harness.block_on(async { detached.await });
    // Nothing is to be waited for any more.
    harness.sim.default_step(Step::INLINE);
    now(&mut write(&file, b"cccc", 16)).unwrap();
    both_are_there(harness, file);
}

/// what waits for the old stack's requests hears of its cancel.
#[test]
fn x5_who_waits_for_the_old_stack_hears_of_a_cancel() {
    let (harness, file) = on(vec![]);
    harness.sim.default_step(Step::GATED.deaf());
    let mut old = write(&file, b"aaaa", 0);
    assert!(poll(&mut old).is_pending());
    let (attachment, _) = file.attach(Place::Top, blocks(64)).unwrap();
    harness.sim.default_step(Step::INLINE);
    for _ in 0..2 {
        let new = write(&file, b"bbbb", 8).start().unwrap();
        harness.turns(3);
        assert_eq!(new.status(), Status::PENDING);
        new.cancel();
        harness.turns(3);
        assert_eq!(new.status(), Status::CANCELLED);
        // And once more where the limits have been.
        let _ = file.detach(&attachment);
    }
    harness.sim.open_gate();
    harness.block_on(old).unwrap();
    drop(file);
    harness.finish();
}

/// Holds a range of the file while its writes are below, as a cache does its blocks.
struct Holds;

impl Level2 for Holds {
    type Open = RangeLocks;
    fn name(&self) -> &str {
        "holds"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Write])
    }
    async fn write(
        &self,
        locks: &RangeLocks,
        next: Next<'_>,
        mut io: Io<'_>,
    ) -> Result<usize, Status> {
        let _lock = locks.lock_for(next, 0..64, true).await?;
        next.forward(&mut io).await
    }
}

/// A request that waits for the old stack holds nothing of the filters that both stacks have.
#[test]
fn who_waits_is_in_nobodys_way() {
    let (harness, file) = on(vec![Holds.into_driver()]);
    slow(&harness, 2);
    let mut first = write(&file, b"aaaa", 0);
    let mut second = write(&file, b"aaaa", 0);
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
    let (_blocks, attached) = file.attach(Place::Below("holds"), blocks(64)).unwrap();
    assert_eq!(file.stack().to_string(), "settling | holds | align | blocks | bottom");
    let mut new = write(&file, b"bbbb", 8);
    assert!(poll(&mut new).is_pending());
    harness.block_on(first).unwrap();
    // Whoever is asked first: the lock is for those on the old stack.
    assert!(poll(&mut new).is_pending());
    harness.block_on(second).unwrap();
    harness.block_on(new).unwrap();
    harness.block_on(async { attached.await });
    both_are_there(harness, file);
}

/// Of several changes in a row, the last one's end counts, and what is on top stays there.
#[test]
fn changes_in_a_row() {
    let (harness, file) = on(vec![]);
    slow(&harness, 9);
    let mut old = write(&file, b"aaaa", 0);
    assert!(poll(&mut old).is_pending());
    let (lower, _) = file.attach(Place::Top, blocks(64)).unwrap();
    let spy = || Arc::new(Filter::new("spy", |irp, lower| lower.skip(irp)));
    drop(file.attach(Place::Top, spy()).unwrap());
    assert_eq!(file.stack().to_string(), "settling | spy | align | blocks | bottom");
    drop(file.attach(Place::Top, blocks(16)).unwrap());
    let names = "settling | align | blocks | spy | align | blocks | bottom";
    assert_eq!(file.stack().to_string(), names);
    let mut new = write(&file, b"bbbb", 8);
    assert!(poll(&mut new).is_pending());
    let detached = file.detach(&lower).unwrap();
    harness.block_on(old).unwrap();
    harness.block_on(new).unwrap();
    harness.block_on(async { detached.await });
    drop(file.attach(Place::Top, spy()).unwrap());
    assert_eq!(file.stack().to_string(), "spy | align | blocks | spy | bottom");
    both_are_there(harness, file);
}

/// Other limits of the same filter are new ones too: blocks of both sizes are whole.
#[test]
fn limits_that_change_wait_for_those_before() {
    let (harness, file) = on(vec![blocks(16), blocks(64)]);
    let names = |file: &FileHandle| file.stack().to_string();
    assert_eq!(names(&file), "align | blocks | align | blocks | bottom");
    slow(&harness, 1);
    let mut old = write(&file, b"aaaa", 0);
    assert!(poll(&mut old).is_pending());
    let upper = file.attachment("blocks").unwrap();
    let detached = file.detach(&upper).unwrap();
    assert_eq!(names(&file), "settling | align | blocks | bottom");
    let mut new = write(&file, b"bbbb", 8);
    assert!(poll(&mut new).is_pending());
    harness.block_on(old).unwrap();
    harness.block_on(new).unwrap();
    harness.block_on(async { detached.await });
    both_are_there(harness, file);
}
