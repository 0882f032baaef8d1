//! A thread that waits: it drives its own processor meanwhile, and can be told to look again
//! (`told.rs`).

use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::told::Told;
use crate::hal::Wait;
use crate::panics::log;
use crate::processor::{Core, Driven, ProcessorHandle};
use crate::status::Status;
use crate::sync::{self, Parking, per_thread};

pub(crate) struct Sleeper {
    told: Told,
    place: Place,
}

/// Where it sleeps.
enum Place {
    Processor(ProcessorHandle),
    /// A thread that has no processor, and can have none.
    Thread(Parking),
}

per_thread! {
    static MINE: RefCell<Option<Arc<Sleeper>>> = const { RefCell::new(None) };
    /// The sleeper of this thread, while it waits.
    static WAITING: Cell<*const Sleeper> = const { Cell::new(ptr::null()) };
}

impl Sleeper {
    /// Has it look again.
    pub(crate) fn tell(&self) {
        self.told.tell();
        if self.is_mine() {
            // It does not sleep: its own turn is what has brought the news.
            return;
        }
        match &self.place {
            Place::Processor(processor) => processor.wake(),
            Place::Thread(parking) => parking.unpark(),
        }
    }

    /// Whether the calling thread is the one that waits here: it looks again by itself.
    pub(crate) fn is_mine(&self) -> bool {
        WAITING.try_with(|waiting| ptr::eq(waiting.get(), self)).unwrap_or(false)
    }

    /// The calling thread's.
    pub(crate) fn of(core: &Core) -> Arc<Sleeper> {
        let make = || {
            let place = Place::Processor(ProcessorHandle::new(core.remote().clone()));
            Arc::new(Sleeper { told: Told::new(), place })
        };
        MINE.try_with(|mine| {
            let mut mine = mine.borrow_mut();
            // A loop that the thread has driven had a processor of its own.
            let is_here = |sleeper: &Arc<Sleeper>| match &sleeper.place {
                Place::Processor(processor) => processor.id() == core.remote().id(),
                Place::Thread(_) => false,
            };
            match mine.as_ref().filter(|sleeper| is_here(sleeper)) {
                Some(sleeper) => sleeper.clone(),
                None => mine.insert(make()).clone(),
            }
        })
        .unwrap_or_else(|_| make())
    }
}

/// Says whether the calling thread waits, until dropped.
struct Waits(*const Sleeper);

impl Waits {
    fn here(sleeper: &Arc<Sleeper>) -> Waits {
        Waits(WAITING.try_with(|w| w.replace(Arc::as_ptr(sleeper))).unwrap_or(ptr::null()))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let _ = WAITING.try_with(|waiting| waiting.set(self.0));
    }
}

/// How long a wait may last.
#[derive(Clone, Copy)]
pub(crate) struct Limit(Option<Option<Instant>>);

impl Limit {
    /// `None`: for ever, as is a time too far to be expressed. Zero polls.
    pub(crate) fn new(timeout: Option<Duration>) -> Limit {
        Limit(match timeout {
            Some(Duration::ZERO) => None,
            timeout => Some(timeout.and_then(|timeout| Instant::now().checked_add(timeout))),
        })
    }

    pub(crate) fn is_poll(self) -> bool {
        self.0.is_none()
    }

    /// What is left of it, for one turn.
    fn left(self) -> Wait {
        match self.0 {
            None => Wait::No,
            Some(None) => Wait::Forever,
            Some(Some(end)) => match end.checked_duration_since(Instant::now()) {
                None | Some(Duration::ZERO) => Wait::No,
                Some(left) => Wait::For(left),
            },
        }
    }
}

/// Waits until `look` finds something, driving the thread's processor. `look` leaves the sleeper it
/// is given where news comes from. `seems` is a cheap hint that it would find something, for who has
/// not looked out yet. `Ok(None)`: the time is over.
///
/// # Errors
/// [`Status::WOULD_DEADLOCK`] on a runtime's worker, or inside a turn: waiting would stop what it
/// waits for. A poll is allowed everywhere, and looks only.
pub(crate) fn wait<R>(
    limit: Limit,
    seems: Option<impl Fn() -> bool>,
    mut look: impl FnMut(&Arc<Sleeper>) -> Option<R>,
) -> Result<Option<R>, Status> {
    let waited = Core::with_or_create(|core| {
        let sleeper = Sleeper::of(core);
        if core.driven() == Driven::Loop || core.is_inside_turn() {
            let found = look(&sleeper);
            let refused = if limit.is_poll() { Ok(None) } else { Err(Status::WOULD_DEADLOCK) };
            return found.map_or(refused, |found| Ok(Some(found)));
        }
        let _waits = Waits::here(&sleeper);
        // Nothing can come but from other threads.
        if let Some(seems) = &seems
            && !limit.is_poll()
            && core.live() == 0
        {
            sync::look_out(seems);
        }
        loop {
            sleeper.told.begin();
            if let Some(found) = look(&sleeper) {
                return Ok(Some(found));
            }
            let left = limit.left();
            if let Err(error) = core.turn(left, || sleeper.told.is()) {
                log(|| tracing::error!(%error, "the backend failed under a waiting thread"));
                std::thread::sleep(Duration::from_millis(10));
            }
            if left == Wait::No {
                return Ok(look(&sleeper));
            }
        }
    });
    waited.unwrap_or_else(|_| Ok(wait_without_processor(limit, seems, look)))
}

/// For a thread that can have no processor: it has no requests either, and waits for others.
#[cold]
fn wait_without_processor<R>(
    limit: Limit,
    seems: Option<impl Fn() -> bool>,
    mut look: impl FnMut(&Arc<Sleeper>) -> Option<R>,
) -> Option<R> {
    let sleeper = Arc::new(Sleeper { told: Told::new(), place: Place::Thread(Parking::here()) });
    let Place::Thread(parking) = &sleeper.place else { unreachable!("just made") };
    if let Some(seems) = seems
        && !limit.is_poll()
    {
        sync::look_out(seems);
    }
    loop {
        sleeper.told.begin();
        if let Some(found) = look(&sleeper) {
            return Some(found);
        }
        match limit.left() {
            _ if sleeper.told.is() => {}
            Wait::No => return None,
            Wait::Forever => parking.park(None),
            Wait::For(left) => parking.park(Some(left)),
        }
    }
}
