//! STUB
use overlapped_iomgr::hal::*;
use std::{io,sync::Arc};
#[derive(Clone,Debug,Default)]
pub struct UringConfig;
pub struct UringHal;
impl UringHal { pub fn new(_: &UringConfig) -> io::Result<Self> { Err(io::Error::other("stub")) } }
impl Hal for UringHal {
 fn name(&self)->&'static str {"io_uring"}
 unsafe fn submit(&mut self, _: Token, _: Op, _: bool)->Option<i32>{None}
 fn cancel(&mut self,_:Token){}
 fn turn(&mut self,_:Wait,_:&mut Vec<Completion>)->io::Result<()> {Ok(())}
 fn in_flight(&self)->usize{0}
 fn wake_handle(&self)->Arc<dyn Wake>{todo!()}
}
