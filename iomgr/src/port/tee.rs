//! The copy of a result: a packet beside the request's own way of reporting (C-6, C-40).
//!
//! Room in the port and memory are taken when the request is issued, so that queueing it is as
//! infallible as any completion (I-1).

use std::sync::Arc;

use super::Shared;
use super::packet::Posted;
use crate::irp::slot::IoStatus;
use crate::node::Own;
use crate::status::Status;

/// A packet that waits for its result. Dropped without one, it gives its room back.
pub(crate) struct Tee {
    port: Arc<Shared>,
    packet: Option<Box<Own<Posted>>>,
}

impl Tee {
    /// # Errors
    /// [`Status::QUOTA_EXCEEDED`]: the port is full.
    pub(crate) fn new(port: Arc<Shared>, key: u64) -> Result<Tee, Status> {
        let result = IoStatus { status: Status::PENDING, info: 0 };
        let packet = port.reserve(Posted { key, value: 0, result, tag: 0, admitted: true })?;
        Ok(Tee { port, packet: Some(packet) })
    }

    /// Queues it.
    pub(crate) fn deliver(mut self, result: IoStatus) {
        if let Some(mut packet) = self.packet.take() {
            packet.content.result = result;
            self.port.insert_reserved(packet);
        }
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        if self.packet.is_some() {
            self.port.reaped();
        }
    }
}
