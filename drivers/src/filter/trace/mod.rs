//! The filter `trace`: what happens on its layer, written down.

mod chrome;
mod encode;
mod json;
mod output;
mod pcap;
mod record;
mod sink;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use overlapped_iomgr::{
    Completion, Disposition, Driver, Group, Irp, Lower, Major, MajorSet, On, Unwinding, View, clock,
};

use super::opens::{self, Counts};
use crate::text::{Entry, Made, Parameter, Parameters, Size, TextError, TextErrorKind};

use record::{Record, Traced, advance, first_bytes};
pub(crate) use record::{moves_data, name_of};
pub use sink::{Format, Sink, SinkBuilder, Totals};

/// Writes down every request that passes, when it comes back: what was asked for, when it began and
/// ended, and what came of it.
///
/// It costs two looks at the clock and a place in a queue for each request, a copy of the bytes that are
/// kept, and changes nothing. It never blocks a request; see [`Sink`].
///
/// ```
/// # mod overlapped {
/// #     pub mod driver { pub use overlapped_drivers::filter; pub use overlapped_iomgr::{Major, MajorSet}; }
/// # }
/// use overlapped::driver::filter::{Trace, trace::{Format, Sink}};
/// use overlapped::driver::{Major, MajorSet};
///
/// let path = std::env::temp_dir().join(format!("overlapped-trace-{}", std::process::id()));
/// let sink = Sink::create(Format::Jsonl, &path)?;
/// let trace = Trace::new("disk")
///     .to(&sink)
///     .ops(MajorSet::of(&[Major::Read, Major::Write]))
///     .sample(100)
///     .bytes(16);
/// # drop(trace);
/// # std::fs::remove_file(&path)?;
/// # std::io::Result::Ok(())
/// ```
pub struct Trace {
    ops: MajorSet,
    sample: u64,
    bytes: Option<usize>,
    layer: Arc<Layer>,
}

/// What files keep of their filter.
struct Layer {
    label: Arc<str>,
    sinks: Vec<Sink>,
    files: AtomicUsize,
    /// Requests that sampling has seen.
    seen: AtomicU64,
}

impl Counts for Layer {
    fn files(&self) -> &AtomicUsize {
        &self.files
    }

    fn last_has_gone(self: &Arc<Layer>) {
        // Nobody waits; it is written soon.
        let (task, _) = opens::Task::for_thread();
        self.sinks.iter().for_each(|sink| sink.tell(task.clone()));
    }
}

/// What is kept for a file.
#[derive(Default)]
struct Open {
    count: opens::Open<Layer>,
    file: OnceLock<Arc<Traced>>,
}

/// A request that is written down when it comes back.
#[derive(Clone, Copy)]
struct Begun(Instant);

impl Trace {
    /// A filter that writes nowhere yet ([`Trace::to`]). The label, free to choose, is its layer's name in
    /// what it writes: it tells several in one stack apart.
    pub fn new(label: impl Into<Arc<str>>) -> Trace {
        let (files, seen) = (AtomicUsize::new(0), AtomicU64::new(0));
        let layer = Arc::new(Layer { label: label.into(), sinks: Vec::new(), files, seen });
        Trace { ops: MajorSet::ALL, sample: 1, bytes: None, layer }
    }

    fn layer(&mut self) -> &mut Layer {
        Arc::get_mut(&mut self.layer).expect("in no stack yet, so no file has it")
    }

    /// Writes to this sink, besides those given before.
    pub fn to(mut self, sink: &Sink) -> Trace {
        self.layer().sinks.push(sink.clone());
        self
    }

    /// Only these operations. The default is all.
    pub fn ops(mut self, ops: MajorSet) -> Trace {
        self.ops = ops;
        self
    }

    /// Only the first of every so many requests.
    ///
    /// # Panics
    /// When it is 0.
    pub fn sample(mut self, every: u64) -> Trace {
        assert!(every > 0, "the first of every 0 requests is none");
        self.sample = every;
        self
    }

    /// How many bytes of each request's data are kept, at most. The default depends on the sink: all for
    /// packets, 256 for hexadecimal, else none.
    pub fn bytes(mut self, most: usize) -> Trace {
        self.bytes = Some(most);
        self
    }

    /// The layer's name in what it writes.
    pub fn label(&self) -> &str {
        &self.layer.label
    }

    fn wants(&self, major: Major) -> bool {
        self.ops.contains(major)
            && (self.sample == 1
                || self.layer.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.sample))
    }

    /// Whether the bytes of streams are counted, those of requests that are not written down too.
    fn counts_bytes(&self) -> bool {
        self.layer.sinks.iter().any(|sink| sink.format() == Format::Pcap)
    }

    fn write_down(&self, file: Arc<Traced>, irp: &mut Unwinding<'_>, begun: Option<Begun>) {
        let end = begun.map(|_| clock::now());
        let position = advance(&file, irp);
        let (Some(Begun(begin)), Some(end)) = (begun, end) else { return };
        let is_on_ip = file.connection.is_some();
        let mut record = Some(Record::new(file, irp, begin, end, position));
        for (i, sink) in self.layer.sinks.iter().enumerate() {
            if !is_on_ip && sink.format() == Format::Pcap {
                continue;
            }
            let is_last = i + 1 == self.layer.sinks.len();
            let copy = if is_last { record.take() } else { record.clone() };
            let most = self.bytes.unwrap_or(sink.format().usual_bytes());
            let data = first_bytes(irp, most);
            sink.record(Record { data, ..copy.expect("only the last takes it") });
        }
    }
}

