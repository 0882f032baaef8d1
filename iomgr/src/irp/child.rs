//! Child IRPs: one request becomes several, and completes when all of them have (I-25).
//!
//! Unlike NT, which leaves the merging of statuses to the driver, the parent's result is the sum of
//! the children's bytes, up to the first child (in order of offset in the parent's data) that
//! failed or came back short: what a reader of a contiguous range can use.

use super::Disposition;
use super::finish;
use super::slot::{IoStatus, Phase, Route, SlotPtr, flags};
use super::token::Irp;
use super::travel;
use crate::major::minor;
use crate::processor::Core;
use crate::status::Status;

/// One part of a split request: a range of the parent's data and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First byte of the parent's data.
    pub start: u32,
    /// Bytes of the parent's data.
    pub len: u32,
    /// Byte offset in the file below.
    pub offset: u64,
}

/// What a splitting driver's location keeps while children run.
struct Tally {
    parts: Vec<(Part, Option<IoStatus>)>,
}

impl Irp<'_> {
    /// Splits a read or write into children that go to the driver below, all at once, and completes
    /// the request when the last of them has. Parts may not overlap; together they need not cover
    /// the data. A cancel of the parent cancels the children.
    ///
    /// The result: if every part is full, success and the sum of the bytes; otherwise the bytes up
    /// to and including the first part, in the order given, that failed or was short, with that
    /// part's error if no byte came before it.
    ///
    /// Requests that are vectored, receive into a pool buffer or have a companion cannot be split:
    /// they complete with [`Status::NOT_SUPPORTED`], as do parts outside the data with [`Status::INVALID_PARAMETER`].
    pub fn split(mut self, parts: &[Part]) -> Disposition {
        let bounds = self.len() as u64;
        // SAFETY: the token's ownership; children have no companion.
        if self.minor() != minor::NONE || unsafe { (*self.header()).flags.has(flags::ACCOMPANIED) }
        {
            return self.complete(Status::NOT_SUPPORTED, 0);
        }
        if parts.is_empty() || parts.iter().any(|p| u64::from(p.start) + u64::from(p.len) > bounds)
        {
            return self.complete(Status::INVALID_PARAMETER, 0);
        }
        if self.major().receives() && overlap(parts) {
            // Two children would fill the same memory, one while the other's driver looks at it.
            return self.complete(Status::INVALID_PARAMETER, 0);
        }
        self.set_scratch(Box::new(Tally { parts: parts.iter().map(|p| (*p, None)).collect() }));
        let slot = self.into_slot();
        // SAFETY: the token's ownership is ours; it stays with the children until the last is done.
        unsafe { split(slot, parts) }
    }
}

/// Whether two of the parts share data.
fn overlap(parts: &[Part]) -> bool {
    let meet = |parts: &[Part]| parts.windows(2).any(|w| w[1].start - w[0].start < w[0].len);
    if parts.is_sorted_by_key(|p| p.start) {
        return meet(parts);
    }
    let mut sorted = parts.to_vec();
    sorted.sort_unstable_by_key(|p| (p.start, p.len));
    meet(&sorted)
}

unsafe fn split(parent: SlotPtr, parts: &[Part]) -> Disposition {
    // SAFETY: see `Irp::split`.
    unsafe {
        let header = parent.0.as_ptr();
        let core: &Core = (*header).core.as_ref();
        if (*parent.current()).level + 1 >= (*header).depth {
            (*header).result = IoStatus { status: Status::INVALID_DEVICE_REQUEST, info: 0 };
            (*header).phase = Phase::Finished;
            return Disposition(());
        }
        (*header).phase = Phase::Held;
        // One more than there are children, so that none of them finishes the parent while we
        // still make the others.
        (*header).children = 1;
        for (index, part) in parts.iter().enumerate() {
            (*header).children += 1;
            let Some(child) = core.alloc_slot(usize::from((*header).depth)) else {
                record(parent, index, IoStatus { status: Status::INSUFFICIENT_RESOURCES, info: 0 });
                (*header).children -= 1;
                continue;
            };
            prepare(parent, child, *part, index);
            if travel::issue(child) {
                child_done_inner(parent, child);
            }
        }
        (*header).children -= 1;
        if (*header).children > 0 {
            return Disposition(());
        }
        collect(parent);
        Disposition(())
    }
}

