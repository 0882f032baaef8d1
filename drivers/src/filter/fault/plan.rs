//! What is decided about each request, and the trace of it.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::ops::Range;

use overlapped_iomgr::filter::Io;
use overlapped_iomgr::{Major, Status, minor};

use super::super::chance::{Chance, mix, unit};
use super::rule::{Kind, Rule, Step, What};

/// What a rule needs to know of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    major: Major,
    /// `None`: it has none.
    offset: Option<u64>,
    /// Bytes; what a receive into a pool buffer has no limit for counts as 4096.
    len: u64,
    /// Bytes, or segments, that it can be cut to.
    room: u32,
    is_message: bool,
    is_stream: bool,
    peeks: bool,
}

impl Asked {
    pub(super) fn of(io: &Io<'_>) -> Asked {
        let file = io.file();
        let has_data = Rule::DATA.contains(io.major());
        let cut = |len: u32| if len == u32::MAX { 4096 } else { len };
        let len = match io.minor() {
            minor::POOLED if has_data => u64::from(cut(io.raw_data().1)),
            _ if has_data => io.len() as u64,
            _ => 0,
        };
        Asked {
            major: io.major(),
            offset: (file.is_seekable() && has_data && io.offset() != u64::MAX)
                .then(|| io.offset()),
            len,
            room: if has_data { cut(io.raw_data().1) } else { 0 },
            is_message: file.has_messages(),
            is_stream: !file.is_seekable(),
            peeks: has_data && io.minor() == minor::PEEK,
        }
    }

    fn range(&self) -> Option<Range<u64>> {
        let offset = self.offset?;
        Some(offset..offset.saturating_add(self.len))
    }

    fn touches(&self, range: &Range<u64>) -> bool {
        self.range().is_some_and(|own| own.start < range.end && range.start < own.end)
    }

    /// Whether a fault of this kind can befall it.
    fn takes(&self, kind: Kind) -> bool {
        match kind {
            Kind::Error(_) | Kind::Hang => true,
            Kind::Short => self.room > 1 && !self.is_message && !self.peeks,
            Kind::Corrupt => self.len > 0 && !self.peeks,
            Kind::Reset => self.is_stream,
        }
    }
}

/// What is to be done with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Pass,
    Error(Status),
    Hang,
    /// To so many bytes, or segments.
    Short(u32),
    /// Which byte, and its bits that change.
    Corrupt(u64, u8),
    Reset,
}

/// A rule, and how far it has come.
#[derive(Debug)]
struct Active {
    rule: Rule,
    seen: u64,
    done: u64,
    steps: VecDeque<Step>,
    healed: BTreeSet<u64>,
    /// For blocks.
    seed: u64,
}

/// Bytes of the trace that are kept; what comes then is counted.
const KEPT: usize = 4 << 20;

/// All of a filter's rules, its chance, and its trace.
#[derive(Debug)]
pub(super) struct Plan {
    rules: Vec<Active>,
    chance: Chance,
    requests: u64,
    faults: u64,
    trace: String,
    left_out: u64,
}

impl Plan {
    pub(super) fn new(seed: u64, rules: Vec<Rule>) -> Plan {
        let active = |(i, rule): (usize, Rule)| {
            let steps = match &rule.what {
                What::Script(steps) => steps.iter().copied().collect(),
                _ => VecDeque::new(),
            };
            let seed = mix(seed ^ mix(i as u64 + 1));
            Active { rule, seen: 0, done: 0, steps, healed: BTreeSet::new(), seed }
        };
        Plan {
            rules: rules.into_iter().enumerate().map(active).collect(),
            chance: Chance::new(seed),
            requests: 0,
            faults: 0,
            trace: String::new(),
            left_out: 0,
        }
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults
    }

    pub(super) fn trace(&self) -> String {
        let mut trace = self.trace.clone();
        if self.left_out > 0 {
            _ = writeln!(trace, "and {} more", self.left_out);
        }
        trace
    }

    /// Decides about the next request: by the first rule that says something.
    pub(super) fn decide(&mut self, asked: &Asked) -> Action {
        self.requests += 1;
        let chance = &self.chance;
        let action = self.rules.iter_mut().find_map(|active| active.decide(asked, chance));
        let Some(action) = action else { return Action::Pass };
        self.faults += 1;
        self.note(asked, action);
        action
    }

