//! A processor's requests: their slots, all those of a file, and what is left of them when the processor
//! has gone (see `processor`, on lifetime).

use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use super::Core;
use crate::irp::finish;
use crate::irp::slot::{Phase, Route, SlotPtr, flags};
use crate::major::Major;

impl Core {
    #[inline]
    pub(crate) fn alloc_slot(&self, depth: usize) -> Option<SlotPtr> {
        let slot = self.slab.borrow_mut().alloc(depth, self.this.get())?;
        // SAFETY: just allocated, ours.
        unsafe {
            (*slot.0.as_ptr()).issued = self.now.get();
            (*slot.0.as_ptr()).children = 0;
            (*slot.0.as_ptr()).filled = 0;
        }
        Some(slot)
    }

    /// # Safety
    /// As [`Slab::free`].
    #[inline]
    pub(crate) unsafe fn free_slot(&self, slot: SlotPtr) {
        // SAFETY: the caller's.
        unsafe { self.slab.borrow_mut().free(slot) };
    }

    /// Whether the slot still is the request of that generation.
    pub(crate) fn is_live(&self, slot: SlotPtr, generation: u32) -> bool {
        // SAFETY: slots are readable as long as the core lives; owner's thread.
        unsafe {
            let header = slot.0.as_ptr();
            (*header).generation == generation && (*header).flags.has(flags::LIVE)
        }
    }

    pub(crate) fn live_slots(&self) -> Vec<SlotPtr> {
        let mut all = Vec::new();
        self.slab.borrow().for_each_live(|slot| all.push(slot));
        all
    }

    /// Requests in use, finished ones whose requester has not looked included.
    pub(crate) fn live(&self) -> usize {
        self.slab.borrow().live()
    }

    /// Cancels every request on the file.
    pub(crate) fn cancel_file(&self, id: u64) {
        // SAFETY: `cancel_where` asks for live slots, on this thread.
        self.cancel_where(|slot| unsafe {
            slot.file_id() == Some(id) && !matches!(slot.major(), Major::Close | Major::Cleanup)
        });
    }

    /// Whether a request on the file is not done.
    pub(crate) fn has_requests_on(&self, id: u64) -> bool {
        // SAFETY: owner's thread; live slots.
        self.live_slots().into_iter().any(|slot| unsafe {
            (*slot.0.as_ptr()).phase != Phase::Final && slot.file_id() == Some(id)
        })
    }

    /// Takes the hardware's requests of that major on the file back.
    pub(crate) fn interrupt_file(&self, id: u64, major: Major) {
        for slot in self.live_slots() {
            // SAFETY: owner's thread; live slots.
            unsafe {
                if slot.file_id() == Some(id) && slot.major() == major {
                    finish::interrupt(slot);
                }
            }
        }
    }

    pub(crate) fn cancel_where(&self, wanted: impl Fn(SlotPtr) -> bool) {
        for slot in self.live_slots() {
            // SAFETY: owner's thread. A cancel may free other slots of the list, so each is checked
            // for being live; their memory stays.
            unsafe {
                if (*slot.0.as_ptr()).flags.has(flags::LIVE) && wanted(slot) {
                    finish::cancel(slot);
                }
            }
        }
    }

    /// A requester lets go of a slot whose processor is gone.
    ///
    /// # Safety
    /// The slot is `DONE`, its mail was refused, and the caller was its requester.
    pub(crate) unsafe fn free_orphan(slot: SlotPtr) {
        // SAFETY: the orphan count keeps the core until we subtract; the slot is ours alone.
        unsafe {
            let header = &mut *slot.0.as_ptr();
            header.payload = crate::buf::Payload::empty();
            drop(slot.set_companion(None));
            header.parking = None;
            header.route = Route::None;
            header.tell = None;
            crate::scope::reaped(slot);
            if let Some(file) = header.file.take() {
                // If it was local, it has been adopted out.
                crate::file::leave_foreign(file);
            }
            let core = header.core;
            Core::drop_orphans(core, 1);
        }
    }

    /// Lets go of so many references to the core.
    ///
    /// # Safety
    /// They are the caller's; the core is not used any more.
    pub(super) unsafe fn drop_orphans(core: NonNull<Core>, n: usize) {
        // SAFETY: the caller owns `n` of the references.
        unsafe {
            if core.as_ref().orphans.fetch_sub(n, Ordering::AcqRel) == n {
                core.as_ref().slab.borrow_mut().forget_live();
                drop(Box::from_raw(core.as_ptr()));
            }
        }
    }
}
