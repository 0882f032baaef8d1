//! Several things at once, within one filter's function: a fork's children, and by which policy it ends.
//!
//! **A fork ends when its last child has.** They may have parts of the request's data, which the request
//! waits for anyway; and none is dropped in the middle, so that no code in them needs to be safe against
//! that. What a policy decides is which result the fork has, and whether the others hear, when that is
//! certain, that nobody wants theirs: they are *called off*.
//!
//! To be called off is to be cancelled, as a message, for one child alone: while it is polled, the
//! [`Next`] of its function says that the request has been cancelled ([`Call::called_off`]).

use std::fmt;
use std::future::{Future, poll_fn};
use std::task::Poll;

use super::Next;
use super::call::Call;
use super::children::Children;

impl<'a> Next<'a> {
    /// Runs futures at once: a router's members, ranges of one request, whatever its function could wait
    /// for one after the other. They are driven inside the filter's own future, on the request's thread,
    /// and are polled when a [policy](Fork) is awaited.
    ///
    /// Children that write the request's data have it without a copy by [`Io::share`](super::Io::share),
    /// those that read into it by [`Io::share_mut`](super::Io::share_mut).
    ///
    /// They take no memory from the heap if all fit into a pooled chunk (4 KiB together; larger ones are
    /// counted by [`heap_futures`](super::heap_futures)). Each wake polls all that have not ended: a fork
    /// is for a handful.
    ///
    /// ```
    /// # mod overlapped {
    /// #     pub use overlapped_iomgr::Status;
    /// #     pub mod driver {
    /// #         pub use overlapped_iomgr::filter::{Filter, Io, Next};
    /// #         pub use overlapped_iomgr::{FileHandle, Major, MajorSet, Operation};
    /// #     }
    /// # }
    /// use overlapped::Status;
    /// use overlapped::driver::{FileHandle, Filter, Io, Major, MajorSet, Next, Operation};
    /// # struct Flush;
    /// # impl Operation for Flush {
    /// #     type Output = Result<(), Status>;
    /// #     fn major(&self) -> Major { Major::Flush }
    /// #     fn prepare(self, _: &mut overlapped_iomgr::Setup<'_>) {}
    /// #     fn finish(done: &mut overlapped_iomgr::Done<'_>) -> Self::Output { Ok(()) }
    /// #     fn refuse(self, status: Status) -> Self::Output { Err(status) }
    /// # }
    ///
    /// /// Flushes files; well if most of them are.
    /// struct Majority(Vec<FileHandle>);
    ///
    /// impl Filter for Majority {
    ///     type Open = ();
    ///     fn name(&self) -> &str {
    ///         "majority"
    ///     }
    ///     fn hooks(&self) -> MajorSet {
    ///         MajorSet::of(&[Major::Flush])
    ///     }
    ///     async fn flush(&self, _: &(), next: Next<'_>, _: Io<'_>) -> Result<usize, Status> {
    ///         let members = self.0.iter().map(|file| next.request_on(file, Flush));
    ///         next.fork(members).quorum(self.0.len() / 2 + 1).await?;
    ///         Ok(0)
    ///     }
    /// }
    /// ```
    ///
    /// # Panics
    /// A child's panic is the filter's: the others are dropped, which asks what they have sent to end
    /// early, and the request completes when it has its data back.
    pub fn fork<F, C>(self, children: C) -> Fork<'a, F>
    where
        F: Future,
        C: IntoIterator<Item = F, IntoIter: ExactSizeIterator>,
    {
        let futures = children.into_iter();
        let count = futures.len();
        let mut children = Children::with_room(count);
        futures.take(count).for_each(|future| children.push(future));
        Fork { next: self, children }
    }
}

/// Children that run at once; see [`Next::fork`]. One of the policies is awaited; it is done when every
/// child has ended. When the filter's request is cancelled, all children are told, as any code of the
/// filter's is; a policy makes nothing of that by itself.
///
/// # Cancel safety
/// Of all policies: dropped before they are done, they drop the children in the middle.
#[must_use = "children do nothing unless a policy is awaited"]
pub struct Fork<'a, F: Future> {
    next: Next<'a>,
    children: Children<F>,
}

