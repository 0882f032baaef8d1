//! How packets come to a port: requests that have finished, and what is posted; and how many may.
//!
//! See `queue.rs` for where they go.

use std::sync::atomic::Ordering;

use super::chain::{Refused, Segment};
use super::inner::{Inner, Released};
use super::packet::{Packet, Parts, Posted};
use super::queue::Shared;
use crate::irp::slot::SlotPtr;
use crate::node::Block;
use crate::panics::{caught, log};
use crate::status::Status;
use crate::sync::lock::Guard;

/// Whether a packet has come into the chain.
#[derive(PartialEq, Eq)]
enum Entered {
    Yes,
    /// There is none for it.
    NoSegment,
    /// It goes to the queue, or to who waits.
    Shut,
}

/// A request's place among the packets of a port: given back if the request comes to nothing, also
/// by a panic.
pub(crate) struct Admission<'a>(&'a Shared);

impl Admission<'_> {
    /// There will be a packet, or is one already: it keeps the place until it is taken.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        self.0.reaped();
    }
}

impl Shared {
    /// Queues a finished request. Allocates nothing, and cannot fail (C-15).
    ///
    /// # Safety
    /// The slot is `DONE`, its route says what its packet carries; the requester's reference goes to
    /// the port.
    #[inline]
    pub(crate) unsafe fn insert(&self, slot: SlotPtr) {
        if self.chain.post(|| Parts::request(slot)).is_err() {
            // SAFETY: the caller's.
            unsafe { self.insert_further(slot) };
        }
    }

    /// # Safety
    /// As [`Shared::insert`].
    #[cold]
    unsafe fn insert_further(&self, slot: SlotPtr) {
        let inner = self.lock();
        if inner.closed {
            drop(inner);
            self.reaped();
            // C-30: nobody can reach it. Its buffer is foreign code to drop.
            if caught(|| drop(Packet::of(Parts::request(slot)))).is_none() {
                log(|| tracing::error!("a buffer or result panicked while it was dropped"));
            }
            return;
        }
        self.enter_or_queue(inner, || Parts::request(slot));
    }

    #[inline]
    pub(super) fn post(&self, posted: Posted) -> Result<(), Status> {
        match self.chain.post(|| Parts::posted(posted)) {
            Ok(()) => Ok(()),
            Err(_) => self.post_further(posted),
        }
    }

    #[cold]
    fn post_further(&self, posted: Posted) -> Result<(), Status> {
        // Made without the lock.
        let mut segment = None;
        loop {
            let mut inner = self.lock();
            if inner.closed {
                return Err(Status::INVALID_HANDLE);
            }
            if let Some(segment) = segment.take() {
                inner.stock.add(segment);
            }
            match self.enter(&mut inner, || Parts::posted(posted)) {
                Entered::Yes => return Ok(()),
                Entered::NoSegment => {
                    drop(inner);
                    segment = Some(Segment::new());
                }
                Entered::Shut => {
                    if self.depth_of(&inner) >= self.limit {
                        return Err(Status::INSUFFICIENT_RESOURCES);
                    }
                    self.queue(inner, Parts::posted(posted));
                    return Ok(());
                }
            }
        }
    }

    /// Puts a packet into the chain after all, if it may come in there.
    fn enter(&self, inner: &mut Inner, make: impl Fn() -> Parts) -> Entered {
        while self.open(inner) {
            match self.chain.post(&make) {
                Ok(()) => return Entered::Yes,
                Err(Refused::Full) if self.is_far_from_limit() => {
                    if !self.chain.extend(&mut inner.stock) {
                        return Entered::NoSegment;
                    }
                }
                Err(_) => break,
            }
        }
        Entered::Shut
    }

    /// For a packet that may not wait for memory.
    fn enter_or_queue(&self, mut inner: Guard<'_, Inner>, make: impl Fn() -> Parts) {
        match self.enter(&mut inner, &make) {
            Entered::Yes => {}
            no => {
                if no == Entered::NoSegment {
                    self.lacks.store(true, Ordering::Relaxed);
                }
                self.queue(inner, make());
            }
        }
    }

    /// Memory for a packet that is queued later, when none may be wanting (I-1).
    pub(super) fn block(&self) -> Box<Block<Posted>> {
        let spare = self.lock().spare.take();
        spare.unwrap_or_else(Block::new)
    }

    /// Queues a packet for which there is memory, whatever the limit says. `false`: the port is closed, and
    /// nobody can reach it (C-30).
    pub(super) fn post_into(&self, posted: Posted, block: Box<Block<Posted>>) -> bool {
        let mut inner = self.lock();
        inner.spare.add(block);
        if inner.closed {
            return false;
        }
        self.enter_or_queue(inner, || Parts::posted(posted));
        true
    }

    /// Hands a packet to who waits, or puts it behind the others. A request needs no memory for that (I-1), a
    /// post takes a spare block if there is one.
    fn queue(&self, mut inner: Guard<'_, Inner>, parts: Parts) {
        self.chain.shut();
        let released = match inner.next_waiter().filter(|_| self.depth_of(&inner) == 0) {
            Some(at) => inner.hand(at, Packet::of(parts)),
            None => {
                let Inner { packets, spare, .. } = &mut *inner;
                packets.push(parts.into_entry(), spare);
                Released(None)
            }
        };
        self.open(&inner);
        self.leave(inner, released);
    }

    /// A request is to report here; refused when too many do already.
    pub(crate) fn admit(&self) -> Result<Admission<'_>, Status> {
        let before = self.outstanding.fetch_add(1, Ordering::Relaxed);
        let admission = Admission(self);
        if self.lacks.load(Ordering::Relaxed) {
            self.add_segment();
        }
        if before < self.limit { Ok(admission) } else { Err(Status::QUOTA_EXCEEDED) }
    }

    #[cold]
    fn add_segment(&self) {
        let segment = Segment::new();
        if self.lacks.swap(false, Ordering::Relaxed) {
            self.lock().stock.add(segment);
        }
    }

    /// A request that was not asked about reports here all the same (C-12).
    pub(crate) fn admit_late(&self) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
    }

    /// The packet of a request has been taken, or died.
    pub(super) fn reaped(&self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }
}
