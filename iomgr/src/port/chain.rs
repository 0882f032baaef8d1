//! The front of a port: packets that threads post and take without a lock, in a chain of segments.
//!
//! **Invariants.** Every packet has an index, and indices only grow. A place's `turn` says whose it is: equal to
//! an index, it is free for who posts at this index; one more, it holds that packet, for who takes at it; two
//! more, that has been read. Whoever moves `tail` on from an index has its place until it has written it,
//! whoever moves `head`, until it has read it: contents are passed on by `turn` alone.
//!
//! A segment holds the packets from its `base` on. A full one is followed by another, and one that has been
//! read whole is used again, under the port's lock ([`Stock`]); so a place's turn is never the same twice,
//! and who comes late to a segment sees by it that it came late. Segments are freed with the chain: somebody
//! may still look at one that has been left.
//!
//! The chain can be shut: then posts are refused until it is opened, and all that can be taken are those from
//! before, of which some may still be being written. Who takes waits for these: they are the oldest.

use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

use super::packet::Parts;
use crate::sync::{AtomicPtr, AtomicU64, Watched, relax};

/// Packets of a segment.
pub(super) const ROOM: u64 = if cfg!(loom) { 3 } else { 64 };
// What was read at an index is not free for the one a segment further.
const _: () = assert!(ROOM > 2);

/// The lowest bit of the tail's word: the chain is shut. The index lies above.
const SHUT: u64 = 1;
const ONE: u64 = 2;

struct Place {
    turn: AtomicU64,
    content: Watched<MaybeUninit<Parts>>,
}

/// See the module's header.
pub(super) struct Segment {
    base: AtomicU64,
    /// Of the chain, or of the spare ones.
    next: AtomicPtr<Segment>,
    places: [Place; ROOM as usize],
}

impl Segment {
    pub(super) fn new() -> Box<Segment> {
        let place =
            |_| Place { turn: AtomicU64::new(0), content: Watched::new(MaybeUninit::uninit()) };
        Box::new(Segment {
            base: AtomicU64::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
            places: std::array::from_fn(place),
        })
    }

    #[inline]
    fn place(&self, index: u64) -> &Place {
        &self.places[(index % ROOM) as usize]
    }

    /// For the packets from `base` on. Nobody has a place of it, or gets one before its turn has been stored.
    fn begin(&self, base: u64) {
        self.next.store(ptr::null_mut(), Ordering::Relaxed);
        self.base.store(base, Ordering::Release);
        for (index, place) in (base..).zip(&self.places) {
            place.turn.store(index, Ordering::Release);
        }
    }

    /// The index behind its last packet's.
    #[inline]
    fn end(&self) -> u64 {
        self.base.load(Ordering::Relaxed) + ROOM
    }

    /// Whether it is full, and each packet has been read.
    fn is_read(&self) -> bool {
        let base = self.base.load(Ordering::Relaxed);
        let is = |(index, place): (u64, &Place)| place.turn.load(Ordering::Acquire) == index + 2;
        (base..).zip(&self.places).all(is)
    }
}

/// One end: the index that is next, and a segment: that of this index, or one before. (The one before it; but
/// after [`Chain::take_all`], and when a taker comes late to a segment that is used again, the head's may be
/// several behind, until [`Chain::advance`] has moved it on.) On cache lines of its own, also of those that are
/// fetched in pairs: each end belongs to other threads.
#[repr(align(128))]
struct End {
    word: AtomicU64,
    segment: AtomicPtr<Segment>,
}

/// See the module's header.
pub(super) struct Chain {
    head: End,
    tail: End,
}

/// What the port's lock guards of a chain: the segments that are not, or not yet, in use.
pub(super) struct Stock {
    /// The oldest of the chain. Those before the head's may be used again when they have been read.
    oldest: NonNull<Segment>,
    spare: *mut Segment,
}

// SAFETY: the segments belong to the chain and its stock, which are one; packets in them may be sent.
unsafe impl Send for Stock {}

/// Why a packet was not put in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    Shut,
    /// [`Chain::extend`] makes room.
    Full,
}

/// What was found at the head.
pub(super) enum Front {
    Packet(Parts),
    /// Nothing, and the chain is open.
    Empty,
    /// Nothing, and it is shut.
    Shut,
    /// The next packet is in another segment: see [`Chain::advance`].
    Further,
}

impl Chain {
    /// A chain, and what its port keeps under its lock.
    pub(super) fn new(is_open: bool) -> (Chain, Stock) {
        let first = Box::into_raw(Segment::new());
        let end = |word| End { word: AtomicU64::new(word), segment: AtomicPtr::new(first) };
        let chain = Chain { head: end(0), tail: end(if is_open { 0 } else { SHUT }) };
        let oldest = NonNull::new(first).expect("a box");
        // SAFETY: just made.
        unsafe { oldest.as_ref().begin(0) };
        let mut stock = Stock { oldest, spare: ptr::null_mut() };
        if is_open {
            stock.add(Segment::new());
        }
        (chain, stock)
    }

