//! B-1: a buffer in flight belongs to its request, dropped or not.

use overlapped_iomgr::buf::IoBufMut;
use overlapped_iomgr::{Done, FileObject, Major, Operation, Request, Setup, Status};

struct Read<B>(B);

impl<B: IoBufMut> Operation for Read<B> {
    type Output = B;
    fn major(&self) -> Major {
        Major::Read
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.data_in(self.0);
    }
    fn finish(done: &mut Done<'_>) -> B {
        done.take()
    }
    fn refuse(self, _: Status) -> B {
        self.0
    }
}

fn reuse(file: &FileObject) {
    let mut buf = vec![0; 16];
    let request = Request::new(file, Read(buf));
    buf[0] = 1;
    drop(request);
}

fn borrow(file: &FileObject) {
    let mut buf = vec![0; 16];
    drop(Request::new(file, Read(&mut buf[..])));
}

fn array(file: &FileObject) {
    drop(Request::new(file, Read([0u8; 16])));
}

fn main() {
    let _ = (reuse, borrow, array);
}
