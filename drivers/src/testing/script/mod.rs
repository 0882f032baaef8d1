//! Bottoms whose answers are written down beforehand.

mod answer;

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overlapped_iomgr::buf::Lease;
use overlapped_iomgr::{
    Disposition, Driver, FileObject, Irp, Late, Lower, Major, MajorSet, Status, minor,
};

pub use answer::{Answer, Gate};

use super::log::{Log, Record};
use crate::bottom::memory::close;
use crate::class::{Create, Receiver, Turn};

/// A bottom driver that says what a test has written down, and keeps a [`Log`] of what it was asked.
/// Clones are the same script.
///
/// Each request takes the next answer for its operation. When there is none left, a read finds the end,
/// a write is taken whole, and anything else succeeds. A request that is cancelled before it was answered
/// leaves its answer to the next. Opening and closing need no answer.
///
/// A [file](Script::file) is opened by `OpenOptions::on`, and has offsets. A [stream](Script::stream) is
/// read in order: one read at a time has an answer, further ones wait for their turn, what has come for a
/// read that nobody waits for any more is the next one's (X-35), and a peek leaves the answer where it is.
/// A script of a stream is for one open stream.
///
/// ```
/// # mod overlapped {
/// #     pub mod driver { pub use overlapped_drivers::testing; pub use overlapped_iomgr::Major; }
/// # }
/// use overlapped::driver::{Major, testing::{Answer, Script}};
///
/// let script = Script::file();
/// script.answer(Major::Read, Answer::bytes("hello")).answer(Major::Write, Answer::count(1));
/// assert_eq!(script.driver().name(), "script");
/// assert_eq!(script.left(), 2);
/// ```
#[derive(Clone)]
pub struct Script(Arc<State>);

struct State {
    /// Of a stream.
    receiver: Option<Receiver>,
    answers: Mutex<Vec<(Major, Answer)>>,
    log: Log,
}

impl Script {
    /// A file.
    pub fn file() -> Script {
        Script::of(None)
    }

    /// A stream.
    pub fn stream() -> Script {
        Script::of(Some(Receiver::default()))
    }

    fn of(receiver: Option<Receiver>) -> Script {
        Script(Arc::new(State { receiver, answers: Mutex::default(), log: Log::new() }))
    }

    /// What it is to say to the next request of that operation, after what was written down for those
    /// before.
    pub fn answer(&self, major: Major, answer: Answer) -> &Script {
        self.0.answers().push((major, answer));
        self
    }

    /// Answers that no request has had yet.
    pub fn left(&self) -> usize {
        self.0.answers().len()
    }

    /// What it was asked.
    pub fn log(&self) -> &Log {
        &self.0.log
    }

    /// The bottom.
    pub fn driver(&self) -> Arc<dyn Driver> {
        Arc::new(Bottom(self.0.clone()))
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("left", &self.left()).finish_non_exhaustive()
    }
}

impl State {
    fn answers(&self) -> MutexGuard<'_, Vec<(Major, Answer)>> {
        // Nothing in here panics while it holds the lock.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next answer for the operation.
    fn next(&self, major: Major) -> Option<Answer> {
        let mut answers = self.answers();
        let at = answers.iter().position(|(of, _)| *of == major)?;
        Some(answers.remove(at).1)
    }
}

/// A request that waits for its answer: its scratch. What is left of the answer when the request goes is
/// the next one's.
struct Asked {
    state: Arc<State>,
    major: Major,
    /// In the log.
    number: usize,
    answer: Cell<Option<Answer>>,
    logged: Cell<bool>,
    /// It has the stream.
    turn: Cell<bool>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            self.state.answers().insert(0, (self.major, answer));
        }
        if !self.logged.get() {
            // Taken out of a queue by a cancel.
            self.state.log.end(self.number, Status::CANCELLED, 0, Vec::new());
        }
    }
}

/// The driver of a script.
struct Bottom(Arc<State>);

impl Bottom {
    /// Notes that a request has ended, and how.
    fn complete(&self, irp: Irp<'_>, status: Status, info: usize) -> Disposition {
        let asked: &Asked = irp.scratch().expect("set when it came");
        asked.logged.set(true);
        let received = irp.received(info).flatten().copied().collect();
        self.0.log.end(asked.number, status, info, received);
        irp.complete(status, info)
    }

