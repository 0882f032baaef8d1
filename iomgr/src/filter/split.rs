//! One request in pieces: a filter sends ranges of its data below, and its result is the bytes in a row
//! from the start, which is all that a requester can be told of.

use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::call::Call;
use super::children::Children;
use super::io::{Io, Shared, SharedMut};
use super::next::{Below, Next};
use super::own;
use crate::major::{Major, minor};
use crate::request::{Done, Operation, Setup};
use crate::serial::CURRENT;
use crate::status::Status;

impl Next<'_> {
    /// Sends pieces of the request below, as requests of the filter's own, each to where its range of the
    /// data belongs; at most so many at once, one after the other for 1. Nothing is copied. Yields the
    /// bytes that were transferred in a row from the first piece's start: up to the first piece that
    /// failed or came back short. Pieces beyond that are not sent any more, or are called off, as those of
    /// a [fork](Next::fork) are; it is done when all have come back.
    ///
    /// Where writes have no offset (streams, files that append), the pieces go one after the other. What
    /// is sent in pieces loses its minor code; vectored data is no matter.
    ///
    /// It takes no memory from the heap for those that are on their way (see [`Next::fork`]), but does so
    /// for each piece's list of segments.
    ///
    /// ```
    /// # mod overlapped {
    /// #     pub use overlapped_iomgr::Status;
    /// #     pub mod driver {
    /// #         pub use overlapped_iomgr::filter::{Filter, Io, Next};
    /// #         pub use overlapped_iomgr::{Major, MajorSet};
    /// #     }
    /// # }
    /// use overlapped::Status;
    /// use overlapped::driver::{Filter, Io, Major, MajorSet, Next};
    ///
    /// /// Reads at most 64 KiB at once, four times at once.
    /// struct Fan;
    ///
    /// impl Filter for Fan {
    ///     type Open = ();
    ///     fn name(&self) -> &str {
    ///         "fan"
    ///     }
    ///     fn hooks(&self) -> MajorSet {
    ///         MajorSet::of(&[Major::Read])
    ///     }
    ///     async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
    ///         const PIECE: usize = 64 << 10;
    ///         let len = io.len();
    ///         if len <= PIECE || !io.file().is_seekable() {
    ///             return next.forward(&mut io).await;
    ///         }
    ///         let pieces = (0..len).step_by(PIECE).map(|at| at..len.min(at + PIECE));
    ///         next.split(&mut io, pieces, 4).await
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// That of the first piece, if nothing was transferred before it: [`Status::CANCELLED`] too, of a
    /// request that has been cancelled. [`Status::NOT_SUPPORTED`] of what cannot be taken apart: reads
    /// without an offset or into a pool buffer, what has a minor code or a companion, and what is neither
    /// a read nor a write. [`Status::INVALID_PARAMETER`] when a part of a read's memory is handed out.
    ///
    /// # Panics
    /// When a piece does not begin where the one before it ends, or is not in the data.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it asks what it has sent to end early.
    pub async fn split(
        self,
        io: &mut Io<'_>,
        pieces: impl IntoIterator<Item = Range<usize>>,
        at_once: usize,
    ) -> Result<usize, Status> {
        let (major, offset) = (io.major(), io.offset());
        let may = match major {
            Major::Read => offset != CURRENT,
            Major::Write => true,
            _ => false,
        };
        if !may || !matches!(io.minor(), minor::NONE | minor::VECTORED) || io.has_companion() {
            return Err(Status::NOT_SUPPORTED);
        }
        let follow = offset == CURRENT || major == Major::Write && io.file().appends();
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
        // Room is taken for no more than there are, of a byte each.
        let there_are = pieces.size_hint().1.unwrap_or(usize::MAX).min(io.len());
        let room = if follow { 1 } else { at_once.min(there_are).max(1) };
        let row = Row { start: 0, next: None, end: usize::MAX, status: Status::SUCCESS };
        let mut split =
            Split { next: self, io, pieces, room, sent: Children::with_room(room), row };
        poll_fn(|cx| split.poll(cx)).await;
        split.row.result()
    }
}

/// A request that is being sent in pieces.
struct Split<'s, 'a, 'io, I> {
    next: Next<'a>,
    io: &'s mut Io<'io>,
    pieces: I,
    /// Most pieces on their way at once.
    room: usize,
    sent: Children<Sent<'a>>,
    row: Row,
}

