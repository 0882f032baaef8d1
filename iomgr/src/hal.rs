//! The hardware contract: what the I/O manager asks of io_uring or epoll.
//!
//! The I/O manager is plain code over memory. Everything it needs from the machine passes through
//! [`Hal`], one object per processor, driven by that processor's thread: *submit* an operation,
//! *cancel* one, *turn* the crank with a time limit, and a [`Wake`] handle that other threads may
//! use. Reads next: [`crate::processor`], which owns one `Hal`; the implementations live in the
//! `overlapped-drivers` crate.

use std::ffi::{c_char, c_int, c_void};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::buf::Lease;
use crate::status::Status;

/// The name under which an operation is known to the hardware: the IRP's own address.
///
/// The three low bits are always zero, so that an implementation can tag its own entries.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u64);

impl Token {
    /// Makes a token from a value whose three low bits are zero.
    ///
    /// # Panics
    /// When one of the three low bits is set.
    ///
    /// ```
    /// let token = overlapped_iomgr::hal::Token::new(0x1000);
    /// assert_eq!(token.get(), 0x1000);
    /// ```
    pub fn new(value: u64) -> Token {
        assert_eq!(value & 7, 0, "a token's three low bits must be zero");
        Token(value)
    }

    /// The value, for use as an SQE's `user_data`.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the address itself (rule S-6): a token printed in an error must not help an attacker.
        f.write_str("Token(..)")
    }
}