    #[inline]
    fn segment(&self, end: &End) -> &Segment {
        // SAFETY: of the chain, and freed with it.
        unsafe { &*end.segment.load(Ordering::Acquire) }
    }

    /// Puts what `make` makes behind the others.
    #[inline]
    pub(super) fn post(&self, make: impl FnOnce() -> Parts) -> Result<(), Refused> {
        let mut lost = 0;
        loop {
            let tail = self.tail.word.load(Ordering::Acquire);
            if tail & SHUT != 0 {
                return Err(Refused::Shut);
            }
            let (index, segment) = (tail / ONE, self.segment(&self.tail));
            let place = segment.place(index);
            if place.turn.load(Ordering::Acquire) != index {
                // Either it has been posted at, or the segment is another's.
                let is_full = segment.end() == index;
                if is_full && self.tail.word.load(Ordering::Relaxed) == tail {
                    return Err(Refused::Full);
                }
                stand_back(&mut lost);
                continue;
            }
            let (order, failure) = (Ordering::Release, Ordering::Relaxed);
            if self.tail.word.compare_exchange_weak(tail, tail + ONE, order, failure).is_ok() {
                // SAFETY: the place is this index's, and the index is ours alone.
                place.content.with_mut(|content| unsafe { (*content).write(make()) });
                place.turn.store(index + 1, Ordering::Release);
                return Ok(());
            }
            stand_back(&mut lost);
        }
    }

    /// Takes the oldest packet.
    #[inline]
    pub(super) fn take(&self) -> Front {
        let (mut looks, mut lost) = (0, 0);
        loop {
            let index = self.head.word.load(Ordering::Acquire);
            let segment = self.segment(&self.head);
            let place = segment.place(index);
            if place.turn.load(Ordering::Acquire) == index + 1 {
                // Who comes after sees at the tail what was posted before: where there is always a packet, nobody
                // finds none.
                let (order, failure) = (Ordering::Release, Ordering::Relaxed);
                if self.head.word.compare_exchange_weak(index, index + 1, order, failure).is_ok() {
                    // SAFETY: it holds this index's packet, and the index is ours alone.
                    return Front::Packet(unsafe { Self::read(place, index) });
                }
                stand_back(&mut lost);
                continue;
            }
            let tail = self.tail.word.load(Ordering::Acquire);
            if tail / ONE == index {
                return if tail & SHUT == 0 { Front::Empty } else { Front::Shut };
            }
            if self.head.word.load(Ordering::Relaxed) != index {
                stand_back(&mut lost);
                continue;
            }
            if segment.end() <= index {
                return Front::Further;
            }
            // It is being written.
            relax(looks);
            looks += 1;
        }
    }

    /// # Safety
    /// The place holds this index's packet, and the index is the caller's alone.
    #[inline]
    unsafe fn read(place: &Place, index: u64) -> Parts {
        // SAFETY: written, as the caller says, and read once.
        let packet = place.content.with_mut(|content| unsafe { Parts::read(content.cast()) });
        place.turn.store(index + 2, Ordering::Release);
        packet
    }

    /// Whether there is a packet, or was a moment ago.
    #[inline]
    pub(super) fn seems_filled(&self) -> bool {
        let index = self.head.word.load(Ordering::Relaxed);
        let segment = self.segment(&self.head);
        // The tail is left to those who post, if possible.
        segment.place(index).turn.load(Ordering::Relaxed) == index + 1
            || segment.end() <= index && index != self.tail.word.load(Ordering::Relaxed) / ONE
    }

    /// Packets in it; those that are being written too.
    pub(super) fn len(&self) -> usize {
        let mut head = self.head.word.load(Ordering::Acquire);
        loop {
            let tail = self.tail.word.load(Ordering::Acquire) / ONE;
            // Otherwise it may have been moved far before the tail was seen.
            let now = self.head.word.load(Ordering::Acquire);
            if now == head {
                return tail.saturating_sub(head) as usize;
            }
            head = now;
        }
    }

