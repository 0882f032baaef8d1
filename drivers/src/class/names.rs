//! The operations on names: what NT does by opening a file for them, setting information and closing
//! it again, here by path and in one request each.
//!
//! Each travels as its own payload, so that filters see its parameters
//! ([`View::payload`](overlapped_iomgr::View::payload)), and paths live until it completes. Relative
//! paths start at the request's file object if that is an open directory, else (a file object that
//! stands for no file, [`FileContext::names`](crate::bottom::FileContext::names)) at the working
//! directory.
//!
//! What the bottom driver makes of them is in `bottom/names.rs`.

use std::ffi::{CStr, CString, OsStr, c_char};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use overlapped_iomgr::{Done, Major, Operation, Setup, Status, minor};

use super::metadata::Metadata;

/// A path as the system takes it. One with a NUL byte in it refuses its operation, with
/// [`Status::NUL_IN_NAME`].
///
/// ```
/// # mod overlapped { pub use overlapped_drivers::class as operation; }
/// use overlapped::operation::Name;
/// use std::path::Path;
/// assert_eq!(Name::new("a/b").as_path(), Some(Path::new("a/b")));
/// assert_eq!(Name::new("a\0b").as_path(), None);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name(Option<CString>);

impl Name {
    /// From a path of any kind.
    pub fn new(path: impl AsRef<Path>) -> Name {
        Name(CString::new(path.as_ref().as_os_str().as_bytes()).ok())
    }

    /// The path, unless it has a NUL byte.
    pub fn as_path(&self) -> Option<&Path> {
        self.0.as_deref().map(|path| Path::new(OsStr::from_bytes(path.to_bytes())))
    }

    fn check(&self) -> Status {
        if self.0.is_some() { Status::SUCCESS } else { Status::NUL_IN_NAME }
    }

    pub(crate) fn as_ptr(&self) -> *const c_char {
        self.as_c_str().as_ptr()
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        // An operation that was not checked gets "no such file".
        self.0.as_deref().unwrap_or(c"")
    }
}

impl From<&CStr> for Name {
    fn from(path: &CStr) -> Name {
        Name(Some(path.to_owned()))
    }
}

