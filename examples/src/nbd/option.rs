//! The options that have answers.

use super::Handshake;
use super::export::MAX_PAYLOAD;
use super::handshake::say;
use super::reply::CONTEXT;
use super::wire::{Fields, Put, answer, info, option};

/// The one metadata context there is, and its namespace.
const ALLOCATION: &[u8] = b"base:allocation";
const BASE: &[u8] = b"base:";

/// Most queries of one option, and so of replies to it.
const MAX_QUERIES: u32 = 64;

/// An answer that is an error: its number, and the reason.
type Refused = (u32, &'static str);

fn invalid<T>(why: &'static str) -> Result<T, Refused> {
    Err((answer::INVALID, why))
}

impl Handshake {
    /// Answers an option; whether negotiation is over with it.
    pub(super) fn answer(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> bool {
        let done = match option {
            option::LIST => self.list(data, out),
            option::INFO | option::GO => self.info(option, data, out),
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                Ok(())
            }
            option::STRUCTURED_REPLY => invalid("the option has no data"),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.contexts(option, data, out)
            }
            _ => Err((answer::UNSUPPORTED, "the server does not know the option")),
        };
        match done {
            Ok(()) => say(out, option, answer::ACK, b""),
            Err((answer, why)) => say(out, option, answer, why.as_bytes()),
        }
        done.is_ok() && option == option::GO
    }

    fn list(&self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
        if !data.is_empty() {
            return invalid("the option has no data");
        }
        // One export: the length of its name, no name, and what it is.
        let mut data = Vec::from([0; 4]);
        data.put(self.export.description.as_bytes());
        say(out, option::LIST, answer::SERVER, &data);
        Ok(())
    }

    fn info(&self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
        let Some((name, wanted)) = name_and_wanted(data) else {
            return invalid("the option's lengths do not fit");
        };
        exists(name)?;
        let mut data = Vec::with_capacity(16);
        data.put_u16(info::EXPORT);
        data.put_u64(self.export.size);
        data.put_u16(self.export.flags(self.structured));
        say(out, option, answer::INFO, &data);
        // Each once, however often it was asked for.
        for what in [info::NAME, info::DESCRIPTION, info::BLOCK_SIZE] {
            if !wanted.chunks_exact(2).any(|pair| pair == what.to_be_bytes()) {
                continue;
            }
            data.clear();
            data.put_u16(what);
            match what {
                info::DESCRIPTION => data.put(self.export.description.as_bytes()),
                info::BLOCK_SIZE => {
                    data.put_u32(1);
                    data.put_u32(self.export.preferred);
                    data.put_u32(MAX_PAYLOAD);
                }
                _ => {}
            }
            say(out, option, answer::INFO, &data);
        }
        Ok(())
    }

    fn contexts(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
        let sets = option == option::SET_META_CONTEXT;
        // Whatever comes of it, it takes the place of what was set before.
        self.allocation &= !sets;
        if !self.structured {
            return invalid("structured replies are negotiated first");
        }
        let Some((name, queries)) = name_and_queries(data) else {
            return invalid("the option's lengths do not fit, or there are too many queries");
        };
        exists(name)?;
        let all = !sets && (queries.is_empty() || queries.contains(&BASE));
        if all || queries.contains(&ALLOCATION) {
            self.allocation |= sets;
            let mut data = Vec::with_capacity(4 + ALLOCATION.len());
            // In a list it has no number.
            data.put_u32(if sets { CONTEXT } else { 0 });
            data.put(ALLOCATION);
            say(out, option, answer::META_CONTEXT, &data);
        }
        Ok(())
    }
}

fn exists(name: &[u8]) -> Result<(), Refused> {
    if name.is_empty() {
        return Ok(());
    }
    Err((answer::UNKNOWN, "there is no such export: the only one's name is empty"))
}

/// An export's name, and what is asked of it: numbers of 16 bits.
fn name_and_wanted(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Fields(data);
    let name = fields.string()?;
    let count = fields.u16()?;
    let wanted = fields.bytes(usize::from(count) * 2)?;
    fields.end()?;
    Some((name, wanted))
}

/// An export's name, and queries for contexts.
fn name_and_queries(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let mut fields = Fields(data);
    let name = fields.string()?;
    let count = fields.u32()?;
    if count > MAX_QUERIES {
        return None;
    }
    let queries = (0..count).map(|_| fields.string()).collect::<Option<_>>()?;
    fields.end()?;
    Some((name, queries))
}
