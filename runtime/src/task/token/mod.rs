//! Telling tasks to end: [`CancellationToken`]. The tree of tokens is in `tree.rs`.

mod tree;

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use overlapped_iomgr::{Operation, Request, Status};

/// Tells many tasks at once to end. Clones are the same token; a child is cancelled with its
/// parent, and not the other way round.
///
/// Cancelling is a message: a task finds it where it looks or waits for it. Dropping a token
/// cancels nothing; see [`CancellationToken::drop_guard`].
///
/// ```
/// use overlapped::task::CancellationToken;
/// overlapped::block_on(async {
///     let token = CancellationToken::new();
///     let child = token.child_token();
///     let task = overlapped::spawn(async move {
///         child.cancelled().await;
///         "ended in order"
///     });
///     token.cancel();
///     assert_eq!(task.await.unwrap(), "ended in order");
/// });
/// ```
#[derive(Clone)]
pub struct CancellationToken(tree::Handle);

impl CancellationToken {
    /// A token of its own.
    pub fn new() -> CancellationToken {
        CancellationToken(tree::Handle::root())
    }

    /// A token that is cancelled with this one, or alone. That of a cancelled token is cancelled.
    pub fn child_token(&self) -> CancellationToken {
        CancellationToken(self.0.child())
    }

    /// Cancels the token and all that descend from it, for good: when this returns, all of them say
    /// so.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether it has been cancelled, itself or with its parent.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until it is cancelled. Cancel-safe.
    pub fn cancelled(&self) -> Cancelled<'_> {
        Cancelled { token: self, key: None }
    }

    /// Cancels the token when the guard is dropped.
    ///
    /// ```
    /// # use overlapped::task::CancellationToken;
    /// let token = CancellationToken::new();
    /// drop(token.clone().drop_guard());
    /// assert!(token.is_cancelled());
    /// ```
    pub fn drop_guard(self) -> DropGuard {
        DropGuard(Some(self))
    }

    /// Runs a future until it is ready, or until the token is cancelled: then the future is dropped,
    /// and the output is `None`. A future that is ready by then counts as ready, except that none
    /// is begun when the token is cancelled already.
    ///
    /// A [request](crate::Request) that is dropped is cancelled, and what it brings late is kept
    /// for the next one where it would be lost otherwise; a buffer it holds is not given back.
    /// [`CancellationToken::run_request`] gives it back.
    ///
    /// ```
    /// use overlapped::task::CancellationToken;
    /// # overlapped::block_on(async {
    /// let token = CancellationToken::new();
    /// assert_eq!(token.run_until_cancelled(async { 5 }).await, Some(5));
    /// token.cancel();
    /// assert_eq!(token.run_until_cancelled(async { 5 }).await, None);
    /// # });
    /// ```
    pub async fn run_until_cancelled<F: Future>(&self, future: F) -> Option<F::Output> {
        if self.is_cancelled() {
            return None;
        }
        let mut future = pin!(future);
        let mut cancelled = self.cancelled();
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Pin::new(&mut cancelled).poll(cx).map(|()| None),
        })
        .await
    }
}

impl CancellationToken {
    /// Awaits a request, and asks for its early end when the token is cancelled. Its result is that
    /// of the request, and the only truth (X-5): done all the same, in part, or
    /// [`Status::CANCELLED`]; errors give the buffer back. With a token that is cancelled already,
    /// the request is not issued.
    ///
    /// Dropping the future drops the request.
    ///
    /// ```
    /// use overlapped::net::{TcpListener, TcpStream};
    /// use overlapped::{Status, task::CancellationToken};
    /// # overlapped::block_on(async {
    /// let listener = TcpListener::bind("127.0.0.1:0").await?;
    /// let stream = TcpStream::connect(listener.local_addr()?).await?;
    /// let token = CancellationToken::new();
    /// let cancel = token.clone();
    /// overlapped::spawn(async move { cancel.cancel() });
    /// // Nobody sends anything.
    /// let error = token.run_request(stream.read(Vec::with_capacity(1024))).await.unwrap_err();
    /// assert_eq!(error.status(), Status::CANCELLED);
    /// assert_eq!(error.into_buf().capacity(), 1024);
    /// # Ok::<_, std::io::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn run_request<K: Operation>(&self, mut request: Request<'_, K>) -> K::Output {
        if self.is_cancelled() && request.cancel_handle().is_none() {
            return request.refuse(Status::CANCELLED);
        }
        let mut cancelled = Some(self.cancelled());
        poll_fn(|cx| {
            let polled = Pin::new(&mut request).poll(cx);
            if polled.is_pending()
                && let Some(wait) = &mut cancelled
                && Pin::new(wait).poll(cx).is_ready()
            {
                cancelled = None;
                if let Some(cancel) = request.cancel_handle() {
                    cancel.cancel();
                }
            }
            polled
        })
        .await
    }
}

impl Default for CancellationToken {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CancellationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancellationToken").field("cancelled", &self.is_cancelled()).finish()
    }
}

/// The future of [`CancellationToken::cancelled`].
#[must_use = "futures do nothing unless awaited"]
#[derive(Debug)]
pub struct Cancelled<'a> {
    token: &'a CancellationToken,
    /// Where our waker is kept.
    key: Option<usize>,
}

impl Future for Cancelled<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.token.is_cancelled() || !this.token.0.watch(&mut this.key, cx.waker()) {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.token.0.leave(key);
        }
    }
}

/// Cancels a token when it is dropped; see [`CancellationToken::drop_guard`].
#[must_use = "dropping the guard cancels the token"]
#[derive(Debug)]
pub struct DropGuard(Option<CancellationToken>);

impl DropGuard {
    /// The token, which is then not cancelled.
    pub fn disarm(mut self) -> CancellationToken {
        self.0.take().expect("only this and the drop take it")
    }
}

impl Drop for DropGuard {
    fn drop(&mut self) {
        if let Some(token) = &self.0 {
            token.cancel();
        }
    }
}
