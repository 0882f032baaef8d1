//! Suites that every filter, or every bottom, of a kind should pass: for files, and for streams.
//!
//! Each is a function that a test calls. It makes a runtime of its own, on the backend that
//! `OVERLAPPED_BACKEND` names, else on io_uring where that is allowed, and says the first thing that is not
//! as it should be. What one calls twice with the same seed, it does twice; what the system does in between
//! is not the same each time.

mod chance;
mod file_bottom;
mod file_filters;
mod stream_bottom;
mod stream_filters;
mod streams;

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

pub use file_bottom::file_bottom;
pub use file_filters::file_filters;
pub use stream_bottom::stream_bottom;
pub use stream_filters::stream_filters;

/// Longer than any case takes that ends at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// A filter or a bottom does not do what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonconformity {
    round: String,
    what: String,
}

impl Nonconformity {
    fn new(round: impl Into<String>, what: String) -> Nonconformity {
        Nonconformity { round: round.into(), what }
    }
}

impl fmt::Display for Nonconformity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.round)
    }
}

impl std::error::Error for Nonconformity {}

/// Runs one case of a suite on a runtime of its own; a case that does not end is an error too.
fn run(round: String, case: impl Future<Output = Result<(), String>>) -> Result<(), Nonconformity> {
    let timed = async {
        let over = |_| Err("it does not end".to_owned());
        crate::time::timeout(PATIENCE, case).await.unwrap_or_else(over)
    };
    let done = match crate::Builder::new().build_local() {
        Ok(runtime) => runtime.block_on(timed),
        Err(error) => Err(format!("there is no runtime: {error}")),
    };
    done.map_err(|what| Nonconformity::new(round, what))
}

/// What a task has come to.
async fn joined<T>(task: crate::JoinHandle<T>) -> Result<T, String> {
    task.await.map_err(|error| error.to_string())
}

/// Waits for tasks that check something; not for the others when one has found something.
async fn all(mut tasks: Vec<crate::JoinHandle<Result<(), String>>>) -> Result<(), String> {
    poll_fn(|cx| {
        let mut wrong = Ok(());
        tasks.retain_mut(|task| match Pin::new(task).poll(cx) {
            Poll::Ready(Ok(checked)) => {
                wrong = std::mem::replace(&mut wrong, Ok(())).and(checked);
                false
            }
            Poll::Ready(Err(error)) => {
                wrong = Err(error.to_string());
                false
            }
            Poll::Pending => true,
        });
        if wrong.is_err() || tasks.is_empty() { Poll::Ready(wrong) } else { Poll::Pending }
    })
    .await
}

/// That something is so.
fn ensure(is_so: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(otherwise()) }
}
