//! Filters that are told of a request only if it concerns them. The others are skipped, without a call.

use std::sync::Arc;

use super::{Filter, Level2, call};
use crate::driver::{Class, Driver};
use crate::irp::{Completion, Disposition, Irp, Lower, Unwinding, View};
use crate::limits::Group;
use crate::major::MajorSet;

/// A filter that can tell at once whether it has anything to do.
pub(super) trait Selects: Filter {
    /// Whether the request concerns it. What it says is asked once, when the request comes down.
    fn concerns(&self, request: &View) -> bool;
}

/// See the module's header.
pub(super) struct Selective<F>(Level2<F>);

impl<F: Selects> Selective<F> {
    /// The filter as a driver.
    pub(super) fn driver(filter: F) -> Arc<dyn Driver> {
        Arc::new(Selective(Level2(filter)))
    }
}

impl<F: Selects> Driver for Selective<F> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn hooks(&self) -> MajorSet {
        self.0.hooks()
    }

    fn class(&self) -> Class {
        self.0.class()
    }

    fn group(&self) -> Option<Group> {
        self.0.group()
    }

    #[inline]
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        // One that has a call goes on with it.
        if call::of(&irp).is_none() && !self.0.0.concerns(&irp) {
            return lower.skip(irp);
        }
        self.0.dispatch(irp, lower)
    }

    fn completed(&self, irp: Unwinding<'_>) -> Completion {
        self.0.completed(irp)
    }
}
