//! STUB
use overlapped_iomgr::hal::*;
use std::{io,sync::Arc};
#[derive(Clone,Debug,Default)]
pub struct EpollConfig;
pub struct EpollHal;
impl EpollHal { pub fn new(_: &EpollConfig) -> io::Result<Self> { Err(io::Error::other("stub")) } }
impl Hal for EpollHal {
 fn name(&self)->&'static str {"epoll"}
 unsafe fn submit(&mut self, _: Token, _: Op, _: bool)->Option<i32>{None}
 fn cancel(&mut self,_:Token){}
 fn turn(&mut self,_:Wait,_:&mut Vec<Completion>)->io::Result<()> {Ok(())}
 fn in_flight(&self)->usize{0}
 fn wake_handle(&self)->Arc<dyn Wake>{todo!()}
}
