//! The file system's names, behind a stack of filters.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use overlapped_drivers::bottom::{self, FileContext, FileDriver};
use overlapped_drivers::class::{
    Delete, Link, MakeDirectory, Name, NormalizeName, QueryAttributes, ReadLink, Rename,
    SetSecurity, SymbolicLink,
};
use overlapped_iomgr::{Driver, Operation, Request, Stack};

use super::ReadDir;

/// The file system as a program sees it through a stack of filters (O-43): what happens by path goes
/// through them, and so do files that are opened on it ([`OpenOptions::volume`]). The functions of
/// [`fs`](super) are those of the volume without filters, [`Volume::default`].
///
/// Every operation on a path is a request on a file object of its own, whose name is the path. NT
/// opens a file to rename or delete it; here nothing is opened. A filter tells them apart by their
/// major and minor codes, and reads the paths in the request's payload
/// ([`View::payload`](crate::driver::View::payload)), which is the operation itself
/// ([`crate::operation`]):
///
/// | method | major, [`minor`](crate::driver::minor) | payload |
/// |---|---|---|
/// | [`rename`](Volume::rename) | `SetInformation`, `RENAME` | `Rename` |
/// | [`remove_file`](Volume::remove_file), [`remove_dir`](Volume::remove_dir) | `SetInformation`, `DISPOSITION` | `Delete` |
/// | [`hard_link`](Volume::hard_link) | `SetInformation`, `LINK` | `Link` |
/// | [`symlink`](Volume::symlink) | `SetInformation`, `REPARSE_POINT` | `SymbolicLink` |
/// | [`read_link`](Volume::read_link) | `QueryInformation`, `REPARSE_POINT` | `ReadLink` |
/// | [`metadata`](Volume::metadata), [`symlink_metadata`](Volume::symlink_metadata) | `QueryInformation`, `FULL_ATTRIBUTES` | `QueryAttributes` |
/// | [`canonicalize`](Volume::canonicalize) | `QueryInformation`, `NORMALIZED_NAME` | `NormalizeName` |
/// | [`create_dir`](Volume::create_dir) | `DirectoryControl`, `MAKE_DIRECTORY` | `MakeDirectory` |
/// | [`read_dir`](Volume::read_dir) | `Create`, then `DirectoryControl`, `QUERY_DIRECTORY` | `QueryDirectory` |
/// | [`set_permissions`](Volume::set_permissions) | `SetSecurity`, `NONE` | `SetSecurity` |
///
/// A filter that keeps files from being deleted:
///
/// ```
/// use overlapped::driver::{Disposition, Driver, Irp, Lower, Major, MajorSet, minor};
/// use overlapped::{Status, fs::Volume, operation::Delete};
/// use std::sync::Arc;
///
/// struct Keep;
/// impl Driver for Keep {
///     fn name(&self) -> &str {
///         "keep"
///     }
///     fn hooks(&self) -> MajorSet {
///         MajorSet::of(&[Major::SetInformation])
///     }
///     fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
///         let kept = irp.payload::<Delete>().and_then(|delete| delete.path.as_path());
///         match kept {
///             Some(path) if path.ends_with("precious") => irp.complete(Status::ACCESS_DENIED, 0),
///             _ => lower.skip(irp),
///         }
///     }
/// }
///
/// # overlapped::block_on(async {
/// # let dir = std::env::temp_dir().join(format!("overlapped-volume-{}", std::process::id()));
/// # std::fs::create_dir(&dir)?;
/// let volume = Volume::new([Arc::new(Keep) as Arc<dyn Driver>])?;
/// overlapped::fs::write(dir.join("precious"), "stays").await?;
/// let removed = volume.remove_file(dir.join("precious")).await;
/// assert_eq!(removed.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
/// # overlapped::fs::remove_dir_all(&dir).await?;
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
///
/// [`OpenOptions::volume`]: super::OpenOptions::volume
#[derive(Clone)]
pub struct Volume {
    filters: Arc<[Arc<dyn Driver>]>,
    stack: Arc<Stack>,
}

impl Default for Volume {
    /// The volume without filters.
    fn default() -> Volume {
        static PLAIN: OnceLock<Volume> = OnceLock::new();
        PLAIN.get_or_init(|| Volume::new([]).expect("one driver is not too deep")).clone()
    }
}

impl Volume {
    /// The file system behind these filters, top first.
    ///
    /// # Errors
    /// `InvalidInput`: more filters than a stack holds.
    pub fn new(filters: impl IntoIterator<Item = Arc<dyn Driver>>) -> io::Result<Volume> {
        let filters: Arc<[_]> = filters.into_iter().collect();
        let stack = Stack::new(filters.iter().cloned(), FileDriver::shared())?;
        Ok(Volume { filters, stack })
    }

    /// The stack that its requests travel.
    pub fn stack(&self) -> &Arc<Stack> {
        &self.stack
    }

