//! What passes a place in a stack: exact, in memory, for a test to look at.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overlapped_iomgr::{
    Completion, Disposition, Driver, Irp, Lower, Major, MajorSet, On, Status, Unwinding, View,
};

/// One request, as the driver that noted it has seen it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Record {
    /// The operation.
    pub major: Major,
    /// Its variant; see [`minor`](overlapped_iomgr::minor).
    pub minor: u8,
    /// At which byte; `None`: the next of a stream, or at the current position.
    pub offset: Option<u64>,
    /// Bytes asked for; of a receive into a pool buffer, the most that is wanted.
    pub len: usize,
    /// The bytes: of a write, those to be written; of a read, those that came.
    pub data: Vec<u8>,
    /// What came back: the status, and the information (bytes, of reads and writes). `None`: nothing has
    /// yet.
    pub result: Option<(Status, usize)>,
}

impl Record {
    /// Of a request that has come down.
    pub(super) fn of(request: &View) -> Record {
        let offset = request.offset();
        Record {
            major: request.major(),
            minor: request.minor(),
            offset: (offset != u64::MAX).then_some(offset),
            len: request.len(),
            data: request.segments().flatten().copied().collect(),
            result: None,
        }
    }

    /// With what has come back.
    pub(super) fn ended(mut self, result: Result<usize, Status>) -> Record {
        self.result = Some(match result {
            Ok(info) => (Status::SUCCESS, info),
            Err(status) => (status, 0),
        });
        self
    }

    /// Whether its information is a number of bytes.
    pub(super) fn is_data(&self) -> bool {
        matches!(self.major, Major::Read | Major::Write | Major::SendTo | Major::ReceiveFrom)
    }
}

/// `Write of 5 at 4096: SUCCESS (success 0x00000000), 5`.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {}", self.major, self.len)?;
        if let Some(offset) = self.offset {
            write!(f, " at {offset}")?;
        }
        match self.result {
            Some((status, info)) => write!(f, ": {status}, {info}"),
            None => write!(f, ": in flight"),
        }
    }
}

/// A list of requests with their data and results, in the order in which they came: for asserting what a
/// filter sends below. Clones are the same list.
///
/// Its [driver](Log::driver) goes into a stack like any filter, below the filter under test, or above it,
/// and changes nothing. Everything is kept until it is [taken](Log::take).
///
/// ```
/// # mod overlapped {
/// #     pub mod driver { pub use overlapped_drivers::testing; }
/// # }
/// use overlapped::driver::testing::Log;
///
/// let log = Log::new();
/// assert_eq!(log.driver().name(), "log");
/// assert!(log.records().is_empty());
/// ```
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<List>>);

#[derive(Default)]
struct List {
    /// How many records have been taken: the number of the first that is here.
    taken: usize,
    records: Vec<Record>,
}

impl Log {
    /// An empty list.
    pub fn new() -> Log {
        Log::default()
    }

    /// The filter that writes the list.
    pub fn driver(&self) -> Arc<dyn Driver> {
        Arc::new(Tap(self.clone()))
    }

    /// What is in the list.
    pub fn records(&self) -> Vec<Record> {
        self.list().records.clone()
    }

    /// What is in it of that operation.
    pub fn of(&self, major: Major) -> Vec<Record> {
        let list = self.list();
        list.records.iter().filter(|record| record.major == major).cloned().collect()
    }

    /// Empties the list. What was in it and still is in flight gets no result any more.
    pub fn take(&self) -> Vec<Record> {
        let mut list = self.list();
        list.taken += list.records.len();
        std::mem::take(&mut list.records)
    }

    fn list(&self) -> MutexGuard<'_, List> {
        // Nothing in here panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come; its number.
    pub(super) fn begin(&self, record: Record) -> usize {
        let mut list = self.list();
        list.records.push(record);
        list.taken + list.records.len() - 1
    }

    /// It has ended; a read with these bytes.
    pub(super) fn end(&self, number: usize, status: Status, info: usize, received: Vec<u8>) {
        let mut list = self.list();
        let at = number.checked_sub(list.taken);
        if let Some(record) = at.and_then(|at| list.records.get_mut(at)) {
            record.result = Some((status, info));
            if !received.is_empty() {
                record.data = received;
            }
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.list().records).finish()
    }
}

/// The driver of a log.
struct Tap(Log);

/// The record's number: a request's scratch.
struct Number(usize);

impl Driver for Tap {
    fn name(&self) -> &str {
        "log"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }
    fn dispatch(&self, mut irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        let number = self.0.begin(Record::of(&irp));
        irp.set_scratch(Number(number));
        lower.forward(irp, On::ALL)
    }
    fn completed(&self, mut irp: Unwinding<'_>) -> Completion {
        let &Number(number) = irp.scratch().expect("set on the way down");
        let received = irp.received_mut().flatten().map(|byte| *byte).collect();
        self.0.end(number, irp.status(), irp.info(), received);
        irp.proceed()
    }
}
