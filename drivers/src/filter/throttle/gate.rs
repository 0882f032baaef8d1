//! Who may pass, and in which order: what the stacks of a group share.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::Instant;

use overlapped_iomgr::filter::{Next, Sleep};
use overlapped_iomgr::{Status, clock};

use super::meter::Meter;

/// What may pass in a second, and at once.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; } }
/// use overlapped::driver::filter::Rates;
/// let slow = Rates { bytes: Some(1 << 20), ..Rates::ANY };
/// assert_eq!(slow.operations, None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rates {
    /// Bytes a second; `None`: any number.
    pub bytes: Option<u64>,
    /// Operations a second; `None`: any number.
    pub operations: Option<u64>,
    /// Bytes that may pass at once after a pause; `None`: those of a tenth of a second.
    pub burst: Option<u64>,
    /// Operations that may pass at once after a pause; `None`: those of a tenth of a second.
    pub burst_operations: Option<u64>,
}

impl Rates {
    /// No limits.
    pub const ANY: Rates =
        Rates { bytes: None, operations: None, burst: None, burst_operations: None };

    /// Bytes that may pass at once. `None`: any number.
    pub(super) fn most_bytes(&self) -> Option<u64> {
        self.bytes.map(|rate| self.burst.unwrap_or(rate / 10).max(1))
    }

    fn most_operations(&self) -> u64 {
        self.burst_operations.unwrap_or(self.operations.unwrap_or(0) / 10).max(1)
    }

    fn check(&self) -> Result<(), BadRates> {
        let all = [self.bytes, self.operations, self.burst, self.burst_operations];
        if all.contains(&Some(0)) { Err(BadRates::Zero) } else { Ok(()) }
    }
}

/// Rates that a throttle does not take.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BadRates {
    /// One of them is 0: nothing would ever pass.
    Zero,
    /// The group is there already, with other rates.
    Differ {
        /// Its name.
        group: String,
        /// Its rates.
        has: Rates,
    },
    /// There is no such group to join.
    NoGroup {
        /// The name.
        group: String,
    },
}

impl fmt::Display for BadRates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadRates::Zero => f.write_str("a rate or burst of 0 lets nothing pass"),
            BadRates::Differ { group, has } => {
                write!(f, "the group '{group}' has other rates: {has:?}")
            }
            BadRates::NoGroup { group } => write!(f, "there is no group '{group}' to join"),
        }
    }
}

impl std::error::Error for BadRates {}

/// See the module's header. **Invariant:** whoever passes is, or would be, the first of the queue; when
/// the first leaves the queue, the next one is woken.
pub(super) struct Gate(Mutex<State>);

struct State {
    rates: Rates,
    bytes: Meter,
    operations: Meter,
    /// By number, in order, and whom to wake.
    queue: VecDeque<(u64, Option<Waker>)>,
    next: u64,
}

static GROUPS: Mutex<BTreeMap<String, Weak<Gate>>> = Mutex::new(BTreeMap::new());

impl Gate {
    pub(super) fn new(rates: Rates) -> Result<Arc<Gate>, BadRates> {
        rates.check()?;
        let (bytes, operations) = (Meter::default(), Meter::default());
        let state = State { rates, bytes, operations, queue: VecDeque::new(), next: 0 };
        let gate = Gate(Mutex::new(state));
        gate.lock().change(rates, clock::now());
        Ok(Arc::new(gate))
    }

