//! From elements to drivers, by a registry of names.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::{fmt, io};

use overlapped_iomgr::{Altitude, Driver, Opening, Registration, register_filter};

use super::error::{TextError, TextErrorKind};
use super::parameter::{Parameters, Size};
use super::parse::Text;
use crate::bottom::{Memory, Null, Zero};
use crate::filter::{
    Delay, Fault, Idle, Record, Slice, Throttle, Xor, cache, compare, mirror, stats, trace,
};

/// What an element of a stack's text becomes.
pub enum Made {
    /// A filter.
    Filter(Arc<dyn Driver>),
    /// What all stands on.
    Bottom(Bottom),
}

/// A bottom, as a text names it.
#[derive(Clone)]
pub enum Bottom {
    /// A file, to be opened.
    File(PathBuf),
    /// A driver of files in memory, or one of one's own.
    Driver(Arc<dyn Driver>),
}

impl fmt::Debug for Bottom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bottom::File(path) => f.debug_tuple("File").field(path).finish(),
            Bottom::Driver(driver) => f.debug_tuple("Driver").field(&driver.name()).finish(),
        }
    }
}

/// A name for stacks' texts.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The name: a letter, then letters, digits, `-` or `_`.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Makes one. Takes the parameters it knows; those left over are an error.
    pub make: fn(&mut Parameters<'_>) -> Result<Made, TextError>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("name", &self.name).finish_non_exhaustive()
    }
}

static REGISTRY: LazyLock<Mutex<BTreeMap<&'static str, Entry>>> =
    LazyLock::new(|| Mutex::new(BUILT_IN.iter().map(|entry| (entry.name, *entry)).collect()));

const BUILT_IN: &[Entry] = &[
    Delay::ENTRY,
    Fault::ENTRY,
    Idle::ENTRY,
    Slice::ENTRY,
    Throttle::ENTRY,
    cache::ENTRY,
    compare::ENTRY,
    mirror::ENTRY,
    Entry {
        name: "file",
        about: "a file: file(PATH)",
        make: |p| Ok(Made::Bottom(Bottom::File(p.main("path")?))),
    },
    #[cfg(feature = "luks")]
    crate::filter::Luks::ENTRY,
    Entry {
        name: "memory",
        about: "a file in memory, or a disk of so many bytes: memory(size=64M)",
        make: |p| {
            let memory = match p.optional("size")? {
                Some(Size(size)) => Memory::of_size(size),
                None => Memory::new(),
            };
            Ok(Made::Bottom(Bottom::Driver(Arc::new(memory))))
        },
    },
    Entry {
        name: "null",
        about: "takes everything and has nothing",
        make: |_| Ok(Made::Bottom(Bottom::Driver(Arc::new(Null)))),
    },
    Record::ENTRY,
    stats::ENTRY,
    trace::ENTRY,
    #[cfg(feature = "tls")]
    crate::filter::tls::ENTRY,
    Entry {
        name: "xor",
        about: "changes every byte: xor(key=0x55)",
        make: |p| Ok(Made::Filter(Arc::new(Xor(p.or("key", 0x55)?)))),
    },
    Entry {
        name: "zero",
        about: "zeroes without end",
        make: |_| Ok(Made::Bottom(Bottom::Driver(Arc::new(Zero)))),
    },
];

fn registry() -> std::sync::MutexGuard<'static, BTreeMap<&'static str, Entry>> {
    // Nothing of anybody else's runs while it is locked.
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives a name a meaning in stacks' texts, of the whole process; in place of the one it had, which is
/// returned.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::{text, filter}; } }
/// use overlapped::driver::filter::Xor;
/// use overlapped::driver::text::{Entry, Made, Text, register};
/// use std::sync::Arc;
///
/// register(Entry {
///     name: "rot",
///     about: "a secret: rot(key=N)",
///     make: |p| Ok(Made::Filter(Arc::new(Xor(p.required("key")?)))),
/// });
/// let built = "rot(key=7) | null".parse::<Text>().unwrap().build().unwrap();
/// assert_eq!(built.filters.len(), 1);
/// ```
pub fn register(entry: Entry) -> Option<Entry> {
    registry().insert(entry.name, entry)
}

/// The entry of that name, or the names there are.
fn find(name: &str) -> Result<Entry, Vec<&'static str>> {
    let registry = registry();
    registry.get(name).copied().ok_or_else(|| registry.keys().copied().collect())
}

/// Every name there is, in the order of the alphabet.
pub fn entries() -> Vec<Entry> {
    registry().values().copied().collect()
}

/// What a text has become.
pub struct Built {
    /// The filters, top first.
    pub filters: Vec<Arc<dyn Driver>>,
    /// What they stand on; `None` for filters alone (of a socket's stack, say).
    pub bottom: Option<Bottom>,
}

impl fmt::Debug for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filters: Vec<_> = self.filters.iter().map(|filter| filter.name()).collect();
        f.debug_struct("Built").field("filters", &filters).field("bottom", &self.bottom).finish()
    }
}

impl Text {
    /// Makes the drivers.
    ///
    /// # Errors
    /// Names and parameters that there are not, or values that do not fit; a bottom that is not the
    /// last element.
    pub fn build(&self) -> Result<Built, TextError> {
        let mut built = Built { filters: Vec::new(), bottom: None };
        for (i, piece) in self.elements.iter().enumerate() {
            let entry = find(&piece.name).map_err(|known| {
                let kind = TextErrorKind::UnknownName { name: piece.name.clone(), known };
                self.error(piece.at.clone(), kind)
            })?;
            let mut parameters = Parameters::new(self, piece, entry.name);
            let made = (entry.make)(&mut parameters)?;
            parameters.finish()?;
            match made {
                Made::Filter(filter) => built.filters.push(filter),
                Made::Bottom(_) if i + 1 < self.elements.len() => {
                    let kind = TextErrorKind::BottomNotLast { name: entry.name };
                    return Err(self.error(piece.at.clone(), kind));
                }
                Made::Bottom(bottom) => built.bottom = Some(bottom),
            }
        }
        Ok(built)
    }

    /// Puts a filter, which is all of the text, on everything that is opened from now on, and that `on` is
    /// true of: the same one on all, made now. See [`register_filter`].
    ///
    /// ```
    /// # mod overlapped { pub mod driver { pub use overlapped_drivers::text; } }
    /// use overlapped::driver::text::Text;
    ///
    /// let trace: Text = "stats(label=files)".parse()?;
    /// let registration = trace.register("385100.5".parse()?, |opening| opening.bottom() == "file")?;
    /// drop(registration);
    ///
    /// let two: Text = "stats | slice".parse()?;
    /// let error = two.register(7.into(), |_| true).map(drop).unwrap_err();
    /// assert!(error.to_string().contains("one filter"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// A [`TextError`], as of [`Text::build`], and of what is not one filter; and an
    /// [`AltitudeTaken`](overlapped_iomgr::AltitudeTaken).
    pub fn register(
        &self,
        altitude: Altitude,
        on: impl Fn(&Opening<'_>) -> bool + Send + Sync + 'static,
    ) -> io::Result<Registration> {
        let built = self.build()?;
        let (Some(filter), None, [piece]) = (built.filters.first(), built.bottom, &*self.elements)
        else {
            let wrong = self.elements.last().expect("no text is without elements");
            return Err(self.error(wrong.at.clone(), TextErrorKind::Expected("one filter")).into());
        };
        let filter = filter.clone();
        let setup = move |opening: &Opening<'_>| on(opening).then(|| filter.clone());
        Ok(register_filter(&piece.name, altitude, setup)?)
    }
}
