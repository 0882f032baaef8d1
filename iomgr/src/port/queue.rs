//! What is behind a port's handles: packets, waiters, and the count of running threads.
//!
//! **Invariant.** All of it changes under one lock, but for packets that come while nobody waits:
//! these are left in the inbox (`inbox.rs`), and belong behind those in the queue. `current` is the number of associated threads
//! that run (C-20 to C-25): whoever is handed a packet is counted from then on, and not any more when
//! it asks for the next, blocks, goes to another port or ends. A packet that was handed to a waiter
//! is in `handed` until the waiter fetches it; one that leaves without fetching gives it back.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::inbox::{Inbox, Posting};
use super::inner::{Inner, Released};
use super::packet::{Packet, Posted, is_admitted};
use crate::irp::slot::SlotPtr;
use crate::node::{Block, Entry, Fifo};
use crate::panics::{caught, log};
use crate::status::Status;
use crate::sync::AtomicBool;
use crate::sync::lock::{Guard, Lock};
use crate::wait::Signal;

/// Empty blocks that are given back to those who post at a time.
const GIVEN: usize = 32;

/// A port, behind its handles and the files and requests that report to it (C-13).
pub(crate) struct Shared {
    inner: Lock<Inner>,
    inbox: Inbox,
    /// Requests that report here and whose packets have not been taken.
    outstanding: AtomicUsize,
    limit: usize,
    /// Threads are counted (C-20).
    pub(super) counts: bool,
    /// There are packets in the queue: a hint for those who spin; and, for who has the inbox's lock, what
    /// says whether any have been moved there and are left.
    filled: AtomicBool,
    /// On while there are packets (C-29).
    signal: Signal,
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
        Shared {
            inner: Lock::new(Inner::new(maximum)),
            inbox: Inbox::new(limit),
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
        self.inbox.seems_filled() || self.filled.load(Ordering::Relaxed)
    }

    /// Packets that nobody has taken.
    pub(super) fn depth(&self) -> usize {
        let inner = self.lock();
        inner.packets.len() + self.inbox.len()
    }

    /// Takes in what has come.
    #[inline]
    fn drain(&self, inner: &mut Inner) {
        if !inner.shut {
            let Inner { packets, spare, .. } = inner;
            let moved = || self.filled.store(true, Ordering::Relaxed);
            self.inbox.drain(packets, spare, self.limit, moved);
        }
    }

    /// Takes in what has come; what comes from now on goes to the queue, and to those who wait.
    pub(super) fn shut(&self, inner: &mut Inner) {
        if !inner.shut {
            let Inner { packets, spare, .. } = inner;
            self.inbox.shut(packets, spare);
            inner.shut = true;
        }
    }

    /// The oldest packet.
    #[inline]
    fn pop(&self, inner: &mut Inner) -> Option<Packet> {
        if inner.packets.is_empty() {
            self.drain(inner);
        }
        self.pop_entry(inner).map(Packet::of)
    }

    /// The oldest of the queue. Who posts gets the empty blocks, now and then: while the queue is not,
    /// nothing is drained.
    #[inline]
    fn pop_entry(&self, inner: &mut Inner) -> Option<Entry<Posted>> {
        let Inner { packets, spare, shut, .. } = inner;
        let before = spare.len();
        let entry = packets.pop(spare)?;
        if spare.len() > before && spare.len() % GIVEN == 0 && !*shut {
            self.inbox.give(spare);
        }
        Some(entry)
    }

    /// Takes the oldest packet, for a thread of a port that does not count them. `None`: there seems to be
    /// none; who looks here is not in the way of those who post.
    #[inline]
    pub(super) fn take_one(&self) -> Option<Packet> {
        let entry = match self.take_only() {
            Some(entry) => entry,
            None => self.take_oldest()?,
        };
        if is_admitted(&entry) {
            self.reaped();
        }
        // A packet at last: what has to be dropped if something panics has to be in memory.
        Some(Packet::of(entry))
    }

    /// The packet of a port that has one.
    #[inline]
    fn take_only(&self) -> Option<Entry<Posted>> {
        let is_empty = || !self.filled.load(Ordering::Relaxed);
        if is_empty() && self.inbox.seems_filled() { self.inbox.take_only(is_empty) } else { None }
    }

    #[inline]
    fn take_oldest(&self) -> Option<Entry<Posted>> {
        let mut inner = self.lock();
        if inner.packets.is_empty() && self.inbox.seems_filled() {
            self.drain(&mut inner);
        }
        let entry = self.pop_entry(&mut inner);
        self.show(&inner);
        entry
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
            && let Some(packet) = self.pop(inner)
        {
            self.note_taken(&packet);
            give(packet);
            taken += 1;
        }
        self.show(inner);
        taken
    }