    /// The group of that name: made if it is not there and there are rates, else joined.
    pub(super) fn of_group(name: &str, rates: Option<Rates>) -> Result<Arc<Gate>, BadRates> {
        let mut groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
        groups.retain(|_, gate| gate.strong_count() > 0);
        let there = groups.get(name).and_then(Weak::upgrade);
        match (there, rates) {
            (Some(gate), rates) => {
                let has = gate.rates();
                if rates.is_some_and(|rates| rates != has) {
                    return Err(BadRates::Differ { group: name.to_owned(), has });
                }
                Ok(gate)
            }
            (None, Some(rates)) => {
                let gate = Gate::new(rates)?;
                groups.insert(name.to_owned(), Arc::downgrade(&gate));
                Ok(gate)
            }
            (None, None) => Err(BadRates::NoGroup { group: name.to_owned() }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics while it is locked, but for a waker's clone.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rates(&self) -> Rates {
        self.lock().rates
    }

    pub(super) fn set_rates(&self, rates: Rates) -> Result<(), BadRates> {
        rates.check()?;
        let first = {
            let mut state = self.lock();
            state.change(rates, clock::now());
            state.take_first_waker()
        };
        first.into_iter().for_each(Waker::wake);
        Ok(())
    }

    pub(super) fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// Waits for its turn, and for what it takes. Bytes are taken off; 0 bytes wait until none are owed.
    pub(super) async fn pass(
        &self,
        next: Next<'_>,
        bytes: u64,
        operations: u64,
    ) -> Result<(), Status> {
        let mut place = Place { gate: self, number: None };
        let mut sleep: Option<Sleep<'_>> = None;
        poll_fn(|cx| {
            loop {
                if next.is_cancelled() {
                    return Poll::Ready(Err(Status::CANCELLED));
                }
                let wait = {
                    let mut state = self.lock();
                    let Some(wait) = state.ask(&mut place.number, bytes, operations, cx.waker())
                    else {
                        return Poll::Pending;
                    };
                    wait
                };
                let Some(wait) = wait else { return Poll::Ready(Ok(())) };
                let sleep = sleep.insert(next.sleep(wait));
                if Pin::new(sleep).poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Takes bytes that have passed already.
    pub(super) fn charge(&self, bytes: u64) {
        self.lock().bytes.take(bytes, clock::now());
    }

    /// Gives bytes back that did not pass after all.
    pub(super) fn refund(&self, bytes: u64) {
        if bytes > 0 {
            let first = {
                let mut state = self.lock();
                state.bytes.give(bytes);
                state.take_first_waker()
            };
            first.into_iter().for_each(Waker::wake);
        }
    }
}

impl State {
    fn change(&mut self, rates: Rates, now: Instant) {
        self.rates = rates;
        self.bytes.change(rates.bytes, rates.most_bytes().unwrap_or(1), now);
        self.operations.change(rates.operations, rates.most_operations(), now);
    }

    fn take_first_waker(&mut self) -> Option<Waker> {
        self.queue.front_mut()?.1.take()
    }

    /// `None`: others come first. `Some(None)`: it has passed. Else how long it has to wait.
    fn ask(
        &mut self,
        number: &mut Option<u64>,
        bytes: u64,
        operations: u64,
        waker: &Waker,
    ) -> Option<Option<std::time::Duration>> {
        let first = self.queue.front().map(|(first, _)| *first);
        if first.is_none() || first == *number {
            let now = clock::now();
            let wait = self.bytes.wait(bytes, now);
            let wait =
                if operations > 0 { wait.max(self.operations.wait(operations, now)) } else { wait };
            if wait.is_zero() {
                self.bytes.take(bytes, now);
                self.operations.take(operations, now);
                return Some(None);
            }
            self.leave_word(number, waker);
            return Some(Some(wait));
        }
        self.leave_word(number, waker);
        None
    }

    /// Takes a place in the queue, or keeps it, and says whom to wake.
    fn leave_word(&mut self, number: &mut Option<u64>, waker: &Waker) {
        let mine = number.and_then(|mine| self.queue.iter_mut().find(|(n, _)| *n == mine));
        match mine {
            Some((_, Some(old))) if old.will_wake(waker) => {}
            Some((_, old)) => *old = Some(waker.clone()),
            None => {
                let mine = self.next;
                self.next += 1;
                *number = Some(mine);
                self.queue.push_back((mine, Some(waker.clone())));
            }
        }
    }
}

/// A place in the queue.
struct Place<'a> {
    gate: &'a Gate,
    number: Option<u64>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(mine) = self.number else { return };
        let next = {
            let mut state = self.gate.lock();
            state.queue.retain(|(number, _)| *number != mine);
            state.take_first_waker()
        };
        next.into_iter().for_each(Waker::wake);
    }
}
