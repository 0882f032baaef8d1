//! Things that go wrong, on purpose and again the same way.

mod plan;
mod rule;
mod text;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use overlapped_iomgr::filter::{Filter, Io, Next};
use overlapped_iomgr::{Major, MajorSet, Status, minor};

use plan::{Action, Asked, Plan};
pub use rule::{Kind, Rule, Step};

use super::parts::{BUT_ENDS, common};
use crate::class::{Connect, Shutdown};
use crate::text::Entry;

/// Has requests go wrong, by [`Rule`]s; about each the first rule that says something decides. All chance
/// is from one seed, which the filter keeps: the same seed and the same order of requests have the same
/// faults, which [`Fault::log`] lists.
///
/// Clones are the same filter, for a program to look at it while a stack has it. What it counts, and which
/// blocks are bad, are the filter's own: on several files it takes them for one.
///
/// ```
/// # mod overlapped { pub use overlapped_iomgr::Status; pub mod driver { pub use overlapped_drivers::filter; pub use overlapped_iomgr::Filter; } }
/// use overlapped::Status;
/// use overlapped::driver::{Filter, filter::{Fault, Kind, Rule}};
///
/// let fault = Fault::new(42, [
///     Rule::new(Kind::Error(Status::IO_DEVICE_ERROR)).rate(0.05),
///     Rule::new(Kind::Short).rate(0.2),
/// ]);
/// let filter = fault.clone().into_driver();
/// assert_eq!((filter.name(), fault.count(), fault.log()), ("fault", 0, String::new()));
/// ```
#[derive(Clone)]
pub struct Fault(Arc<Shared>);

struct Shared {
    hooks: MajorSet,
    off: AtomicBool,
    plan: Mutex<Plan>,
}

/// The operations that a rule can be about.
fn faulty(rule: &Rule) -> MajorSet {
    let only = match &rule.what {
        rule::What::Kind(Kind::Short | Kind::Corrupt) => Rule::DATA,
        // They are healed by writes.
        rule::What::BadBlocks(..) => return MajorSet::of(&[Major::Read, Major::Write]),
        _ => BUT_ENDS,
    };
    common(rule.on, only)
}

impl Fault {
    /// A filter with these rules.
    pub fn new(seed: u64, rules: impl IntoIterator<Item = Rule>) -> Fault {
        let rules: Vec<Rule> = rules.into_iter().collect();
        let sets: Vec<MajorSet> = rules.iter().map(faulty).collect();
        let hooked = |major: &&Major| sets.iter().any(|set| set.contains(**major));
        let hooks = MajorSet::of(&Major::ALL.iter().filter(hooked).copied().collect::<Vec<_>>());
        let plan = Mutex::new(Plan::new(seed, rules));
        Fault(Arc::new(Shared { hooks, off: AtomicBool::new(false), plan }))
    }

    /// Has nothing go wrong for the time being, or goes on. Requests that pass meanwhile are not counted.
    pub fn pause(&self, off: bool) {
        self.0.off.store(off, Ordering::Relaxed);
    }

    /// How many faults there were.
    pub fn count(&self) -> u64 {
        self.plan().faults()
    }

    /// The faults so far, a line each: which of the requests that the filter has seen, the operation, where
    /// in the file and how many bytes, and what went wrong. Only the first 4 MiB are kept; a last line
    /// says how many there are besides.
    ///
    /// ```text
    /// 3 Read 4096+512: error 0xe00e0005
    /// 7 Write 0+100: short 41
    /// 9 Read 8192+512: corrupt 17 0x20
    /// ```
    pub fn log(&self) -> String {
        self.plan().trace()
    }

    /// `fault(seed=N, rate=0.05, error=EIO, op=read)`; `kind=error|hang|short|corrupt|reset|bad` (`bad`
    /// with `block=SIZE`), `range=FROM..TO`, `after=N`, `first=N`, `every=N`, `times=N`, `once=yes`,
    /// `script=ok*3 EIO short`.
    pub const ENTRY: Entry = Entry {
        name: "fault",
        about: "has requests go wrong: fault(seed=N, rate=0.05, error=EIO, op=read, kind=error, range=0..64K, every=N)",
        make: text::make,
    };

    fn plan(&self) -> MutexGuard<'_, Plan> {
        // Nothing in here panics while it is locked.
        self.0.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass<'a>(
        &self,
        broken: &Broken,
        next: Next<'a>,
        mut io: Io<'a>,
    ) -> Result<usize, Status> {
        if broken.is_broken() {
            return Err(Status::CONNECTION_RESET);
        }
        if self.0.off.load(Ordering::Relaxed) {
            return next.forward(&mut io).await;
        }
        let asked = Asked::of(&io);
        let action = self.plan().decide(&asked);
        let offset = io.offset();
        let result = match action {
            Action::Pass => next.forward(&mut io).await,
            Action::Error(status) => Err(status),
            Action::Hang => {
                next.sleep(Duration::MAX).await;
                Err(Status::CANCELLED)
            }
            Action::Short(room) => match next.forward(&mut io).at(offset, room).await {
                // The first segments are empty, perhaps; and no bytes would be the end.
                Ok(0) if io.minor() == minor::VECTORED => next.forward(&mut io).await,
                result => result,
            },
            Action::Corrupt(at, bits) => corrupted(next, &mut io, at, bits).await,
            Action::Reset => {
                broken.breaks();
                reset(next).await;
                Err(Status::CONNECTION_RESET)
            }
        };
        if broken.is_broken() {
            // Meanwhile, by another one.
            return Err(Status::CONNECTION_RESET);
        }
        if let (Ok(n), Major::Write) = (result, io.major()) {
            self.plan().written(&asked, n);
        }
        result
    }
}

/// Forwards, with one byte wrong.
async fn corrupted<'a>(
    next: Next<'a>,
    io: &mut Io<'a>,
    at: u64,
    bits: u8,
) -> Result<usize, Status> {
    if matches!(io.major(), Major::Write | Major::SendTo) {
        let mut bytes: Vec<u8> = io.segments().flatten().copied().collect();
        if let Some(byte) = bytes.get_mut(at as usize) {
            *byte ^= bits;
        }
        return next.forward(io).from(bytes).await.0;
    }
    let n = next.forward(io).await?;
    if n > 0 {
        // It may have got fewer bytes than it asked for.
        let byte = io.received_mut(n).flatten().nth(at as usize % n);
        byte.into_iter().for_each(|byte| *byte ^= bits);
    }
    Ok(n)
}

/// Tells the other side. A socket that cannot be reset is shut down.
async fn reset(next: Next<'_>) {
    if next.request(Connect::reset()).await.is_err() {
        _ = next.request(Shutdown { how: libc::SHUT_RDWR }).await;
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault").field("count", &self.count()).finish_non_exhaustive()
    }
}

/// What the filter keeps for each file: whether its connection has been broken.
#[derive(Debug, Default)]
pub struct Broken(AtomicBool);

impl Broken {
    fn is_broken(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn breaks(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Filter for Fault {
    type Open = Broken;

    fn name(&self) -> &str {
        "fault"
    }

    fn hooks(&self) -> MajorSet {
        self.0.hooks
    }

    async fn read(&self, open: &Broken, next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(open, next, io).await
    }

    async fn write(&self, open: &Broken, next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(open, next, io).await
    }

    async fn flush(&self, open: &Broken, next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(open, next, io).await
    }

    async fn other(&self, open: &Broken, next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(open, next, io).await
    }
}
