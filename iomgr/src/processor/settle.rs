//! Filters that want to hear when a request's result is final. Few requests have one, and for a short
//! time: from the filter's answer to the end of its way up. So they are kept here, not in the request.

use std::sync::Arc;

use super::Core;
use crate::irp::slot::SlotPtr;

/// What hears that a request's result is final: its requester has it, or it has been kept or disposed
/// of. See [`Io::until_settled`](crate::filter::Io::until_settled).
pub trait Settle: Send + Sync {
    /// It is. Called once, on the thread of the request's processor; must not block.
    fn settled(&self);
}

impl Core {
    /// Has `driver` told of a request that is marked as hooked. Owner's thread.
    pub(crate) fn hook(&self, slot: SlotPtr, driver: Arc<dyn Settle>) {
        // Foreign code: dropped when nothing is borrowed any more.
        let old = self.take_hook(slot);
        self.hooks.borrow_mut().push((slot, driver));
        drop(old);
    }

    /// Whom to tell of a request. Owner's thread.
    pub(crate) fn take_hook(&self, slot: SlotPtr) -> Option<Arc<dyn Settle>> {
        let mut hooks = self.hooks.borrow_mut();
        let at = hooks.iter().position(|(of, _)| *of == slot)?;
        Some(hooks.swap_remove(at).1)
    }
}
