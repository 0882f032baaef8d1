//! A sink's thread: takes records out of the queue and writes them, as `sink.rs` says.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;
use std::{io, mem, thread};

use overlapped_iomgr::panics::caught;

use super::encode::Encoder;
use super::output::Output;
use super::record::Record;
use super::sink::{OPEN, Shared, Start, Totals, lock};

/// The writer's end, by a panic as well: nobody waits for it any more.
pub(super) struct Leaves {
    shared: Arc<Shared>,
    path: Option<PathBuf>,
}

impl Leaves {
    pub(super) fn new(shared: Arc<Shared>, path: Option<PathBuf>) -> Leaves {
        Leaves { shared, path }
    }
}

impl Drop for Leaves {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            lock(&OPEN).remove(path);
        }
        let mut waiting = lock(&self.shared.waiting);
        waiting.is_over = true;
        let tasks = mem::take(&mut waiting.tasks);
        drop(waiting);
        drop(tasks);
    }
}

/// See the module's header.
pub(super) struct Writer {
    shared: Arc<Shared>,
    records: Receiver<Record>,
    /// Records that the queue holds.
    most: usize,
    encoder: Encoder,
    output: Output,
    /// Records that have been written, and perhaps are still buffered.
    unsure: u64,
    /// Dropped records that have been reported.
    told: u64,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        records: Receiver<Record>,
        most: usize,
        encoder: Encoder,
        output: Output,
    ) -> Writer {
        Writer { shared, records, most, encoder, output, unsure: 0, told: 0 }
    }

    pub(super) fn run(mut self) {
        let mut idle = 0u32;
        loop {
            let tasks = mem::take(&mut lock(&self.shared.waiting).tasks);
            // What was recorded before the tasks came is among the next so many.
            let (n, is_over) = self.drain();
            idle = if n > 0 { 0 } else { idle.saturating_add(1) };
            if n > 0 || !tasks.is_empty() || is_over {
                self.report_dropped(is_over || !tasks.is_empty());
                self.end(is_over);
            }
            drop(tasks);
            if is_over {
                return;
            }
            if n >= self.most {
                continue;
            }
            match idle {
                0..10 => thread::park_timeout(Duration::from_millis(1)),
                10..110 => thread::park_timeout(Duration::from_millis(10)),
                _ => {
                    self.shared.sleeps.store(true, Ordering::Relaxed);
                    thread::park_timeout(Duration::from_secs(1));
                    self.shared.sleeps.store(false, Ordering::Relaxed);
                }
            }
        }
    }

    /// Writes what is in the queue: how many, and whether nobody can add any more.
    fn drain(&mut self) -> (usize, bool) {
        for n in 0..self.most {
            match self.records.try_recv() {
                Ok(record) => self.write(&record),
                Err(error) => return (n, error == TryRecvError::Disconnected),
            }
        }
        (self.most, false)
    }

    fn write(&mut self, record: &Record) {
        self.shared.bytes.fetch_sub(record.data.len(), Ordering::Relaxed);
        let start = *self.shared.start.get_or_init(|| Start::new(record.begin));
        self.unsure += 1;
        self.encode(|encoder, output, _| encoder.record(output, record, &start));
    }

    /// Hands over what is buffered, so that who looks sees something whole.
    fn end(&mut self, is_over: bool) {
        if self.encode(|encoder, output, totals| encoder.end(output, totals, is_over)) {
            let written = mem::take(&mut self.unsure);
            self.shared.written.fetch_add(written, Ordering::Relaxed);
        }
    }

    /// Says how many records are missing, if there are more than it has said.
    fn report_dropped(&mut self, is_asked: bool) {
        let Totals { records, dropped } = self.totals();
        if is_asked && dropped != self.told {
            self.told = dropped;
            tracing::warn!(records, dropped, format = ?self.shared.format, "a trace is incomplete");
            self.encode(|encoder, output, totals| encoder.dropped(output, totals));
        }
    }

    /// With what has not been handed over.
    fn totals(&self) -> Totals {
        let totals = self.shared.totals();
        Totals { records: totals.records + self.unsure, ..totals }
    }

    /// Writes something, unless that has failed before. Keeps the first error; from then on records are
    /// dropped, those that may not have got through included. What is written to is others' code: its
    /// panic counts as an error.
    fn encode(
        &mut self,
        write: impl FnOnce(&mut Encoder, &mut Output, Totals) -> io::Result<()>,
    ) -> bool {
        let totals = self.totals();
        let done = if self.output.has_failed() {
            Err(None)
        } else {
            match caught(|| write(&mut self.encoder, &mut self.output, totals)) {
                Some(done) => done.map_err(Some),
                None => Err(Some(io::Error::other("what it writes to has panicked"))),
            }
        };
        let Err(error) = done else { return true };
        let lost = mem::take(&mut self.unsure);
        self.shared.dropped.fetch_add(lost, Ordering::Relaxed);
        if let Some(error) = error {
            self.output.fail();
            *lock(&self.shared.error) = Some((error.kind(), error.to_string()));
            tracing::error!(%error, format = ?self.shared.format, "a trace cannot be written");
        }
        false
    }
}
