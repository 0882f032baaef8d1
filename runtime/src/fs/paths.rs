//! Operations on paths: those of the volume without filters.

use std::fs::Permissions;
use std::io;
use std::path::Path;

use overlapped_drivers::class::{
    Delete, Link, MakeDirectory, NormalizeName, QueryAttributes, ReadLink, Rename, SetSecurity,
    SymbolicLink,
};
use overlapped_iomgr::Request;

use super::{ReadDir, Volume};

/// Gives a file or directory another name on the same file system. A file that has the new name
/// already is replaced, in one step; so is an empty directory by a directory.
///
/// If it is dropped, it may have happened or not.
///
/// # Errors
/// Those of the system: `NotFound`, `CrossesDevices`, `DirectoryNotEmpty`, `IsADirectory`,
/// `InvalidInput` (a directory into itself), ….
///
/// ```
/// # overlapped::block_on(async {
/// # let dir = std::env::temp_dir().join(format!("overlapped-rename-{}", std::process::id()));
/// # overlapped::fs::create_dir(&dir).await?;
/// use overlapped::fs;
/// fs::write(dir.join("settings.new"), "colour = blue").await?;
/// fs::rename(dir.join("settings.new"), dir.join("settings")).await?;
/// assert_eq!(fs::read_to_string(dir.join("settings")).await?, "colour = blue");
/// # fs::remove_dir_all(&dir).await?;
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Request<'static, Rename> {
    Volume::default().rename(from, to)
}

/// Removes a name of a file that is no directory: the file goes with its last name, when nobody has
/// it open any more. A symbolic link itself is removed, not what it stands for.
///
/// If it is dropped, it may have happened or not.
///
/// # Errors
/// Those of the system: `NotFound`, `IsADirectory`, `PermissionDenied`, ….
///
/// ```
/// # overlapped::block_on(async {
/// # let path = std::env::temp_dir().join(format!("overlapped-remove-{}", std::process::id()));
/// overlapped::fs::write(&path, "").await?;
/// overlapped::fs::remove_file(&path).await?;
/// let again = overlapped::fs::remove_file(&path).await;
/// assert_eq!(again.unwrap_err().kind(), std::io::ErrorKind::NotFound);
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub fn remove_file(path: impl AsRef<Path>) -> Request<'static, Delete> {
    Volume::default().remove_file(path)
}

/// Removes an empty directory.
///
/// If it is dropped, it may have happened or not.
///
/// # Errors
/// Those of the system: `NotFound`, `NotADirectory`, `DirectoryNotEmpty`, ….
///
/// ```
/// # overlapped::block_on(async {
/// # let path = std::env::temp_dir().join(format!("overlapped-rmdir-{}", std::process::id()));
/// overlapped::fs::create_dir(&path).await?;
/// overlapped::fs::remove_dir(&path).await?;
/// assert!(!path.exists());
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub fn remove_dir(path: impl AsRef<Path>) -> Request<'static, Delete> {
    Volume::default().remove_dir(path)
}

/// Removes a directory and all that is in it. Of a symbolic link, only the link. What others remove
/// meanwhile is no error; what they add may be one.
///
/// Follows no link on its way, even if somebody puts one in the place of a directory meanwhile. It has
/// one directory open for each level of the tree.
///
/// If the future is dropped, a part has been removed.
///
/// # Errors
/// Those of the system; what was removed before stays so.
///
/// ```
/// # overlapped::block_on(async {
/// # let path = std::env::temp_dir().join(format!("overlapped-tree-{}", std::process::id()));
/// use overlapped::fs;
/// fs::create_dir_all(path.join("a/b")).await?;
/// fs::write(path.join("a/b/c"), "x").await?;
/// fs::remove_dir_all(&path).await?;
/// assert!(!fs::try_exists(&path).await?);
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub async fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    Volume::default().remove_dir_all(path).await
}

/// Gives a file one more name on the same file system. Of a symbolic link, the link gets it.
///
/// If it is dropped, it may have happened or not.
///
/// # Errors
/// Those of the system: `NotFound`, `AlreadyExists`, `CrossesDevices`, `PermissionDenied` (a
/// directory), ….
///
/// ```
/// # overlapped::block_on(async {
/// # let dir = std::env::temp_dir().join(format!("overlapped-link-{}", std::process::id()));
/// # overlapped::fs::create_dir(&dir).await?;
/// use overlapped::fs;
/// fs::write(dir.join("one"), "text").await?;
/// fs::hard_link(dir.join("one"), dir.join("two")).await?;
/// assert_eq!(fs::metadata(dir.join("two")).await?.links(), 2);
/// # fs::remove_dir_all(&dir).await?;
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub fn hard_link(original: impl AsRef<Path>, link: impl AsRef<Path>) -> Request<'static, Link> {
    Volume::default().hard_link(original, link)
}

/// Makes a symbolic link: `link` stands for `original`, which need not be there, and if it is
/// relative starts where the link is.
///
/// If it is dropped, it may have happened or not.
///
/// # Errors
/// Those of the system: `AlreadyExists`, `NotFound` (the link's directory, or an empty original), ….
///
/// ```
/// # overlapped::block_on(async {
/// # let dir = std::env::temp_dir().join(format!("overlapped-symlink-{}", std::process::id()));
/// # overlapped::fs::create_dir(&dir).await?;
/// use overlapped::fs;
/// fs::write(dir.join("v1"), "one").await?;
/// fs::symlink("v1", dir.join("current")).await?;
/// assert_eq!(fs::read_to_string(dir.join("current")).await?, "one");
/// assert_eq!(fs::read_link(dir.join("current")).await?, std::path::Path::new("v1"));
/// # fs::remove_dir_all(&dir).await?;
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub fn symlink(
    original: impl AsRef<Path>,
    link: impl AsRef<Path>,
) -> Request<'static, SymbolicLink> {
    Volume::default().symlink(original, link)
}

