//! The provided-buffer ring behind [`Op::RecvPooled`](overlapped_iomgr::hal::Op::RecvPooled).
//!
//! Made at the first such receive, so that a processor that does none holds none.
//!
//! **Invariant.** The kernel owns exactly the buffers named between its own head and our tail;
//! `with_kernel` counts them. A buffer leaves when a completion names it ([`Buffers::complete`]) and
//! comes back when its lease is dropped, or at once when it holds nothing ([`Buffers::refill`]).
//! Not all are with the kernel, which takes them in turn, but about as many as a turn uses up: the
//! others stay home, and the one that came back last, warm from the cache, goes out first.
//! The ring's memory is freed only after it has been unregistered or the io_uring closed with
//! nothing in flight; the owner keeps that order.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use overlapped_iomgr::buf::{BufferPool, Lease};
use overlapped_iomgr::hal::Completion;
use overlapped_iomgr::panics::log;

/// The group of the processor's own buffers.
pub(super) const GROUP: u16 = 0;

/// The processor's receive buffers: not there yet, there, or refused by the kernel.
pub(super) enum Buffers {
    NotYet { count: u16, size: u32 },
    Ready(BufRing),
    Refused,
}

impl Buffers {
    /// Whether a pooled receive has any chance of finding a buffer. The first call makes the ring.
    #[inline]
    pub(super) fn ready(&mut self, ring: &IoUring) -> bool {
        match self {
            Buffers::Ready(ready) => {
                if ready.slots.with_kernel == 0 {
                    ready.refill();
                }
                ready.slots.with_kernel > 0
            }
            Buffers::NotYet { count, size } => {
                *self = match BufRing::new(ring, *count, *size) {
                    Ok(ready) => Buffers::Ready(ready),
                    Err(error) => {
                        log(
                            || tracing::debug!(%error, "no buffer ring; receives use private buffers"),
                        );
                        Buffers::Refused
                    }
                };
                matches!(self, Buffers::Ready(_))
            }
            Buffers::Refused => false,
        }
    }

    /// Gives the kernel what has come home. One load when nothing has.
    #[inline]
    pub(super) fn refill(&mut self) {
        if let Buffers::Ready(ready) = self {
            ready.refill();
        }
    }

    /// A completion names buffer `id`: delivers it with the lease on what it received, if anything.
    ///
    /// Not inlined: merged with the delivery of other completions it would make those copy.
    #[inline(never)]
    pub(super) fn complete(&mut self, id: u16, mut it: Completion, done: &mut Vec<Completion>) {
        match self {
            Buffers::Ready(ready) => it.lease = ready.take(id, it.result),
            _ => debug_assert!(false, "a buffer came from a ring that was never made"),
        }
        done.push(it);
    }

    /// Takes the ring from the kernel; only when nothing is in flight.
    pub(super) fn unregister(&mut self, ring: &IoUring) {
        if let Buffers::Ready(_) = self
            && let Err(error) = ring.submitter().unregister_buf_ring(GROUP)
        {
            // Closing the io_uring does it too.
            log(|| tracing::debug!(%error, "the buffer ring could not be unregistered"));
        }
    }
}

pub(super) struct BufRing {
    pool: BufferPool,
    /// Buffers at home, the one that came last at the end.
    home: Vec<u16>,
    demand: Demand,
    slots: Slots,
}

/// The memory shared with the kernel.
struct Slots {
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    mask: u16,
    tail: u16,
    with_kernel: u16,
    size: u32,
}

/// Fewest buffers to leave with the kernel.
const FEWEST: u16 = 32;
/// Refills between two looks at whether the kernel has too many.
const WINDOW: u32 = 1024;

/// How many buffers to leave with the kernel.
struct Demand {
    now: u16,
    /// Fewest that it had left, in this window.
    low: u16,
    refills: u32,
}