/// One hardware operation. Pointers stay valid until its [`Completion`].
///
/// Whoever calls [`Hal::submit`] keeps that promise; in this crate it is the IRP, which owns every
/// byte the operation names (design: "kernel-visible memory belongs to the IRP until its final
/// CQE").
// A tag of its own: one that hides in a field takes ten instructions to look at, for each look.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
#[non_exhaustive]
pub enum Op {
    /// Does nothing and completes with 0; measures the framework itself.
    Nop,
    /// Positional read; `offset == u64::MAX` reads at the file's own position.
    Read {
        /// Descriptor.
        fd: c_int,
        /// First byte to fill.
        buf: *mut u8,
        /// Bytes at `buf`.
        len: u32,
        /// The file's driver allows doing it inline when the thread is alone (not for direct I/O).
        inline: bool,
        /// Byte offset in the file.
        offset: u64,
    },
    /// Positional write; `offset == u64::MAX` writes at the file's own position (or appends).
    Write {
        /// Descriptor.
        fd: c_int,
        /// First byte to write.
        buf: *const u8,
        /// Bytes at `buf`.
        len: u32,
        /// The file's driver allows doing it inline when the thread is alone (not for direct I/O).
        inline: bool,
        /// On the medium when it completes: the data, and what is needed to read it back.
        through: bool,
        /// Byte offset in the file.
        offset: u64,
    },
    /// Positional vectored read.
    ReadV {
        /// Descriptor.
        fd: c_int,
        /// Array of `struct iovec`.
        iov: *const c_void,
        /// Elements in the array.
        count: u32,
        /// Byte offset in the file, or `u64::MAX`.
        offset: u64,
    },
    /// Positional vectored write.
    WriteV {
        /// Descriptor.
        fd: c_int,
        /// Array of `struct iovec`.
        iov: *const c_void,
        /// Elements in the array.
        count: u32,
        /// On the medium when it completes: the data, and what is needed to read it back.
        through: bool,
        /// Byte offset in the file, or `u64::MAX`.
        offset: u64,
    },
    /// Reads from what has readiness and no position of its own: a pipe, a terminal, a counter. Also
    /// from anything that stands in for one: a redirected file, at its position.
    ReadStream {
        /// Descriptor.
        fd: c_int,
        /// First byte to fill.
        buf: *mut u8,
        /// Bytes at `buf`.
        len: u32,
        /// No other process shares the open file: it may be made non-blocking.
        own: bool,
    },
    /// Writes to what [`Op::ReadStream`] reads from.
    WriteStream {
        /// Descriptor.
        fd: c_int,
        /// First byte to write.
        buf: *const u8,
        /// Bytes at `buf`.
        len: u32,
        /// As in [`Op::ReadStream`].
        own: bool,
    },
    /// Receives from a socket into the given memory.
    Recv {
        /// Socket.
        fd: c_int,
        /// First byte to fill.
        buf: *mut u8,
        /// Bytes at `buf`.
        len: u32,
        /// `MSG_*` flags.
        flags: c_int,
    },
    /// Receives from a socket into a buffer of the processor's pool, chosen when data is there.
    /// The completion carries the [`Lease`]; `-ENOBUFS` when the pool is empty.
    RecvPooled {
        /// Socket.
        fd: c_int,
        /// Most bytes wanted; 0 means one whole pool buffer.
        len: u32,
    },
    /// Sends to a connected socket; implementations add `MSG_NOSIGNAL`.
    Send {
        /// Socket.
        fd: c_int,
        /// First byte to send.
        buf: *const u8,
        /// Bytes at `buf`.
        len: u32,
        /// `MSG_*` flags.
        flags: c_int,
    },
    /// `recvmsg`. With `MSG_DONTWAIT`, a socket that has nothing gives `-EAGAIN`.
    RecvMsg {
        /// Socket.
        fd: c_int,
        /// A `struct msghdr`.
        msg: *mut c_void,
        /// `MSG_*` flags.
        flags: c_int,
        /// The socket carries messages, no stream.
        messages: bool,
    },
    /// `sendmsg`; implementations add `MSG_NOSIGNAL`.
    SendMsg {
        /// Socket.
        fd: c_int,
        /// A `struct msghdr`.
        msg: *const c_void,
        /// `MSG_*` flags.
        flags: c_int,
    },
    /// Accepts one connection; the result is its descriptor (close-on-exec).
    Accept {
        /// Listening socket.
        fd: c_int,
    },
    /// Connects a socket.
    Connect {
        /// Socket.
        fd: c_int,
        /// A `struct sockaddr`.
        addr: *const c_void,
        /// Its length in bytes.
        len: u32,
    },
    /// Shuts down one or both directions of a socket.
    Shutdown {
        /// Socket.
        fd: c_int,
        /// `SHUT_*`.
        how: c_int,
    },
    /// Opens a path; the result is the descriptor. Implementations add `O_CLOEXEC`.
    Open {
        /// Directory a relative path starts at, or `AT_FDCWD`.
        at: c_int,
        /// NUL-terminated path.
        path: *const c_char,
        /// `O_*` flags.
        flags: c_int,
        /// Permission bits for a new file.
        mode: u32,
    },
    /// Closes a descriptor.
    Close {
        /// Descriptor; not used by anybody else any more.
        fd: c_int,
        /// Closing it takes no time worth a trip: it may be done on the spot.
        now: bool,
    },
    /// Flushes a file to the medium.
    Sync {
        /// Descriptor.
        fd: c_int,
        /// Data only (`fdatasync`).
        data_only: bool,
    },
    /// `statx` on an open descriptor (`AT_EMPTY_PATH`), basic fields and birth time.
    Stat {
        /// Descriptor.
        fd: c_int,
        /// A `struct statx` to fill.
        out: *mut c_void,
    },
    /// `statx` of a path relative to `at`, basic fields and birth time.
    StatPath {
        /// Directory, or `AT_FDCWD`.
        at: c_int,
        /// NUL-terminated path.
        path: *const c_char,
        /// `AT_*` flags.
        flags: c_int,
        /// A `struct statx` to fill.
        out: *mut c_void,
    },
    /// Renames within or between directories; what has the new name already is replaced.
    Rename {
        /// Directory both paths are relative to, or `AT_FDCWD`.
        at: c_int,
        /// NUL-terminated old path.
        from: *const c_char,
        /// NUL-terminated new path.
        to: *const c_char,
    },
    /// Removes a name.
    Unlink {
        /// Directory, or `AT_FDCWD`.
        at: c_int,
        /// NUL-terminated path.
        path: *const c_char,
        /// `AT_REMOVEDIR` for a directory, else 0.
        flags: c_int,
    },
    /// Makes a directory.
    MakeDirectory {
        /// Directory, or `AT_FDCWD`.
        at: c_int,
        /// NUL-terminated path.
        path: *const c_char,
        /// Permission bits.
        mode: u32,
    },
    /// Makes a hard link.
    Link {
        /// Directory both paths are relative to, or `AT_FDCWD`.
        at: c_int,
        /// NUL-terminated path of what is there.
        from: *const c_char,
        /// NUL-terminated path of the new name.
        to: *const c_char,
        /// `AT_SYMLINK_FOLLOW`, or 0.
        flags: c_int,
    },
    /// Makes a symbolic link.
    SymbolicLink {
        /// Directory `path` is relative to, or `AT_FDCWD`.
        at: c_int,
        /// NUL-terminated text of the link.
        target: *const c_char,
        /// NUL-terminated path of the link.
        path: *const c_char,
    },
    /// `fallocate`: space for a range, or a hole.
    Allocate {
        /// Descriptor.
        fd: c_int,
        /// `FALLOC_FL_*`.
        mode: c_int,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// `posix_fadvise`.
    Advise {
        /// Descriptor.
        fd: c_int,
        /// First byte.
        offset: u64,
        /// Bytes; 0 for all behind `offset`.
        len: u64,
        /// `POSIX_FADV_*`.
        advice: c_int,
    },
    /// Sets a file's length.
    SetLength {
        /// Descriptor.
        fd: c_int,
        /// New length in bytes.
        len: u64,
    },
    /// Waits once until the descriptor is ready; the result is the mask of `POLL*` bits.
    Poll {
        /// Descriptor.
        fd: c_int,
        /// `POLL*` bits asked for.
        events: u32,
    },
    /// Runs a blocking function on the thread pool; its return value is the result
    /// (negative = errno). It cannot be cancelled once it runs.
    Call {
        /// The function.
        run: unsafe fn(*mut c_void) -> i32,
        /// Its argument.
        arg: *mut c_void,
    },
}

const _: () = assert!(size_of::<Op>() == 32);

/// A send of so many bytes is better tried at once.
const LARGE: u32 = 16 * 1024;

impl Op {
    /// Whether it is better tried at once than left to a batch: a send of 16 KiB or more, which have just
    /// been written or received, and are in the cache, where they are not any more after a batch of such.
    ///
    /// ```
    /// use overlapped_iomgr::hal::Op;
    /// let send = |len| Op::Send { fd: 0, buf: std::ptr::null(), len, flags: 0 };
    /// assert!(send(64 * 1024).is_urgent() && !send(64).is_urgent());
    /// ```
    pub fn is_urgent(&self) -> bool {
        matches!(self, Op::Send { len: LARGE.., .. })
    }

