//! The filter `stats`: how many operations of each kind, how long they take, and what they ask for.
//!
//! Counting takes no lock and, but for the first operation of its kind on a thread, no memory: each thread
//! adds to numbers of its own (`counters.rs`). A [`Snapshot`] adds these up.

mod counters;
mod snapshot;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use std::{fmt, io, thread};

pub use hdrhistogram::Histogram;
use overlapped_iomgr::{
    Completion, Disposition, Driver, Group, Irp, Lower, MajorSet, On, Unwinding, View, clock, minor,
};

use super::opens::{self, Counts, Task};
use super::trace::moves_data;
use crate::text::{Entry, Made, TextError};
use counters::{Asked, Counters};
pub use snapshot::{Aligned, OpStats, Shape, Snapshot};

/// Counts what passes: operations, bytes and errors, how long they take, how many are under way, and of
/// which sizes and alignments they are. The counts of one filter are those of all files that have it in
/// their stacks; they are looked at by [`Stats::snapshot`], at any time, or printed when the last of
/// these files is closed.
///
/// It costs two looks at the clock for each request and a few additions, and changes nothing.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; pub use overlapped_iomgr::Major; } }
/// use overlapped::driver::{Major, filter::Stats};
/// use std::sync::Arc;
///
/// let stats = Arc::new(Stats::new());
/// // ... into a stack with a clone of it.
/// assert!(stats.snapshot().of(Major::Read).is_none(), "nothing has been read");
/// ```
pub struct Stats {
    totals: Arc<Totals>,
}

/// What files keep of their filter.
struct Totals {
    label: String,
    print: Print,
    files: AtomicUsize,
    counters: Counters,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Print {
    Nowhere,
    Stderr,
    To(PathBuf),
}

/// When a request that is under way has begun.
#[derive(Clone, Copy)]
struct Begun(Instant);

impl Default for Stats {
    fn default() -> Stats {
        Stats::new()
    }
}

impl Stats {
    /// A filter that prints nothing.
    pub fn new() -> Stats {
        let (label, print) = (String::from("stats"), Print::Nowhere);
        let (files, counters) = (AtomicUsize::new(0), Counters::default());
        Stats { totals: Arc::new(Totals { label, print, files, counters }) }
    }

    fn totals(&mut self) -> &mut Totals {
        Arc::get_mut(&mut self.totals).expect("in no stack yet, so no file has it")
    }

    /// A name, for what is printed.
    pub fn label(mut self, label: impl Into<String>) -> Stats {
        self.totals().label = label.into();
        self
    }

    /// Prints all there is to standard error whenever the last file is closed: a table, as
    /// [`Snapshot`]'s `Display`. That close is done when it is printed.
    pub fn print_to_stderr(mut self) -> Stats {
        self.totals().print = Print::Stderr;
        self
    }

    /// As [`Stats::print_to_stderr`], into a file, in place of what is there.
    pub fn print_to(mut self, path: impl Into<PathBuf>) -> Stats {
        self.totals().print = Print::To(path.into());
        self
    }

    /// The counts at this moment. Requests that go on meanwhile may be in some of the numbers and not in
    /// others.
    pub fn snapshot(&self) -> Snapshot {
        self.totals.counters.snapshot(&self.totals.label, self.totals.files.load(Ordering::Relaxed))
    }
}

impl Totals {
    /// Prints on a thread of its own; the task is over when that is done.
    fn print(self: &Arc<Totals>, task: Option<Task>) {
        if self.print == Print::Nowhere {
            return;
        }
        let text = self.counters.snapshot(&self.label, 0).to_string();
        let to = self.print.clone();
        let body = move || {
            let printed = match &to {
                Print::To(path) => std::fs::write(path, text),
                _ => io::Write::write_all(&mut io::stderr(), text.as_bytes()),
            };
            if let Err(error) = printed {
                tracing::error!(%error, ?to, "statistics cannot be printed");
            }
            drop(task);
        };
        if let Err(error) = thread::Builder::new().name(String::from("stats")).spawn(body) {
            tracing::error!(%error, "statistics cannot be printed");
        }
    }
}

impl Counts for Totals {
    fn files(&self) -> &AtomicUsize {
        &self.files
    }

    fn last_has_gone(self: &Arc<Totals>) {
        self.print(None);
    }
}

/// What a request that moves data asks for.
fn asked(irp: &View) -> Option<Asked> {
    let is_pooled = irp.minor() == minor::POOLED;
    let len = if is_pooled { irp.arg() as usize } else { irp.len() };
    // Of one into a pool buffer without a limit, there is no size.
    let is_known = moves_data(irp.major()) && (!is_pooled || len > 0);
    let offset = irp.offset();
    let has_offset = offset != u64::MAX && irp.file().is_seekable();
    is_known.then(|| (len, has_offset.then_some(offset)))
}

fn open(irp: &View) -> &opens::Open<Totals> {
    irp.open_state()
}

impl Driver for Stats {
    fn name(&self) -> &str {
        "stats"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }

    fn group(&self) -> Option<Group> {
        Some(Group::Trace)
    }

    fn dispatch(&self, mut irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        open(&irp).enter(&self.totals);
        let begin = clock::now();
        self.totals.counters.begin(irp.major(), begin, asked(&irp));
        irp.set_scratch(Begun(begin));
        lower.forward(irp, On::ALL)
    }

    fn completed(&self, irp: Unwinding<'_>) -> Completion {
        if let Some(&Begun(begin)) = irp.scratch() {
            let took = clock::now().saturating_duration_since(begin);
            let status = irp.status();
            let moved = moves_data(irp.major()) && !status.is_error();
            let bytes = if moved { irp.info() } else { 0 };
            self.totals.counters.end(irp.major(), status, bytes, took);
        }
        if open(&irp).closes_last(&irp) && self.totals.print != Print::Nowhere {
            return opens::after(irp, |task| self.totals.print(Some(task)));
        }
        irp.proceed()
    }
}

impl fmt::Debug for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { label, print, .. } = &*self.totals;
        f.debug_struct("Stats").field("label", label).field("print", print).finish_non_exhaustive()
    }
}

/// What `stats` is in stacks' texts.
pub(crate) const ENTRY: Entry = Entry {
    name: "stats",
    about: "counts, and prints the counts when the last file is closed: stats, stats(path=PATH); \
            label=NAME",
    make: |p| -> Result<Made, TextError> {
        let stats = Stats::new().label(p.or("label", String::from("stats"))?);
        let stats = match p.optional::<PathBuf>("path")? {
            Some(path) => stats.print_to(path),
            None => stats.print_to_stderr(),
        };
        Ok(Made::Filter(Arc::new(stats)))
    },
};
