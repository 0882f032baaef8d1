//! O-31: a request that borrows its file does not outlive the handle.

use overlapped_iomgr::{FileHandle, Operation, Request};

fn outlive<K: Operation>(file: FileHandle, operation: K) -> Request<'static, K> {
    Request::new(&file, operation)
}

fn main() {
    let _ = outlive::<Never>;
}

struct Never;

impl Operation for Never {
    type Output = ();
    fn major(&self) -> overlapped_iomgr::Major {
        overlapped_iomgr::Major::Read
    }
    fn prepare(self, _: &mut overlapped_iomgr::Setup<'_>) {}
    fn finish(_: &mut overlapped_iomgr::Done<'_>) {}
    fn refuse(self, _: overlapped_iomgr::Status) {}
}
