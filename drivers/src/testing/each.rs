//! Each request below a filter fails once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use overlapped_iomgr::{
    Completion, Disposition, Driver, Irp, Lower, Major, MajorSet, On, Status, Unwinding,
};

use super::Record;

/// Runs a test again and again, and each time another of the requests that reach a place in its stack
/// fails: the first, the second, … until a run has so few that none fails. Yields the requests that
/// failed, one for each run but the last.
///
/// `run` puts the driver that it is given below the filter under test, and checks that the program above
/// gets errors and nothing worse. Opening fails too. A close that fails has closed the file all the same;
/// cleanup, whose result nobody gets, does not fail.
///
/// # Panics
/// When `run` does. Which request had failed is printed.
///
/// ```
/// # mod overlapped {
/// #     pub use overlapped_iomgr::Status;
/// #     pub mod driver { pub use overlapped_drivers::testing; }
/// # }
/// use overlapped::{Status, driver::testing::each_failure};
///
/// // Nothing is sent through it: one run, without a failure.
/// let mut runs = 0;
/// let failed = each_failure(Status::DATA_ERROR, |failing| {
///     assert_eq!(failing.name(), "failing once");
///     runs += 1;
/// });
/// assert_eq!((runs, failed.len()), (1, 0));
/// ```
pub fn each_failure(status: Status, mut run: impl FnMut(Arc<dyn Driver>)) -> Vec<Record> {
    let mut failed = Vec::new();
    loop {
        let once =
            Arc::new(Once { at: failed.len(), status, seen: 0.into(), failed: Mutex::default() });
        let blame = Blame(once.clone());
        run(once.clone());
        drop(blame);
        match once.failed() {
            Some(record) => failed.push(record),
            None => return failed,
        }
    }
}

/// Fails one request.
struct Once {
    at: usize,
    status: Status,
    seen: AtomicUsize,
    failed: Mutex<Option<Record>>,
}

impl Once {
    fn failed(&self) -> Option<Record> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Driver for Once {
    fn name(&self) -> &str {
        "failing once"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        if irp.major() == Major::Cleanup || self.seen.fetch_add(1, Ordering::Relaxed) != self.at {
            return lower.skip(irp);
        }
        let record = Record { result: Some((self.status, 0)), ..Record::of(&irp) };
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(record);
        if irp.major() == Major::Close {
            return lower.forward(irp, On::ALL);
        }
        irp.complete(self.status, 0)
    }
    /// Of a close alone.
    fn completed(&self, mut irp: Unwinding<'_>) -> Completion {
        irp.set_result(self.status, 0);
        irp.proceed()
    }
}

/// Prints which request has failed, if a panic leaves the run.
struct Blame(Arc<Once>);

impl Drop for Blame {
    fn drop(&mut self) {
        if std::thread::panicking() {
            match self.0.failed() {
                Some(record) => eprintln!("the run failed in which this did not work: {record}"),
                None => eprintln!("the run failed in which nothing was made to fail"),
            }
        }
    }
}
