//! Taking connections from a listener, whatever their addresses are.

use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use overlapped_drivers::bottom;
use overlapped_drivers::class::{Accept, Accepted};
use overlapped_iomgr::{Done, FileHandle, FileObject, Major, Operation, Request, Setup, Status};

use super::stream::into_descriptor;

/// A kind of connection that a listener takes. This crate implements it for its own streams.
pub trait Connection: Sized + sealed::FromHandle {
    /// The address of the other side.
    type Address;

    /// The address of the other side.
    ///
    /// # Errors
    /// Those of the system: `NotConnected` after a reset.
    fn peer(&self) -> io::Result<Self::Address>;
}

pub(super) mod sealed {
    /// Makes the stream of a connection that a listener has taken.
    pub trait FromHandle {
        /// Of this file object, which [`bottom::adopt`](overlapped_drivers::bottom::adopt) has made.
        fn from_handle(handle: super::FileHandle) -> Self;
    }
}

/// Has a listener take no more connections: a descriptor of its own for it, in blocking mode, and the
/// connections that have been taken from the system already.
pub(super) async fn stop<S: Connection>(handle: &FileHandle) -> io::Result<(OwnedFd, Vec<S>)> {
    while !bottom::stop_accepting(handle) {
        crate::time::sleep(Duration::from_millis(1)).await;
    }
    let listener = into_descriptor(handle, false)?;
    Ok((listener, bottom::take_ready(handle).into_iter().map(S::from_handle).collect()))
}

/// The operation of `accept`; yields the stream and its peer's address.
pub struct AcceptStream<S = super::TcpStream>(PhantomData<fn() -> S>);

impl<S> AcceptStream<S> {
    pub(super) fn from(listener: &FileObject) -> Request<'_, AcceptStream<S>>
    where
        S: Connection,
    {
        Request::new(listener, AcceptStream(PhantomData))
    }
}

impl<S> std::fmt::Debug for AcceptStream<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AcceptStream")
    }
}

impl<S: Connection> Operation for AcceptStream<S> {
    type Output = io::Result<(S, S::Address)>;

    fn major(&self) -> Major {
        Accept.major()
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        Accept.prepare(setup);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        done.status().result(0)?;
        let Accepted(handle) = done.take();
        let stream = S::from_handle(handle);
        // A peer that has reset the connection already has no address any more.
        let gone = |_| io::Error::from_raw_os_error(libc::ECONNABORTED);
        let peer = stream.peer().map_err(gone)?;
        Ok((stream, peer))
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}

/// The stream of a listener's connections, of its method `incoming`. It never ends.
#[derive(Debug)]
pub struct Incoming<'a, S = super::TcpStream> {
    listener: &'a FileObject,
    next: Option<Request<'a, AcceptStream<S>>>,
}

impl<'a, S> Incoming<'a, S> {
    pub(super) fn new(listener: &'a FileObject) -> Incoming<'a, S> {
        Incoming { listener, next: None }
    }
}

impl<S: Connection> Stream for Incoming<'_, S> {
    type Item = io::Result<(S, S::Address)>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let listener = self.listener;
        let next = self.next.get_or_insert_with(|| AcceptStream::from(listener));
        let poll = Pin::new(next).poll(cx);
        if poll.is_ready() {
            self.next = None;
        }
        poll.map(Some)
    }
}