    /// A read of a stream asks for its turn.
    fn turn<'a>(&self, receiver: &Receiver, mut irp: Irp<'a>) -> Result<Irp<'a>, Disposition> {
        match receiver.turn(&mut irp) {
            Turn::Go => {
                irp.notify_settled();
                irp.scratch::<Asked>().expect("set when it came").turn.set(true);
                Ok(irp)
            }
            Turn::Above => {
                irp.notify_settled();
                Err(self.complete(irp, Status::DATA_ABOVE, 0))
            }
            Turn::Skip(status) => Err(self.complete(irp, status, 0)),
            Turn::Wait if irp.minor() == minor::NOW => {
                Err(self.complete(irp, Status::DEVICE_NOT_READY, 0))
            }
            Turn::Wait => Err(receiver.park(irp)),
            Turn::Served(..) | Turn::Leased(..) => unreachable!("nothing is stashed here"),
        }
    }

    /// Gives a request its answer, when it is time.
    fn go_on(&self, irp: Irp<'_>) -> Disposition {
        let asked: &Asked = irp.scratch().expect("set when it came");
        let Some(mut answer) = asked.answer.take().or_else(|| self.0.next(asked.major)) else {
            let taken = if asked.major == Major::Write { irp.len() } else { 0 };
            return self.complete(irp, Status::SUCCESS, taken);
        };
        if irp.is_cancelled() {
            asked.answer.set(Some(answer));
            return self.complete(irp, Status::CANCELLED, 0);
        }
        if answer.turns > 0 {
            answer.turns -= 1;
            asked.answer.set(Some(answer));
            let (held, disposition) = irp.hold();
            held.redispatch_later();
            return disposition;
        }
        match answer.gate.clone() {
            Some(gate) if !gate.is_open() => {
                asked.answer.set(Some(answer));
                gate.wait(irp)
            }
            _ => self.give(irp, answer),
        }
    }

    fn give(&self, mut irp: Irp<'_>, mut answer: Answer) -> Disposition {
        let mut n = 0;
        let mut lease = None;
        if irp.major() == Major::Read {
            if irp.minor() == minor::POOLED {
                n = answer.bytes.len().min(irp.len());
                lease = (n > 0).then(|| Lease::from(answer.bytes[..n].to_vec()));
            } else {
                n = irp.copy_in(0, &answer.bytes);
            }
        }
        let (status, info) = answer.result.unwrap_or((Status::SUCCESS, n));
        if let Some(receiver) = &self.0.receiver
            && irp.major() == Major::Read
        {
            let peek = irp.minor() == minor::PEEK;
            if !peek {
                let position = receiver.received(n);
                irp.set_position(position);
                answer.bytes.drain(..n);
            }
            if !answer.bytes.is_empty() || peek {
                irp.scratch::<Asked>().expect("set when it came").answer.set(Some(answer));
            }
        }
        match lease {
            Some(lease) if status.is_success() => {
                let asked: &Asked = irp.scratch().expect("set when it came");
                asked.logged.set(true);
                self.0.log.end(asked.number, status, n, lease.to_vec());
                irp.complete_with_lease(lease)
            }
            _ => self.complete(irp, status, info),
        }
    }
}

impl Driver for Bottom {
    fn name(&self) -> &str {
        "script"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }

    fn dispatch(&self, mut irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        match irp.major() {
            Major::Close => return close(irp, Status::SUCCESS),
            Major::Cleanup => return irp.complete(Status::SUCCESS, 0),
            Major::Create => {
                let create = irp.payload::<Create>();
                if create.is_some_and(|create| create.flags & libc::O_APPEND != 0) {
                    irp.file().set_appends();
                }
                irp.file().set_seekable();
                irp.file().set_open(true);
                return irp.complete(Status::SUCCESS, 0);
            }
            _ if !irp.file().is_open() => return irp.complete(Status::FILE_CLOSED, 0),
            _ => {}
        }
        if irp.scratch::<Asked>().is_none() {
            irp.set_scratch(Asked {
                state: self.0.clone(),
                major: irp.major(),
                number: self.0.log.begin(Record::of(&irp)),
                answer: Cell::new(None),
                logged: Cell::new(false),
                turn: Cell::new(false),
            });
        }
        if let Some(receiver) = &self.0.receiver
            && irp.major() == Major::Read
            && !irp.scratch::<Asked>().is_some_and(|asked| asked.turn.get())
        {
            return match self.turn(receiver, irp) {
                Ok(irp) => self.go_on(irp),
                Err(disposition) => disposition,
            };
        }
        self.go_on(irp)
    }

    fn abandoned(&self, file: &FileObject, late: Late<'_>) {
        if let Some(receiver) = &self.0.receiver
            && late.major() == Major::Read
        {
            receiver.abandoned(file, late);
        }
    }

    fn settled(&self, _: &FileObject) {
        if let Some(receiver) = &self.0.receiver {
            receiver.settled();
        }
    }
}
