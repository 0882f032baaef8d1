//! What is wrong with a stack's text, and where.

use std::fmt;
use std::ops::Range;

/// A stack's text is wrong. Shown with the place in the text underlined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextError {
    pub(super) text: String,
    pub(super) at: Range<usize>,
    pub(super) kind: TextErrorKind,
}

/// What is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextErrorKind {
    /// Something else belongs here.
    Expected(&'static str),
    /// No filter or bottom has this name.
    UnknownName {
        /// The name.
        name: String,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// The element has no such parameter.
    UnknownParameter {
        /// The element's name.
        element: &'static str,
        /// The parameter's.
        key: String,
        /// The parameters it has.
        known: Vec<&'static str>,
    },
    /// The element needs this parameter.
    Missing {
        /// The element's name.
        element: &'static str,
        /// The parameter's.
        key: &'static str,
    },
    /// The parameter is given twice.
    Twice {
        /// The parameter's name.
        key: String,
    },
    /// The value is not what the parameter takes.
    BadValue {
        /// The parameter's name.
        key: String,
        /// What it takes, or what is wrong with the value.
        expected: String,
    },
    /// The element cannot be made as it is asked for.
    Refused {
        /// The element's name.
        element: &'static str,
        /// Why.
        why: String,
    },
    /// A bottom stands above something else.
    BottomNotLast {
        /// The bottom's name.
        name: &'static str,
    },
}

impl TextError {
    /// What is wrong.
    pub fn kind(&self) -> &TextErrorKind {
        &self.kind
    }

    /// Where: bytes of the text.
    pub fn at(&self) -> Range<usize> {
        self.at.clone()
    }
}

impl fmt::Display for TextErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TextErrorKind::Expected(what) => write!(f, "expected {what}"),
            TextErrorKind::UnknownName { name, known } => {
                write!(f, "there is no filter or bottom '{name}' (there are: {})", known.join(", "))
            }
            TextErrorKind::UnknownParameter { element, key, known } if known.is_empty() => {
                write!(f, "'{element}' has no parameters, so not '{key}' either")
            }
            TextErrorKind::UnknownParameter { element, key, known } => {
                write!(f, "'{element}' has no parameter '{key}' (it has: {})", known.join(", "))
            }
            TextErrorKind::Missing { element, key } => {
                write!(f, "'{element}' needs the parameter '{key}'")
            }
            TextErrorKind::Twice { key } => write!(f, "the parameter '{key}' is given twice"),
            TextErrorKind::BadValue { key, expected } => {
                write!(f, "the parameter '{key}' takes {expected}")
            }
            TextErrorKind::Refused { element, why } => {
                write!(f, "'{element}' cannot be made: {why}")
            }
            TextErrorKind::BottomNotLast { name } => {
                write!(f, "'{name}' is a bottom: nothing can be below it")
            }
        }
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The line that the place begins in: texts from files may have several.
        let begin = self.text[..self.at.start].rfind('\n').map_or(0, |at| at + 1);
        let line = self.text[begin..].lines().next().unwrap_or("");
        let before = self.text[begin..self.at.start].chars().count();
        let end = self.at.end.min(begin + line.len()).max(self.at.start);
        let marks = self.text[self.at.start..end].chars().count().max(1);
        write!(f, "{}\n  {line}\n  {:before$}{:^<marks$}", self.kind, "", "")
    }
}

impl std::error::Error for TextError {}

impl From<TextError> for std::io::Error {
    fn from(error: TextError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidInput, error)
    }
}