impl Demand {
    /// Looks at what the kernel has left before a refill.
    #[inline]
    fn note(&mut self, left: u16, count: u16) {
        if left < self.low {
            self.low = left;
            if left <= self.now / 8 {
                self.now = self.now.saturating_mul(2).min(count);
            }
        }
        self.refills += 1;
        if self.refills == WINDOW {
            if self.low > self.now / 2 {
                self.now = (self.now / 2).max(FEWEST.min(count));
            }
            (self.low, self.refills) = (u16::MAX, 0);
        }
    }
}

impl BufRing {
    fn new(ring: &IoUring, count: u16, size: u32) -> io::Result<BufRing> {
        let count = count.clamp(1, 1 << 15);
        let pool = BufferPool::new(count, size.max(1)).ok_or(io::ErrorKind::OutOfMemory)?;
        let slots = Slots::new(&pool);
        let address = slots.entries.as_ptr().expose_provenance() as u64;
        // SAFETY: the entries are zeroed and live until `Slots::drop`; before that the owner
        // unregisters them (module invariant).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(address, slots.mask + 1, GROUP, 0)?;
        }
        let demand = Demand { now: FEWEST.min(count), low: u16::MAX, refills: 0 };
        let mut made = BufRing { pool, home: (0..count).rev().collect(), demand, slots };
        made.refill();
        Ok(made)
    }

    fn refill(&mut self) {
        let BufRing { pool, home, demand, slots } = self;
        while let Some(id) = pool.pop_returned() {
            home.push(id);
        }
        demand.note(slots.with_kernel, pool.count());
        if slots.with_kernel >= demand.now || home.is_empty() {
            return;
        }
        while slots.with_kernel < demand.now {
            let Some(id) = home.pop() else { break };
            slots.give(id, pool.address(id));
        }
        slots.publish();
    }

    fn take(&mut self, id: u16, result: i32) -> Option<Lease> {
        self.slots.with_kernel -= 1;
        match u32::try_from(result) {
            // SAFETY: the kernel has named the buffer in a completion and thereby given it up; it
            // gets it again only through `give`.
            Ok(len) if len > 0 => Some(unsafe { self.pool.lease(id, len) }),
            _ => {
                self.home.push(id);
                None
            }
        }
    }
}

impl Slots {
    /// Zeroed slots for the pool's buffers: a power of two of them, page-aligned, as the kernel
    /// wants it. Those beyond the buffers stay unused.
    fn new(pool: &BufferPool) -> Slots {
        let count = pool.count().next_power_of_two();
        let bytes = usize::from(count) * size_of::<BufRingEntry>();
        let layout = Layout::from_size_align(bytes, 4096).expect("at most 512 KiB");
        // SAFETY: the layout has a size that is not zero.
        let entries = NonNull::new(unsafe { alloc_zeroed(layout) }.cast())
            .unwrap_or_else(|| handle_alloc_error(layout));
        Slots { entries, layout, mask: count - 1, tail: 0, with_kernel: 0, size: pool.size() }
    }

    /// Writes an entry past the tail; [`Slots::publish`] shows it to the kernel.
    fn give(&mut self, id: u16, address: *mut u8) {
        debug_assert!(self.with_kernel <= self.mask, "a buffer was given twice");
        // SAFETY: masked, so inside the allocation; an entry past the tail is ours, and the kernel
        // writes to none.
        let entry = unsafe { &mut *self.entries.as_ptr().add(usize::from(self.tail & self.mask)) };
        entry.set_addr(address.expose_provenance() as u64);
        entry.set_len(self.size);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.with_kernel += 1;
    }

    fn publish(&mut self) {
        // SAFETY: the tail is the spare half-word of the first entry, aligned, and written by this
        // thread alone.
        let tail =
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        // Release: the kernel sees the entries before the tail that covers them.
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; the kernel does not read it any more
        // (module invariant).
        unsafe { dealloc(self.entries.as_ptr().cast(), self.layout) };
    }
}
