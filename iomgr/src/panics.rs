//! Code of others that may panic, at places where that must not take anybody else along.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs code of somebody else's. `None`: it has panicked, and nothing of that is left: not the panic's
/// payload either, a value of theirs whose drop may panic in its turn.
///
/// ```
/// use overlapped_iomgr::panics::caught;
///
/// struct Bomb;
/// impl Drop for Bomb {
///     fn drop(&mut self) {
///         panic!("again");
///     }
/// }
/// assert_eq!(caught(|| 7), Some(7));
/// assert_eq!(caught(|| std::panic::panic_any(Bomb)), None::<()>);
/// ```
#[inline]
pub fn caught<R>(run: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(run)).map_err(discard).ok()
}

/// Drops a panic's payload. What its drop panics with is left alone, or there would be no end.
#[cold]
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
}

/// Says something to the program's log, which is code of somebody else's too: a panic of it goes no
/// further, for it would leave a request half done.
#[cold]
pub fn log(say: impl FnOnce()) {
    _ = caught(say);
}
