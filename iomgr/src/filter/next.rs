//! The way to the drivers below, as a filter's future has it.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::call::Call;
use super::io::Io;
use crate::buf::{IoBuf, IoBufMut};
use crate::clock;
use crate::file::FileObject;
use crate::processor::TimerId;
use crate::request::{Operation, Request};
use crate::status::Status;

/// The drivers below, and what else a filter's function may ask of the stack: time, chance, and
/// whether anybody still wants the result.
///
/// It is `Copy`: forwarding twice is a retry, and requests of the filter's own may go below as many
/// at a time as wanted.
#[derive(Clone, Copy)]
pub struct Next<'a> {
    call: NonNull<Call>,
    scope: PhantomData<&'a ()>,
}

// SAFETY: an address, used on the call's thread only: the functions that change anything look whether
// the calling thread polls the call; the others read what is atomic or never changes.
unsafe impl Send for Next<'_> {}
// SAFETY: as above.
unsafe impl Sync for Next<'_> {}

impl<'a> Next<'a> {
    pub(super) fn new(call: NonNull<Call>) -> Next<'a> {
        Next { call, scope: PhantomData }
    }

    /// The call.
    ///
    /// # Panics
    /// When the calling thread does not poll it: a future of this filter's function was taken
    /// elsewhere.
    #[inline]
    #[track_caller]
    pub(super) fn polled(&self) -> &Call {
        assert!(
            Call::is_polled(self.call),
            "a future of a filter's function is polled only as a part of that function's"
        );
        // SAFETY: the future being polled has this, so the call is there; on its thread.
        unsafe { self.call.as_ref() }
    }

    /// Sends the request to the driver below, as it is or, by the methods of [`Forward`], changed.
    /// Yields what came back: the information (bytes transferred, of reads and writes), or the status
    /// if that is none of success. Awaited again after a result, that is a retry (I-42).
    ///
    /// A request that has been cancelled is not sent: the result is [`Status::CANCELLED`]. (Cleanup and
    /// close are.)
    ///
    /// # Cancel safety
    /// Dropped before it is done, it asks for the request itself to end early: the filter's function can
    /// send nothing more below in its name, and what it returns is the result.
    #[inline]
    pub fn forward<'i>(self, io: &'i mut Io<'_>) -> Forward<'i> {
        debug_assert!(io.call() == self.call, "another request's");
        io.expect_whole();
        Forward { next: Next::new(io.call()), shift: None, state: State::New }
    }

    /// A request of the filter's own to the drivers below it, on the same file: an ordinary
    /// [`Request`], for as many at a time as wanted. It ends early when the filter's request is
    /// cancelled, or when it is dropped. (Those made for a cleanup or close, which somebody has stopped
    /// waiting for, do not: what they write must not be lost.)
    ///
    /// A read that is dropped loses what it has brought by then: it is nobody's but this filter's. One
    /// that is cancelled loses nothing: what it does not bring is the next one's. A read that ends with
    /// [`Status::DATA_ABOVE`] says that bytes are kept above for the filter's request, which fetches
    /// them by ending with the same.
    ///
    /// Awaiting it panics anywhere but in the filter's function.
    pub fn request<K: Operation>(self, operation: K) -> Below<'a, K> {
        // SAFETY: the request keeps its file and its stack, in whose route the device stands, for
        // longer than `'a`.
        let request = unsafe {
            let call = self.call.as_ref();
            Request::below(*call.slot(), call.device(), operation)
        };
        Below { next: self, request, told: false }
    }

    /// As [`Next::request`], on another file, of a member of a router for instance: it starts at the top of
    /// that file's stack. (A [`Request`] awaited as it is goes on when the filter's is cancelled.)
    pub fn request_on<'f, K: Operation>(self, file: &'f FileObject, operation: K) -> Below<'f, K>
    where
        'a: 'f,
    {
        Below { next: self, request: Request::new(file, operation), told: false }
    }

    /// Waits so long; or until the request is cancelled. In virtual time where there is one.
    pub fn sleep(self, time: Duration) -> Sleep<'a> {
        Sleep { next: self, at: clock::now().checked_add(time), timer: None }
    }

    /// The time; virtual where that is so.
    pub fn now(&self) -> Instant {
        clock::now()
    }

    /// A number by chance, all equally likely. From the seed, in a simulation.
    ///
    /// # Panics
    /// When the calling thread does not poll the filter's function.
    pub fn random(&self) -> u64 {
        self.polled().random()
    }

    /// Whether the request has been cancelled; in a child that its [fork](super::Fork) has called off, yes.
    /// The filter's function runs to its end all the same.
    pub fn is_cancelled(&self) -> bool {
        // SAFETY: the call is there as long as the future, which has this; atomics, its own and its
        // request's.
        let call = unsafe { self.call.as_ref() };
        call.is_cancelled() || call.is_called_off()
    }
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    New,
    Sent,
    Done,
}

/// The request on its way below; see [`Next::forward`].
#[must_use = "nothing is sent unless it is awaited"]
#[derive(Debug)]
pub struct Forward<'i> {
    next: Next<'i>,
    shift: Option<(u64, u32)>,
    state: State,
}

impl<'i> Forward<'i> {
    /// To another byte offset, and so many bytes at most (segments, of a vectored request). Of a receive
    /// into a pool buffer, the most that is wanted, at least 1.
    pub fn at(mut self, offset: u64, len: u32) -> Self {
        self.shift = Some((offset, len));
        self
    }

