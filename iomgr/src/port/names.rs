//! Ports by name: a name leads to the port as long as it has handles.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use super::Handle;
use crate::status::Status;

static NAMES: LazyLock<Mutex<HashMap<String, Weak<Handle>>>> = LazyLock::new(Mutex::default);

/// Gives a port a name.
///
/// # Errors
/// [`Status::OBJECT_NAME_COLLISION`]: it is another's. [`Status::OBJECT_NAME_INVALID`]: it is empty.
pub(super) fn insert(name: &str, port: &Arc<Handle>) -> Result<(), Status> {
    if name.is_empty() {
        return Err(Status::OBJECT_NAME_INVALID);
    }
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    names.retain(|_, port| port.strong_count() > 0);
    if names.contains_key(name) {
        return Err(Status::OBJECT_NAME_COLLISION);
    }
    names.insert(name.to_owned(), Arc::downgrade(port));
    Ok(())
}

/// The port of that name.
///
/// # Errors
/// [`Status::OBJECT_NAME_NOT_FOUND`].
pub(super) fn find(name: &str) -> Result<Arc<Handle>, Status> {
    let names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    names.get(name).and_then(Weak::upgrade).ok_or(Status::OBJECT_NAME_NOT_FOUND)
}
