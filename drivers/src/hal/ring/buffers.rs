//! The provided-buffer ring behind pooled receives.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use overlapped_iomgr::buf::{BufferPool, Lease};

use super::encode::BUFFER_GROUP;

/// Buffers for pooled receives, allocated and registered at the first one, so that a processor
/// that does none holds none.
pub(super) struct Buffers {
    count: u16,
    size: u32,
    state: State,
}

enum State {
    NotYet,
    Registered(Registered),
    /// The kernel or the memory does not have it.
    Refused,
}

/// **Invariant.** The kernel reads entries between its own head and `tail`, each naming a buffer of
/// `pool` that is with the hardware. The ring memory lives as long as the io_uring it is
/// registered with, which the owner drops first.
struct Registered {
    pool: BufferPool,
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    tail: u16,
}

impl Buffers {
    pub(super) fn new(count: u16, size: u32) -> Buffers {
        let count = count.clamp(1, 1 << 15).next_power_of_two();
        Buffers { count, size: size.max(1), state: State::NotYet }
    }

    /// Whether pooled receives work here.
    #[inline]
    pub(super) fn ready(&mut self, ring: &IoUring) -> bool {
        if let State::NotYet = self.state {
            self.state = match Registered::new(self.count, self.size, ring) {
                Some(registered) => State::Registered(registered),
                None => {
                    tracing::warn!("no provided buffers here; pooled receives use private ones");
                    State::Refused
                }
            };
        }
        matches!(self.state, State::Registered(_))
    }

    /// The kernel has used buffer `id` for an operation with the result given.
    pub(super) fn take(&mut self, id: u16, result: i32) -> Option<Lease> {
        let State::Registered(registered) = &mut self.state else { return None };
        if result > 0 {
            // SAFETY: the kernel has just given the buffer up.
            return Some(unsafe { registered.pool.lease(id, result as u32) });
        }
        registered.give(id);
        registered.publish();
        None
    }

    /// Gives the kernel what has come home.
    #[inline]
    pub(super) fn refill(&mut self) {
        if let State::Registered(registered) = &mut self.state {
            registered.refill();
        }
    }
}

impl Registered {
    fn new(count: u16, size: u32, ring: &IoUring) -> Option<Registered> {
        let pool = BufferPool::new(count, size)?;
        let layout =
            Layout::from_size_align(size_of::<BufRingEntry>() * usize::from(count), 4096).ok()?;
        // SAFETY: the layout's size is not zero.
        let entries = NonNull::new(unsafe { alloc_zeroed(layout) })?.cast::<BufRingEntry>();
        let address = entries.as_ptr() as u64;
        // SAFETY: `entries` is page-aligned, zeroed, `count` long, and lives until after the ring.
        let result = unsafe {
            ring.submitter().register_buf_ring_with_flags(address, count, BUFFER_GROUP, 0)
        };
        let mut registered = Registered { pool, entries, layout, tail: 0 };
        result.ok()?;
        for id in 0..count {
            registered.give(id);
        }
        registered.publish();
        Some(registered)
    }

    fn give(&mut self, id: u16) {
        let index = usize::from(self.tail & (self.pool.count() - 1));
        // SAFETY: inside the ring; entries at and behind the tail are ours to write.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(index);
            entry.set_addr(self.pool.address(id) as u64);
            entry.set_len(self.pool.size());
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the ring's tail lies in its first entry, where only we write it.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }

    fn refill(&mut self) {
        let before = self.tail;
        while let Some(id) = self.pool.pop_returned() {
            self.give(id);
        }
        if self.tail != before {
            self.publish();
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; the ring it was registered with is gone.
        unsafe { dealloc(self.entries.as_ptr().cast(), self.layout) };
    }
}
