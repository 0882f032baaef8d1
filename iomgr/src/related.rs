//! Files that a request needs beside its own.

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;

use crate::file::{self, FileObject};

/// Counts on a file object as a request does: as long as it lives, nobody closes the descriptor
/// . For requests that need a second file beside their own: NT's RelatedFileObject (O-31).
///
/// A close that is asked for meanwhile waits.
pub struct RelatedFile(NonNull<FileObject>);

// SAFETY: `FileObject` is `Send + Sync`, and the count is of the kind that any thread may take off.
unsafe impl Send for RelatedFile {}
// SAFETY: as above.
unsafe impl Sync for RelatedFile {}

impl RelatedFile {
    /// Counts on the file object from now on. Its descriptor may be gone already: look afterwards.
    pub fn new(file: &FileObject) -> RelatedFile {
        file::enter_foreign(file);
        RelatedFile(file.address())
    }
}

impl Deref for RelatedFile {
    type Target = FileObject;
    fn deref(&self) -> &FileObject {
        // SAFETY: counted.
        unsafe { self.0.as_ref() }
    }
}

impl fmt::Debug for RelatedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Drop for RelatedFile {
    fn drop(&mut self) {
        // SAFETY: counted as of another processor, which may be given up on any thread.
        unsafe { file::leave_foreign(self.0) };
    }
}
