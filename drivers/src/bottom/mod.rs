//! Bottom drivers: where requests leave for the hardware.

mod file;
mod tcp;

pub use file::{FileContext, FileDriver, open};
pub use tcp::{
    ListenerContext, ListenerDriver, StreamContext, StreamDriver, adopt, adopt_listener,
};

use overlapped_iomgr::FileObject;

/// Closes a file object's descriptor with a plain system call.
fn close_now(file: &FileObject) {
    let fd = file.fd();
    if fd >= 0 {
        file.set_fd(-1);
        crate::hal::close(fd);
    }
}