    /// Refuses posts from now on. With the port's lock held, as are all that follow.
    pub(super) fn shut(&self) {
        let mut tail = self.tail.word.load(Ordering::Relaxed);
        let (order, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        while tail & SHUT == 0
            && let Err(now) =
                self.tail.word.compare_exchange_weak(tail, tail | SHUT, order, failure)
        {
            tail = now;
        }
    }

    /// Whether it is shut.
    #[inline]
    pub(super) fn is_shut(&self) -> bool {
        self.tail.word.load(Ordering::Relaxed) & SHUT != 0
    }

    /// Lets posts in again.
    pub(super) fn open(&self) {
        let tail = self.tail.word.load(Ordering::Relaxed);
        debug_assert_ne!(tail & SHUT, 0);
        // Nobody else changes a shut chain's tail.
        self.tail.word.store(tail & !SHUT, Ordering::Release);
    }

    /// Sees to it that there is room for a post. `false`: for want of a segment ([`Stock::add`]).
    pub(super) fn extend(&self, stock: &mut Stock) -> bool {
        let index = self.tail.word.load(Ordering::Relaxed) / ONE;
        let full = self.segment(&self.tail);
        if index < full.end() {
            return true;
        }
        let Some(next) = self.unused(stock) else { return false };
        // SAFETY: of the stock, so alive, and nobody has a place of it.
        unsafe { next.as_ref().begin(full.end()) };
        full.next.store(next.as_ptr(), Ordering::Release);
        self.tail.segment.store(next.as_ptr(), Ordering::Release);
        true
    }

    /// A segment that has been read whole, or a spare one. Of those that have been left, one may not have been
    /// read because a thread was preempted in the middle of that: the others are used all the same.
    fn unused(&self, stock: &mut Stock) -> Option<NonNull<Segment>> {
        let head = self.head.segment.load(Ordering::Relaxed);
        let (mut before, mut at) = (None::<NonNull<Segment>>, stock.oldest);
        while at.as_ptr() != head {
            // SAFETY: of the chain, as what they are linked to is; freed with it.
            let (segment, before_it) = unsafe { (at.as_ref(), before.map(|it| it.as_ref())) };
            let next = segment.next.load(Ordering::Relaxed);
            let further = NonNull::new(next).expect("the head's is further");
            if segment.is_read() {
                match before_it {
                    Some(before) => before.next.store(next, Ordering::Relaxed),
                    None => stock.oldest = further,
                }
                return Some(at);
            }
            (before, at) = (Some(at), further);
        }
        let spare = NonNull::new(stock.spare)?;
        // SAFETY: of the stock.
        stock.spare = unsafe { spare.as_ref() }.next.load(Ordering::Relaxed);
        Some(spare)
    }

    /// Moves the head a segment further, if that of the next packet is further.
    pub(super) fn advance(&self) {
        self.advance_to(self.head.word.load(Ordering::Relaxed));
    }

    /// Whether it has moved.
    fn advance_to(&self, index: u64) -> bool {
        let segment = self.segment(&self.head);
        let next = segment.next.load(Ordering::Relaxed);
        let further = segment.end() <= index && !next.is_null();
        if further {
            self.head.segment.store(next, Ordering::Release);
        }
        further
    }

    /// Takes all packets of a shut chain at once: whoever comes later finds none of them.
    pub(super) fn take_all(&self, mut give: impl FnMut(Parts)) {
        let tail = self.tail.word.load(Ordering::Relaxed);
        debug_assert_ne!(tail & SHUT, 0);
        let end = tail / ONE;
        let head = self.head.word.swap(end, Ordering::Release);
        for index in head..end {
            while self.advance_to(index) {}
            let (place, mut looks) = (self.segment(&self.head).place(index), 0);
            while place.turn.load(Ordering::Acquire) != index + 1 {
                relax(looks);
                looks += 1;
            }
            // SAFETY: it holds this index's packet; the indices up to `end` are ours alone.
            give(unsafe { Self::read(place, index) });
        }
    }

    /// Frees the segments. What is in them is leaked.
    ///
    /// # Safety
    /// The stock is this chain's, and neither is used again.
    pub(super) unsafe fn free(&self, stock: &mut Stock) {
        for first in [stock.oldest.as_ptr(), stock.spare] {
            let mut at = first;
            while !at.is_null() {
                // SAFETY: made by `Box::into_raw`, and in one list only, which nobody looks at any more.
                let segment = unsafe { Box::from_raw(at) };
                at = segment.next.load(Ordering::Relaxed);
            }
        }
    }
}

/// Another was faster; twice as long each time, so that it may go on in its own cache.
#[cold]
fn stand_back(lost: &mut u32) {
    relax(*lost);
    *lost = (*lost + 1).min(6);
}

impl Stock {
    /// For when the chain is full again.
    pub(super) fn add(&mut self, segment: Box<Segment>) {
        segment.next.store(self.spare, Ordering::Relaxed);
        self.spare = Box::into_raw(segment);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::port::packet::{Posted, UNTAGGED};
    use crate::status::Status;

    fn post(chain: &Chain, stock: &mut Stock, key: u64) -> usize {
        let status = Status::SUCCESS;
        let make = || Parts::posted(Posted { key, value: 0, info: 0, status, tag: UNTAGGED });
        let mut added = 0;
        while chain.post(make).is_err() {
            if !chain.extend(stock) {
                stock.add(Segment::new());
                added += 1;
            }
        }
        added
    }

    /// A thread that was preempted while it took a packet keeps its segment from being used again, and no other.
    #[test]
    fn one_that_is_away() {
        let (chain, mut stock) = Chain::new(true);
        let mut added = post(&chain, &mut stock, 0);
        // It has claimed the packet, and not read it.
        chain.head.word.store(1, Ordering::Relaxed);
        for key in 1..100 * ROOM {
            added += post(&chain, &mut stock, key);
            while matches!(chain.take(), Front::Further) {
                chain.advance();
            }
        }
        assert_eq!((chain.len(), added), (0, 1));
        // SAFETY: the chain's own stock, and the end of both.
        unsafe { chain.free(&mut stock) };
    }
}