impl<'a, I: Iterator<Item = Range<usize>>> Split<'_, 'a, '_, I> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let (mut waits, end) = (false, self.row.end);
            for place in 0..self.room {
                // The piece that is there, and those after it that are done at once.
                while self.sent.running(place).is_some() || self.send(place) {
                    let beyond = |sent: &Sent<'_>| sent.piece.start >= self.row.end;
                    let off = self.sent.running(place).is_some_and(beyond);
                    let _told = Call::called_off(self.next, off);
                    if self.sent.poll(place, cx).is_pending() {
                        waits = true;
                        break;
                    }
                    let (piece, outcome) = self.sent.take(place).expect("it has ended");
                    self.row.ended(&piece, outcome);
                }
            }
            if !waits {
                return Poll::Ready(());
            }
            if self.row.end == end {
                return Poll::Pending;
            }
            // What is beyond the end, and was polled before that was known, hears of it too.
        }
    }

    /// Sends the next piece, if one is wanted.
    fn send(&mut self, place: usize) -> bool {
        if self.row.end < usize::MAX {
            return false;
        }
        let Some(piece) = self.pieces.next() else { return false };
        self.row.begin(&piece);
        match self.request(piece.clone()) {
            Ok(below) => self.sent.put(place, Sent { piece, below }),
            Err(status) => {
                self.row.ended(&piece, Err(status));
                return false;
            }
        }
        true
    }

    fn request(&mut self, piece: Range<usize>) -> Result<Below<'a, Piece>, Status> {
        if self.next.is_cancelled() {
            return Err(Status::CANCELLED);
        }
        let offset = match self.io.offset() {
            CURRENT => CURRENT,
            offset => offset.checked_add(piece.start as u64).ok_or(Status::OFFSET_OVERFLOW)?,
        };
        let data = match self.io.major() {
            Major::Read => Data::In(self.io.share_mut(piece)?),
            _ => Data::Out(self.io.share(piece)),
        };
        Ok(self.next.request(Piece { offset, data }))
    }
}

/// What has come of the pieces.
struct Row {
    /// Of the first piece.
    start: usize,
    /// Where the next piece begins: behind the last that was begun.
    next: Option<usize>,
    /// Where the bytes in a row end, once a piece has failed or come short.
    end: usize,
    /// What that piece failed with.
    status: Status,
}

impl Row {
    fn begin(&mut self, piece: &Range<usize>) {
        match self.next {
            Some(next) => assert_eq!(piece.start, next, "a piece begins where the last one ends"),
            None => self.start = piece.start,
        }
        self.next = Some(piece.end);
    }

    fn ended(&mut self, piece: &Range<usize>, outcome: Result<usize, Status>) {
        let reached = (piece.start + outcome.unwrap_or(0)).min(piece.end);
        if reached < piece.end && reached < self.end {
            self.end = reached;
            self.status = outcome.err().unwrap_or_default();
        }
    }

    fn result(&self) -> Result<usize, Status> {
        let end = self.next.map_or(self.start, |next| next.min(self.end));
        match end - self.start {
            0 if self.status.is_error() => Err(self.status),
            n => Ok(n),
        }
    }
}

/// A piece on its way.
struct Sent<'a> {
    piece: Range<usize>,
    below: Below<'a, Piece>,
}

impl Future for Sent<'_> {
    type Output = (Range<usize>, Result<usize, Status>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.below).poll(cx).map(|outcome| (self.piece.clone(), outcome))
    }
}

/// A range of a request's data, and where it goes.
struct Piece {
    offset: u64,
    data: Data,
}

enum Data {
    In(Vec<SharedMut>),
    Out(Vec<Shared>),
}

impl Operation for Piece {
    type Output = Result<usize, Status>;

    fn major(&self) -> Major {
        match self.data {
            Data::In(_) => Major::Read,
            Data::Out(_) => Major::Write,
        }
    }

    fn prepare(self, setup: &mut Setup<'_>) {
        setup.offset(self.offset);
        match self.data {
            Data::In(mut parts) if parts.len() == 1 => setup.data_in(parts.remove(0)),
            Data::In(parts) => setup.vectored_in(parts),
            Data::Out(mut parts) if parts.len() == 1 => setup.data_out(parts.remove(0)),
            Data::Out(parts) => setup.vectored_out(parts),
        };
    }

    fn finish(done: &mut Done<'_>) -> Self::Output {
        own::result(done, done.info())
    }

    fn refuse(self, status: Status) -> Self::Output {
        Err(status)
    }
}
