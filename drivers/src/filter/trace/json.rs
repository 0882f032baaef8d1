//! Lines of JSON.

use std::fmt::{self, Display, Write as _};

use super::record::{Record, Word, name_of};
use super::sink::Start;

/// An object that is being written: keys in the order in which they are given.
pub(super) struct Object(String);

impl Object {
    pub(super) fn new() -> Object {
        let mut text = String::with_capacity(400);
        text.push('{');
        Object(text)
    }

    fn key(&mut self, key: &str) {
        let comma = if self.0.ends_with('{') { "" } else { "," };
        _ = write!(self.0, "{comma}\"{key}\":");
    }

    /// What is JSON already: a number, another object.
    pub(super) fn raw(&mut self, key: &str, value: impl Display) -> &mut Self {
        self.key(key);
        _ = write!(self.0, "{value}");
        self
    }

    pub(super) fn text(&mut self, key: &str, value: impl Display) -> &mut Self {
        self.key(key);
        self.0.push('"');
        _ = write!(Escaped(&mut self.0), "{value}");
        self.0.push('"');
        self
    }

    pub(super) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// The inside of a string.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_special = |c: char| matches!(c, '"' | '\\') || (c as u32) < 0x20;
        let mut rest = text;
        while let Some(at) = rest.find(is_special) {
            self.0.push_str(&rest[..at]);
            write!(self.0, "\\u{:04x}", rest.as_bytes()[at])?;
            rest = &rest[at + 1..];
        }
        self.0.push_str(rest);
        Ok(())
    }
}

/// The arguments and the outcome, as both formats have them.
pub(super) fn arguments(object: &mut Object, record: &Record) {
    object.raw("file", record.file.id).text("name", &record.file.name);
    if let Some(variant) = record.variant() {
        object.text("variant", variant);
    }
    if let Some(offset) = record.offset {
        object.raw("offset", offset);
    }
    if let Some(len) = record.len {
        object.raw("len", len);
    }
    if record.arg != 0 {
        object.raw("arg", record.arg);
    }
    if let Some(address) = record.address {
        object.text("address", address);
    }
    if let Some(detail) = &record.detail {
        object.text("detail", detail);
    }
    object.text("status", Word(record.status));
    object.raw("code", record.status.raw()).raw("info", record.info);
}

/// A request in a line.
pub(super) fn line(record: &Record, start: &Start) -> String {
    let (wall, begin) = (start.wall(record.begin), start.until(record.begin));
    let mut object = Object::new();
    object.text("layer", &record.file.layer).text("op", name_of(record.major));
    object.raw("time", format_args!("{}.{:09}", wall.as_secs(), wall.subsec_nanos()));
    object.raw("begin", begin.as_nanos()).raw("end", start.until(record.end).as_nanos());
    object.raw("latency", record.latency().as_nanos());
    arguments(&mut object, record);
    if !record.data.is_empty() {
        let mut hex = String::with_capacity(record.data.len() * 2);
        for byte in &record.data {
            _ = write!(hex, "{byte:02x}");
        }
        object.text("data", hex);
    }
    object.end() + "\n"
}
