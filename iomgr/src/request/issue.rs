//! How a request becomes an IRP: it is admitted, filled in and issued; and how its result is taken.

use std::ptr::NonNull;

use super::{Done, Extras, Operation, Setup, Start, Tell};
use crate::file::{self, FileObject};
use crate::irp::finish;
use crate::irp::slot::{IoStatus, Phase, Route, SlotPtr, WRITE_THROUGH, flags};
use crate::irp::travel;
use crate::limits::Capabilities;
use crate::major::{Major, minor};
use crate::processor::Core;
use crate::scope;
use crate::serial::{CURRENT, Turn};
use crate::stack::Stack;
use crate::status::Status;

/// The first steps of every route: whatever fails from here on leaves the request's event reset, but on
/// a file object that has been closed it is left alone (I-6, I-39). A port that gets a copy must have
/// room for it.
#[inline]
pub(super) fn begin(file: &FileObject, extras: &mut Extras) -> Result<(), Status> {
    match &mut extras.tell {
        Some(tell) => begin_telling(file, tell),
        None => Ok(()),
    }
}

#[cold]
fn begin_telling(file: &FileObject, tell: &mut Tell) -> Result<(), Status> {
    if file.is_closing() { Err(Status::FILE_CLOSED) } else { tell.begin() }
}

/// Checks what can be checked before there is an IRP, and makes that. [`launch`] takes it from there.
#[inline]
pub(super) fn admit<K: Operation>(
    core: &Core,
    file: &FileObject,
    operation: &K,
    extras: &Extras,
) -> Result<SlotPtr, Status> {
    let checked = operation.check();
    if checked != Status::SUCCESS {
        return Err(checked);
    }
    // Foreign code, as `check` is: before anything is to be undone. Asked once, so that all that follows
    // fits whatever the operation would answer next time.
    let (major, below) = (operation.major(), extras.below);
    core.check_running()?;
    // What a driver asks for itself is part of a request that has been admitted.
    let counts = below.is_none();
    if counts {
        within_limits(core, || file.admit(major))?;
    }
    let scope = scope::current().filter(|_| counts);
    if let Some(scope) = &scope {
        within_limits(core, || scope.enter())?;
    }
    if major == Major::Close {
        // Before the request has a stack: drivers' code, which may change that.
        file.announce_end();
    }
    // SAFETY: on the thread of a processor that is busy; that of `Request::below`.
    let stack = unsafe { below.map_or_else(|| file.stack_for(core), |start| start.stack.as_ref()) };
    let slot = core.alloc_slot(stack.route(major).len());
    let Some(slot) = slot else {
        if let Some(scope) = scope {
            scope.turn_back();
        }
        return Err(Status::INSUFFICIENT_RESOURCES);
    };
    // SAFETY: new and ours; the file is alive, and counted from here to `leave_file`.
    unsafe {
        if scope.is_some() {
            (*slot.0.as_ptr()).scope = scope;
            (*slot.0.as_ptr()).flags.set(flags::SCOPED);
        }
        fill(core, slot, file.address(), stack, major, below);
    }
    Ok(slot)
}

/// Asks for a place among those that a limit allows. What requests hold whose results have been taken on
/// other threads comes back by mail, so that is read before anybody is refused.
#[inline]
fn within_limits(core: &Core, ask: impl Fn() -> Result<(), Status>) -> Result<(), Status> {
    match ask() {
        Err(Status::QUOTA_EXCEEDED) if core.read_mail() => ask(),
        answer => answer,
    }
}

/// Moves the operation into an admitted slot and issues it. `true`: complete already (I-27), and
/// nobody was told.
#[inline]
pub(super) fn launch<K: Operation>(
    core: &Core,
    slot: SlotPtr,
    file: &FileObject,
    operation: K,
    route: impl FnOnce() -> Route,
    extras: &mut Extras,
) -> bool {
    // SAFETY: the slot is new and ours; the file is alive.
    unsafe {
        prepare(slot, operation, route);
        issue(core, slot, file, extras)
    }
}