    fn note(&mut self, asked: &Asked, action: Action) {
        if self.trace.len() >= KEPT {
            self.left_out += 1;
            return;
        }
        let trace = &mut self.trace;
        _ = write!(trace, "{} {:?}", self.requests, asked.major);
        match asked.offset {
            Some(offset) => _ = write!(trace, " {offset}+{}: ", asked.len),
            None => _ = write!(trace, " {}: ", asked.len),
        }
        _ = match action {
            Action::Error(status) => writeln!(trace, "error {:#010x}", status.raw()),
            Action::Hang => writeln!(trace, "hang"),
            Action::Short(room) => writeln!(trace, "short {room}"),
            Action::Corrupt(at, bits) => writeln!(trace, "corrupt {at} {bits:#04x}"),
            Action::Reset => writeln!(trace, "reset"),
            Action::Pass => writeln!(trace, "pass"),
        };
    }

    /// So many bytes have been written there.
    pub(super) fn written(&mut self, asked: &Asked, n: usize) {
        let Some(offset) = asked.offset else { return };
        let written = offset..offset.saturating_add(n as u64);
        self.rules.iter_mut().for_each(|active| active.heal(&written));
    }
}

impl Active {
    fn decide(&mut self, asked: &Asked, chance: &Chance) -> Option<Action> {
        let rule = &self.rule;
        if !rule.on.contains(asked.major) {
            return None;
        }
        if rule.range.as_ref().is_some_and(|range| !asked.touches(range)) {
            return None;
        }
        if let What::BadBlocks(status, _) = rule.what {
            let bad = asked.major == Major::Read && self.hits_bad_block(&asked.range()?);
            return bad.then(|| Action::Error(error(status)));
        }
        if let What::Kind(kind) = rule.what
            && !asked.takes(kind)
        {
            return None;
        }
        self.seen += 1;
        let nth = self.seen.checked_sub(rule.after).filter(|nth| *nth > 0)?;
        let wanted = nth <= rule.first
            && nth.is_multiple_of(rule.every)
            && self.done < rule.times
            && (rule.rate >= 1.0 || unit(chance.draw()) < rule.rate);
        if !wanted {
            return None;
        }
        let kind = match rule.what {
            What::Kind(kind) => kind,
            _ => match self.steps.pop_front()? {
                Step::Do(kind) if asked.takes(kind) => kind,
                _ => return None,
            },
        };
        self.done += 1;
        Some(match kind {
            Kind::Error(status) => Action::Error(error(status)),
            Kind::Hang => Action::Hang,
            Kind::Short => Action::Short(1 + chance.below(u64::from(asked.room) - 1) as u32),
            Kind::Corrupt => {
                let draw = chance.draw();
                Action::Corrupt((draw >> 3) % asked.len, 1 << (draw & 7))
            }
            Kind::Reset => Action::Reset,
        })
    }

    /// The blocks that a range touches, or those it has whole.
    fn blocks(&self, range: &Range<u64>, whole: bool) -> Range<u64> {
        let What::BadBlocks(_, block) = self.rule.what else { return 0..0 };
        let range = match &self.rule.range {
            Some(bad) => range.start.max(bad.start)..range.end.min(bad.end),
            None => range.clone(),
        };
        if range.is_empty() {
            return 0..0;
        }
        if whole {
            range.start.div_ceil(block)..range.end / block
        } else {
            range.start / block..range.end.div_ceil(block)
        }
    }

    fn is_bad(&self, block: u64) -> bool {
        let chosen = self.rule.rate >= 1.0 || unit(mix(self.seed ^ mix(block))) < self.rule.rate;
        chosen && !self.healed.contains(&block)
    }

    fn hits_bad_block(&self, range: &Range<u64>) -> bool {
        self.blocks(range, false).any(|block| self.is_bad(block))
    }

    fn heal(&mut self, written: &Range<u64>) {
        for block in self.blocks(written, true) {
            if self.is_bad(block) {
                self.healed.insert(block);
            }
        }
    }
}

/// An error, whatever was asked for: other statuses have meanings that no fault may have.
fn error(status: Status) -> Status {
    let is_plain = status.is_error() && status != Status::DATA_ABOVE;
    if is_plain { status } else { Status::UNSUCCESSFUL }
}
