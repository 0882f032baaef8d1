//! A level-2 filter made of a closure, and what goes with it.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use overlapped_iomgr::filter::{Filter as Level2, Io, Next, Shared};
use overlapped_iomgr::{Driver, Major, MajorSet, Stack, Status};

use crate::support::Bottom;

pub type Outcome = Result<usize, Status>;
pub type Futures<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

pub fn on(filters: Vec<Arc<dyn Driver>>) -> Arc<Stack> {
    Stack::new(filters, Arc::new(Bottom::default())).unwrap()
}

/// A filter of reads and writes whose function is a closure.
pub struct Does<F>(&'static str, F);

impl<F> Level2 for Does<F>
where
    F: for<'a> Fn(Next<'a>, Io<'a>) -> Futures<'a> + Send + Sync + 'static,
{
    type Open = ();
    fn name(&self) -> &str {
        self.0
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    fn read<'a>(
        &'a self,
        _: &'a (),
        next: Next<'a>,
        io: Io<'a>,
    ) -> impl Future<Output = Outcome> + Send + 'a {
        (self.1)(next, io)
    }
    fn write<'a>(
        &'a self,
        _: &'a (),
        next: Next<'a>,
        io: Io<'a>,
    ) -> impl Future<Output = Outcome> + Send + 'a {
        (self.1)(next, io)
    }
}

pub fn does<F>(name: &'static str, function: F) -> Arc<dyn Driver>
where
    F: for<'a> Fn(Next<'a>, Io<'a>) -> Futures<'a> + Send + Sync + 'static,
{
    Does(name, function).into_driver()
}

/// Parts of a request's data, as it has handed them out.
pub type Parts = Arc<Mutex<Vec<Shared>>>;
