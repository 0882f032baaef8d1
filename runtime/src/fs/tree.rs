//! Directories with all that is above or below them.

use std::ffi::{OsStr, OsString};
use std::future::{Future as _, poll_fn};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;

use overlapped_drivers::class::{Delete, Entries, Name, QueryDirectory};
use overlapped_iomgr::{FileHandle, Operation, Request};

use super::Volume;
use super::dir::{self, Start};

/// Makes a directory and its missing parents.
pub(super) async fn create(volume: &Volume, path: &Path, mode: u32) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut next = Some(path);
    // Up, to the first that is there or can be made; the empty path is the working directory.
    while let Some(path) = next.filter(|path| !path.as_os_str().is_empty()) {
        match make(volume, path, mode).await {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.parent().is_some() => {
                missing.push(path);
                next = path.parent();
            }
            Err(error) => return Err(error),
        }
    }
    for path in missing.into_iter().rev() {
        make(volume, path, mode).await?;
    }
    Ok(())
}

/// Makes a directory, or finds it there: somebody else may be making the same ones.
async fn make(volume: &Volume, path: &Path, mode: u32) -> io::Result<()> {
    let Err(error) = volume.make_directory(path, mode).await else { return Ok(()) };
    if error.kind() == io::ErrorKind::NotFound {
        return Err(error);
    }
    match volume.metadata(path).await {
        Ok(there) if there.is_dir() => Ok(()),
        _ => Err(error),
    }
}

/// Requests of a removal that are under way at once.
const DEPTH: usize = 32;

/// A directory that is being emptied.
struct Level {
    directory: FileHandle,
    /// Its name in the one above.
    name: OsString,
    /// Directories among the entries read last: to be emptied, then removed.
    inner: Vec<OsString>,
}

impl Level {
    fn new(directory: FileHandle, name: OsString) -> Level {
        Level { directory, name, inner: Vec::new() }
    }

    fn delete(&self, name: &OsStr, directory: bool) -> Request<'_, Delete> {
        Request::new(&self.directory, Delete { path: Name::new(name), directory })
    }

    /// Reads the next entries, removes those that are no directories, and notes the others. `false`:
    /// there were none. `entries`: memory for them.
    async fn sweep(&mut self, entries: &mut Entries) -> io::Result<bool> {
        let query = QueryDirectory::new(std::mem::take(entries));
        *entries = Request::new(&self.directory, query).await?;
        if entries.is_end() {
            return Ok(false);
        }
        let (mut inner, mut files) = (Vec::new(), Vec::with_capacity(DEPTH));
        while let Some(entry) = entries.next() {
            match entry.file_type {
                Some(file_type) if file_type.is_dir() => inner.push(entry.name.to_owned()),
                _ => files.push(entry.name.to_owned()),
            }
            if files.len() == DEPTH {
                self.remove_files(&mut files, &mut inner).await?;
            }
        }
        self.remove_files(&mut files, &mut inner).await?;
        self.inner = inner;
        Ok(true)
    }

    async fn remove_files(
        &self,
        files: &mut Vec<OsString>,
        inner: &mut Vec<OsString>,
    ) -> io::Result<()> {
        let results = join(files.iter().map(|name| self.delete(name, false))).await;
        for (name, result) in files.drain(..).zip(results) {
            match result {
                // The file system does not say what its entries are, or it has changed.
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => inner.push(name),
                result => unless_gone(result)?,
            }
        }
        Ok(())
    }
}

/// Removes a directory and all that is in it. Every step starts at the directory above, which is
/// open, and follows no link: so nobody who swaps a directory for a link meanwhile can have anything
/// removed elsewhere.
pub(super) async fn remove(volume: &Volume, path: &Path) -> io::Result<()> {
    if volume.symlink_metadata(path).await?.is_symlink() {
        return volume.remove_file(path).await;
    }
    let root = dir::open(volume, path.as_os_str(), Start::NotThroughLink).await?;
    let mut entries = Entries::default();
    let mut levels = vec![Level::new(root, OsString::new())];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.inner.pop() {
            match dir::open(volume, &name, Start::In(&level.directory)).await {
                Ok(directory) => levels.push(Level::new(directory, name)),
                // It has become something else.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {
                    unless_gone(level.delete(&name, false).await)?;
                }
                Err(error) => unless_gone(Err(error))?,
            }
        } else if !level.sweep(&mut entries).await? {
            let name = levels.pop().expect("just looked").name;
            if let Some(above) = levels.last() {
                unless_gone(above.delete(&name, true).await)?;
            }
        }
    }
    volume.remove_dir(path).await
}

/// What somebody else has removed meanwhile is no error.
fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Issues all requests at once; their results, in order.
async fn join<'a, K: Operation>(requests: impl Iterator<Item = Request<'a, K>>) -> Vec<K::Output> {
    let mut lanes: Vec<_> = requests.map(|request| (request, None)).collect();
    poll_fn(|cx| {
        let mut pending = false;
        for (request, result) in &mut lanes {
            if result.is_none() {
                match Pin::new(request).poll(cx) {
                    Poll::Ready(output) => *result = Some(output),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    lanes.into_iter().filter_map(|(_, result)| result).collect()
}
