//! Chrome's trace format: an object with an array of events, two for each request.
//!
//! Requests overlap, so they are "asynchronous" events, a begin and an end with the same id, in one
//! process with a thread for each layer. The end of the file is written whenever it is looked at,
//! and written over when there is more.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use super::json::{self, Object};
use super::output::Output;
use super::record::{Record, name_of};
use super::sink::{Start, Totals};

#[derive(Default)]
pub(super) struct Chrome {
    has_begun: bool,
    /// Bytes of the end that has been written.
    end: u64,
    ids: u64,
    /// A thread's number is its layer's place here.
    layers: Vec<Arc<str>>,
}

/// Microseconds, and thousandths of them.
fn micros(at: Duration) -> String {
    format!("{}.{:03}", at.as_micros(), at.subsec_nanos() % 1000)
}

impl Chrome {
    fn layer(&mut self, events: &mut String, name: &Arc<str>) -> usize {
        if let Some(place) = self.layers.iter().position(|layer| layer == name) {
            return place;
        }
        self.layers.push(name.clone());
        let mut args = Object::new();
        args.text("name", name);
        let mut event = Object::new();
        event.text("ph", "M").text("name", "thread_name");
        event.raw("pid", std::process::id()).raw("tid", self.layers.len() - 1);
        event.raw("args", args.end());
        self.push(events, event);
        self.layers.len() - 1
    }

    fn push(&mut self, events: &mut String, event: Object) {
        self.begin(events);
        events.push_str(",\n");
        events.push_str(&event.end());
    }

    /// The first event says whose trace it is, so that all others have a comma before them.
    fn begin(&mut self, events: &mut String) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let program = std::env::current_exe().unwrap_or_default();
        let mut args = Object::new();
        args.text("name", program.file_name().unwrap_or_default().display());
        let mut event = Object::new();
        event.text("ph", "M").text("name", "process_name").raw("pid", std::process::id());
        event.raw("args", args.end());
        events.push_str("{\"traceEvents\":[\n");
        events.push_str(&event.end());
    }

    pub(super) fn record(
        &mut self,
        out: &mut Output,
        record: &Record,
        start: &Start,
    ) -> io::Result<()> {
        if self.end > 0 {
            out.go_back(std::mem::take(&mut self.end))?;
        }
        let mut events = String::new();
        let layer = self.layer(&mut events, &record.file.layer);
        self.ids += 1;
        for (phase, at) in [("b", record.begin), ("e", record.end)] {
            let mut event = Object::new();
            event.text("ph", phase).text("cat", &record.file.layer);
            event.text("name", name_of(record.major));
            event.text("id", format_args!("{:#x}", self.ids));
            event.raw("pid", std::process::id()).raw("tid", layer);
            event.raw("ts", micros(start.until(at)));
            if phase == "b" {
                let mut arguments = Object::new();
                json::arguments(&mut arguments, record);
                event.raw("args", arguments.end());
            }
            self.push(&mut events, event);
        }
        out.write_all(events.as_bytes())
    }

    pub(super) fn end(
        &mut self,
        out: &mut Output,
        totals: Totals,
        is_over: bool,
    ) -> io::Result<()> {
        if !out.can_go_back() && !is_over {
            return Ok(());
        }
        if self.end > 0 {
            out.go_back(std::mem::take(&mut self.end))?;
        }
        let mut begin = String::new();
        self.begin(&mut begin);
        out.write_all(begin.as_bytes())?;
        let mut totals_of = Object::new();
        totals_of.raw("records", totals.records).raw("dropped", totals.dropped);
        let totals_of = totals_of.end();
        let end = format!("\n],\"displayTimeUnit\":\"ns\",\"otherData\":{totals_of}}}\n");
        out.write_all(end.as_bytes())?;
        self.end = end.len() as u64;
        Ok(())
    }
}