impl<F: Future> Fork<'_, F> {
    /// Every result, in the children's order.
    pub async fn all(self) -> Outcomes<F> {
        self.run(|_, _| false).await
    }

    /// Runs the children to their ends. `ended` is told of each, by its number, and says whether the
    /// others are called off.
    async fn run(mut self, mut ended: impl FnMut(usize, &F::Output) -> bool) -> Outcomes<F> {
        let mut off = false;
        poll_fn(|cx| {
            loop {
                let (mut waits, was_off) = (false, off);
                for i in 0..self.children.len() {
                    let _told = Call::called_off(self.next, off);
                    match self.children.poll(i, cx) {
                        Poll::Pending => waits = true,
                        Poll::Ready(Some(output)) => off |= ended(i, output),
                        Poll::Ready(None) => {}
                    }
                }
                if !waits {
                    return Poll::Ready(());
                }
                if off == was_off {
                    return Poll::Pending;
                }
                // Those polled before it was known hear of it too.
            }
        })
        .await;
        Outcomes { children: self.children, at: 0 }
    }
}

impl<T, E, F: Future<Output = Result<T, E>>> Fork<'_, F> {
    /// All successes, in the children's order; or the failure that came first, upon which the others are
    /// called off.
    ///
    /// # Errors
    /// What that child failed with.
    pub async fn first_error(self) -> Result<impl Iterator<Item = T>, E> {
        let mut first = None;
        let outcomes = self.run(|i, outcome| note(&mut first, i, outcome.is_err())).await;
        outcomes.unless_failed(first).map(|outcomes| outcomes.filter_map(Result::ok))
    }

    /// The success that came first, upon which the others are called off. A second child that has
    /// succeeded all the same is not heard of.
    ///
    /// # Errors
    /// If none succeeds, what the first to fail has failed with.
    ///
    /// # Panics
    /// When there are no children.
    pub async fn first_success(self) -> Result<T, E> {
        assert!(self.children.len() > 0, "one of no children cannot succeed");
        let (mut first, mut failed) = (None, None);
        let mut outcomes = self
            .run(|i, outcome| {
                note(&mut failed, i, outcome.is_err());
                note(&mut first, i, outcome.is_ok())
            })
            .await;
        let decisive = first.or(failed).expect("each has ended, one way or the other");
        outcomes.nth(decisive).expect("it has ended")
    }

    /// Every result, in the children's order, if `n` are successes. Nobody is called off, whether that is
    /// certain or impossible already: the rest do what they are to do.
    ///
    /// # Errors
    /// If fewer succeed, what the first to fail has failed with.
    ///
    /// # Panics
    /// When there are fewer children.
    pub async fn quorum(self, n: usize) -> Result<Outcomes<F>, E> {
        assert!(n <= self.children.len(), "a quorum of more than there are");
        let (mut successes, mut failed) = (0, None);
        let outcomes = self
            .run(|i, outcome| {
                successes += usize::from(outcome.is_ok());
                note(&mut failed, i, outcome.is_err());
                false
            })
            .await;
        outcomes.unless_failed(failed.filter(|_| successes < n))
    }
}

/// Notes the first child of which it is so.
fn note(first: &mut Option<usize>, child: usize, is_so: bool) -> bool {
    if is_so {
        first.get_or_insert(child);
    }
    is_so
}

impl<F: Future> fmt::Debug for Fork<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fork").field("children", &self.children.len()).finish_non_exhaustive()
    }
}

/// What a fork's children have come to, in their order; see [`Fork::all`].
pub struct Outcomes<F: Future> {
    children: Children<F>,
    at: usize,
}

impl<T, E, F: Future<Output = Result<T, E>>> Outcomes<F> {
    /// The failure of that child, if there is one.
    fn unless_failed(mut self, failed: Option<usize>) -> Result<Self, E> {
        match failed.and_then(|i| self.children.take(i)) {
            Some(Err(error)) => Err(error),
            _ => Ok(self),
        }
    }
}

impl<F: Future> Iterator for Outcomes<F> {
    type Item = F::Output;

    fn next(&mut self) -> Option<F::Output> {
        if self.at == self.children.len() {
            return None;
        }
        self.at += 1;
        self.children.take(self.at - 1)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.children.len() - self.at;
        (left, Some(left))
    }
}

impl<F: Future> ExactSizeIterator for Outcomes<F> {}

impl<F: Future> fmt::Debug for Outcomes<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcomes").field("left", &self.len()).finish_non_exhaustive()
    }
}
