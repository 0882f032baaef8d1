//! A fault as a stack's text says it.

use std::ops::Range;

use overlapped_iomgr::filter::Filter;
use overlapped_iomgr::{MajorSet, Status};

use super::rule::{Kind, Rule, Step};
use super::{Fault, faulty};
use crate::text::{Made, Parameter, Parameters, Size, TextError};

/// A range of bytes: `0..64K`.
struct Bytes(Range<u64>);

impl Parameter for Bytes {
    const EXPECTED: &'static str = "a range of bytes, such as 4096..64K";
    fn read(value: &str) -> Option<Bytes> {
        let (start, end) = value.split_once("..")?;
        let (Size(start), Size(end)) = (Size::read(start)?, Size::read(end)?);
        (start < end).then_some(Bytes(start..end))
    }
}

/// A kind by its name; `None`: bad blocks.
struct KindName(Option<Kind>);

impl Parameter for KindName {
    const EXPECTED: &'static str = "error, hang, short, corrupt, reset or bad";
    fn read(value: &str) -> Option<KindName> {
        if value == "bad" {
            return Some(KindName(None));
        }
        kind(value).map(|kind| KindName(Some(kind)))
    }
}

/// A kind of fault; `error` is EIO.
fn kind(name: &str) -> Option<Kind> {
    Some(match name {
        "error" => Kind::Error(Status::from_errno(libc::EIO)),
        "hang" => Kind::Hang,
        "short" => Kind::Short,
        "corrupt" => Kind::Corrupt,
        "reset" => Kind::Reset,
        _ => return None,
    })
}

/// Steps with space between: `ok*3 EIO short`.
struct Script(Vec<Step>);

/// Most repetitions of a step.
const MOST: usize = 100_000;

impl Parameter for Script {
    const EXPECTED: &'static str = "steps with space between: ok, hang, short, corrupt, reset or an error's name, each with *N to repeat it";
    fn read(value: &str) -> Option<Script> {
        let mut steps = Vec::new();
        for word in value.split_whitespace() {
            let (name, times) = match word.split_once('*') {
                Some((name, times)) => (name, times.parse().ok().filter(|times| *times <= MOST)?),
                None => (word, 1),
            };
            let step = match name {
                "ok" => Step::Pass,
                name => Step::Do(kind(name).or_else(|| Status::read(name).map(Kind::Error))?),
            };
            steps.extend(std::iter::repeat_n(step, times));
        }
        (!steps.is_empty()).then_some(Script(steps))
    }
}

pub(super) fn make(p: &mut Parameters<'_>) -> Result<Made, TextError> {
    let seed = p.or("seed", 0)?;
    let error = p.optional::<Status>("error")?;
    let named = p.optional::<KindName>("kind")?;
    let script = p.optional::<Script>("script")?;
    let block = p.optional::<Size>("block")?;
    let mut rule = match (script, named) {
        (Some(_), Some(_)) => return Err(p.error("script", "no kind beside it")),
        (Some(Script(steps)), None) => Rule::script(steps),
        (None, Some(KindName(None))) => {
            let Size(block) = block.unwrap_or(Size(512));
            if block == 0 {
                return Err(p.error("block", "at least 1 byte"));
            }
            Rule::bad_blocks(error.unwrap_or(Status::from_errno(libc::EIO)), block)
        }
        (None, Some(KindName(Some(kind)))) if error.is_none() || matches!(kind, Kind::Error(_)) => {
            Rule::new(error.map_or(kind, Kind::Error))
        }
        (None, Some(_)) => return Err(p.error("error", "kind=error or kind=bad beside it")),
        (None, None) => Rule::new(Kind::Error(error.unwrap_or(Status::from_errno(libc::EIO)))),
    };
    if block.is_some() && !rule.is_of_blocks() {
        return Err(p.error("block", "kind=bad beside it"));
    }
    if let Some(majors) = p.optional::<MajorSet>("op")? {
        rule = rule.on(majors);
    }
    if let Some(Bytes(range)) = p.optional("range")? {
        rule = rule.within(range);
    }
    if let Some(rate) = p.optional("rate")? {
        rule = rule.rate(rate);
    }
    for (key, set) in [
        ("after", Rule::after as fn(Rule, u64) -> Rule),
        ("first", Rule::first),
        ("every", Rule::every),
        ("times", Rule::times),
    ] {
        match p.optional(key)? {
            Some(0) if key == "every" => return Err(p.error(key, "at least 1")),
            Some(number) => rule = set(rule, number),
            None => {}
        }
    }
    if p.or("once", false)? {
        rule = rule.once();
    }
    if faulty(&rule) == MajorSet::NONE {
        return Err(p.error("op", "operations that can go wrong so: not close"));
    }
    Ok(Made::Filter(Fault::new(seed, [rule]).into_driver()))
}

impl Rule {
    fn is_of_blocks(&self) -> bool {
        matches!(self.what, super::rule::What::BadBlocks(..))
    }
}
