//! A call of a filter's function: its future, in a chunk of memory that the request keeps.
//!
//! ```text
//!            dispatch                     forwarded                     the future ends
//!   (new) ───────────▶ IN HAND ──────────────────────▶ BELOW               ┌──▶ completed
//!                       ▲   │  ◀──────────────────────   │                 │    for the drivers above
//!                       │   │        completed           │ wake: polled,   │
//!                 wake, │   │ neither forwarded nor      │ cannot pass     │
//!               cancel  │   ▼ ended                      ▼ anything on     │
//!                      WAITING                        (BELOW)           IN HAND
//! ```
//!
//! **Invariants.**
//! - A call belongs to the thread of its request's processor: it is polled, and goes, there alone.
//!   Other threads have its alarm, or, while a poll waits for them, its waker.
//! - The call's driver owns the request's driver side, except while `BELOW` is set. `WAITING` says
//!   that no frame on the stack has it: the call itself keeps it.
//! - What a future asks for is done by the driver after the poll has returned ([`Step`]): no request
//!   moves while code of a filter's author is on the stack.
//! - The request does not complete past its call before the future has ended, everything that the
//!   call has sent below in the request's own name has come back, and every part of the data that
//!   was handed out has been dropped. A panic of the future is caught here, for the same reason.
//!
//! The future's type and memory are in `body.rs`; what it asks of the call, in `asks.rs`.

mod asks;
mod body;

use std::cell::{Cell, UnsafeCell};
use std::mem::{self, MaybeUninit};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

pub(super) use body::Owned;
use body::Table;

use super::alarm::Alarm;
use super::next::Next;
use crate::buf::Payload;
use crate::irp::slot::{IoStatus, Phase, SlotPtr, flags};
use crate::irp::{Irp, NextLocation, finish, travel};
use crate::major::Major;
use crate::panics::caught;
use crate::processor::Core;
use crate::stack::Device;
use crate::status::Status;
use crate::wake;

/// What a filter's function returns.
pub(super) type Outcome = Result<usize, Status>;

/// After so many attempts to send a cancelled request down, the filter is not asked any more.
const MOST_REFUSALS: u16 = 1000;

/// Marks of `Call::marks`.
mod mark {
    /// The request is with the drivers below.
    pub const BELOW: u16 = 1;
    /// Nobody on the stack has the request: the call waits for a wake.
    pub const WAITING: u16 = 2;
    /// It is to be polled once more before anything else.
    pub const AGAIN: u16 = 8;
    /// The future wants the request sent below.
    pub const WANTED: u16 = 16;
    /// The request has come back since it was last asked for.
    pub const CAME_BACK: u16 = 32;
    /// The future has ended; `outcome` is what it said.
    pub const ENDED: u16 = 64;
    /// It has been polled since the request was cancelled.
    pub const TOLD: u16 = 128;
    /// `offset` and `len` are for the drivers below.
    pub const MOVED: u16 = 256;
    /// The drivers below get `lent` in place of the data.
    pub const LENT: u16 = 512;
    /// The future has been dropped.
    pub const DROPPED: u16 = 1024;
    /// A fork polls a child that it has called off.
    pub const CALLED_OFF: u16 = 2048;
}

/// See the module's header. What every call uses comes first, in one cache line.
#[repr(C)]
pub(crate) struct Call {
    slot: SlotPtr,
    /// The filter's own, wherever the request is.
    device: NonNull<Device>,
    table: &'static Table,
    /// Written on its thread; read, during a poll, by one that the poll waits for.
    marks: AtomicU16,
    refusals: Cell<u16>,
    /// The future is being polled.
    polling: Cell<bool>,
    /// For the drivers below, if `MOVED`.
    len: Cell<u32>,
    /// If `ENDED`.
    outcome: Cell<MaybeUninit<IoStatus>>,
    /// Of whoever polls the future that waits for the request, unless that is the call itself.
    waiter: UnsafeCell<Option<Waker>>,
    alarm: OnceLock<Arc<Alarm>>,
    /// What was lent to the drivers below, until the future takes it back, or the call goes.
    lent: UnsafeCell<Payload>,
    /// Its memory, if `LENT`.
    memory: Cell<MaybeUninit<(*mut u8, u32)>>,
    /// For the drivers below, if `MOVED`.
    offset: Cell<u64>,
}

/// What the driver is to do after a poll.
pub(super) enum Step {
    /// Complete the request, with [`Call::outcome`].
    Done,
    /// Send it below; [`Call::equip`] first.
    Down,
    /// Keep it; [`Call::wait`].
    Wait,
}

