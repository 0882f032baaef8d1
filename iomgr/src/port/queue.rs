//! What is behind a port's handles: packets, waiters, and the count of running threads.
//!
//! **Invariant.** Packets come into the chain (`chain.rs`) while nobody has to hear of them: no waiter is left in
//! the port, nobody watches it, it is not closed, the queue is empty, and the limit is far. Otherwise the chain
//! is shut, and they come into the queue, or go to a waiter, under the one lock. So what is in the chain is
//! older than what is in the queue: who takes looks at the chain first, without the lock, and at the queue
//! only if the chain is empty and shut. Whoever is to be told of packets shuts the chain before the last look.
//!
//! `current` is the number of associated threads that run (C-20 to C-25): whoever is handed a packet is
//! counted from then on, and not any more when it asks for the next, blocks, goes to another port or ends. A
//! packet that was handed to a waiter is in `handed` until the waiter fetches it; one that leaves without
//! fetching gives it back.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::chain::{Chain, Front, ROOM, Refused, Segment};
use super::inner::{Inner, Released};
use super::packet::{Packet, Parts, Posted};
use crate::irp::slot::SlotPtr;
use crate::node::{Block, Entry, Fifo};
use crate::panics::{caught, log};
use crate::status::Status;
use crate::sync::AtomicBool;
use crate::sync::lock::{Guard, Lock};
use crate::wait::Signal;