/// Moves the operation into an admitted slot. If that panics, the slot is gone.
///
/// # Safety
/// The slot is filled, and the caller's.
#[inline]
pub(super) unsafe fn prepare<K: Operation>(
    slot: SlotPtr,
    operation: K,
    route: impl FnOnce() -> Route,
) {
    // SAFETY: the caller's.
    unsafe {
        let header = slot.0.as_ptr();
        // What is overwritten is nothing: a free slot has no route.
        (&raw mut (*header).route).write(route());
        if matches!((*header).route, Route::Future(_)) {
            (*header).flags.set(flags::FUTURE);
        }
        let (major, location) = ((*header).major, &mut *slot.location(0));
        let payload = &mut (*header).payload;
        let undo = Undo(slot);
        let mut companion = None;
        operation.prepare(&mut Setup { location, payload, companion: &mut companion, major });
        std::mem::forget(undo);
        slot.set_companion(companion);
    }
}

/// Issues what is prepared, unless something speaks against it. `true`: it is complete.
///
/// # Safety
/// The slot is filled, and the caller's on both sides; the file is alive.
#[inline]
pub(super) unsafe fn issue(
    core: &Core,
    slot: SlotPtr,
    file: &FileObject,
    extras: &mut Extras,
) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let major = (*slot.0.as_ptr()).major;
        if (*slot.0.as_ptr()).flags.has(flags::SCOPED)
            && let Err(status) = within_limits(core, || scope::admit(slot))
        {
            finish::refuse(slot, status);
            return true;
        }
        if major == Major::Write
            && let Some(status) = write_through(slot, extras.below)
        {
            finish::refuse(slot, status);
            return true;
        }
        // Offsets that are negative, as NT sees them (I-36).
        if ((*slot.location(0)).offset as i64) < 0 && !may_have(file, slot, extras.below.is_some())
        {
            finish::refuse(slot, Status::INVALID_PARAMETER);
            return true;
        }
        if let Some(deadline) = extras.deadline {
            core.set_deadline(slot, deadline);
        }
        // A driver's own is none of the client's.
        if extras.tell.is_some() || file.is_watched() && extras.below.is_none() {
            expect_signal(slot, file, extras.tell.take());
        }
        if let Some(serial) = file.serial()
            && major != Major::Close
            && extras.below.is_none()
        {
            match serial.enter(slot) {
                Turn::Now => {}
                Turn::Later => return false,
                Turn::Answered => {
                    finish::answer(slot);
                    return true;
                }
            }
        }
        travel::issue(slot)
    }
}

/// What a write for one that is to be durable is to be too. A status: there is no such write.
///
/// # Safety
/// The slot is filled, and the caller's.
#[inline]
unsafe fn write_through(slot: SlotPtr, below: Option<Start>) -> Option<Status> {
    // SAFETY: the caller's.
    unsafe {
        let arg = &mut (*slot.location(0)).arg;
        if below.is_some_and(|start| start.write_through) {
            // Whether it can be was asked at the top.
            *arg |= WRITE_THROUGH;
            return None;
        }
        if *arg & WRITE_THROUGH == 0 {
            return None;
        }
        let stack = (*slot.0.as_ptr()).stack.expect("set when it was made");
        let can = stack.as_ref().can().has(Capabilities::WRITE_THROUGH);
        (!can && below.is_none()).then_some(Status::NOT_SUPPORTED)
    }
}

/// I-36: whether a request may have the negative offset that it has: none, which means the current one,
/// where there is one or where there are no offsets at all. A driver's own request, which starts below it,
/// finds none.
///
/// # Safety
/// The slot is filled, and the caller's.
#[inline]
unsafe fn may_have(file: &FileObject, slot: SlotPtr, below: bool) -> bool {
    // SAFETY: the caller's.
    let (major, offset) = unsafe { ((*slot.0.as_ptr()).major, (*slot.location(0)).offset) };
    let has_current = file.is_synchronous() && !below;
    match major {
        Major::Read | Major::Write if offset != CURRENT => false,
        Major::Read => !file.is_seekable() || has_current,
        Major::Write => !file.is_seekable() || file.appends() || has_current,
        // Not an offset, as far as this module knows.
        _ => true,
    }
}

/// C-3, C-7: what will be signalled is noted, and reset if that is the file object.
#[cold]
unsafe fn expect_signal(slot: SlotPtr, file: &FileObject, tell: Option<Tell>) {
    if !tell.as_ref().is_some_and(Tell::has_event) {
        file.reset_signal();
    }
    // SAFETY: the caller's: not issued yet, so ours.
    unsafe {
        (*slot.0.as_ptr()).tell = tell;
        (*slot.0.as_ptr()).flags.set(flags::SIGNAL);
    }
}

/// Frees a filled slot whose operation panics before it is issued.
struct Undo(SlotPtr);