thread_local! {
    /// The call whose future is being polled on this thread.
    static POLLED: Cell<*const Call> = const { Cell::new(ptr::null()) };
}

impl Call {
    fn has(&self, marks: u16) -> bool {
        self.marks.load(Ordering::Relaxed) & marks != 0
    }
    fn set(&self, marks: u16) {
        self.marks.store(self.marks.load(Ordering::Relaxed) | marks, Ordering::Relaxed);
    }
    fn clear(&self, marks: u16) {
        self.marks.store(self.marks.load(Ordering::Relaxed) & !marks, Ordering::Relaxed);
    }
    /// Clears the mark; whether it was set.
    fn take(&self, mark: u16) -> bool {
        let had = self.has(mark);
        self.clear(mark);
        had
    }

    pub(super) fn slot(&self) -> &SlotPtr {
        &self.slot
    }

    /// The filter's device.
    pub(super) fn device(&self) -> &Device {
        // SAFETY: the request's stack has it, and that outlives the call.
        unsafe { self.device.as_ref() }
    }

    /// Foreign code has panicked, in place of saying what the result is or after that.
    #[cold]
    fn panicked(&self) {
        self.device().report_bug("a filter panicked", true);
        if !self.has(mark::ENDED) {
            self.end(Err(Status::DRIVER_INTERNAL_ERROR), 0);
        }
    }

    fn core(&self) -> &Core {
        // SAFETY: the request lives as long as its call.
        unsafe { (*self.slot.0.as_ptr()).core.as_ref() }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        // SAFETY: as above; an atomic.
        unsafe { (*self.slot.0.as_ptr()).flags.has(flags::CANCEL) }
    }

    /// Whether the request is one of those that go below even when they have been cancelled.
    pub(super) fn ends_file(&self) -> bool {
        // SAFETY: as above; it never changes.
        matches!(unsafe { (*self.slot.0.as_ptr()).major }, Major::Close | Major::Cleanup)
    }

    /// Whether it is being polled by the calling thread.
    pub(super) fn is_polled(this: NonNull<Call>) -> bool {
        ptr::eq(POLLED.get(), this.as_ptr())
    }

    /// The call's alarm.
    ///
    /// # Safety
    /// The call is there. On its thread, or during a poll on a thread that the poll waits for.
    pub(super) unsafe fn alarm<'a>(this: NonNull<Call>) -> &'a Arc<Alarm> {
        // SAFETY: the caller's. These two fields are all that another thread sees of it: one never
        // changes, the other is made for that.
        unsafe {
            let slot = (*this.as_ptr()).slot;
            (*this.as_ptr())
                .alarm
                .get_or_init(|| Alarm::new((*slot.0.as_ptr()).core.as_ref().remote().clone(), this))
        }
    }

    /// The alarm, if there is one.
    pub(super) fn made_alarm(&self) -> Option<&Arc<Alarm>> {
        self.alarm.get()
    }

    /// The request has come back from below, and is in the driver's hand.
    ///
    /// # Safety
    /// On the call's thread, as all of these. `false`: a poll is under way further up the stack, and the
    /// call waits for that: the driver is to keep the request.
    #[inline]
    pub(super) unsafe fn came_back(this: NonNull<Call>) -> bool {
        // SAFETY: the caller's.
        unsafe {
            let call = this.as_ref();
            let polling = call.polling.get();
            call.has_come_back(if polling { mark::AGAIN } else { 0 });
            !polling
        }
    }

    /// Notes that there is a result, with other marks, and wakes who waits for it.
    #[inline]
    fn has_come_back(&self, more: u16) {
        let marks = self.marks.load(Ordering::Relaxed) & !mark::BELOW;
        self.marks.store(marks | mark::CAME_BACK | more, Ordering::Relaxed);
        // SAFETY: on the call's thread; nothing else is done meanwhile.
        if let Some(waiter) = unsafe { (*self.waiter.get()).take() } {
            wake::wake(waiter);
        }
    }

    /// Polls the future, with the request in the driver's hand, as far as it goes by itself.
    ///
    /// # Safety
    /// On the call's thread; no poll of it is under way.
    #[inline(always)]
    pub(super) unsafe fn step(this: NonNull<Call>) -> Step {
        // SAFETY: the caller's; the call goes with its location, which we have.
        unsafe {
            let call = this.as_ref();
            loop {
                if !call.has(mark::ENDED) {
                    (call.table.poll)(this);
                }
                let marks = call.marks.load(Ordering::Relaxed);
                if marks & mark::ENDED != 0 {
                    return Self::ended(this);
                }
                if marks & mark::AGAIN != 0 {
                    call.clear(mark::AGAIN);
                } else if marks & mark::WANTED != 0 {
                    if !call.refuses() {
                        call.marks.store(marks & !mark::WANTED | mark::BELOW, Ordering::Relaxed);
                        return Step::Down;
                    }
                    call.clear(mark::WANTED);
                } else if call.is_cancelled() && marks & mark::TOLD == 0 {
                    call.set(mark::TOLD);
                } else {
                    return Step::Wait;
                }
            }
        }
    }