/// A port, behind its handles and the files and requests that report to it (C-13).
pub(crate) struct Shared {
    chain: Chain,
    inner: Lock<Inner>,
    /// Requests that report here and whose packets have not been taken.
    outstanding: AtomicUsize,
    limit: usize,
    /// Threads are counted (C-20).
    pub(super) counts: bool,
    /// There are packets in the queue: a hint for those who spin.
    filled: AtomicBool,
    /// On while there are packets (C-29).
    signal: Signal,
}

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
    pub(super) fn new(maximum: usize, limit: usize) -> Shared {
        let is_open = limit >= ROOM as usize;
        let (chain, stock) = Chain::new(is_open);
        Shared {
            chain,
            inner: Lock::new(Inner::new(maximum, is_open, stock)),
            outstanding: AtomicUsize::new(0),
            limit,
            counts: maximum != usize::MAX,
            filled: AtomicBool::new(false),
            signal: Signal::new(false, false),
        }
    }

    #[inline]
    pub(super) fn lock(&self) -> Guard<'_, Inner> {
        self.inner.lock()
    }

    /// Whether there are packets, or were a moment ago.
    pub(super) fn seems_filled(&self) -> bool {
        self.chain.seems_filled() || self.filled.load(Ordering::Relaxed)
    }

    /// Packets that nobody has taken.
    pub(super) fn depth(&self) -> usize {
        self.depth_of(&self.lock())
    }

    fn depth_of(&self, inner: &Inner) -> usize {
        self.chain.len() + inner.packets.len()
    }

    /// What comes from now on goes to the queue, and to those who wait.
    pub(super) fn shut(&self, inner: &mut Inner) {
        if !inner.shut {
            self.chain.shut();
            inner.shut = true;
        }
    }

    /// Lets packets into the chain again, if nobody has to hear of them. Whether they may come in there.
    #[inline]
    fn open(&self, inner: &mut Inner) -> bool {
        if inner.shut && inner.may_open() && self.is_far_from_limit() {
            self.chain.open();
            inner.shut = false;
        }
        !inner.shut
    }

    /// Posts that come into the chain are not counted one by one, only whenever it needs another segment.
    fn is_far_from_limit(&self) -> bool {
        self.chain.len() + ROOM as usize <= self.limit
    }

    /// The oldest packet.
    #[inline]
    fn pop(&self, inner: &mut Inner) -> Option<Parts> {
        loop {
            match self.chain.take() {
                Front::Packet(parts) => return Some(parts),
                Front::Empty | Front::Shut => {
                    return inner.packets.pop(&mut inner.spare).map(Parts::of);
                }
                Front::Further => self.chain.advance(),
            }
        }
    }

    /// Takes the oldest packet, for a thread of a port that does not count them. `None`: there is none.
    #[inline]
    pub(super) fn take_one(&self) -> Option<Parts> {
        let parts = match self.chain.take() {
            Front::Packet(parts) => parts,
            Front::Empty => return None,
            Front::Shut | Front::Further => self.take_further()?,
        };
        self.note_taken(&parts);
        Some(parts)
    }

    #[cold]
    fn take_further(&self) -> Option<Parts> {
        if !self.seems_filled() {
            // Others wait here too: who looks is not in the way of those who post.
            return None;
        }
        let mut inner = self.lock();
        let parts = self.pop(&mut inner);
        self.open(&mut inner);
        self.show(&inner);
        let lacked = std::mem::take(&mut inner.lacked);
        drop(inner);
        if lacked {
            let segment = Segment::new();
            self.lock().stock.add(segment);
        }
        parts
    }

    /// Takes up to `most` packets, if a thread may run that has them; counts it then. How many it
    /// took.
    #[inline]
    pub(super) fn take(
        &self,
        inner: &mut Inner,
        give: &mut impl FnMut(Packet),
        most: usize,
    ) -> usize {
        if !inner.has_room() {
            return 0;
        }
        let taken = self.pop_many(inner, give, most);
        if taken > 0 {
            inner.runs();
        }
        taken
    }

    /// Takes up to `most` packets.
    #[inline]
    pub(super) fn pop_many(
        &self,
        inner: &mut Inner,
        give: &mut impl FnMut(Packet),
        most: usize,
    ) -> usize {
        let mut taken = 0;
        while taken < most
            && let Some(parts) = self.pop(inner)
        {
            self.note_taken(&parts);
            give(Packet::of(parts));
            taken += 1;
        }
        if taken > 0 {
            self.open(inner);
            self.show(inner);
        }
        taken
    }

    /// A thread that was counted runs no more: another may, if there is a packet for it.
    pub(super) fn one_stops(&self) {
        let mut inner = self.lock();
        inner.stops();
        let released = match inner.next_waiter() {
            Some(at) => match self.pop(&mut inner) {
                Some(parts) => inner.hand(at, Packet::of(parts)),
                None => Released(None),
            },
            None => Released(None),
        };
        self.show(&inner);
        drop(inner);
        released.tell();
    }

    /// Takes the packet that was handed to a waiter.
    pub(super) fn fetch(&self, inner: &mut Inner, id: u64) -> Option<Packet> {
        let at = inner.handed.iter().position(|(to, _)| *to == id)?;
        let packet = inner.handed.swap_remove(at).1;
        self.note_taken(packet.parts());
        Some(packet)
    }

    #[inline]
    fn note_taken(&self, parts: &Parts) {
        if parts.is_admitted() {
            self.reaped();
        }
    }

    /// Queues a finished request. Allocates nothing, and cannot fail (C-15).
    ///
    /// # Safety
    /// The slot is `DONE`, its route says what its packet carries; the requester's reference goes to
    /// the port.
    #[inline]
    pub(crate) unsafe fn insert(&self, slot: SlotPtr) {
        if self.chain.post(|| Parts::request(slot)).is_err() {
            self.insert_further(slot);
        }
    }

    #[cold]
    fn insert_further(&self, slot: SlotPtr) {
        let mut inner = self.lock();
        if inner.closed {
            drop(inner);
            self.reaped();
            // C-30: nobody can reach it. Its buffer is foreign code to drop.
            if caught(|| drop(Packet::of(Parts::request(slot)))).is_none() {
                log(|| tracing::error!("a buffer or result panicked while it was dropped"));
            }
            return;
        }
        match self.enter(&mut inner, || Parts::request(slot)) {
            Entered::Yes => {}
            no => {
                inner.lacked |= no == Entered::NoSegment;
                self.queue(inner, Parts::request(slot));
            }
        }
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
        if self.enter(&mut inner, || Parts::posted(posted)) != Entered::Yes {
            self.queue(inner, Parts::posted(posted));
        }
        true
    }

    /// Moves what is in the chain before the others in the queue. What is not the oldest packet is wanted there.
    fn gather(&self, inner: &mut Inner) {
        self.shut(inner);
        let mut all = Fifo::default();
        self.chain.take_all(|parts| all.push(parts.into_entry(), &mut inner.spare));
        all.append(&mut inner.packets);
        inner.packets = all;
    }

    /// Takes a tagged packet off the queue; `false`: it is not there any more.
    pub(super) fn remove_tagged(&self, it: &Posted) -> bool {
        let mut inner = self.lock();
        self.gather(&mut inner);
        let (mut found, mut others) = (false, Fifo::default());
        let Inner { packets, spare, .. } = &mut *inner;
        while let Some(entry) = packets.pop(spare) {
            match entry {
                Entry::Own(posted) if posted.is(it) => found = true,
                other => others.push(other, spare),
            }
        }
        inner.packets = others;
        self.open(&mut inner);
        self.show(&inner);
        found
    }

    /// Hands a packet to who waits, or puts it behind the others. A request needs no memory for that (I-1), a
    /// post takes a spare block if there is one.
    fn queue(&self, mut inner: Guard<'_, Inner>, parts: Parts) {
        self.shut(&mut inner);
        let released = match inner.next_waiter().filter(|_| self.depth_of(&inner) == 0) {
            Some(at) => inner.hand(at, Packet::of(parts)),
            None => {
                let Inner { packets, spare, .. } = &mut *inner;
                packets.push(parts.into_entry(), spare);
                Released(None)
            }
        };
        self.open(&mut inner);
        self.show(&inner);
        drop(inner);
        released.tell();
    }

    /// A packet that a waiter fetched, and then did not want: it is the oldest again.
    pub(super) fn give_back(&self, packet: Packet) {
        let mut inner = self.lock();
        if inner.closed {
            drop(inner);
            return drop(packet);
        }
        if packet.parts().is_admitted() {
            self.admit_late();
        }
        let released = match inner.next_waiter() {
            Some(at) => inner.hand(at, packet),
            None => {
                self.gather(&mut inner);
                inner.packets.push_front(packet.into_parts().into_entry());
                self.show(&inner);
                Released(None)
            }
        };
        drop(inner);
        released.tell();
    }

    /// Keeps mark and signal in step with the queue. With the lock held.
    #[inline]
    pub(super) fn show(&self, inner: &Inner) {
        let filled = !inner.packets.is_empty();
        if filled != self.filled.load(Ordering::Relaxed) {
            self.filled.store(filled, Ordering::Relaxed);
        }
        if inner.watched {
            if inner.closed || filled {
                self.signal.set()
            } else {
                self.signal.reset()
            };
        }
    }

    /// C-29.
    pub(super) fn signal(&self) -> &Signal {
        let mut inner = self.lock();
        if !inner.watched {
            inner.watched = true;
            // From now on the queue alone says whether there are any.
            self.gather(&mut inner);
            self.show(&inner);
        }
        &self.signal
    }

    /// A request is to report here; refused when too many do already.
    pub(crate) fn admit(&self) -> Result<Admission<'_>, Status> {
        let before = self.outstanding.fetch_add(1, Ordering::Relaxed);
        let admission = Admission(self);
        if before < self.limit { Ok(admission) } else { Err(Status::QUOTA_EXCEEDED) }
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

    /// C-30: everybody who waits is told; queued packets die.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        self.shut(&mut inner);
        let mut packets = Vec::new();
        self.pop_many(&mut inner, &mut |packet| packets.push(packet), usize::MAX);
        let waiting = std::mem::take(&mut inner.waiting);
        if inner.watched {
            // Whoever waits for the object learns it by asking.
            self.signal.set();
        }
        drop(inner);
        for waiter in waiting {
            Released(Some(waiter.who)).tell();
        }
        // Foreign code, perhaps.
        drop(packets);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // C-30: queued packets die with the port.
        let mut inner = self.inner.lock();
        while let Some(parts) = self.pop(&mut inner) {
            drop(Packet::of(parts));
        }
        // SAFETY: the chain's own stock, and this is the end of both.
        unsafe { self.chain.free(&mut inner.stock) };
    }
}
