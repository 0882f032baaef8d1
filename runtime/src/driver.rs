//! Writing drivers, and stacking them.
//!
//! A filter implements [`Driver`]: it names the majors (operations) that it [hooks](Driver::hooks), and
//! gets each such request as an [`Irp`] on its way down. It ends its turn in one of these ways, each of
//! which takes the request and yields the [`Disposition`] to return:
//!
//! - [`Lower::skip`]: the request goes on, and is not seen again;
//! - [`Lower::forward`]: it goes on, and [`Driver::completed`] gets it on its way up, if it ends as [`On`]
//!   says;
//! - [`Irp::complete`]: it is answered here, and goes up;
//! - [`Irp::park`] in a [`CancelSafeQueue`], or [`Irp::hold`]: it is kept for later;
//! - [`Irp::split`]: it goes on in parts.
//!
//! What a filter wants to remember of a request until it comes back up goes into its
//! [scratch](Irp::set_scratch); a write's changed copy is [lent](NextLocation::lend) to those below.
//! Methods run on any thread, several at once, and must not block.
//!
//! Here is one with a quota, tried on a bottom that is memory, both when that answers at once and when
//! it does not ([`filter::Later`]). [`crate::sim`] tries it with faults.
//!
//! ```
//! use overlapped::Status;
//! use overlapped::driver::{
//!     Completion, Disposition, Driver, Irp, Lower, Major, MajorSet, On, Unwinding,
//! };
//! use overlapped::driver::{bottom::Memory, filter::Later};
//! use overlapped::fs::OpenOptions;
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicUsize, Ordering};
//!
//! /// Refuses to write more bytes than it has left.
//! struct Quota {
//!     left: AtomicUsize,
//! }
//!
//! /// What a write on its way has been charged.
//! struct Charge(usize);
//!
//! impl Driver for Quota {
//!     fn name(&self) -> &str {
//!         "quota"
//!     }
//!     fn hooks(&self) -> MajorSet {
//!         MajorSet::of(&[Major::Write])
//!     }
//!     fn dispatch(&self, mut irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
//!         let bytes = irp.segments().map(<[u8]>::len).sum();
//!         let less = |left: usize| left.checked_sub(bytes);
//!         if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
//!             return irp.complete(Status::DISK_FULL, 0);
//!         }
//!         irp.set_scratch(Charge(bytes));
//!         lower.forward(irp, On::ALL)
//!     }
//!     fn completed(&self, irp: Unwinding<'_>) -> Completion {
//!         // What was not written is given back.
//!         let Charge(bytes) = irp.scratch().expect("set on the way down");
//!         let written = if irp.status().is_success() { irp.info() } else { 0 };
//!         self.left.fetch_add(bytes - written, Ordering::Relaxed);
//!         irp.proceed()
//!     }
//! }
//!
//! # overlapped::block_on(async {
//! for below in [None, Some(Arc::new(Later))] {
//!     let quota = Arc::new(Quota { left: AtomicUsize::new(10) });
//!     let mut options = OpenOptions::new().read(true).write(true).filter(quota.clone());
//!     if let Some(later) = below {
//!         options = options.filter(later);
//!     }
//!     let file = options.on(Arc::new(Memory::new())).open("a name").await?;
//!     file.write_at("12345678", 0).await?;
//!     let refused = file.write_at("901", 8).await.unwrap_err();
//!     assert_eq!(refused.status(), Status::DISK_FULL);
//!     file.write_vectored_at(vec!["9", "0"], 8).await?;
//!     assert_eq!(quota.left.load(Ordering::Relaxed), 0);
//! }
//! # std::io::Result::Ok(())
//! # }).unwrap();
//! ```