    /// Whether an attempt at it takes no longer for a slow device: it goes on at once, or not at all.
    pub(crate) fn never_waits(&self) -> bool {
        matches!(self, Op::Send { .. } | Op::SendMsg { .. } | Op::RecvMsg { .. })
    }
}

/// What came back from the hardware.
#[derive(Debug)]
pub struct Completion {
    /// Which operation.
    pub token: Token,
    /// Result: as the system call's, or the negated errno.
    pub result: i32,
    /// The pool buffer that holds the data of [`Op::RecvPooled`], cut to the bytes received.
    pub lease: Option<Lease>,
}

impl Completion {
    /// The result as a status: an errno (`ECANCELED` as NT's [`Status::CANCELLED`]), or success.
    #[inline]
    pub fn status(&self) -> Status {
        const ECANCELED: i32 = 125;
        match self.result {
            n if n >= 0 => Status::SUCCESS,
            n if n == -ECANCELED => Status::CANCELLED,
            n => Status::from_errno(-n),
        }
    }

    /// The result as a number of bytes (or a descriptor, …); 0 for errors.
    #[inline]
    pub fn info(&self) -> usize {
        self.result.max(0) as usize
    }
}

/// How long [`Hal::turn`] may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: hand over what is there.
    No,
    /// Until something completes or [`Wake::wake`] is called.
    Forever,
    /// As `Forever`, but at most this long.
    For(Duration),
}

/// The hardware of one processor. Owned and called by that processor's thread alone; that of a plain
/// thread's processor by whichever thread drives it ([`crate::processor::set_hardware_factory`]).
///
/// # Safety
/// The I/O manager believes what an implementation says: every completion names a token given to
/// [`Hal::submit`] and not yet completed for good; exactly one completion comes for each; a
/// positive result of an operation that receives means that so many bytes of its memory are filled;
/// and the memory is not touched after the final completion.
pub unsafe trait Hal {
    /// The backend's name: `"io_uring"`, `"epoll"`, ….
    fn name(&self) -> &'static str;

    /// Starts an operation.
    ///
    /// `Some(result)` means that it was finished on the spot and no completion will follow; `None`
    /// that exactly one final completion will be delivered by [`Hal::turn`], whatever happens: a
    /// full queue makes the operation wait inside the implementation and is never an error.
    ///
    /// `alone` says that nothing else on this thread is runnable, so that doing a short operation
    /// inline delays nobody; or that it is better for this one not to wait for others.
    ///
    /// # Safety
    /// The memory `op` names must stay valid, and not be used by anybody else in a conflicting way,
    /// until the final completion has been delivered. `token` must not name another operation in
    /// flight.
    unsafe fn submit(&mut self, token: Token, op: Op, alone: bool) -> Option<i32>;

    /// Asks that an operation end early. A message, never a promise (X-5): its final completion
    /// still comes, with `-ECANCELED` or any other result. Must not be lost. Unknown tokens are
    /// ignored.
    fn cancel(&mut self, token: Token);

    /// Submits what is queued, sleeps as `wait` allows, and appends what has completed to `done`:
    /// at most a bounded number (some hundreds) a call. A sleep may end early, with nothing.
    ///
    /// # Errors
    /// Only when the backend itself is broken; an operation's own failure is its completion.
    fn turn(&mut self, wait: Wait, done: &mut Vec<Completion>) -> io::Result<()>;

    /// The turn that comes was to sleep and does not, because there is mail, or work that it has made.
    /// For hardware that takes turns for time: what other threads do is not to change it.
    fn roused(&mut self) {}

    /// Operations submitted whose final completion has not been delivered. The processor is torn
    /// down only when this is zero; otherwise the `Hal` and all its memory are leaked.
    fn in_flight(&self) -> usize;

    /// The handle by which other threads end a sleep of [`Hal::turn`].
    fn wake_handle(&self) -> Arc<dyn Wake>;

    /// A descriptor that is readable, from now to the next turn, when a turn would find something: a
    /// completion, or a wake. Asked after a turn that found nothing. For hardware that is driven by
    /// several threads, one at a time; `None` where there is none.
    fn watch(&mut self) -> Option<c_int> {
        None
    }

    /// What the processor's source of chance begins with; asked once. A simulation says its own.
    fn seed(&self) -> u64 {
        std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
    }
}

/// Ends a processor's sleep from any thread.
pub trait Wake: Send + Sync {
    /// Makes the current or the next [`Hal::turn`] that would sleep return. Never blocks.
    fn wake(&self);
}