    /// With another buffer's bytes in place of a write's own. It comes back with the result.
    ///
    /// Awaiting it panics when the request receives: [`Forward::into`] is for that.
    pub fn from<B: IoBuf>(self, buffer: B) -> Lend<'i, B> {
        let memory = |b: &mut B| (b.as_ptr().cast_mut(), b.len());
        Lend { forward: self, buffer: Some(buffer), memory, receives: false }
    }

    /// Into another buffer's `len()` bytes in place of a read's own. It comes back with the result.
    ///
    /// Awaiting it panics when the request does not receive.
    pub fn into<B: IoBufMut>(self, buffer: B) -> Lend<'i, B> {
        let memory = |b: &mut B| (b.as_mut_ptr(), b.len());
        Lend { forward: self, buffer: Some(buffer), memory, receives: true }
    }
}

impl Forward<'_> {
    /// Asks for an early end, as a cancel of the filter's request does, and leaves the result to be
    /// awaited: what has come all the same is not lost then, as it may be when this is dropped. The
    /// filter's function can send nothing more below in the request's name. Without effect before it has
    /// been polled, and when it is done.
    ///
    /// # Panics
    /// When the calling thread does not poll the filter's function.
    pub fn cancel(&self) {
        if self.state == State::Sent {
            self.next.polled().cancel();
        }
    }

    /// `equip`: called before it is sent.
    #[inline(always)]
    fn poll_with(
        &mut self,
        cx: &mut Context<'_>,
        equip: impl FnOnce(&Call),
    ) -> Poll<Result<usize, Status>> {
        let call = self.next.polled();
        let called_off = call.is_called_off() && !call.ends_file();
        match self.state {
            State::New if called_off => {
                self.state = State::Done;
                return Poll::Ready(Err(Status::CANCELLED));
            }
            State::New => {
                if call.ask(self.shift) {
                    self.state = State::Sent;
                    equip(call);
                }
            }
            State::Sent => {
                if let Some(answer) = call.answer() {
                    self.state = State::Done;
                    return Poll::Ready(answer);
                }
                if called_off {
                    call.cancel();
                }
            }
            State::Done => panic!("polled after it was done"),
        }
        call.watch(self.next.call, cx);
        Poll::Pending
    }
}

impl Future for Forward<'_> {
    type Output = Result<usize, Status>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_with(cx, |_| ())
    }
}

impl Drop for Forward<'_> {
    #[inline]
    fn drop(&mut self) {
        // Dropped with the call, by its driver, it is back.
        if self.state == State::Sent && Call::is_polled(self.next.call) {
            self.next.polled().give_up();
        }
    }
}

/// The request on its way below with another buffer; see [`Forward::from`] and [`Forward::into`].
#[must_use = "nothing is sent unless it is awaited"]
#[derive(Debug)]
pub struct Lend<'i, B> {
    forward: Forward<'i>,
    buffer: Option<B>,
    memory: fn(&mut B) -> (*mut u8, usize),
    receives: bool,
}

// The buffer is never pinned: it moves into the call.
impl<B> Unpin for Lend<'_, B> {}

impl<B> Lend<'_, B> {
    /// As [`Forward::cancel`].
    ///
    /// # Panics
    /// As [`Forward::cancel`].
    pub fn cancel(&self) {
        self.forward.cancel();
    }
}

impl<B: Send + 'static> Future for Lend<'_, B> {
    type Output = (Result<usize, Status>, B);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let result = this.forward.poll_with(cx, |call| {
            // SAFETY: it is not below: it has just been asked for.
            unsafe {
                let receives = (*call.slot().0.as_ptr()).major.receives();
                assert_eq!(receives, this.receives, "the buffer is for the other direction");
                call.lend(this.buffer.take().expect("not sent yet"), this.memory);
            }
        });
        result.map(|result| {
            let buffer = this.buffer.take();
            // SAFETY: it has come back, if it was sent.
            (result, buffer.unwrap_or_else(|| unsafe { this.forward.next.polled().take_lent() }))
        })
    }
}

/// A request of a filter's own; see [`Next::request`] and [`Next::request_on`].
#[must_use = "nothing is sent unless it is awaited"]
#[derive(Debug)]
pub struct Below<'a, K> {
    next: Next<'a>,
    request: Request<'a, K>,
    told: bool,
}

impl<K: Operation> Future for Below<'_, K> {
    type Output = K::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<K::Output> {
        let this = &mut *self;
        // On the call's thread, whose processor knows what is still on its stack.
        let call = this.next.polled();
        let result = Pin::new(&mut this.request).poll(cx);
        let ends = call.is_called_off() || call.is_cancelled() && !call.ends_file();
        if result.is_pending() && !this.told && ends {
            this.told = true;
            this.request.cancel_issued();
        }
        result
    }
}

/// Some time; see [`Next::sleep`].
#[must_use = "time passes only if it is awaited"]
#[derive(Debug)]
pub struct Sleep<'a> {
    next: Next<'a>,
    /// `None`: too far to be expressed.
    at: Option<Instant>,
    timer: Option<TimerId>,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.next.is_cancelled() || self.at.is_some_and(|at| clock::now() >= at) {
            return Poll::Ready(());
        }
        let Some(at) = self.at else { return Poll::Pending };
        if self.timer.as_ref().is_some_and(|timer| timer.update(cx.waker())) {
            return Poll::Pending;
        }
        if let Some(old) = self.timer.take() {
            old.remove();
        }
        self.timer = TimerId::insert(at, cx.waker());
        if self.timer.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.remove();
        }
    }
}
