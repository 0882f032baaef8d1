//! IRP memory: three size classes, each a free list over pages that are never given back while
//! their processor lives (I-5).
//!
//! Owned by one processor and used by its thread alone. Slots never move, so their addresses can be
//! the hardware's tokens.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::{self, NonNull};

use super::held::Resume;
use super::slot::{CLASS_LOCATIONS, Flags, IoStatus, Location, Phase, Route, Slot, SlotPtr, flags};
use super::state::State;
use crate::buf::Payload;
use crate::counters::IrpCounts;
use crate::major::Major;
use crate::processor::Core;
use crate::status::Status;

/// Slots in the first page of a class; every further page doubles, up to `MAX_PAGE`.
const FIRST_PAGE: usize = 32;
const MAX_PAGE: usize = 1024;

struct Page {
    memory: NonNull<u8>,
    slots: usize,
    class: u8,
}

// In the order of use.
#[repr(C)]
pub(crate) struct Slab {
    free: [*mut Slot; 3],
    live: usize,
    /// Per class; `live` is the difference of the sums of these two.
    allocations: [u64; 3],
    frees: [u64; 3],
    misses: [u64; 3],
    pages: Vec<Page>,
}

fn slot_size(class: usize) -> usize {
    // One location more than promised: a driver may prepare the location below it before it
    // learns that there is nobody.
    let size = size_of::<Slot>() + (CLASS_LOCATIONS[class] + 1) * size_of::<Location>();
    size.next_multiple_of(align_of::<Slot>())
}

fn page_layout(class: usize, slots: usize) -> Layout {
    Layout::from_size_align(slot_size(class) * slots, align_of::<Slot>())
        .expect("a page of slots is far below the address space")
}

impl Slab {
    pub(crate) fn new() -> Slab {
        Slab {
            free: [ptr::null_mut(); 3],
            pages: Vec::new(),
            allocations: [0; 3],
            misses: [0; 3],
            frees: [0; 3],
            live: 0,
        }
    }

    /// Slots in use.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// What each class has given and got back (I-5).
    pub(crate) fn counts(&self) -> IrpCounts {
        IrpCounts::new(|class| (self.allocations[class], self.misses[class], self.frees[class]))
    }

    /// A slot with at least `depth` locations, its header reset; `None` when memory is short
    /// (I-6) or the depth beyond the largest class.
    pub(crate) fn alloc(&mut self, depth: usize, core: NonNull<Core>) -> Option<SlotPtr> {
        let class = if depth <= CLASS_LOCATIONS[0] {
            0
        } else {
            CLASS_LOCATIONS.iter().position(|&n| depth <= n)?
        };
        if self.free[class].is_null() {
            self.grow(class, core)?;
            self.misses[class] += 1;
        }
        let slot = self.free[class];
        // SAFETY: the free list holds initialised slots of this slab that nobody else refers to.
        unsafe {
            self.free[class] = (*slot).link;
            (*slot).state.reset();
            (*slot).flags = Flags::new(flags::LIVE);
            (*slot).generation = (*slot).generation.wrapping_add(1);
            self.allocations[class] += 1;
            self.live += 1;
            Some(SlotPtr(NonNull::new_unchecked(slot)))
        }
    }

    /// Takes a slot back.
    ///
    /// # Safety
    /// The slot came from this slab, is in use, and nobody refers to it any more (see
    /// [`super::state`]).
    pub(crate) unsafe fn free(&mut self, slot: SlotPtr) {
        let slot = slot.0.as_ptr();
        // SAFETY: the caller's promise; the payload and route were taken or are dropped here.
        unsafe {
            debug_assert!((*slot).flags.has(flags::LIVE), "a slot is freed once");
            (*slot).flags = Flags::new(0);
            let class = usize::from((*slot).class);
            (*slot).link = self.free[class];
            self.free[class] = slot;
            self.frees[class] += 1;
        }
        self.live -= 1;
    }

    #[cold]
    fn grow(&mut self, class: usize, core: NonNull<Core>) -> Option<()> {
        let of_class = self.pages.iter().filter(|p| usize::from(p.class) == class).count();
        let slots = if class == 2 { 4 } else { (FIRST_PAGE << of_class.min(8)).min(MAX_PAGE) };
        self.pages.try_reserve(1).ok()?;
        // SAFETY: the layout's size is not zero.
        let memory = NonNull::new(unsafe { alloc(page_layout(class, slots)) })?;
        self.pages.push(Page { memory, slots, class: class as u8 });
        for i in (0..slots).rev() {
            // SAFETY: inside the page just allocated, aligned as `Slot`, not yet initialised; the
            // locations follow the header as `slot_size` laid them out.
            unsafe {
                let slot = memory.as_ptr().add(i * slot_size(class)).cast::<Slot>();
                slot.write(Slot {
                    state: State::new(),
                    phase: Phase::Final,
                    parked: false,
                    flags: Flags::new(0),
                    class: class as u8,
                    major: Major::Create,
                    cursor: 0,
                    depth: 0,
                    fills: false,
                    generation: 0,
                    filled: 0,
                    result: IoStatus { status: Status::SUCCESS, info: 0 },
                    core,
                    file: None,
                    stack: None,
                    devices: ptr::null(),
                    link: self.free[class],
                    mail: std::cell::UnsafeCell::new(ptr::null_mut()),
                    route: Route::None,
                    payload: Payload::empty(),
                    timer: None,
                    issued: 0,
                    parking: None,
                    resume: Resume::Complete,
                    children: 0,
                    charge: 0,
                    operation: None,
                    tell: None,
                    scope: None,
                    companion: None,
                });
                let locations = slot.add(1).cast::<Location>();
                for n in 0..=CLASS_LOCATIONS[class] {
                    locations.add(n).write(Location::EMPTY);
                }
                self.free[class] = slot;
            }
        }
        Some(())
    }

    /// The requesters have let go of all slots without giving them back: their processor is gone.
    pub(crate) fn forget_live(&mut self) {
        self.live = 0;
    }

    /// Calls `f` for every slot in use.
    pub(crate) fn for_each_live(&self, mut f: impl FnMut(SlotPtr)) {
        for page in &self.pages {
            for i in 0..page.slots {
                // SAFETY: `grow` initialised every slot of the page.
                unsafe {
                    let slot = page
                        .memory
                        .as_ptr()
                        .add(i * slot_size(usize::from(page.class)))
                        .cast::<Slot>();
                    if (*slot).flags.has(flags::LIVE) {
                        f(SlotPtr(NonNull::new_unchecked(slot)));
                    }
                }
            }
        }
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        debug_assert_eq!(self.live, 0, "the processor frees its slab when the last slot is back");
        for page in &self.pages {
            // SAFETY: allocated in `grow` with this layout. Slots own nothing while free: payload,
            // route and scratch are emptied before `free`.
            unsafe {
                dealloc(page.memory.as_ptr(), page_layout(usize::from(page.class), page.slots));
            }
        }
    }
}