impl Drop for Undo {
    #[cold]
    fn drop(&mut self) {
        // SAFETY: both sides are the issuer's; nobody else knows the slot.
        unsafe {
            let header = self.0.0.as_ptr();
            (*header).phase = Phase::Final;
            scope::left(self.0);
            (*header).state.complete_inline();
            (*header).flags.set(flags::TAKEN);
            finish::release(self.0);
        }
    }
}

/// Fills a new slot's header, but for the route, and its top location.
///
/// # Safety
/// The slot is new and the caller's, of a class that fits the stack; the file is alive.
#[inline]
unsafe fn fill(
    core: &Core,
    slot: SlotPtr,
    file: NonNull<FileObject>,
    stack: &Stack,
    major: Major,
    below: Option<Start>,
) {
    // SAFETY: the caller's; that of `Request::below`.
    unsafe {
        let level = match below {
            None => 0,
            Some(start) => {
                (*slot.0.as_ptr()).flags.set(flags::BELOW);
                stack.level_below(start.device.as_ref(), major)
            }
        };
        let devices = stack.route(major);
        let header = slot.0.as_ptr();
        (*header).phase = Phase::Driver;
        (*header).major = major;
        (*header).cursor = 0;
        (*header).depth = devices.len() as u8;
        (*header).result = IoStatus { status: Status::SUCCESS, info: 0 };
        (*header).file = Some(file);
        (*header).stack = Some(NonNull::from(stack));
        if below.is_some() {
            core.starts_below(slot);
        }
        (*header).devices = devices.as_ptr();
        if file::enter(file.as_ref(), core) {
            (*header).flags.set(flags::LOCAL_USE);
        }
        let top = slot.location(0);
        (*top).minor = minor::NONE;
        (*top).control = 0;
        (*top).level = level;
        (*top).base = level;
        (*top).len = 0;
        (*top).data = std::ptr::null_mut();
        (*top).offset = 0;
        (*top).arg = 0;
    }
}

/// Takes the result of a slot that is `DONE`, and lets go of it.
///
/// # Safety
/// The caller is the slot's requester and gives its reference up.
#[inline]
pub(super) unsafe fn collect<K: Operation>(slot: SlotPtr) -> K::Output {
    // SAFETY: the caller's.
    unsafe {
        take::<K>(slot, |slot| {
            (*slot.0.as_ptr()).flags.set(flags::TAKEN);
            finish::release(slot);
        })
    }
}

/// As [`collect`], of a request that has just been issued, on its processor's thread, which is busy.
///
/// # Safety
/// As [`collect`].
#[inline]
pub(super) unsafe fn collect_here<K: Operation>(slot: SlotPtr) -> K::Output {
    // SAFETY: the caller's: both sides are finished.
    unsafe { take::<K>(slot, |slot| finish::free(slot)) }
}

/// # Safety
/// The slot is `DONE`, and the caller its requester, whose reference goes to `leave`.
#[inline(always)]
unsafe fn take<K: Operation>(slot: SlotPtr, leave: impl Fn(SlotPtr)) -> K::Output {
    /// Lets go even if `finish` panics.
    struct Leave<F: Fn(SlotPtr)>(SlotPtr, F);
    impl<F: Fn(SlotPtr)> Drop for Leave<F> {
        #[inline]
        fn drop(&mut self) {
            (self.1)(self.0);
        }
    }
    let _leave = Leave(slot, leave);
    // SAFETY: a `DONE` slot's result and payload are the requester's.
    let mut done = unsafe { Done::new(slot, &mut (*slot.0.as_ptr()).payload) };
    // Last, so that it is made where the caller wants it: to copy what has just been written word by word, in
    // larger pieces, has the processor wait for the writes.
    K::finish(&mut done)
}

/// Issues a request that nobody waits for, on the calling thread, from its top. `false`: refused; the
/// file is untouched. Otherwise the file may be gone when this returns.
pub(crate) fn detached(file: NonNull<FileObject>, major: Major) -> bool {
    Core::with_current(|core| {
        if core.check_running().is_err() {
            return false;
        }
        // SAFETY: the caller says that the file is alive; it is counted as soon as it is filled in.
        unsafe {
            let stack = file.as_ref().stack_for(core);
            let Some(slot) = core.alloc_slot(stack.route(major).len()) else { return false };
            fill(core, slot, file, stack, major, None);
            (&raw mut (*slot.0.as_ptr()).route).write(Route::None);
            travel::issue(slot);
            finish::forget(slot);
        }
        core.pass_on();
        true
    })
    .unwrap_or(false)
}