/// Bottoms that are memory, for [`OpenOptions::on`](crate::fs::OpenOptions::on): files without a
/// file system, for programs and for tests of filters.
///
/// They answer at once, inside dispatch; [`filter::Later`] above one makes
/// its requests pend. Reads and writes, at an offset, vectored and appending, flushes, attributes,
/// lengths and holes are as those of a file; what none of them has (names, permissions, reserved
/// space) fails with [`Status::NOT_SUPPORTED`](crate::Status::NOT_SUPPORTED), and what no file has
/// with [`Status::INVALID_DEVICE_REQUEST`](crate::Status::INVALID_DEVICE_REQUEST).
///
/// ```
/// # overlapped::block_on(async {
/// use overlapped::Status;
/// use overlapped::driver::bottom::{Failing, Full, Memory, Null, Pattern, Zero};
/// use overlapped::driver::{Driver, Major, MajorSet};
/// use overlapped::fs::OpenOptions;
/// use std::io::ErrorKind;
/// use std::sync::Arc;
///
/// let open = async |bottom: Arc<dyn Driver>| {
///     OpenOptions::new().read(true).write(true).on(bottom).open("a name").await
/// };
///
/// let file = open(Arc::new(Memory::new())).await?;
/// file.write_all_at("hello", 1_000_000).await?;
/// let metadata = file.metadata().await?;
/// assert_eq!((metadata.len(), metadata.allocated()), (1_000_005, 4096));
///
/// let file = open(Arc::new(Null)).await?;
/// assert_eq!(file.write_at("forgotten", 0).await?.0, 9);
/// assert_eq!(file.read_at(vec![1; 4], 0).await?.0, 0);
///
/// let file = open(Arc::new(Zero)).await?;
/// assert_eq!(file.read_at(vec![1; 4], 7).await?, (4, vec![0; 4]));
///
/// let file = open(Arc::new(Full)).await?;
/// let refused = std::io::Error::from(file.write_at("no", 0).await.unwrap_err());
/// assert_eq!(refused.kind(), ErrorKind::StorageFull);
///
/// let file = open(Arc::new(Pattern::new(1, 1 << 40))).await?;
/// let (_, bytes) = file.read_at(vec![0; 100], 1 << 39).await?;
/// assert_eq!(file.write_at(bytes.clone(), 1 << 39).await?.0, 100);
/// let refused = file.write_at(bytes, 0).await.unwrap_err();
/// assert_eq!(Status::from(&std::io::Error::from(refused)), Status::DATA_ERROR);
///
/// let flushes = MajorSet::of(&[Major::Flush]);
/// let file = open(Arc::new(Failing::new(flushes, Status::IO_TIMEOUT))).await?;
/// assert_eq!(file.sync_all().await.unwrap_err().kind(), ErrorKind::TimedOut);
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub mod bottom {
    pub use overlapped_drivers::bottom::{Failing, Full, Memory, Null, Opened, Pattern, Zero};
}
/// The hardware, as a bottom driver of one's own sees it: what it hands over with
/// [`Irp::submit`], and what [`Driver::hardware`] gets back.
///
/// ```
/// # overlapped::block_on(async {
/// use overlapped::driver::{Disposition, Driver, Irp, Lower, Major, MajorSet, hal::Op};
/// use overlapped::{Status, fs::OpenOptions};
/// use std::sync::Arc;
///
/// /// Has nothing to flush, and takes a trip through the hardware to say so.
/// struct Bottom;
///
/// impl Driver for Bottom {
///     fn name(&self) -> &str {
///         "mine"
///     }
///     fn hooks(&self) -> MajorSet {
///         MajorSet::of(&[Major::Create, Major::Flush, Major::Close])
///     }
///     fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
///         match irp.major() {
///             // SAFETY: the operation names no memory.
///             Major::Flush => return unsafe { irp.submit(Op::Nop) },
///             major => _ = irp.file().set_open(major == Major::Create),
///         }
///         irp.complete(Status::SUCCESS, 0)
///     }
/// }
///
/// let file = OpenOptions::new().write(true).on(Arc::new(Bottom)).open("nothing").await?;
/// file.sync_all().await?;
/// file.close().await
/// # }).unwrap();
/// ```
pub mod hal {
    pub use overlapped_iomgr::hal::{Completion, Op, Token};
}
pub use overlapped_drivers::class::Envelope;
pub use overlapped_drivers::{filter, text};
pub use overlapped_iomgr::driver::{Capabilities, Limits};
pub use overlapped_iomgr::filter::{
    Below, Filter, Fork, Forward, Io, Lend, Next, Outcomes, RangeLock, RangeLocks, Settle, Shared,
    SharedMut, Sleep, heap_futures,
};
pub use overlapped_iomgr::{
    Altitude, AltitudeTaken, Attachment, BadAltitude, CancelSafeQueue, Change, ChangeError, Class,
    Companion, Completion, Device, Disposition, Done, Driver, FileHandle, FileObject, Group, Held,
    Irp, Late, Lower, MAX_LOCATIONS, Major, MajorSet, NextLocation, On, Opening, OutOfOrder, Part,
    PerCore, Place, Registration, RelatedFile, Setup, Stack, StackError, Unwinding, View, Visit,
    Why, minor, register_filter,
};

/// Testing filters and bottoms: a kit for the tests of those who write them.
///
/// | what | is for |
/// |---|---|
/// | [`Script`](testing::Script) | a bottom that says what was written down: exact answers, short ones, late ones, none |
/// | [`Stream`](testing::Stream) | a stream on such a bottom, without a descriptor |
/// | [`Log`](testing::Log) | what passes a place in a stack, with data and results |
/// | [`Verifier`](testing::Verifier) | a pair of drivers around a filter, which finds what it may not do |
/// | [`each_failure`](testing::each_failure) | each request below fails once |
/// | [`conformance`](testing::conformance) | suites that every filter, or every bottom, of a kind should pass |
///
/// The bottoms that are memory ([`bottom`]), [`filter::Later`], [`filter::Fault`] and [`crate::sim`] go well
/// with them. `docs/testing-filters.md` shows how.
///
/// ```
/// use overlapped::driver::testing::{Log, Verifier};
/// use overlapped::driver::{Major, bottom::Memory, filter::Xor};
/// use overlapped::fs::OpenOptions;
/// use std::sync::Arc;
///
/// # overlapped::block_on(async {
/// let (verifier, log) = (Verifier::new(), Log::new());
/// let mut options = OpenOptions::new().read(true).write(true).on(Arc::new(Memory::new()));
/// for driver in verifier.around([Arc::new(Xor(1)) as _]) {
///     options = options.filter(driver);
/// }
/// let file = options.filter(log.driver()).open("tested").await?;
/// file.write_all_at("abc", 7).await?;
///
/// let written = &log.of(Major::Write)[0];
/// assert_eq!((written.offset, &written.data[..]), (Some(7), &b"`cb"[..]));
/// assert_eq!(verifier.findings(), []);
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub mod testing {
    pub use crate::testing::{
        Answer, Finding, Gate, Log, Misdeed, Record, Script, Stream, Verifier, conformance,
        each_failure,
    };
}
