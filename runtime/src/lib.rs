//! An asynchronous I/O runtime for Linux, built the way Windows NT builds I/O.
//!
//! Every operation is a packet, an **IRP**. It travels down a stack of drivers, does real I/O
//! through io_uring (or epoll) at the bottom, comes back up through completion routines, and
//! reports by the way its caller chose. Filters can be stacked on files and sockets alike.
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! # let path = std::env::temp_dir().join(format!("overlapped-doc-{}", std::process::id()));
//! overlapped::block_on(async {
//!     overlapped::fs::write(&path, "hello").await?;
//!     let file = overlapped::fs::File::open(&path).await?;
//!     let (n, buf) = file.read_at(Vec::with_capacity(16), 0).await?;
//!     assert_eq!(&buf[..n], b"hello");
//! #   std::fs::remove_file(&path)?;
//!     Ok(())
//! })
//! # }
//! ```
//!
//! - [`fs`], [`net`], [`io`], [`signal`], [`time`]: what applications use.
//! - [`Request`]: one operation; await it, [wait](Request::wait) for it on a plain thread,
//!   [post](Request::post) it to a [`CompletionPort`], have it [set an event](Request::signal) or
//!   [call back](Request::queue_apc), or [look](Request::start) at it now and then. A port may get a
//!   [copy](Request::tee) of the result beside that.
//! - [`wait`]: events, and waiting for one or several objects; [`apc`]: callbacks on one thread.
//! - [`Builder`], [`Runtime`], [`LocalRuntime`], [`spawn`], [`block_on`]: the executor.
//! - [`task`]: sets of tasks, task-local values, telling tasks to end.
//! - [`sim`]: running a program, and the drivers under it, on a simulated machine.
//! - [`driver`]: writing filters; [`Stack`](driver::Stack): stacking them.
//!
//! # The six routes
//!
//! A request reports once, by the route that its caller has chosen. All but the first serve plain threads:
//!
//! ```
//! use overlapped::wait::{Alertable, Event, sleep, wait_any};
//! use overlapped::{CompletionPort, buf::BufResult, fs::OpenOptions, operation::Read};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let file = OpenOptions::new().read(true).open_wait("/proc/self/exe")?;
//! let read = || file.read_at(Vec::with_capacity(4), 0);
//! fn at_once(failed: BufResult<usize, Vec<u8>>) -> std::io::Error {
//!     failed.unwrap_err().into()
//! }
//!
//! // 1. Awaited, as a future, by whatever executor.
//! let (_, buf) = overlapped::block_on(read())?;
//! assert_eq!(buf, b"\x7fELF");
//!
//! // 2. Waited for.
//! assert_eq!(read().wait()?.1, buf);
//!
//! // 3. As a packet in a completion port. Here and below, `Err` is the result of a request that has
//! // failed at once, and so will not report; `at_once` makes an error of it.
//! let port = CompletionPort::new();
//! read().post(&port, 7).map_err(at_once)?;
//! let packet = port.remove(None)?;
//! assert_eq!((packet.key(), packet.info()), (7, 4));
//! assert_eq!(packet.into_output::<Read<Vec<u8>>>()?.1, buf);
//!
//! // 4. By an event.
//! let event = Event::manual(false);
//! let block = read().signal(&event).map_err(at_once)?;
//! wait_any(&[&event], None, Alertable::No)?;
//! assert_eq!(block.take().expect("it is done")?.1, buf);
//!
//! // 5. By a callback on this thread, while it waits alertably.
//! let (sender, receiver) = std::sync::mpsc::channel();
//! read().queue_apc(move |result| sender.send(result).unwrap()).map_err(at_once)?;
//! sleep(None, Alertable::Yes)?;
//! assert_eq!(receiver.recv()??.1, buf);
//!
//! // 6. Looked at now and then.
//! let block = read().start().map_err(at_once)?;
//! while !block.is_done() {
//!     std::thread::yield_now();
//! }
//! assert_eq!(block.take().expect("it is done")?.1, buf);
//! # Ok(())
//! # }
//! ```

pub mod driver;
mod executor;
pub mod fs;
pub mod io;
pub mod net;
pub mod signal;
pub mod sim;
pub mod task;
mod testing;
pub mod time;

pub use executor::{
    Builder, Flavor, Handle, JoinError, JoinHandle, LocalRuntime, Runtime, RuntimeReport, Stall,
    WorkerMetrics, block_on, spawn, spawn_blocking, spawn_local,
};
pub use overlapped_drivers::hal::{
    Backend, Config as HardwareConfig, EpollConfig, UnknownBackend, UringConfig,
};
pub use overlapped_iomgr::{
    Block, Cancel, Census, CompletionPort, DriverCensus, DriverCounts, IrpCounts, Issued,
    IssuerScope, Limits, LiveRequest, MajorCounts, Next, NoPacket, Operation, Packet, PortOptions,
    Request, Rights, SizeClass, Status, StatusClass, WaitPacket, driver_counts, live_requests,
};
pub use overlapped_iomgr::{apc, buf, wait};
pub use overlapped_macros::{main, test};

/// The operations behind the methods of files and sockets, by name: the type parameter of
/// [`Packet::into_output`].
pub mod operation {
    pub use overlapped_drivers::class::{
        Accept, AddCount, Allocate, Close, Connect, CopyRange, Create, Delete, Entries, Entry,
        Flush, Hint, Link, MakeDirectory, Name, NormalizeName, PassDescriptors, PollEvents,
        QueryAttributes, QueryDirectory, QueryInformation, QueryPosition, Read, ReadLink,
        ReadVectored, ReceiveLease, ReceiveMessage, Rename, SendMessage, SetLength, SetPosition,
        SetSecurity, Shutdown, SymbolicLink, TakeCount, Write, WriteVectored, ZeroData, ZeroRange,
    };
}

/// Lets the other tasks of this worker run, and its I/O be reaped, before going on: the task goes
/// to the back of the queue.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        if !executor::yield_running(cx.waker()) {
            cx.waker().wake_by_ref();
        }
        std::task::Poll::Pending
    })
    .await;
}
