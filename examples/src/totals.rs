//! What an echo server counts and prints.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::allocations;

/// What a server has done, for its last line.
#[derive(Debug, Default)]
pub struct Totals {
    connections: AtomicU64,
    bytes: AtomicU64,
    requests: AtomicU64,
    /// Requests and allocations when the second half of the requests began: the steady state.
    mark: AtomicU64,
    mark_allocations: AtomicU64,
}

impl Totals {
    /// Counts a connection.
    pub fn connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts requests and the bytes they have received.
    pub fn count(&self, bytes: usize, requests: u64) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = self.requests.fetch_add(requests, Ordering::Relaxed) + requests;
        self.steady(now);
    }

    /// The same for a server of one thread, which needs no locked instructions.
    pub fn count_alone(&self, bytes: usize, requests: u64) {
        let bytes = self.bytes.load(Ordering::Relaxed) + bytes as u64;
        self.bytes.store(bytes, Ordering::Relaxed);
        let now = self.requests.load(Ordering::Relaxed) + requests;
        self.requests.store(now, Ordering::Relaxed);
        self.steady(now);
    }

    fn steady(&self, now: u64) {
        // Whenever the number has doubled, the steady state is counted from here on.
        if now > 1024.max(self.mark.load(Ordering::Relaxed) * 2) {
            self.mark.store(now, Ordering::Relaxed);
            self.mark_allocations.store(allocations(), Ordering::Relaxed);
        }
    }

    /// Prints the last line.
    pub fn print(&self) {
        let requests = self.requests.load(Ordering::Relaxed);
        let steady = requests - self.mark.load(Ordering::Relaxed);
        let allocated = allocations() - self.mark_allocations.load(Ordering::Relaxed);
        println!(
            "{}",
            serde_json::json!({
                "connections": self.connections.load(Ordering::Relaxed),
                "bytes": self.bytes.load(Ordering::Relaxed),
                "requests": requests,
                "allocations_per_request": allocated as f64 / steady.max(1) as f64,
            })
        );
    }
}