    /// The future has ended.
    ///
    /// # Safety
    /// As [`Call::step`].
    #[inline(always)]
    unsafe fn ended(this: NonNull<Call>) -> Step {
        // SAFETY: the caller's.
        unsafe {
            let call = this.as_ref();
            // Both may hold parts of the data.
            Self::drop_future(this);
            if !(*call.lent.get()).is_empty() {
                let lent = mem::take(&mut *call.lent.get());
                if caught(|| drop(lent)).is_none() {
                    call.device().report_bug("a buffer that a filter lent panicked", false);
                }
            }
            let shared = call.alarm.get().is_some_and(|alarm| alarm.is_shared(false));
            if shared { Step::Wait } else { Step::Done }
        }
    }

    /// What the request ends with: [`Call::step`] has said [`Step::Done`].
    #[inline]
    pub(super) fn outcome(&self) -> IoStatus {
        debug_assert!(self.has(mark::ENDED));
        // SAFETY: written with the mark.
        unsafe { self.outcome.get().assume_init() }
    }

    /// Drops the future, once: one that has panicked, or has not come to its end.
    ///
    /// # Safety
    /// As [`Call::step`]; it is not polled any more.
    #[inline]
    unsafe fn drop_future(this: NonNull<Call>) {
        // SAFETY: the caller's.
        unsafe {
            let call = this.as_ref();
            if !call.has(mark::DROPPED) {
                call.set(mark::DROPPED);
                if caught(|| (call.table.drop)(this)).is_none() {
                    call.device().report_bug("a filter panicked", true);
                }
            }
        }
    }

    /// Drops what the call has beside its future. Nobody else has its address afterwards.
    ///
    /// # Safety
    /// As [`Call::step`]; the call is not used any more.
    #[cold]
    unsafe fn leave_rest(this: NonNull<Call>) {
        // SAFETY: the caller's.
        unsafe {
            if let Some(alarm) = this.as_ref().alarm.get() {
                alarm.disconnect();
            }
            let device = this.as_ref().device;
            // What was lent, and a waker, are foreign code.
            if caught(|| this.drop_in_place()).is_none() {
                device.as_ref().report_bug("a filter panicked", true);
            }
        }
    }

    /// Whether the request may not go below (again): if so, that is its result.
    ///
    /// # Safety
    /// The request is in hand, and no poll is under way.
    #[inline]
    unsafe fn refuses(&self) -> bool {
        // SAFETY: the caller's.
        unsafe {
            let header = self.slot.0.as_ptr();
            let lowest = (*self.slot.current()).level + 1 >= (*header).depth;
            if (*header).result.status != Status::DATA_ABOVE && !lowest && !self.is_cancelled() {
                return false;
            }
            self.refuses_for_cause()
        }
    }

    /// # Safety
    /// As [`Call::refuses`].
    #[cold]
    unsafe fn refuses_for_cause(&self) -> bool {
        // SAFETY: the caller's.
        unsafe {
            let header = self.slot.0.as_ptr();
            let status = match (*header).result.status {
                // It would find the bytes above again.
                Status::DATA_ABOVE => Status::DATA_ABOVE,
                // The filter is the bottom.
                _ if (*self.slot.current()).level + 1 >= (*header).depth => {
                    Status::INVALID_DEVICE_REQUEST
                }
                _ if self.ends_file() => return false,
                _ => Status::CANCELLED,
            };
            (*header).result = IoStatus { status, info: 0 };
            self.has_come_back(0);
            self.refusals.set(self.refusals.get() + 1);
            if self.refusals.get() > MOST_REFUSALS {
                self.device().report_bug("a filter goes on with a cancelled request", false);
                self.end(Err(status), 0);
            }
            true
        }
    }

