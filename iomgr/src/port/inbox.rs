//! The end of a port that packets come in at, while nobody waits for them.
//!
//! **Invariant.** While the inbox is open nobody has to hear of a packet: no waiter is left in the
//! port, nobody watches it, and it is not closed. So whoever has a packet takes this one lock, puts it
//! in, and is done; whoever wants packets moves all there are behind those in the port's queue
//! ([`Inbox::drain`]), or takes the only one. Whoever is to be told of packets shuts the inbox first,
//! which empties it; from then on they go to the queue under the queue's lock. It is opened, shut and
//! drained with the queue's lock held.
//!
//! The only packet is taken here ([`Inbox::take_only`]), so that threads which answer each other need no
//! second lock: if the queue has none, which are older. That is known by a mark which who drains sets before
//! this lock is free again.

use std::sync::atomic::{AtomicBool, Ordering};

use super::packet::Posted;
use crate::irp::slot::SlotPtr;
use crate::node::{Block, Entry, Fifo, Spare};
use crate::sync::lock::Lock;

/// All on the lock's own cache line.
#[repr(C)]
struct Arrivals {
    packets: Fifo<Posted>,
    spare: Spare<Posted>,
    open: bool,
    /// Posts are refused room beyond so many packets: there may be more than the port's limit then.
    room: usize,
}

/// See the module's header.
pub(super) struct Inbox {
    arrivals: Lock<Arrivals>,
    /// There are packets: a hint for those who spin.
    filled: AtomicBool,
}

/// What became of a post.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Posting {
    Done,
    /// There is no block for it.
    NoBlock,
    /// It goes to the queue.
    Refused,
}

impl Inbox {
    /// Open, for so many posts.
    pub(super) fn new(room: usize) -> Inbox {
        let arrivals =
            Arrivals { packets: Fifo::default(), spare: Spare::default(), open: true, room };
        Inbox { arrivals: Lock::new(arrivals), filled: AtomicBool::new(false) }
    }

    /// Puts a post in. Allocates nothing, because of the lock: it may be given a block, which it takes
    /// if the inbox is open.
    #[inline]
    pub(super) fn post(&self, posted: &Posted, block: &mut Option<Box<Block<Posted>>>) -> Posting {
        let arrivals = &mut *self.arrivals.lock();
        if arrivals.open
            && let Some(block) = block.take()
        {
            arrivals.spare.add(block);
        }
        if !arrivals.open || arrivals.packets.len() >= arrivals.room {
            return Posting::Refused;
        }
        if arrivals.packets.try_push(*posted, &mut arrivals.spare).is_err() {
            return Posting::NoBlock;
        }
        self.came(&arrivals.packets);
        Posting::Done
    }

    /// Puts a finished request in. `false`: it goes to the queue.
    ///
    /// # Safety
    /// The requester's reference to the slot is the caller's, and goes along.
    #[inline]
    pub(super) unsafe fn insert(&self, slot: SlotPtr) -> bool {
        let mut arrivals = self.arrivals.lock();
        if arrivals.open {
            arrivals.packets.push_irp(slot);
            self.came(&arrivals.packets);
        }
        arrivals.open
    }

    #[inline]
    fn came(&self, packets: &Fifo<Posted>) {
        if packets.len() == 1 {
            self.filled.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn spare_block(&self) -> Option<Box<Block<Posted>>> {
        self.arrivals.lock().spare.take()
    }

    pub(super) fn len(&self) -> usize {
        self.arrivals.lock().packets.len()
    }

    /// Whether there are packets, or were a moment ago.
    pub(super) fn seems_filled(&self) -> bool {
        self.filled.load(Ordering::Relaxed)
    }

    /// Takes the packet that is there, if it is one alone, and `is_oldest` says so meanwhile. Without the
    /// queue's lock.
    #[inline]
    pub(super) fn take_only(&self, is_oldest: impl FnOnce() -> bool) -> Option<Entry<Posted>> {
        let Arrivals { packets, spare, .. } = &mut *self.arrivals.lock();
        if packets.len() != 1 || !is_oldest() {
            return None;
        }
        self.filled.store(false, Ordering::Relaxed);
        packets.pop(spare)
    }

    /// Moves all packets behind those in `queue`, which may have `limit` of them, and takes the
    /// queue's spare blocks if these are more than its own. `moved` is called if there were any, before
    /// anybody else can come in.
    #[inline]
    pub(super) fn drain(
        &self,
        queue: &mut Fifo<Posted>,
        spare: &mut Spare<Posted>,
        limit: usize,
        moved: impl FnOnce(),
    ) {
        let mut arrivals = self.arrivals.lock();
        if self.empty(&mut arrivals, queue, spare) {
            moved();
        }
        arrivals.room = limit.saturating_sub(queue.len());
    }

    /// Takes the queue's spare blocks if these are more than its own.
    #[cold]
    pub(super) fn give(&self, spare: &mut Spare<Posted>) {
        self.arrivals.lock().spare.take_larger(spare);
    }

    /// As [`Inbox::drain`], and no packet comes in any more: it is the queue that needs the blocks.
    pub(super) fn shut(&self, queue: &mut Fifo<Posted>, spare: &mut Spare<Posted>) {
        let mut arrivals = self.arrivals.lock();
        self.empty(&mut arrivals, queue, spare);
        spare.take_larger(&mut arrivals.spare);
        arrivals.open = false;
    }

    /// Packets come in again; of posts, so many.
    pub(super) fn open(&self, room: usize) {
        let mut arrivals = self.arrivals.lock();
        arrivals.open = true;
        arrivals.room = room;
    }

    /// Returns whether there was any packet.
    #[inline]
    fn empty(
        &self,
        arrivals: &mut Arrivals,
        queue: &mut Fifo<Posted>,
        spare: &mut Spare<Posted>,
    ) -> bool {
        let any = !arrivals.packets.is_empty();
        if any {
            queue.append(&mut arrivals.packets);
            self.filled.store(false, Ordering::Relaxed);
        }
        arrivals.spare.take_larger(spare);
        any
    }
}