/// Operations that are their own payload.
macro_rules! names {
    ($($(#[$doc:meta])* $type:ident ($($name:ident),*) = $major:ident $minor:ident
        -> $output:ty, |$done:ident| $result:expr;)*) => {$(
        $(#[$doc])*
        impl Operation for $type {
            type Output = io::Result<$output>;

            fn major(&self) -> Major {
                Major::$major
            }
            fn check(&self) -> Status {
                [$(self.$name.check()),*].into_iter().find(|s| s.is_error()).unwrap_or_default()
            }
            fn prepare(self, setup: &mut Setup<'_>) {
                setup.minor(minor::$minor).payload(self);
            }
            fn finish($done: &mut Done<'_>) -> Self::Output {
                $done.status().result(0)?;
                Ok($result)
            }
            fn refuse(self, status: Status) -> Self::Output {
                Err(status.into())
            }
        }
    )*};
}

names! {
    Rename (from, to) = SetInformation RENAME -> (), |done| ();
    Delete (path) = SetInformation DISPOSITION -> (), |done| ();
    SymbolicLink (target, path) = SetInformation REPARSE_POINT -> (), |done| ();
    MakeDirectory (path) = DirectoryControl MAKE_DIRECTORY -> (), |done| ();
    QueryAttributes (path) = QueryInformation FULL_ATTRIBUTES -> Metadata,
        |done| done.take::<QueryAttributes>().out;
    ReadLink (path) = QueryInformation REPARSE_POINT -> PathBuf,
        |done| done.take::<ReadLink>().out;
    NormalizeName (path) = QueryInformation NORMALIZED_NAME -> PathBuf,
        |done| done.take::<NormalizeName>().out;
}

/// Gives a file another name, in place of the old one. What has the new name already is replaced.
#[derive(Clone, Debug)]
pub struct Rename {
    /// The old name.
    pub from: Name,
    /// The new one.
    pub to: Name,
}

/// Takes a name away, and with the last one the file.
#[derive(Clone, Debug)]
pub struct Delete {
    /// The name.
    pub path: Name,
    /// It is a directory's, which must be empty; otherwise it must be none.
    pub directory: bool,
}

/// Gives a file one more name.
#[derive(Clone, Debug)]
pub struct Link {
    /// For an open file, its name in procfs, put there by the driver.
    pub(crate) from: Name,
    pub(crate) is_open: bool,
    pub(crate) to: Name,
}

impl Link {
    /// To what `from` names: a symbolic link itself, not what it stands for.
    pub fn new(from: Name, to: Name) -> Link {
        Link { from, is_open: false, to }
    }

    /// To the open file that the request is for.
    pub fn to_open_file(to: Name) -> Link {
        Link { from: c"".into(), is_open: true, to }
    }

    /// A name the file has; `None` if it is the open file that the request is for.
    pub fn from(&self) -> Option<&Name> {
        (!self.is_open).then_some(&self.from)
    }

    /// Its new name.
    pub fn to(&self) -> &Name {
        &self.to
    }
}

impl Operation for Link {
    type Output = io::Result<()>;

    fn major(&self) -> Major {
        Major::SetInformation
    }
    fn check(&self) -> Status {
        if self.from.check().is_error() { self.from.check() } else { self.to.check() }
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.minor(minor::LINK).payload(self);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        done.status().result(0).map(drop)
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}

/// Makes a symbolic link.
#[derive(Clone, Debug)]
pub struct SymbolicLink {
    /// What it stands for: any text.
    pub target: Name,
    /// The link's own name.
    pub path: Name,
}

/// Makes a directory.
#[derive(Clone, Debug)]
pub struct MakeDirectory {
    /// Its name.
    pub path: Name,
    /// Permission bits, before the process's umask.
    pub mode: u32,
}

/// Asks for the attributes behind a name, without opening anything.
#[derive(Clone, Debug)]
pub struct QueryAttributes {
    path: Name,
    follow: bool,
    pub(crate) out: Metadata,
}

impl QueryAttributes {
    /// `follow`: of what a symbolic link stands for, not of the link.
    pub fn new(path: Name, follow: bool) -> QueryAttributes {
        QueryAttributes { path, follow, out: Metadata::empty() }
    }

    /// The name.
    pub fn path(&self) -> &Name {
        &self.path
    }

    /// Whether a symbolic link is followed.
    pub fn follow(&self) -> bool {
        self.follow
    }
}

/// Asks what a symbolic link stands for.
#[derive(Clone, Debug)]
pub struct ReadLink {
    path: Name,
    pub(crate) out: PathBuf,
}

impl ReadLink {
    /// The link's name.
    pub fn new(path: Name) -> ReadLink {
        ReadLink { path, out: PathBuf::new() }
    }

    /// The link's name.
    pub fn path(&self) -> &Name {
        &self.path
    }
}

/// Asks for the absolute name of what a path names, without links, `.` and `..`.
#[derive(Clone, Debug)]
pub struct NormalizeName {
    path: Name,
    pub(crate) out: PathBuf,
}

impl NormalizeName {
    /// The path.
    pub fn new(path: Name) -> NormalizeName {
        NormalizeName { path, out: PathBuf::new() }
    }

    /// The path.
    pub fn path(&self) -> &Name {
        &self.path
    }
}

/// Sets permission bits.
#[derive(Clone, Debug)]
pub struct SetSecurity {
    pub(crate) path: Option<Name>,
    pub(crate) mode: u32,
    /// Kept for the driver.
    pub(crate) fd: i32,
}

impl SetSecurity {
    /// Of what a path names; symbolic links are followed.
    pub fn of_path(path: Name, mode: u32) -> SetSecurity {
        SetSecurity { path: Some(path), mode, fd: -1 }
    }

    /// Of the open file that the request is for.
    pub fn of_open_file(mode: u32) -> SetSecurity {
        SetSecurity { path: None, mode, fd: -1 }
    }

    /// The path; `None` if it is the open file that the request is for.
    pub fn path(&self) -> Option<&Name> {
        self.path.as_ref()
    }

    /// The permission bits.
    pub fn mode(&self) -> u32 {
        self.mode
    }
}

impl Operation for SetSecurity {
    type Output = io::Result<()>;

    fn major(&self) -> Major {
        Major::SetSecurity
    }
    fn check(&self) -> Status {
        self.path.as_ref().map_or(Status::SUCCESS, Name::check)
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.payload(self);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        done.status().result(0).map(drop)
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}
