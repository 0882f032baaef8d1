//! Whom a request tells beside its route: an event (C-3), and a port that gets a copy of the result
//! (C-6, C-40). One word in the request, whichever it is.
//!
//! **Invariant.** A [`Tell`] owns what its address leads to: an [`Event`]'s signal, or, with the lowest bit
//! set, a box.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::file::FileObject;
use crate::irp::slot::IoStatus;
use crate::port::{Shared, Tee};
use crate::status::Status;
use crate::wait::{Event, Signal};

/// See the module's header.
pub(crate) struct Tell(NonNull<()>);

// SAFETY: an event or a box, both of which are `Send`.
unsafe impl Send for Tell {}

const BOX: usize = 1;

/// What a [`Tell`] is.
enum Told {
    Event(Event),
    Copy(Box<Copied>),
}

/// A port that gets a copy; and the event, if there is one too.
struct Copied {
    event: Option<Event>,
    port: Arc<Shared>,
    key: u64,
    /// Of the handle that the port was given by.
    allowed: Result<(), Status>,
    /// Once the request is issued.
    tee: Option<Tee>,
}

const _: () = assert!(align_of::<Copied>() > BOX && align_of::<Signal>() > BOX);

impl Tell {
    fn new(told: Told) -> Tell {
        Tell(match told {
            Told::Event(event) => event.into_raw().cast(),
            Told::Copy(copy) => {
                let copy = NonNull::from(Box::leak(copy)).cast::<()>();
                copy.map_addr(|address| address | BOX)
            }
        })
    }

    fn is_box(&self) -> bool {
        self.0.addr().get() & BOX != 0
    }

    /// # Safety
    /// `self` is a box.
    unsafe fn copied(&self) -> &Copied {
        // SAFETY: made by `new`, and ours.
        unsafe { &*self.0.as_ptr().map_addr(|address| address & !BOX).cast::<Copied>() }
    }

    /// # Safety
    /// `self` is a box.
    unsafe fn copied_mut(&mut self) -> &mut Copied {
        // SAFETY: made by `new`, and ours.
        unsafe { &mut *self.0.as_ptr().map_addr(|address| address & !BOX).cast::<Copied>() }
    }

    fn open(self) -> Told {
        let told = ManuallyDrop::new(self);
        // SAFETY: made by `new`, of what the bit says; `told` is not dropped, so that it is owned once.
        unsafe {
            if told.is_box() {
                let copy = told.0.as_ptr().map_addr(|address| address & !BOX);
                Told::Copy(Box::from_raw(copy.cast::<Copied>()))
            } else {
                Told::Event(Event::from_raw(told.0.cast()))
            }
        }
    }

    /// An event instead of the one before.
    pub(super) fn with_event(before: Option<Tell>, event: Event) -> Tell {
        Tell::new(match before.map(Tell::open) {
            Some(Told::Copy(mut copy)) => {
                copy.event = Some(event);
                Told::Copy(copy)
            }
            Some(Told::Event(_)) | None => Told::Event(event),
        })
    }

    /// A port instead of the one before.
    pub(super) fn with_port(
        before: Option<Tell>,
        port: Arc<Shared>,
        key: u64,
        allowed: Result<(), Status>,
    ) -> Tell {
        let event = match before.map(Tell::open) {
            Some(Told::Copy(copy)) => copy.event,
            Some(Told::Event(event)) => Some(event),
            None => None,
        };
        Tell::new(Told::Copy(Box::new(Copied { event, port, key, allowed, tee: None })))
    }

    /// Whether a port gets a copy.
    pub(super) fn has_port(&self) -> bool {
        self.is_box()
    }

    /// Whether there is an event.
    pub(crate) fn has_event(&self) -> bool {
        // SAFETY: a box, if it is not an event.
        !self.is_box() || unsafe { self.copied() }.event.is_some()
    }

    /// The request is about to be issued: resets the event, and takes a place in the port.
    pub(super) fn begin(&mut self) -> Result<(), Status> {
        if !self.is_box() {
            // SAFETY: an event, which stays with `self`.
            ManuallyDrop::new(unsafe { Event::from_raw(self.0.cast()) }).reset();
            return Ok(());
        }
        // SAFETY: just looked.
        let copy = unsafe { self.copied_mut() };
        if let Some(event) = &copy.event {
            event.reset();
        }
        copy.allowed?;
        copy.tee = Some(Tee::new(copy.port.clone(), copy.key)?);
        Ok(())
    }

    /// The request is done: sets the event, or without one signals the file object (I-33), and queues
    /// the copy behind that (I-28).
    pub(crate) fn tell(self, file: Option<&FileObject>, result: IoStatus) {
        let (event, tee) = match self.open() {
            Told::Event(event) => (Some(event), None),
            Told::Copy(copied) => (copied.event, copied.tee),
        };
        if let Some(event) = &event {
            event.set();
        }
        // A synchronous file object is signalled besides.
        if let Some(file) = file
            && (event.is_none() || file.is_synchronous())
        {
            file.set_signal();
        }
        if let Some(tee) = tee {
            tee.deliver(result);
        }
    }
}

impl Drop for Tell {
    fn drop(&mut self) {
        // SAFETY: ours, and gone after this.
        drop(unsafe { std::ptr::read(self) }.open());
    }
}
