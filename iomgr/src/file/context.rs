//! What a bottom driver keeps for each open, whose type it alone knows.

use std::any::{Any, TypeId};
use std::ptr;

/// Drivers look here several times for each request. To ask a box for its type is a call through a table
/// each time; so the type is kept beside.
pub(super) struct Context {
    type_id: TypeId,
    value: Box<dyn Any + Send + Sync>,
}

impl Context {
    pub(super) fn new(value: Box<dyn Any + Send + Sync>) -> Context {
        Context { type_id: (*value).type_id(), value }
    }

    #[inline]
    pub(super) fn get<T: Any>(&self) -> Option<&T> {
        // SAFETY: the value is of that type, and stays in its box.
        (self.type_id == TypeId::of::<T>())
            .then(|| unsafe { &*ptr::from_ref(&*self.value).cast::<T>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_by_its_own_type_only() {
        let context = Context::new(Box::new(5u32));
        assert_eq!(context.get::<u32>(), Some(&5));
        assert!(context.get::<i32>().is_none());
        assert!(context.get::<Box<dyn Any + Send + Sync>>().is_none());
        assert!(Context::new(Box::new(())).get::<()>().is_some());
    }
}
