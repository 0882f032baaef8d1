//! Where records go: a bounded queue, and a thread that writes what is in it.
//!
//! Whoever does I/O puts a record into the queue, or counts it as dropped, and goes on; it takes no lock
//! and waits for nothing. The writer looks into the queue by itself, every millisecond while there is
//! something, so that nobody has to wake it; after a second without records it sleeps until somebody
//! does. Whoever wants to know that all has been written leaves a [`Task`], which is over then.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::encode::Encoder;
use super::output::Output;
use super::record::Record;
use super::writer::{Leaves, Writer};
use crate::filter::opens::Task;
use crate::hal::sim::Simulator;

/// What a [`Sink`] makes of requests.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Format {
    /// A line of JSON for each request.
    Jsonl,
    /// Chrome's trace format, which Perfetto reads too: requests on a time line, a row for each layer.
    Chrome,
    /// Packets as `tcpdump` and Wireshark read them, with headers made from the socket's addresses. Only
    /// of sockets with IP addresses; of other requests nothing.
    Pcap,
    /// A line for each request, and its bytes, in hexadecimal and as text.
    Hexdump,
    /// Events of `tracing`, in the target `overlapped::trace`, at level `INFO`. They come from the
    /// writer's thread, a moment later.
    Events,
}

/// Requests that wait to be written, unless it is said otherwise.
pub(super) const QUEUE: usize = 64 << 10;

impl Format {
    /// How many bytes of a request's data are kept unless the filter says otherwise.
    pub(super) fn usual_bytes(self) -> usize {
        match self {
            Format::Jsonl | Format::Chrome | Format::Events => 0,
            Format::Pcap => usize::MAX,
            Format::Hexdump => 256,
        }
    }
}

/// What a sink has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Totals {
    /// Requests that have been written.
    pub records: u64,
    /// Requests that have not: the queue was full, or writing failed.
    pub dropped: u64,
}

/// How a sink is made; see [`Sink::builder`].
#[derive(Clone, Debug)]
pub struct SinkBuilder {
    format: Format,
    queue: usize,
    memory: usize,
}

/// Where a [`Trace`](super::Trace) writes to. Clones are the same sink, and so are several filters'.
///
/// Nothing that happens here blocks I/O: what comes faster than it can be written is dropped, and
/// counted ([`Sink::totals`]).
///
/// What has been recorded is written, at the latest, when the last file of a filter is closed: that
/// close is done when it is. Everything so far is, when [`Sink::finish`] returns. When the last clone has
/// been dropped, the filters' included, the writer ends in its own time.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; } }
/// use overlapped::driver::filter::{Trace, trace::{Format, Sink}};
///
/// let sink = Sink::builder(Format::Jsonl).queue(1000).write_to(Vec::new())?;
/// let (upper, lower) = (Trace::new("upper").to(&sink), Trace::new("lower").to(&sink));
/// // ... into stacks with them.
/// assert_eq!(sink.finish()?.records, 0);
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone)]
pub struct Sink(Arc<Handle>);

pub(super) struct Handle {
    /// Taken when the last clone goes.
    queue: Option<SyncSender<Record>>,
    writer: Thread,
    shared: Arc<Shared>,
}

/// What the writer and the sinks share.
pub(super) struct Shared {
    pub(super) format: Format,
    pub(super) written: AtomicU64,
    pub(super) dropped: AtomicU64,
    /// Bytes of data in the queue, and the most there may be.
    pub(super) bytes: AtomicUsize,
    most_bytes: usize,
    /// Nobody has had anything to write for a while.
    pub(super) sleeps: AtomicBool,
    pub(super) start: OnceLock<Start>,
    /// Not locked on the way of a request.
    pub(super) waiting: Mutex<WaitingTasks>,
    pub(super) error: Mutex<Option<(io::ErrorKind, String)>>,
}

#[derive(Default)]
pub(super) struct WaitingTasks {
    pub(super) tasks: Vec<Task>,
    /// The writer is gone: nobody will look.
    pub(super) is_over: bool,
}

/// When the trace begins: what times are counted from.
#[derive(Clone, Copy)]
pub(super) struct Start {
    at: Instant,
    /// Since 1970; in a simulation 0, so that the same happens each time.
    wall: Duration,
}

impl Start {
    pub(super) fn new(at: Instant) -> Start {
        let wall = match Simulator::current() {
            Some(_) => Duration::ZERO,
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        };
        Start { at, wall }
    }

