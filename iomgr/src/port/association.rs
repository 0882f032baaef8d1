//! Which port a thread belongs to (C-21, C-24), and that it does not run while it blocks (C-23).
//!
//! A thread belongs to the port it removed from last, until it removes from another, ends, or the
//! port is closed. While it belongs and is neither in a remove nor blocked, it is counted in the
//! port's `current`. The runtime sees it block in its own waits only; `CompletionPort::blocking` tells of
//! others.

use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::{Arc, Weak};

use super::queue::Shared;
use crate::sync::per_thread;

/// The thread's place; counted while `counted` is set.
struct Place {
    port: Weak<Shared>,
    counted: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.counted
            && let Some(port) = self.port.upgrade()
        {
            port.one_stops();
        }
    }
}

per_thread! {
    /// The port in `PLACE`, which keeps the address from being another's.
    static AT: Cell<*const Shared> = const { Cell::new(ptr::null()) };
    static PLACE: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// The calling thread is about to remove from `port`: it leaves any other. Whether it is counted
/// there; from here on it is not.
#[inline]
pub(super) fn ask(port: &Arc<Shared>) -> bool {
    let at = AT.with(Cell::get);
    let here = ptr::eq(at, Arc::as_ptr(port)) && !port.counts;
    !at.is_null() && !here && leave_other(port)
}

fn leave_other(port: &Arc<Shared>) -> bool {
    let asked = PLACE.try_with(|place| {
        let mut place = place.borrow_mut();
        if let Some(here) = &mut *place
            && ptr::eq(here.port.as_ptr(), Arc::as_ptr(port))
        {
            return Ok(std::mem::replace(&mut here.counted, false));
        }
        AT.with(|at| at.set(ptr::null()));
        Err(place.take())
    });
    match asked {
        Ok(Ok(counted)) => counted,
        // The other port is left outside the borrow.
        Ok(Err(_)) | Err(_) => false,
    }
}

/// Whether the calling thread belongs to the port.
#[inline]
pub(super) fn belongs(port: &Arc<Shared>) -> bool {
    ptr::eq(AT.with(Cell::get), Arc::as_ptr(port))
}

/// It comes back from a remove, and the port has counted it, if it counts.
#[inline]
pub(super) fn answer(port: &Arc<Shared>) {
    if port.counts || !belongs(port) {
        remember(port);
    }
}

fn remember(port: &Arc<Shared>) {
    AT.with(|at| at.set(Arc::as_ptr(port)));
    let remembered = PLACE.try_with(|place| {
        let mut place = place.borrow_mut();
        match &mut *place {
            Some(here) if ptr::eq(here.port.as_ptr(), Arc::as_ptr(port)) => {
                here.counted = true;
            }
            _ => {
                let here = Place { port: Arc::downgrade(port), counted: true };
                return place.replace(here);
            }
        }
        None
    });
    // The place before is left outside the borrow: that may wake somebody.
    if remembered.map(drop).is_err() {
        // The thread ends.
        port.one_stops();
    }
}

/// The calling thread does not run until this is dropped (C-23).
pub(crate) struct Blocked(Option<Weak<Shared>>);

/// See [`Blocked`].
pub(crate) fn blocked() -> Blocked {
    let port = PLACE.try_with(|place| {
        let mut place = place.borrow_mut();
        let here = place.as_mut().filter(|here| here.counted)?;
        here.counted = false;
        Some(here.port.clone())
    });
    let port = port.ok().flatten();
    if let Some(port) = port.as_ref().and_then(Weak::upgrade) {
        port.one_stops();
    }
    Blocked(port)
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let Some(port) = self.0.take().and_then(|port| port.upgrade()) else { return };
        let counts = PLACE.try_with(|place| match &mut *place.borrow_mut() {
            // Unless it has removed from a port meanwhile: then it is counted already, or is elsewhere.
            Some(here) if ptr::eq(here.port.as_ptr(), Arc::as_ptr(&port)) && !here.counted => {
                here.counted = true;
                true
            }
            _ => false,
        });
        if counts.unwrap_or(false) {
            // Whether or not there is room: those who run may be too many for a while.
            port.lock().runs();
        }
    }
}
