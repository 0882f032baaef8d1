//! What threads meet at, for the code that loom explores: the standard library's, or loom's in its
//! place.

pub mod lock;

#[cfg(loom)]
pub(crate) use crate::loomed::{AtomicBool, AtomicPtr, AtomicU64};
#[cfg(loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicPtr, AtomicU64},
    },
    thread_local as per_thread,
};

#[cfg(not(loom))]
use std::cell::Cell;
#[cfg(not(loom))]
use std::hint::spin_loop;
#[cfg(not(loom))]
use std::thread::{sleep, yield_now};
use std::time::Duration;
#[cfg(not(loom))]
use std::time::Instant;

/// `thread_local`; loom's does not know of constants.
#[cfg(loom)]
macro_rules! per_thread {
    ($($(#[$meta:meta])* static $name:ident: $type:ty = const { $value:expr };)*) => {
        loom::thread_local! { $($(#[$meta])* static $name: $type = $value;)* }
    };
}
#[cfg(loom)]
pub(crate) use per_thread;

/// What threads pass on to each other by other means. loom sees who looks at it.
#[cfg(not(loom))]
pub(crate) struct Watched<T>(std::cell::UnsafeCell<T>);
/// The same.
#[cfg(loom)]
pub(crate) struct Watched<T>(loom::cell::UnsafeCell<T>);

impl<T> Watched<T> {
    pub(crate) fn new(content: T) -> Watched<T> {
        #[cfg(not(loom))]
        return Watched(std::cell::UnsafeCell::new(content));
        #[cfg(loom)]
        return Watched(loom::cell::UnsafeCell::new(content));
    }

    /// What is done with the content is up to the caller, who knows whose it is.
    #[inline]
    pub(crate) fn with_mut<R>(&self, run: impl FnOnce(*mut T) -> R) -> R {
        #[cfg(not(loom))]
        return run(self.0.get());
        #[cfg(loom)]
        return self.0.with_mut(run);
    }
}

/// Waits a moment for what another thread does in some dozens of instructions; asked for the `nth`
/// time. Twice as long each time: whoever holds a lock that is wanted often then takes it many times
/// from its own cache, where threads that look all the time would send the cache line to and fro for
/// each. If it takes longer, the other has been preempted: then it lets others run, and at last sleeps
/// a little, so that even a thread that outranks the other lets it go on.
pub(crate) fn relax(nth: u32) {
    #[cfg(loom)]
    return {
        let _ = nth;
        loom::thread::yield_now();
    };
    #[cfg(not(loom))]
    match nth {
        0..7 => (0..1 << nth).for_each(|_| spin_loop()),
        7..60 => yield_now(),
        _ => sleep(Duration::from_micros(50)),
    }
}

/// Looks out for news for some microseconds, a tenth of what it costs to sleep and be woken, or, if
/// looking out has paid of late, a few times as long. In between it lets others run: they may have the
/// news. If these run for long, it is over: one that sleeps is back sooner than one that waits for its
/// next time slice.
///
/// Patience is for threads that answer each other: if one of them sleeps, the other waits for so long
/// that it would fall asleep too, and so on for ever.
pub(crate) fn look_out(news: impl Fn() -> bool) {
    // loom tries everything that may happen meanwhile.
    #[cfg(loom)]
    let _ = news;
    #[cfg(not(loom))]
    {
        let patience = PATIENCE.try_with(Cell::get).unwrap_or(LITTLE);
        let remember = |patience| _ = PATIENCE.try_with(|p| p.set(patience));
        // Looking only reads: the cache line comes once, with the news.
        let spin = |times| {
            (0..times).any(|_| {
                spin_loop();
                news()
            })
        };
        if news() {
            return remember(MUCH);
        }
        for step in 0..patience {
            let heard = match step {
                0 => spin(SPINS),
                LITTLE.. if step % 2 == 0 => spin(SPINS / 2),
                _ => {
                    let begin = Instant::now();
                    yield_now();
                    if begin.elapsed() > LONG {
                        break;
                    }
                    news()
                }
            };
            if heard {
                return remember(MUCH);
            }
        }
        remember((patience / 2).max(LITTLE));
    }
}

/// Looks of the first step of [`look_out`], and its steps.
#[cfg(not(loom))]
const SPINS: u32 = 128;
#[cfg(not(loom))]
const LITTLE: u8 = 5;
#[cfg(not(loom))]
const MUCH: u8 = 26;
/// Far longer than a thread needs that has nothing to do but to post.
#[cfg(not(loom))]
const LONG: Duration = Duration::from_micros(100);

#[cfg(not(loom))]
std::thread_local! {
    /// How many steps the thread looks out for.
    static PATIENCE: Cell<u8> = const { Cell::new(LITTLE) };
}

/// A place where the thread that made it parks.
#[cfg(not(loom))]
pub(crate) struct Parking(std::thread::Thread);

#[cfg(not(loom))]
impl Parking {
    pub(crate) fn here() -> Parking {
        Parking(std::thread::current())
    }

    /// For the thread itself: until it is unparked, or was since it came back last, or the time is over.
    pub(crate) fn park(&self, limit: Option<Duration>) {
        match limit {
            None => std::thread::park(),
            Some(limit) => std::thread::park_timeout(limit),
        }
    }

    pub(crate) fn unpark(&self) {
        self.0.unpark();
    }
}

/// The same. (loom's own takes a thread for parked that waits for a lock.)
#[cfg(loom)]
pub(crate) struct Parking(Mutex<bool>, loom::sync::Condvar);

#[cfg(loom)]
impl Parking {
    pub(crate) fn here() -> Parking {
        Parking(Mutex::new(false), loom::sync::Condvar::new())
    }

    pub(crate) fn park(&self, limit: Option<Duration>) {
        if limit.is_some() {
            return loom::thread::yield_now();
        }
        let mut unparked = self.0.lock().unwrap();
        while !std::mem::take(&mut *unparked) {
            unparked = self.1.wait(unparked).unwrap();
        }
    }

    pub(crate) fn unpark(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }
}