/// Fills a child in: the parent's location from the driver below on, cut to the part.
unsafe fn prepare(parent: SlotPtr, child: SlotPtr, part: Part, index: usize) {
    // SAFETY: the child is new and ours; the parent's driver side is ours.
    unsafe {
        let (from, to) = (parent.0.as_ptr(), &mut *child.0.as_ptr());
        to.major = (*from).major;
        to.depth = (*from).depth;
        to.devices = (*from).devices;
        to.stack = (*from).stack;
        // The parent counts on the file for all of them.
        to.file = (*from).file;
        to.cursor = 0;
        to.children = 0;
        to.issued = (*from).issued;
        to.result = IoStatus { status: Status::SUCCESS, info: 0 };
        to.route = Route::Parent(parent);
        let own = &*parent.current();
        let mut location = own.copy_for_next(own.level + 1);
        location.base = location.level;
        location.data = own.data.add(part.start as usize);
        location.len = part.len;
        location.offset = part.offset;
        *child.location(0) = location;
        to.payload = crate::buf::Payload::new(index);
        to.phase = Phase::Driver;
        if (*from).flags.has(flags::CANCEL) {
            to.flags.set(flags::CANCEL);
        }
    }
}

unsafe fn record(parent: SlotPtr, index: usize, result: IoStatus) {
    // SAFETY: the parent waits for its children and is touched by this thread alone.
    unsafe {
        let tally = (*parent.current()).scratch.get_mut::<Box<Tally>>().expect("kept by `split`");
        tally.parts[index].1 = Some(result);
    }
}

/// A child that pended has completed.
pub(crate) unsafe fn child_done(parent: SlotPtr, child: SlotPtr) {
    // SAFETY: same thread; the parent waits.
    unsafe {
        child_done_inner(parent, child);
        if (*parent.0.as_ptr()).children == 0 {
            collect(parent);
            travel::unwind(parent);
        }
    }
}

unsafe fn child_done_inner(parent: SlotPtr, child: SlotPtr) {
    // SAFETY: the child is final; its requester is this module.
    unsafe {
        let header = &mut *child.0.as_ptr();
        let index = header.payload.take::<usize>().expect("kept by `prepare`");
        record(parent, index, header.result);
        if header.major.receives() && !header.result.status.is_error() {
            grow_filled(parent);
        }
        header.flags.set(flags::TAKEN);
        header.file = None;
        finish::release(child);
        (*parent.0.as_ptr()).children -= 1;
    }
}

/// Takes over what a child has filled of the parent's memory, as far as it is contiguous.
unsafe fn grow_filled(parent: SlotPtr) {
    // SAFETY: same thread; the parent waits.
    unsafe {
        let tally = (*parent.current()).scratch.get_ref::<Box<Tally>>().expect("kept by `split`");
        let mut end = (*parent.0.as_ptr()).filled;
        // Parts may be in any order; each pass adds at least one or ends.
        while let Some(next) = tally.parts.iter().find_map(|(part, outcome)| {
            let outcome = outcome.filter(|o| !o.status.is_error())?;
            let filled = part.start + part.len.min(u32::try_from(outcome.info).unwrap_or(u32::MAX));
            (part.start <= end && filled > end).then_some(filled)
        }) {
            end = next;
        }
        parent.note_filled(end as usize);
    }
}

/// Sums the parts up; see [`Irp::split`].
unsafe fn collect(parent: SlotPtr) {
    // SAFETY: no child is left; the driver side is ours again.
    unsafe {
        let tally = (*parent.current()).scratch.take::<Box<Tally>>().expect("kept by `split`");
        let mut result = IoStatus { status: Status::SUCCESS, info: 0 };
        for (part, outcome) in tally.parts {
            let outcome = outcome.expect("every part has reported");
            result.info += outcome.info;
            if outcome.status.is_error() {
                if result.info == 0 {
                    result.status = outcome.status;
                }
                break;
            }
            if outcome.info < part.len as usize {
                break;
            }
        }
        (*parent.0.as_ptr()).result = result;
        (*parent.0.as_ptr()).phase = Phase::Finished;
    }
}

/// Cancels what a split request's children still do.
#[cold]
pub(crate) unsafe fn cancel_children(parent: SlotPtr) {
    // SAFETY: same thread; the slab knows every child.
    unsafe {
        let core: &Core = (*parent.0.as_ptr()).core.as_ref();
        let generation = (*parent.0.as_ptr()).generation;
        for child in core.live_slots() {
            // The last child's end is the parent's, whose slot may be another request's by now.
            if !core.is_live(parent, generation) {
                return;
            }
            // A future's route may be written elsewhere.
            let flags = &(*child.0.as_ptr()).flags;
            if flags.has(flags::LIVE)
                && !flags.has(flags::FUTURE)
                && matches!((*child.0.as_ptr()).route, Route::Parent(p) if p == parent)
            {
                finish::cancel(child);
            }
        }
    }
}