fn open(irp: &View) -> &Open {
    irp.open_state()
}

impl Driver for Trace {
    fn name(&self) -> &str {
        "trace"
    }

    /// Those that are written down, and those that tell how many files are open, and what the bytes of
    /// streams are.
    fn hooks(&self) -> MajorSet {
        if self.layer.sinks.is_empty() {
            return MajorSet::NONE;
        }
        if self.ops == MajorSet::ALL {
            return self.ops;
        }
        let is_hooked = |major: &Major| {
            self.ops.contains(*major)
                || matches!(major, Major::Create | Major::Close)
                || self.counts_bytes() && moves_data(*major)
        };
        MajorSet::of(&Major::ALL.into_iter().filter(is_hooked).collect::<Vec<_>>())
    }

    fn group(&self) -> Option<Group> {
        Some(Group::Trace)
    }

    fn dispatch(&self, mut irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        let major = irp.major();
        open(&irp).count.enter(&self.layer);
        // How many files are open, and what the bytes of streams are, is known whatever is sampled.
        let is_needed = matches!(major, Major::Create | Major::Close)
            || moves_data(major) && self.counts_bytes();
        if self.wants(major) {
            let begin = clock::now();
            self.layer.sinks.iter().for_each(|sink| sink.begin(begin));
            irp.set_scratch(Begun(begin));
        } else if !is_needed {
            return lower.skip(irp);
        }
        lower.forward(irp, On::ALL)
    }

    fn completed(&self, mut irp: Unwinding<'_>) -> Completion {
        let begun = irp.scratch::<Begun>().copied();
        if begun.is_some() || moves_data(irp.major()) {
            let label = &self.layer.label;
            let traced = || Arc::new(Traced::new(label.clone(), irp.file()));
            let file = open(&irp).file.get_or_init(traced).clone();
            self.write_down(file, &mut irp, begun);
        }
        if open(&irp).count.closes_last(&irp) {
            let sinks = &self.layer.sinks;
            return opens::after(irp, |task| sinks.iter().for_each(|sink| sink.tell(task.clone())));
        }
        irp.proceed()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace")
            .field("label", &self.label())
            .field("ops", &self.ops)
            .field("sample", &self.sample)
            .field("sinks", &self.layer.sinks)
            .finish_non_exhaustive()
    }
}

/// What `trace` is in stacks' texts.
pub(crate) const ENTRY: Entry = Entry {
    name: "trace",
    about: "writes requests down: trace(jsonl=PATH), chrome=, pcap=, hexdump=, tracing; label=NAME, \
            ops=read+write, sample=N, bytes=N, queue=N",
    make,
};

fn make(p: &mut Parameters<'_>) -> Result<Made, TextError> {
    let paths = [
        ("jsonl", Format::Jsonl),
        ("chrome", Format::Chrome),
        ("pcap", Format::Pcap),
        ("hexdump", Format::Hexdump),
    ];
    let mut trace = Trace::new(p.or("label", String::from("trace"))?);
    trace = trace.ops(p.or("ops", MajorSet::ALL)?);
    trace = trace.sample(match p.or("sample", 1)? {
        0 => return Err(p.error("sample", "a number above 0: the first of every so many")),
        every => every,
    });
    if let Some(Size(bytes)) = p.optional("bytes")? {
        trace = trace.bytes(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    let queue = match p.or("queue", sink::QUEUE as u64)? {
        queue @ 1..=MOST_QUEUED => queue as usize,
        _ => return Err(p.error("queue", "a number of requests from 1 to 16777216")),
    };
    for (key, format) in paths {
        if let Some(path) = p.optional::<PathBuf>(key)? {
            let sink = Sink::builder(format).queue(queue).create(&path);
            let why = |error| p.error(key, &format!("a file that can be written: {error}"));
            trace = trace.to(&sink.map_err(why)?);
        }
    }
    let named = match p.main::<String>("tracing") {
        Ok(value) if value == "tracing" => true,
        Ok(value) => bool::read(&value)
            .ok_or_else(|| p.error("tracing", "yes or no; or 'tracing' alone, for its events"))?,
        Err(error) if matches!(error.kind(), TextErrorKind::Missing { .. }) => false,
        Err(error) => return Err(error),
    };
    // Without a sink it would be of no use.
    if named || trace.layer.sinks.is_empty() {
        let sink = Sink::builder(Format::Events).queue(queue).write_to(std::io::sink());
        trace = trace.to(&sink.map_err(|error| p.refuse(error))?);
    }
    Ok(Made::Filter(Arc::new(trace)))
}

/// Most requests in a queue: it takes a few gigabytes.
const MOST_QUEUED: u64 = 1 << 24;