/// Asks what a symbolic link stands for. For an example, see [`symlink`].
///
/// # Errors
/// Those of the system: `NotFound`, `InvalidInput` (no symbolic link), ….
pub fn read_link(path: impl AsRef<Path>) -> Request<'static, ReadLink> {
    Volume::default().read_link(path)
}

/// Asks for the attributes of what a path names. Symbolic links are followed.
///
/// # Errors
/// Those of the system: `NotFound`, `NotADirectory` (on the way), `PermissionDenied`, ….
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// // On a plain thread.
/// let root = overlapped::fs::metadata("/").wait()?;
/// assert!(root.is_dir());
/// # Ok(())
/// # }
/// ```
pub fn metadata(path: impl AsRef<Path>) -> Request<'static, QueryAttributes> {
    Volume::default().metadata(path)
}

/// As [`metadata`], but of a symbolic link itself.
///
/// # Errors
/// As [`metadata`].
pub fn symlink_metadata(path: impl AsRef<Path>) -> Request<'static, QueryAttributes> {
    Volume::default().symlink_metadata(path)
}

/// Whether a path names something that is there. Symbolic links are followed.
///
/// It may be otherwise a moment later: rather than ask first, do what is to be done and look at the
/// error.
///
/// # Errors
/// As [`metadata`], except `NotFound`.
///
/// ```
/// # overlapped::block_on(async {
/// assert!(overlapped::fs::try_exists("/").await?);
/// assert!(!overlapped::fs::try_exists("/no such directory").await?);
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub async fn try_exists(path: impl AsRef<Path>) -> io::Result<bool> {
    Volume::default().try_exists(path).await
}

/// Asks for the absolute path of what a path names, without symbolic links, `.` and `..`.
///
/// # Errors
/// Those of the system: `NotFound`, `NotADirectory`, ….
///
/// ```
/// # overlapped::block_on(async {
/// let path = overlapped::fs::canonicalize("/./proc/../proc").await?;
/// assert_eq!(path, std::path::Path::new("/proc"));
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub fn canonicalize(path: impl AsRef<Path>) -> Request<'static, NormalizeName> {
    Volume::default().canonicalize(path)
}

/// Sets the permission bits of what a path names. Symbolic links are followed.
///
/// If it is dropped, it may have happened or not.
///
/// # Errors
/// Those of the system: `NotFound`, `PermissionDenied` (not the owner), ….
///
/// ```
/// # overlapped::block_on(async {
/// # let path = std::env::temp_dir().join(format!("overlapped-mode-{}", std::process::id()));
/// use overlapped::fs;
/// fs::write(&path, "").await?;
/// let mut permissions = fs::metadata(&path).await?.permissions();
/// permissions.set_readonly(true);
/// fs::set_permissions(&path, permissions).await?;
/// assert_eq!(fs::metadata(&path).await?.mode() & 0o222, 0);
/// # fs::remove_file(&path).await?;
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub fn set_permissions(
    path: impl AsRef<Path>,
    permissions: Permissions,
) -> Request<'static, SetSecurity> {
    Volume::default().set_permissions(path, permissions)
}

/// Makes a directory, whose parent is there, with all permissions that the umask leaves;
/// [`DirBuilder`](super::DirBuilder) gives it others.
///
/// If it is dropped, it may have happened or not.
///
/// # Errors
/// Those of the system: `AlreadyExists`, `NotFound` (the parent), `NotADirectory`, ….
///
/// ```
/// # overlapped::block_on(async {
/// # let path = std::env::temp_dir().join(format!("overlapped-mkdir-{}", std::process::id()));
/// overlapped::fs::create_dir(&path).await?;
/// let again = overlapped::fs::create_dir(&path).await;
/// assert_eq!(again.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
/// # std::fs::remove_dir(&path)?;
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub fn create_dir(path: impl AsRef<Path>) -> Request<'static, MakeDirectory> {
    Volume::default().create_dir(path)
}

/// Makes a directory and its missing parents. One that is there already, or that others make at the
/// same time, is no error.
///
/// If the future is dropped, a part may have been made.
///
/// # Errors
/// Those of the system: `AlreadyExists` (a file), `NotADirectory`, …; what was made before stays.
///
/// ```
/// # overlapped::block_on(async {
/// # let path = std::env::temp_dir().join(format!("overlapped-mkdirs-{}", std::process::id()));
/// overlapped::fs::create_dir_all(path.join("a/b/c")).await?;
/// overlapped::fs::create_dir_all(path.join("a/b/c")).await?;
/// assert!(path.join("a/b/c").is_dir());
/// # std::fs::remove_dir_all(&path)?;
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub async fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    Volume::default().create_dir_all(path).await
}

/// Opens a directory to list its entries. They come in batches of some hundreds, as they are asked
/// for, so a directory may be larger than memory.
///
/// # Errors
/// Those of the system: `NotFound`, `NotADirectory`, `PermissionDenied`, ….
///
/// ```
/// # overlapped::block_on(async {
/// let mut entries = overlapped::fs::read_dir("/proc/self").await?;
/// let mut found = false;
/// while let Some(entry) = entries.next_entry().await? {
///     found |= entry.file_name() == "status" && entry.file_type().await?.is_file();
/// }
/// assert!(found);
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub async fn read_dir(path: impl AsRef<Path>) -> io::Result<ReadDir> {
    Volume::default().read_dir(path).await
}
