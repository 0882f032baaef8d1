//! What goes with a request's data: a datagram's address, descriptors passed along, ….
//!
//! The payload of a request with data is the caller's own buffer, whose type the drivers do not
//! know. What else operation and drivers have to tell each other travels in a [`Companion`]: the
//! operation sends it along ([`Setup::companion`](crate::Setup::companion)), the drivers look at it
//! and change it, and the operation has it back from [`Done::companion`](crate::Done::companion).
//!
//! **Invariant.** A slot's `accompanied` says whether its `companion` is there, so that requests
//! without one, most of them, do not touch the memory. Both belong to whoever has the payload.

use std::any::Any;

use crate::irp::slot::{SlotPtr, flags};

/// A value that accompanies a request's data.
pub trait Companion: Any + Send {
    /// A copy, for a request that leaves the original where it is (a peek at a message): without
    /// what can exist only once, like a descriptor.
    fn copy(&self) -> Box<dyn Companion>;

    /// Takes over what has come for an earlier request, whose companion this was.
    fn take_over(&mut self, late: Box<dyn Companion>);
}

fn is<T: Companion>(companion: &dyn Companion) -> Option<&T> {
    (companion as &dyn Any).downcast_ref()
}

impl SlotPtr {
    /// Puts a companion in, or none; gives the one before back.
    ///
    /// # Safety
    /// The caller has the slot's payload.
    #[inline]
    pub(crate) unsafe fn set_companion(
        self,
        companion: Option<Box<dyn Companion>>,
    ) -> Option<Box<dyn Companion>> {
        // SAFETY: the caller's; slots are initialised with `None`.
        unsafe {
            let header = self.0.as_ptr();
            if companion.is_some() {
                (*header).flags.set(flags::ACCOMPANIED);
            } else if (*header).flags.has(flags::ACCOMPANIED) {
                (*header).flags.clear(flags::ACCOMPANIED);
            } else {
                return None;
            }
            std::mem::replace(&mut (*header).companion, companion)
        }
    }

    /// Gives the request what has come for an earlier one. Of no use to a request that did not send a
    /// companion along.
    ///
    /// # Safety
    /// As [`SlotPtr::set_companion`].
    pub(crate) unsafe fn give_companion(self, late: Box<dyn Companion>) {
        // SAFETY: the caller's.
        unsafe {
            let header = self.0.as_ptr();
            if (*header).flags.has(flags::ACCOMPANIED)
                && let Some(own) = (*header).companion.as_deref_mut()
            {
                own.take_over(late);
            }
        }
    }

    /// The companion, if there is one of this type.
    ///
    /// # Safety
    /// As [`SlotPtr::set_companion`], for as long as the reference lives.
    pub(crate) unsafe fn companion<'a, T: Companion>(self) -> Option<&'a T> {
        // SAFETY: the caller's.
        unsafe {
            let header = self.0.as_ptr();
            if (*header).flags.has(flags::ACCOMPANIED) {
                is((*header).companion.as_deref()?)
            } else {
                None
            }
        }
    }

    /// As [`SlotPtr::companion`], for changing.
    ///
    /// # Safety
    /// As [`SlotPtr::companion`], and nobody else has a reference.
    pub(crate) unsafe fn companion_mut<'a, T: Companion>(self) -> Option<&'a mut T> {
        // SAFETY: the caller's.
        unsafe {
            let header = self.0.as_ptr();
            if !(*header).flags.has(flags::ACCOMPANIED) {
                return None;
            }
            ((*header).companion.as_deref_mut()? as &mut dyn Any).downcast_mut()
        }
    }
}

/// The companion as a `T`, if it is one.
pub fn downcast<T: Companion>(companion: Box<dyn Companion>) -> Option<Box<T>> {
    (companion as Box<dyn Any>).downcast().ok()
}
