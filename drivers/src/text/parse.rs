//! From text to elements, and back.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::error::{TextError, TextErrorKind};

/// A stack's text, read: elements with parameters, whose meaning is not looked at yet. See the
/// [module](super).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    pub(super) text: String,
    pub(super) elements: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) name: String,
    pub(super) at: Range<usize>,
    pub(super) values: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) key: Option<(String, Range<usize>)>,
    pub(super) value: String,
    pub(super) at: Range<usize>,
}

impl Text {
    pub(super) fn error(&self, at: Range<usize>, kind: TextErrorKind) -> TextError {
        TextError { text: self.text.clone(), at, kind }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn takes(&mut self, what: char) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(what);
        self.at += if found { what.len_utf8() } else { 0 };
        found
    }

    fn expected(&self, what: &'static str) -> TextError {
        let len = self.rest().chars().next().map_or(0, char::len_utf8);
        let (text, at) = (self.text.to_owned(), self.at..self.at + len);
        TextError { text, at, kind: TextErrorKind::Expected(what) }
    }

    fn name(&mut self) -> Option<(String, Range<usize>)> {
        let rest = self.rest();
        if !rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return None;
        }
        let is_other = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
        let len = rest.find(is_other).unwrap_or(rest.len());
        let at = self.at..self.at + len;
        self.at = at.end;
        Some((rest[..len].to_owned(), at))
    }

    fn element(&mut self) -> Result<Piece, TextError> {
        self.skip_space();
        let Some((name, at)) = self.name() else {
            return Err(self.expected("the name of a filter or a bottom"));
        };
        let mut values = Vec::new();
        if self.takes('(') && !self.takes(')') {
            loop {
                values.push(self.parameter()?);
                if self.takes(')') {
                    break;
                }
                if !self.takes(',') {
                    return Err(self.expected("',' or ')'"));
                }
            }
        }
        Ok(Piece { name, at, values })
    }

    fn parameter(&mut self) -> Result<Value, TextError> {
        self.skip_space();
        let before = self.at;
        let mut key = self.name();
        if key.is_some() && !self.takes('=') {
            self.at = before;
            key = None;
        }
        self.skip_space();
        let (value, at) = self.value()?;
        Ok(Value { key, value, at })
    }

    fn value(&mut self) -> Result<(String, Range<usize>), TextError> {
        let begin = self.at;
        if !self.takes('"') {
            let end = self.rest().find(is_special).unwrap_or(self.rest().len());
            let value = self.rest()[..end].trim_end();
            if value.is_empty() {
                return Err(self.expected("a value"));
            }
            self.at += end;
            return Ok((value.to_owned(), begin..begin + value.len()));
        }
        let mut value = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok((value, begin..self.at));
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('"' | '\\'))) => value.push(c),
                    _ => {
                        self.at += i;
                        return Err(self.expected("'\\\"' or '\\\\' behind a backslash in quotes"));
                    }
                },
                c => value.push(c),
            }
        }
        self.at = self.text.len();
        Err(self.expected("the closing quote"))
    }
}

fn is_special(c: char) -> bool {
    matches!(c, ',' | '(' | ')' | '|' | '"')
}

impl FromStr for Text {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Text, TextError> {
        let mut reader = Reader { text, at: 0 };
        let mut elements = Vec::new();
        loop {
            elements.push(reader.element()?);
            if !reader.takes('|') {
                break;
            }
        }
        if !reader.rest().is_empty() {
            return Err(reader.expected("'|' or the end"));
        }
        Ok(Text { text: text.to_owned(), elements })
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, element) in self.elements.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { " | " })?;
            element.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.values.is_empty() {
            return Ok(());
        }
        for (i, value) in self.values.iter().enumerate() {
            f.write_str(if i == 0 { "(" } else { ", " })?;
            if let Some((key, _)) = &value.key {
                write!(f, "{key}=")?;
            }
            // A value with '=' would be read as a key's without quotes if it begins like one.
            let is_plain = |v: &str| {
                !v.is_empty()
                    && v.trim() == v
                    && !v.contains(is_special)
                    && (value.key.is_some() || !v.contains('='))
            };
            if is_plain(&value.value) {
                f.write_str(&value.value)?;
            } else {
                write!(f, "\"{}\"", value.value.replace('\\', "\\\\").replace('"', "\\\""))?;
            }
        }
        f.write_str(")")
    }
}
