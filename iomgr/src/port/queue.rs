//! What is behind a port's handles: packets, waiters, and the count of running threads.
//!
//! **Invariant.** Packets come into the chain (`chain.rs`) while nobody has to hear of them: no waiter is left in
//! the port, nobody watches it, it is not closed, the queue is empty, and the limit is not near. Otherwise the
//! chain is shut, or full, and they come into the queue, or go to a waiter, under the one lock. So what is in the chain is
//! older than what is in the queue: who takes looks at the chain first, without the lock, and at the queue
//! only if the chain is empty and shut. Whoever is to be told of packets shuts the chain before the last look.
//!
//! `current` is the number of associated threads that run (C-20 to C-25): whoever is handed a packet is
//! counted from then on, and not any more when it asks for the next, blocks, goes to another port or ends. A
//! packet that was handed to a waiter is in `handed` until the waiter fetches it; one that leaves without
//! fetching gives it back.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::chain::{Chain, Front, ROOM};
use super::inner::{Inner, Released};
use super::packet::{Packet, Parts, Posted};
use crate::node::{Entry, Fifo};
use crate::sync::AtomicBool;
use crate::sync::lock::{Guard, Lock};
use crate::wait::Signal;

/// A port, behind its handles and the files and requests that report to it (C-13).
pub(crate) struct Shared {
    pub(super) chain: Chain,
    inner: Lock<Inner>,
    /// Requests that report here and whose packets have not been taken.
    pub(super) outstanding: AtomicUsize,
    pub(super) limit: usize,
    /// Threads are counted (C-20).
    pub(super) counts: bool,
    /// There are packets in the queue: a hint for those who spin.
    filled: AtomicBool,
    /// A packet that may not wait for memory found no room in the chain: the next request brings some.
    pub(super) lacks: AtomicBool,
    /// On while there are packets (C-29).
    signal: Signal,
}

impl Shared {
    pub(super) fn new(maximum: usize, limit: usize) -> Shared {
        let (chain, stock) = Chain::new(limit >= ROOM as usize);
        Shared {
            chain,
            inner: Lock::new(Inner::new(maximum, stock)),
            outstanding: AtomicUsize::new(0),
            limit,
            counts: maximum != usize::MAX,
            filled: AtomicBool::new(false),
            lacks: AtomicBool::new(false),
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

    pub(super) fn depth_of(&self, inner: &Inner) -> usize {
        self.chain.len() + inner.packets.len()
    }

    /// Lets packets into the chain again, if nobody has to hear of them. Whether they may come in there.
    #[inline]
    pub(super) fn open(&self, inner: &Inner) -> bool {
        if !self.chain.is_shut() {
            return true;
        }
        let opens = inner.may_open() && self.is_far_from_limit();
        if opens {
            self.chain.open();
        }
        opens
    }

    /// Posts that come into the chain are not counted one by one, only whenever it needs another segment.
    pub(super) fn is_far_from_limit(&self) -> bool {
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
        self.open(&inner);
        self.show(&inner);
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
        let released = if let Some(at) = inner.next_waiter()
            && let Some(parts) = self.pop(&mut inner)
        {
            inner.hand(at, Packet::of(parts))
        } else {
            Released(None)
        };
        self.leave(inner, released);
    }

    /// Lets go of the lock, and tells who has been handed a packet.
    pub(super) fn leave(&self, inner: Guard<'_, Inner>, released: Released) {
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

    /// Moves what is in the chain before the others in the queue: one by one, with the lock held. For what is rare:
    /// packets that are given back or taken off, and the first watcher.
    fn gather(&self, inner: &mut Inner) {
        self.chain.shut();
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
        self.open(&inner);
        self.show(&inner);
        found
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
                Released(None)
            }
        };
        self.leave(inner, released);
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

    /// C-30: everybody who waits is told; queued packets die.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        self.chain.shut();
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
