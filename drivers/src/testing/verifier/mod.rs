//! A pair of drivers around others, which finds what a driver may not do.
//!
//! ```text
//!   client ── above ── driver under test ── below ── later ── whatever is below
//! ```
//!
//! [`above`] gives those below memory of its own, between guards ([`guarded`]), and looks at it and at
//! the results; [`below`] looks at what is asked of those below; [`Later`] has everything pend.

mod above;
mod below;
mod finding;
mod guarded;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overlapped_iomgr::Driver;
use overlapped_iomgr::filter::Filter;

use super::Record;
use crate::filter::Later;
use above::Above;
use below::Below;
pub use finding::{Finding, Misdeed};
use guarded::Poisoned;

/// Requests whose memory is kept after they have ended.
const KEPT: usize = 256;

/// Finds what drivers may not do, and may do all the same: a pair of drivers around them, and a list of
/// [`Finding`]s. Clones are the same verifier.
///
/// Besides, every request that the drivers under test send below pends, and goes on in a later turn of its
/// processor. (For the other case, that everything below is there at once, leave the verifier out.)
///
/// It lends memory of its own for plain reads and writes, and looks at that: a request in several
/// segments or into a pool buffer passes as it is, with fewer checks. What it costs does not matter in a
/// test: copies, and the memory of the last 256 requests.
///
/// What it need not look for, as it does not compile: ending a request twice, touching one that was passed
/// on, returning from `dispatch` without a word of what became of it, keeping a request's data longer than
/// the request ([`Driver`]). What it does look for beyond dropping, lengths and panics is possible in
/// `unsafe` code alone.
///
/// ```
/// # mod overlapped {
/// #     pub mod driver { pub use overlapped_drivers::{filter, testing}; }
/// # }
/// use overlapped::driver::filter::{PassKind, pass};
/// use overlapped::driver::testing::Verifier;
///
/// let verifier = Verifier::new();
/// let stack = verifier.around([pass(PassKind::Skip)]);
/// let names: Vec<_> = stack.iter().map(|driver| driver.name()).collect();
/// assert_eq!(names, ["verifier", "pass", "verifier (below)", "later"]);
/// assert!(verifier.findings().is_empty());
/// ```
#[derive(Clone, Default)]
pub struct Verifier(Arc<Shared>);

#[derive(Default)]
struct Shared(Mutex<Book>);

#[derive(Default)]
struct Book {
    findings: Vec<Finding>,
    /// The requests below, by their numbers; and the driver under test.
    in_flight: Vec<(u64, Arc<str>, Record)>,
    issued: u64,
    /// Oldest first.
    ended: VecDeque<(Arc<str>, Record, Poisoned)>,
}

impl Verifier {
    /// One that has found nothing yet.
    pub fn new() -> Verifier {
        Verifier::default()
    }

    /// The drivers under test, top first, with the verifier's around them: what to put into a stack in
    /// their place. Without any, what is below is under test: a bottom.
    pub fn around(
        &self,
        tested: impl IntoIterator<Item = Arc<dyn Driver>>,
    ) -> Vec<Arc<dyn Driver>> {
        let tested: Vec<_> = tested.into_iter().collect();
        let names: Vec<_> = tested.iter().map(|driver| driver.name()).collect();
        let names = if names.is_empty() { "the bottom".to_owned() } else { names.join(" | ") };
        let names: Arc<str> = names.into();
        let above = Above { shared: self.0.clone(), tested: names.clone() };
        let below = Below { shared: self.0.clone(), tested: names };
        let mut stack = vec![above.into_driver()];
        stack.extend(tested);
        stack.push(Arc::new(below));
        stack.push(Arc::new(Later));
        stack
    }

    /// What has been found up to now, and the requests that have not ended. Ask when the test is done
    /// with its requests.
    pub fn findings(&self) -> Vec<Finding> {
        let mut book = self.0.book();
        while book.forget() {}
        let unfinished = book.in_flight.iter().map(|(_, driver, request)| Finding {
            driver: driver.to_string(),
            request: request.clone(),
            misdeed: Misdeed::Unfinished,
        });
        book.findings.iter().cloned().chain(unfinished).collect()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0.book().findings).finish()
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing in here panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self, driver: &str, request: Record, misdeed: Misdeed) {
        self.book().findings.push(Finding { driver: driver.to_owned(), request, misdeed });
    }

    /// A request goes to the drivers under test; its number.
    fn begin(&self, tested: &Arc<str>, request: Record) -> u64 {
        let mut book = self.book();
        book.issued += 1;
        let number = book.issued;
        book.in_flight.push((number, tested.clone(), request));
        number
    }

    /// It has come back.
    fn end(&self, number: u64) {
        self.book().in_flight.retain(|(of, ..)| *of != number);
    }

    /// Keeps the memory of a request that has ended.
    fn keep(&self, tested: &Arc<str>, request: Record, memory: Poisoned) {
        let mut book = self.book();
        book.ended.push_back((tested.clone(), request, memory));
        if book.ended.len() > KEPT {
            book.forget();
        }
    }
}

impl Book {
    /// Looks at the oldest memory once more, and frees it. `false`: there is none.
    fn forget(&mut self) -> bool {
        let Some((driver, request, memory)) = self.ended.pop_front() else { return false };
        if memory.is_touched() {
            let (driver, misdeed) = (driver.to_string(), Misdeed::UsedAfterCompletion);
            self.findings.push(Finding { driver, request, misdeed });
        }
        true
    }
}
