//! Replies, as requests are done, in whatever order.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::budget::Share;
use super::socket::Stream;

/// Replies to a client. Requests' tasks put theirs in; one of them at a time sends all that are there, in
/// one go, so that a busy connection needs few system calls, and no task of its own.
pub struct Outgoing {
    stream: Arc<Stream>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    replies: Vec<Reply>,
    /// Somebody sends, and will look again when that is done.
    sending: bool,
    /// Nothing can be sent any more.
    broken: bool,
}

/// A reply, and the data behind it.
pub struct Reply {
    pub head: Vec<u8>,
    pub data: Vec<u8>,
    /// Given back when it has been sent: a client that takes no replies gets no more requests done.
    pub share: Share,
}

impl Outgoing {
    pub fn new(stream: Arc<Stream>) -> Outgoing {
        Outgoing { stream, queue: Mutex::default() }
    }

    /// Sends a reply, or leaves that to whoever is sending.
    pub async fn send(&self, reply: Reply) {
        {
            let mut queue = self.lock();
            if queue.broken {
                return;
            }
            queue.replies.push(reply);
            if queue.sending {
                return;
            }
            queue.sending = true;
        }
        loop {
            let batch = {
                let mut queue = self.lock();
                queue.sending = !queue.replies.is_empty();
                if !queue.sending {
                    return;
                }
                std::mem::take(&mut queue.replies)
            };
            if self.send_all(batch).await.is_err() {
                let mut queue = self.lock();
                *queue = Queue { broken: true, ..Queue::default() };
                return;
            }
        }
    }

    /// As many as a client may have requests under way: far fewer buffers than one call takes.
    async fn send_all(&self, batch: Vec<Reply>) -> io::Result<()> {
        let mut shares = Vec::with_capacity(batch.len());
        let mut buffers = Vec::with_capacity(2 * batch.len());
        for Reply { head, data, share } in batch {
            buffers.extend([head, data]);
            shares.push(share);
        }
        self.stream.write_all(buffers).await
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it is locked.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
