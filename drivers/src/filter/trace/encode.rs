//! From records to bytes, by format.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::chrome::Chrome;
use super::output::Output;
use super::record::{Record, Word, name_of};
use super::sink::{Format, Start, Totals};
use super::{json, pcap};

/// A format, and what it remembers.
pub(super) enum Encoder {
    Jsonl,
    Chrome(Chrome),
    /// Whether the file has begun.
    Pcap(bool),
    Hexdump,
    Events,
}

impl Encoder {
    pub(super) fn new(format: Format) -> Encoder {
        match format {
            Format::Jsonl => Encoder::Jsonl,
            Format::Chrome => Encoder::Chrome(Chrome::default()),
            Format::Pcap => Encoder::Pcap(false),
            Format::Hexdump => Encoder::Hexdump,
            Format::Events => Encoder::Events,
        }
    }

    pub(super) fn record(
        &mut self,
        out: &mut Output,
        record: &Record,
        start: &Start,
    ) -> io::Result<()> {
        match self {
            Encoder::Jsonl => out.write_all(json::line(record, start).as_bytes()),
            Encoder::Chrome(chrome) => chrome.record(out, record, start),
            Encoder::Pcap(has_begun) => {
                if !std::mem::replace(has_begun, true) {
                    out.write_all(&pcap::header())?;
                }
                pcap::packets(out, record, start)
            }
            Encoder::Hexdump => out.write_all(hexdump(record, start).as_bytes()),
            Encoder::Events => {
                event(record, start);
                Ok(())
            }
        }
    }

    /// Brings what has been written into a state that readers understand.
    pub(super) fn end(
        &mut self,
        out: &mut Output,
        totals: Totals,
        is_over: bool,
    ) -> io::Result<()> {
        match self {
            Encoder::Chrome(chrome) => chrome.end(out, totals, is_over)?,
            // One without packets.
            Encoder::Pcap(has_begun @ false) => {
                *has_begun = true;
                out.write_all(&pcap::header())?;
            }
            _ => {}
        }
        out.flush()
    }

    /// Says that records are missing.
    pub(super) fn dropped(&mut self, out: &mut Output, totals: Totals) -> io::Result<()> {
        let Totals { records, dropped } = totals;
        match self {
            Encoder::Jsonl => {
                writeln!(
                    out,
                    "{{\"event\":\"dropped\",\"records\":{records},\"dropped\":{dropped}}}"
                )
            }
            Encoder::Hexdump => writeln!(out, "{records} requests, and {dropped} dropped"),
            // In the end of the file; not there; in the log.
            Encoder::Chrome(_) | Encoder::Pcap(_) | Encoder::Events => Ok(()),
        }
    }
}

/// What a request was, in words, for people.
fn describe(record: &Record) -> String {
    let mut out = String::new();
    _ = write!(out, "{}", name_of(record.major));
    if let Some(variant) = record.variant() {
        _ = write!(out, " {variant}");
    }
    if let Some(offset) = record.offset {
        _ = write!(out, " at {offset}");
    }
    if let Some(len) = record.len {
        _ = write!(out, " of {len}");
    }
    if let Some(address) = record.address {
        _ = write!(out, " with {address}");
    }
    if let Some(detail) = &record.detail {
        _ = write!(out, " ({detail})");
    }
    out
}

/// A line, and the bytes behind it.
fn hexdump(record: &Record, start: &Start) -> String {
    let at = start.until(record.begin);
    let mut out = String::new();
    _ = writeln!(
        out,
        "{}.{:09} {} file {} {}: {} = {} {} in {:?}",
        at.as_secs(),
        at.subsec_nanos(),
        record.file.layer,
        record.file.id,
        record.file.name.escape_debug(),
        describe(record),
        Word(record.status),
        record.info,
        record.latency(),
    );
    for (i, line) in record.data.chunks(16).enumerate() {
        _ = write!(out, "{:08x} ", i * 16);
        for (j, byte) in line.iter().enumerate() {
            _ = write!(out, "{}{byte:02x}", if j == 8 { "  " } else { " " });
        }
        let width = 3 * (16 - line.len()) + usize::from(line.len() <= 8);
        let text: String = line
            .iter()
            .map(
                |byte| {
                    if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' }
                },
            )
            .collect();
        _ = writeln!(out, "{:width$}  |{text}|", "");
    }
    if record.data.len() < record.transferred() && !record.data.is_empty() {
        _ = writeln!(out, "         … {} bytes in all", record.transferred());
    }
    out
}

fn event(record: &Record, start: &Start) {
    let begin = u64::try_from(start.wall(record.begin).as_nanos()).unwrap_or(u64::MAX);
    let latency = u64::try_from(record.latency().as_nanos()).unwrap_or(u64::MAX);
    tracing::info!(
        target: "overlapped::trace",
        layer = &*record.file.layer,
        file = record.file.id,
        name = &*record.file.name,
        op = name_of(record.major),
        variant = record.variant().map(tracing::field::display),
        offset = record.offset,
        len = record.len,
        arg = record.arg,
        address = record.address.map(tracing::field::display),
        detail = record.detail.as_deref(),
        status = %Word(record.status),
        code = record.status.raw(),
        info = record.info,
        begin_ns = begin,
        latency_ns = latency,
    );
}