    /// Notes what the future has said, with other marks.
    #[inline]
    fn end(&self, outcome: Outcome, more: u16) {
        let marks = self.marks.load(Ordering::Relaxed);
        // What is below has no result yet, and may be about to get one on another thread.
        let last = if marks & mark::BELOW != 0 {
            IoStatus { status: Status::SUCCESS, info: 0 }
        } else {
            // SAFETY: in hand.
            unsafe { (*self.slot.0.as_ptr()).result }
        };
        let outcome = match outcome {
            // A filter that hands through what it got hands all of it through.
            Ok(n) if last.status.is_success() && last.info == n => last,
            Err(status) if last.status == status => last,
            Ok(info) => IoStatus { status: Status::SUCCESS, info },
            Err(status) => IoStatus { status, info: 0 },
        };
        // The request is to get what is kept above its stack, whatever a filter makes of it.
        let above = last.status == Status::DATA_ABOVE;
        self.outcome.set(MaybeUninit::new(if above { last } else { outcome }));
        self.marks.store(marks | mark::ENDED | more, Ordering::Relaxed);
    }

    /// What the drivers below are to see in place of the driver's own parameters.
    ///
    /// # Safety
    /// [`Call::step`] has said [`Step::Down`].
    #[inline]
    pub(super) unsafe fn equip<'a>(this: NonNull<Call>, next: impl FnOnce() -> NextLocation<'a>) {
        // SAFETY: on the call's thread.
        let call = unsafe { this.as_ref() };
        if !call.has(mark::MOVED | mark::LENT) {
            return;
        }
        let mut next = next();
        if call.take(mark::LENT) {
            // SAFETY: set with the mark; `lent` keeps the memory until the request is back.
            unsafe {
                let (start, len) = call.memory.get().assume_init();
                next.set_memory(start, len);
            }
        }
        if call.take(mark::MOVED) {
            next.set_offset(call.offset.get()).set_len(call.len.get());
        }
    }

    /// The request waits for a wake of its call.
    ///
    /// # Safety
    /// [`Call::step`] has said [`Step::Wait`], or [`Call::came_back`] `false`, and the request is held:
    /// whoever held it has forgotten that.
    pub(super) unsafe fn wait(this: NonNull<Call>) {
        // SAFETY: the caller's.
        unsafe {
            let header = this.as_ref().slot.0.as_ptr();
            debug_assert!((*header).phase == Phase::Held);
            (*header).flags.set(flags::WAITS);
            this.as_ref().set(mark::WAITING);
        }
    }

    /// Somebody has rung the alarm.
    ///
    /// # Safety
    /// On the call's thread.
    pub(super) unsafe fn wake(this: NonNull<Call>) {
        // SAFETY: the caller's. After anything that lets go of the request, the call is not touched.
        unsafe {
            let call = this.as_ref();
            let slot = call.slot;
            if call.polling.get() {
                return call.set(mark::AGAIN);
            }
            if call.has(mark::BELOW) && !call.has(mark::ENDED) {
                let core = call.core();
                let _frame = core.frame();
                loop {
                    call.clear(mark::AGAIN);
                    (call.table.poll)(this);
                    let again = call.has(mark::AGAIN);
                    if call.has(mark::ENDED) || !call.has(mark::BELOW) || !again {
                        break;
                    }
                }
                if call.has(mark::BELOW) {
                    if call.has(mark::ENDED) {
                        // Nobody wants its result any more.
                        finish::cancel(slot);
                    }
                    return;
                }
            }
            if call.take(mark::WAITING) {
                (*slot.0.as_ptr()).flags.clear(flags::WAITS);
                travel::go_on_here(slot);
            }
        }
    }
}

/// The request's call, if it has one with this driver.
#[inline]
pub(super) fn of(irp: &Irp<'_>) -> Option<NonNull<Call>> {
    irp.scratch::<Owned>().map(Owned::call)
}

/// Tells a request's waiting call that the request has been cancelled.
///
/// # Safety
/// On the owner's thread; the request is marked as one whose call waits.
pub(crate) unsafe fn tell(slot: SlotPtr) {
    // SAFETY: the caller's; the current location is the call's driver's.
    unsafe {
        let owned = (*slot.current()).scratch.get_ref::<Owned>();
        Call::alarm(owned.expect("it waits").call()).ring();
    }
}

/// Tells the calls that have sent a request below, and wait for more than that, that it has been
/// cancelled.
///
/// # Safety
/// On the owner's thread; the request is in flight.
pub(crate) unsafe fn tell_above(slot: SlotPtr) {
    // SAFETY: the caller's; locations up to the cursor are initialised, and their calls alive.
    unsafe {
        for i in 0..(*slot.0.as_ptr()).cursor {
            let owned = (*slot.location(i)).scratch.get_ref::<Owned>();
            if let Some(alarm) = owned.and_then(|owned| owned.call().as_ref().made_alarm()) {
                alarm.ring();
            }
        }
    }
}

/// The way to the drivers below, for a future.
pub(super) fn next<'a>(call: NonNull<Call>) -> Next<'a> {
    Next::new(call)
}