    pub(super) fn until(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.at)
    }

    /// Since 1970.
    pub(super) fn wall(&self, at: Instant) -> Duration {
        self.wall + self.until(at)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole whoever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SinkBuilder {
    /// How many requests wait to be written, at most. The default is 65536; each takes about 200 bytes,
    /// from the start.
    ///
    /// # Panics
    /// When it is 0.
    pub fn queue(mut self, requests: usize) -> Self {
        assert!(requests > 0, "a queue without room drops everything");
        self.queue = requests;
        self
    }

    /// How many bytes of requests' data wait to be written, at most. The default is 64 MiB.
    pub fn memory(mut self, bytes: usize) -> Self {
        self.memory = bytes;
        self
    }

    /// Writes to a file, which is made or emptied; or, if a sink of this process is writing to it, to
    /// that sink, which stays as it is.
    ///
    /// # Errors
    /// Those of the system; `AlreadyExists`: it is being written to in another format.
    pub fn create(self, path: impl AsRef<Path>) -> io::Result<Sink> {
        let path = path.as_ref();
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let mut open = lock(&OPEN);
            let known = std::fs::canonicalize(path).ok().and_then(|path| open.get(&path));
            match known.map(Weak::upgrade) {
                Some(Some(handle)) if handle.shared.format == self.format => {
                    return Ok(Sink(handle));
                }
                Some(Some(handle)) => {
                    let format = handle.shared.format;
                    // Not while the table is locked: it may be the last.
                    drop((open, handle));
                    let text = format!("it is being written to as {format:?}");
                    return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
                }
                // Its writer is about to end.
                Some(None) if Instant::now() < deadline => {
                    drop(open);
                    thread::sleep(Duration::from_millis(1));
                }
                _ => {
                    let file = File::create(path)?;
                    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
                    let sink = self.start(Output::file(file), Some(path.clone()))?;
                    open.insert(path, Arc::downgrade(&sink.0));
                    return Ok(sink);
                }
            }
        }
    }

    /// Writes to anything else; on the sink's own thread, so that it may block.
    ///
    /// What is not a file is ended (Chrome's format has an end) when the last clone of the sink has gone.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn write_to(self, out: impl Write + Send + 'static) -> io::Result<Sink> {
        self.start(Output::other(out), None)
    }

    fn start(self, output: Output, path: Option<PathBuf>) -> io::Result<Sink> {
        let (queue, records) = mpsc::sync_channel(self.queue);
        let shared = Arc::new(Shared {
            format: self.format,
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            bytes: AtomicUsize::new(0),
            most_bytes: self.memory,
            sleeps: AtomicBool::new(false),
            start: OnceLock::new(),
            waiting: Mutex::default(),
            error: Mutex::default(),
        });
        let encoder = Encoder::new(self.format);
        let writer = Writer::new(shared.clone(), records, self.queue, encoder, output);
        let leaves = Leaves::new(shared.clone(), path);
        let body = move || {
            let _leaves = leaves;
            writer.run();
        };
        let thread = thread::Builder::new().name(String::from("trace")).spawn(body)?;
        let writer = thread.thread().clone();
        Ok(Sink(Arc::new(Handle { queue: Some(queue), writer, shared })))
    }
}

/// The sinks that write to files. What has ended takes itself out.
pub(super) static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<Handle>>>> =
    LazyLock::new(Mutex::default);

impl Sink {
    /// A sink of this format.
    pub fn builder(format: Format) -> SinkBuilder {
        SinkBuilder { format, queue: QUEUE, memory: 64 << 20 }
    }

    /// A sink that writes to a file, as [`SinkBuilder::create`].
    ///
    /// # Errors
    /// As [`SinkBuilder::create`].
    pub fn create(format: Format, path: impl AsRef<Path>) -> io::Result<Sink> {
        Sink::builder(format).create(path)
    }

    /// A sink of `tracing`'s events; see [`Format::Events`].
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn events() -> io::Result<Sink> {
        Sink::builder(Format::Events).write_to(io::sink())
    }

    /// How it writes.
    pub fn format(&self) -> Format {
        self.0.shared.format
    }

    /// What it has done so far.
    pub fn totals(&self) -> Totals {
        self.0.shared.totals()
    }

    /// Waits until everything recorded so far has been written, and tells how much that is. For plain
    /// threads: a task that waits here keeps its worker.
    ///
    /// # Errors
    /// What writing has failed with. Nothing more is written after that.
    pub fn finish(&self) -> io::Result<Totals> {
        let (task, written) = Task::for_thread();
        self.tell(task);
        // It never sends: it ends.
        let _ = written.recv();
        match &*lock(&self.0.shared.error) {
            Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
            None => Ok(self.totals()),
        }
    }

    /// The task is over when all that has been recorded before has been written.
    pub(super) fn tell(&self, task: Task) {
        let mut waiting = lock(&self.0.shared.waiting);
        if waiting.is_over {
            // Over at once, with nothing locked.
            drop(waiting);
            return;
        }
        waiting.tasks.push(task);
        drop(waiting);
        self.0.writer.unpark();
    }

    /// Begins the trace, if it has not begun.
    #[inline]
    pub(super) fn begin(&self, at: Instant) {
        self.0.shared.start.get_or_init(|| Start::new(at));
    }

    /// Records a request, or counts it as dropped. In a simulation it waits for room instead: its time
    /// stands still meanwhile, and its trace is whole each time.
    pub(super) fn record(&self, record: Record) {
        let shared = &*self.0.shared;
        let bytes = record.data.len();
        if bytes > 0 {
            let before = shared.bytes.fetch_add(bytes, Ordering::Relaxed);
            if before.saturating_add(bytes) > shared.most_bytes && Simulator::current().is_none() {
                shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
                shared.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        let queue = self.0.queue.as_ref().expect("taken when the last handle is dropped");
        let refused = match queue.try_send(record) {
            Err(TrySendError::Full(record)) if Simulator::current().is_some() => {
                self.0.writer.unpark();
                queue.send(record).is_err()
            }
            sent => sent.is_err(),
        };
        if refused {
            shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
            shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        // If this is missed, the writer comes by itself within a second.
        if shared.sleeps.load(Ordering::Relaxed) && shared.sleeps.swap(false, Ordering::Relaxed) {
            self.0.writer.unpark();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The writer learns of its end by this, and must not look before.
        drop(self.queue.take());
        self.writer.unpark();
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink")
            .field("format", &self.format())
            .field("totals", &self.totals())
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn totals(&self) -> Totals {
        let (records, dropped) = (&self.written, &self.dropped);
        Totals {
            records: records.load(Ordering::Relaxed),
            dropped: dropped.load(Ordering::Relaxed),
        }
    }
}
