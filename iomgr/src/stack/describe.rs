//! A stack for people and their tools: as text, JSON and DOT.

use std::fmt::{self, Write as _};

use super::{Device, Stack, Why};
use crate::limits::{Capabilities, Limits};
use crate::major::Major;

/// As the names of its drivers, top first: `trace | luks | file`.
impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, device) in self.devices().enumerate() {
            f.write_str(if i == 0 { "" } else { " | " })?;
            f.write_str(device.name())?;
        }
        Ok(())
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if (c as u32) < 0x20 => _ = write!(out, "\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl Stack {
    /// Who is on an operation's way, and why: a line each, top first.
    ///
    /// ```text
    /// Read: trace (hooks it), luks (hooks it), file (bottom)
    /// ```
    pub fn explain_text(&self, major: Major) -> String {
        let visits = self.explain(major).map(|visit| {
            let why = match visit.why {
                Why::Hooks => "hooks it",
                Why::Refuses => "refuses it: it transforms data and does not know it",
                Why::Bottom => "bottom",
                Why::Limits => "put in for the limits of the next one",
            };
            format!("{} ({why})", visit.device.name())
        });
        format!("{major:?}: {}", visits.collect::<Vec<_>>().join(", "))
    }

    /// The devices, top first, as JSON: name, altitude (of filters that go on every stack, as a string),
    /// class, limits, what each hooks and can do, what has gone wrong. Limits and what a device can do are
    /// those of it and all below it.
    pub fn to_json(&self) -> String {
        let hooks = |device: &Device| {
            let hooked = Major::ALL.into_iter().filter(|m| device.driver().hooks().contains(*m));
            hooked.map(|major| quoted(&format!("{major:?}"))).collect::<Vec<_>>().join(",")
        };
        let names = |can: Capabilities| can.names().map(quoted).collect::<Vec<_>>().join(",");
        let devices = self.devices().zip(&self.limits).map(|(device, limits)| {
            let Limits { block, most, messages, can, .. } = *limits;
            let altitude = device.altitude().map(|at| format!("\"altitude\":\"{at}\","));
            format!(
                "{{\"name\":{},{}\"class\":{},\"block\":{block},\"most\":{most},\"messages\":{messages},\
                 \"can\":[{}],\"hooks\":[{}],\"faulted\":{},\"bugs\":{}}}",
                quoted(device.name()),
                altitude.unwrap_or_default(),
                quoted(&format!("{:?}", device.driver().class())),
                names(can),
                hooks(device),
                device.is_faulted(),
                device.bugs(),
            )
        });
        format!("[{}]", devices.collect::<Vec<_>>().join(","))
    }

    /// The devices as a graph for Graphviz: `… | dot -Tsvg`.
    pub fn to_dot(&self) -> String {
        let mut out = String::from("digraph stack {\n  node [shape=box];\n");
        for (i, device) in self.devices().enumerate() {
            _ = writeln!(out, "  d{i} [label={}];", quoted(device.name()));
            if i > 0 {
                _ = writeln!(out, "  d{} -> d{i};", i - 1);
            }
        }
        out.push_str("}\n");
        out
    }
}