    /// The stack with more filters above those of the volume; and, if one is given, on another bottom.
    pub(super) fn stack_below(
        &self,
        above: Vec<Arc<dyn Driver>>,
        bottom: Option<Arc<dyn Driver>>,
    ) -> io::Result<Arc<Stack>> {
        if above.is_empty() && bottom.is_none() {
            return Ok(self.stack.clone());
        }
        let filters = above.into_iter().chain(self.filters.iter().cloned());
        Ok(Stack::new(filters, bottom.unwrap_or_else(FileDriver::shared))?)
    }

    fn request<K: Operation>(&self, path: &Path, operation: K) -> Request<'static, K> {
        overlapped_drivers::hal::install();
        let (stack, name) = (self.stack.clone(), path.to_string_lossy().into_owned());
        let make = move || bottom::open(stack, &name, FileContext::names());
        Request::on_its_own(make, operation)
    }

    /// As [`fs::rename`](super::rename).
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Request<'static, Rename> {
        let from = from.as_ref();
        self.request(from, Rename { from: Name::new(from), to: Name::new(to) })
    }

    /// As [`fs::remove_file`](super::remove_file).
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Request<'static, Delete> {
        let path = path.as_ref();
        self.request(path, Delete { path: Name::new(path), directory: false })
    }

    /// As [`fs::remove_dir`](super::remove_dir).
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Request<'static, Delete> {
        let path = path.as_ref();
        self.request(path, Delete { path: Name::new(path), directory: true })
    }

    /// As [`fs::hard_link`](super::hard_link).
    pub fn hard_link(
        &self,
        original: impl AsRef<Path>,
        link: impl AsRef<Path>,
    ) -> Request<'static, Link> {
        let original = original.as_ref();
        self.request(original, Link::new(Name::new(original), Name::new(link)))
    }

    /// As [`fs::symlink`](super::symlink).
    pub fn symlink(
        &self,
        original: impl AsRef<Path>,
        link: impl AsRef<Path>,
    ) -> Request<'static, SymbolicLink> {
        let path = link.as_ref();
        let operation = SymbolicLink { target: Name::new(original), path: Name::new(path) };
        self.request(path, operation)
    }

    /// As [`fs::read_link`](super::read_link).
    pub fn read_link(&self, path: impl AsRef<Path>) -> Request<'static, ReadLink> {
        let path = path.as_ref();
        self.request(path, ReadLink::new(Name::new(path)))
    }

    /// As [`fs::metadata`](super::metadata).
    pub fn metadata(&self, path: impl AsRef<Path>) -> Request<'static, QueryAttributes> {
        let path = path.as_ref();
        self.request(path, QueryAttributes::new(Name::new(path), true))
    }

    /// As [`fs::symlink_metadata`](super::symlink_metadata).
    pub fn symlink_metadata(&self, path: impl AsRef<Path>) -> Request<'static, QueryAttributes> {
        let path = path.as_ref();
        self.request(path, QueryAttributes::new(Name::new(path), false))
    }

    /// As [`fs::try_exists`](super::try_exists).
    ///
    /// # Errors
    /// As there.
    pub async fn try_exists(&self, path: impl AsRef<Path>) -> io::Result<bool> {
        match self.metadata(path).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// As [`fs::canonicalize`](super::canonicalize).
    pub fn canonicalize(&self, path: impl AsRef<Path>) -> Request<'static, NormalizeName> {
        let path = path.as_ref();
        self.request(path, NormalizeName::new(Name::new(path)))
    }

    /// As [`fs::set_permissions`](super::set_permissions).
    pub fn set_permissions(
        &self,
        path: impl AsRef<Path>,
        permissions: Permissions,
    ) -> Request<'static, SetSecurity> {
        let path = path.as_ref();
        self.request(path, SetSecurity::of_path(Name::new(path), permissions.mode()))
    }

    /// As [`fs::create_dir`](super::create_dir).
    pub fn create_dir(&self, path: impl AsRef<Path>) -> Request<'static, MakeDirectory> {
        self.make_directory(path.as_ref(), super::dir::MODE)
    }

    pub(super) fn make_directory(&self, path: &Path, mode: u32) -> Request<'static, MakeDirectory> {
        self.request(path, MakeDirectory { path: Name::new(path), mode })
    }

    /// As [`fs::create_dir_all`](super::create_dir_all).
    ///
    /// # Errors
    /// As there.
    pub async fn create_dir_all(&self, path: impl AsRef<Path>) -> io::Result<()> {
        super::tree::create(self, path.as_ref(), super::dir::MODE).await
    }

    /// As [`fs::remove_dir_all`](super::remove_dir_all).
    ///
    /// # Errors
    /// As there.
    pub async fn remove_dir_all(&self, path: impl AsRef<Path>) -> io::Result<()> {
        super::tree::remove(self, path.as_ref()).await
    }

    /// As [`fs::read_dir`](super::read_dir).
    ///
    /// # Errors
    /// As there.
    pub async fn read_dir(&self, path: impl AsRef<Path>) -> io::Result<ReadDir> {
        ReadDir::open(self, path.as_ref()).await
    }
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Volume").field(&self.stack).finish()
    }
}
