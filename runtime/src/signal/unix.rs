//! Listeners for any signal.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use overlapped_drivers::class::TakeCount;
use overlapped_iomgr::{Done, FileObject, Major, Operation, Request, Setup, Stack, Status};
use signal_hook_registry::SigId;

use crate::io::{EventFd, pipe_stack_of};

/// Which signal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SignalKind(i32);

macro_rules! kinds {
    ($($name:ident = $number:ident, $doc:literal;)*) => {
        impl SignalKind {
            $(
                #[doc = concat!("`", stringify!($number), "`: ", $doc)]
                pub const fn $name() -> SignalKind {
                    SignalKind(libc::$number)
                }
            )*
        }
    };
}

kinds! {
    alarm = SIGALRM, "a timer of `alarm` or `setitimer` has expired.";
    child = SIGCHLD, "a child has ended, stopped or gone on.";
    hangup = SIGHUP, "the terminal is gone; for a daemon, by custom: read the settings again.";
    interrupt = SIGINT, "Control-C at the terminal.";
    io = SIGIO, "a descriptor that asked for it is ready.";
    pipe = SIGPIPE, "a pipe without a reader was written to.";
    quit = SIGQUIT, "Control-\\ at the terminal.";
    terminate = SIGTERM, "somebody asks the process to end.";
    user_defined1 = SIGUSR1, "what the program makes of it.";
    user_defined2 = SIGUSR2, "what the program makes of it.";
    window_change = SIGWINCH, "the terminal has another size.";
}

impl SignalKind {
    /// By number: one of the kinds that have no name here, or a real-time signal.
    pub const fn from_raw(number: i32) -> SignalKind {
        SignalKind(number)
    }

    /// The number.
    pub const fn as_raw(self) -> i32 {
        self.0
    }
}

/// Listens to a signal from now on, in place of its default action.
///
/// # Errors
/// `InvalidInput` for what is no signal, or one that nobody may or should listen to (`SIGKILL`,
/// `SIGSTOP`, and those of faults: `SIGSEGV`, `SIGILL`, `SIGFPE`); when descriptors are exhausted, when
/// the runtime of this thread is ending, or the thread can have no processor.
pub fn signal(kind: SignalKind) -> io::Result<Signal> {
    signal_with(kind, pipe_stack_of([])?)
}

/// As [`signal`], with filters on the listener ([`pipe_stack_of`]). They see the eight bytes of its
/// counter as they are read.
///
/// # Errors
/// As [`signal`].
pub fn signal_with(kind: SignalKind, stack: Arc<Stack>) -> io::Result<Signal> {
    if kind.0 <= 0 || signal_hook_registry::FORBIDDEN.contains(&kind.0) {
        let what = format!("the signal {} cannot be listened to", kind.0);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let event = EventFd::new_with(0, stack)?;
    let bell = Bell(event.as_fd().try_clone_to_owned()?);
    // SAFETY: the action only makes a system call that a signal handler may make.
    let id = unsafe { signal_hook_registry::register(kind.0, move || bell.ring()) }?;
    Ok(Signal { event, id, next: None })
}

/// The signal handler's own descriptor of a listener's counter; it is closed with the action, when no
/// handler runs it any more.
struct Bell(OwnedFd);

impl Bell {
    fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // The counter is full after more signals than a machine's life has.
        // SAFETY: eight bytes that live through the call, and an open descriptor.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

/// A listener for one kind of signal; see [`signal`] and the [module](super). A stream, too, which
/// never ends.
///
/// ```
/// use overlapped::signal::unix::{SignalKind, signal};
/// overlapped::block_on(async {
///     let hangup = signal(SignalKind::hangup())?;
///     // SAFETY: there is a listener.
///     unsafe { libc::raise(libc::SIGHUP) };
///     hangup.recv().await
/// })?;
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Signal {
    event: EventFd,
    id: SigId,
    /// What the stream waits for.
    next: Option<Request<'static, TakeSignal>>,
}

impl Signal {
    /// Waits until the signal has come since this listener was made, or looked last.
    ///
    /// Cancel-safe: a signal that a dropped receive has seen is the next one's (X-35).
    ///
    /// # Errors
    /// Those of the system.
    pub fn recv(&self) -> Request<'_, TakeSignal> {
        Request::new(self.event.object(), TakeSignal(TakeCount))
    }

    /// The file object, for building requests of one's own and for looking at its stack.
    pub fn object(&self) -> &FileObject {
        self.event.object()
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        signal_hook_registry::unregister(self.id);
    }
}

impl Stream for Signal {
    type Item = io::Result<()>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let next = this.next.get_or_insert_with(|| {
            Request::owned(this.event.object().handle(), TakeSignal(TakeCount))
        });
        let poll = Pin::new(next).poll(cx);
        if poll.is_ready() {
            this.next = None;
        }
        poll.map(Some)
    }
}

/// The operation of [`Signal::recv`].
#[derive(Debug)]
pub struct TakeSignal(TakeCount);

impl Operation for TakeSignal {
    type Output = io::Result<()>;

    fn major(&self) -> Major {
        self.0.major()
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        self.0.prepare(setup);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        TakeCount::finish(done).map(drop)
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}