    /// Takes the packet that was handed to a waiter.
    pub(super) fn fetch(&self, inner: &mut Inner, id: u64) -> Option<Packet> {
        let at = inner.handed.iter().position(|(to, _)| *to == id)?;
        let packet = inner.handed.swap_remove(at).1;
        self.note_taken(&packet);
        Some(packet)
    }

    #[inline]
    fn note_taken(&self, packet: &Packet) {
        if packet.is_admitted() {
            self.reaped();
        }
    }

    /// Queues a finished request. Allocates nothing, and cannot fail (C-15).
    ///
    /// # Safety
    /// The slot is `DONE`, its route says what its packet carries; the requester's reference goes to
    /// the port.
    pub(crate) unsafe fn insert(&self, slot: SlotPtr) {
        // SAFETY: the caller's.
        if unsafe { self.inbox.insert(slot) } {
            return;
        }
        let inner = self.lock();
        if inner.closed {
            drop(inner);
            self.reaped();
            // C-30: nobody can reach it. Its buffer is foreign code to drop.
            if caught(|| drop(Packet::of(Entry::Irp(slot)))).is_none() {
                log(|| tracing::error!("a buffer or result panicked while it was dropped"));
            }
            return;
        }
        self.queue(inner, Entry::Irp(slot));
    }

    #[inline]
    pub(super) fn post(&self, posted: Posted) -> Result<(), Status> {
        match self.inbox.post(&posted, &mut None) {
            Posting::Done => Ok(()),
            otherwise => self.post_further(posted, otherwise),
        }
    }

    /// Memory for a packet that is queued later, when none may be wanting (I-1).
    pub(super) fn block(&self) -> Box<Block<Posted>> {
        self.inbox.spare_block().unwrap_or_else(Block::new)
    }

    /// Queues a packet for which there is memory, whatever the limit says. `false`: the port is closed, and
    /// nobody can reach it (C-30).
    pub(super) fn post_into(&self, posted: Posted, block: Box<Block<Posted>>) -> bool {
        let mut block = Some(block);
        if self.inbox.post(&posted, &mut block) == Posting::Done {
            return true;
        }
        let mut inner = self.lock();
        if let Some(block) = block {
            inner.spare.add(block);
        }
        if inner.closed {
            return false;
        }
        self.queue(inner, Entry::Own(posted));
        true
    }

    #[cold]
    fn post_further(&self, posted: Posted, mut so: Posting) -> Result<(), Status> {
        while so == Posting::NoBlock {
            so = self.inbox.post(&posted, &mut Some(Block::new()));
        }
        if so == Posting::Done {
            return Ok(());
        }
        let mut inner = self.lock();
        if inner.closed {
            return Err(Status::INVALID_HANDLE);
        }
        self.drain(&mut inner);
        if inner.packets.len() >= self.limit {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        self.queue(inner, Entry::Own(posted));
        Ok(())
    }

    /// Takes a tagged packet off the queue; `false`: it is not there any more.
    pub(super) fn remove_tagged(&self, it: &Posted) -> bool {
        let mut inner = self.lock();
        self.drain(&mut inner);
        let (mut found, mut others) = (false, Fifo::default());
        let Inner { packets, spare, .. } = &mut *inner;
        while let Some(entry) = packets.pop(spare) {
            match entry {
                Entry::Own(posted) if posted.is(it) => found = true,
                Entry::Own(posted) => others.push(posted, spare),
                Entry::Irp(slot) => others.push_irp(slot),
            }
        }
        inner.packets = others;
        self.show(&inner);
        found
    }

    /// Hands a packet to who waits, or puts it behind the others.
    fn queue(&self, mut inner: Guard<'_, Inner>, entry: Entry<Posted>) {
        self.drain(&mut inner);
        let released = match inner.next_waiter().filter(|_| inner.packets.is_empty()) {
            Some(at) => inner.hand(at, Packet::of(entry)),
            None => {
                let Inner { packets, spare, .. } = &mut *inner;
                match entry {
                    Entry::Irp(slot) => packets.push_irp(slot),
                    Entry::Own(posted) => packets.push(posted, spare),
                }
                self.show(&inner);
                Released(None)
            }
        };
        if inner.shut && inner.waiting.is_empty() && !inner.watched {
            // Nobody has to hear of the next one.
            self.inbox.open(self.limit.saturating_sub(inner.packets.len()));
            inner.shut = false;
        }
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
        if packet.is_admitted() {
            self.admit_late();
        }
        let released = match inner.next_waiter() {
            Some(at) => inner.hand(at, packet),
            None => {
                inner.packets.push_front(packet.into_entry());
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
        inner.watched = true;
        self.shut(&mut inner);
        self.show(&inner);
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
        self.shut(&mut inner);
        while let Some(packet) = inner.pop() {
            drop(packet);
        }
    }
}
