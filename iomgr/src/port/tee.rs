//! The copy of a result: a packet beside the request's own way of reporting (C-6, C-40).
//!
//! Room in the port and memory are taken when the request is issued, so that queueing it is as
//! infallible as any completion (I-1).

use std::sync::Arc;

use super::Shared;
use super::packet::{COPY, Posted};
use crate::irp::slot::IoStatus;
use crate::node::Block;
use crate::status::Status;

/// A packet that waits for its result. Dropped without one, it gives its room back.
pub(crate) struct Tee {
    port: Arc<Shared>,
    key: u64,
    /// The packet's memory.
    block: Option<Box<Block<Posted>>>,
}

impl Tee {
    /// # Errors
    /// [`Status::QUOTA_EXCEEDED`]: the port is full.
    pub(crate) fn new(port: Arc<Shared>, key: u64) -> Result<Tee, Status> {
        port.admit()?.keep();
        let block = port.block();
        Ok(Tee { port, key, block: Some(block) })
    }

    /// Queues it.
    pub(crate) fn deliver(mut self, result: IoStatus) {
        if let Some(block) = self.block.take() {
            let IoStatus { status, info } = result;
            let copy = Posted { key: self.key, value: 0, info, status, tag: COPY };
            if !self.port.post_into(copy, block) {
                self.port.reaped();
            }
        }
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        if self.block.is_some() {
            self.port.reaped();
        }
    }
}
