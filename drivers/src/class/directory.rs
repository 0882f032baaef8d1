//! Listing a directory: one request brings many entries.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use overlapped_iomgr::{Done, Major, Operation, Setup, Status, minor};

use super::metadata::FileType;

/// Asks for the next entries of the open directory that the request is for (NtQueryDirectoryFile).
///
/// The directory keeps the place, so one request at a time. One that is dropped, or fails, may have
/// moved it.
#[derive(Debug)]
pub struct QueryDirectory {
    pub(crate) buffer: Vec<u8>,
    /// Kept for the driver.
    pub(crate) fd: i32,
}

/// Bytes of entries that one request brings at the most.
const BATCH: usize = 64 * 1024;

impl QueryDirectory {
    /// `spent`: entries whose memory is used again.
    pub fn new(spent: Entries) -> QueryDirectory {
        let mut buffer = spent.buffer;
        buffer.clear();
        buffer.reserve(BATCH);
        QueryDirectory { buffer, fd: -1 }
    }
}

impl Operation for QueryDirectory {
    type Output = io::Result<Entries>;

    fn major(&self) -> Major {
        Major::DirectoryControl
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.minor(minor::QUERY_DIRECTORY).payload(self);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        // A warning: there are no more.
        done.status().result(0)?;
        Ok(Entries { buffer: done.take::<QueryDirectory>().buffer, next: 0 })
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}

/// Entries of a directory, as the system gave them: none at the end of the directory.
#[derive(Debug, Default)]
pub struct Entries {
    /// Records as in `struct linux_dirent64`.
    buffer: Vec<u8>,
    /// Where the next one begins.
    next: usize,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name in the directory.
    pub name: &'a OsStr,
    /// Its inode there.
    pub inode: u64,
    /// What it is, if the file system says so in the directory.
    pub file_type: Option<FileType>,
}

/// Where the parts of a record are.
const LENGTH: usize = 16;
const TYPE: usize = 18;
const NAME: usize = 19;

impl Entries {
    /// Whether the system gave any at all, `.` and `..` counted: if not, this is the end.
    pub fn is_end(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next one; not `.` and `..`.
    #[expect(clippy::should_implement_trait, reason = "it lends")]
    pub fn next(&mut self) -> Option<Entry<'_>> {
        loop {
            let record = self.buffer.get(self.next..)?;
            let length = u16::from_ne_bytes(*record.get(LENGTH..)?.first_chunk()?);
            // A record that is none ends them: a length of zero never would.
            let record = record.get(..usize::from(length)).filter(|r| r.len() > NAME)?;
            let (start, end) = (self.next, self.next + record.len());
            self.next = end;
            let name = record[NAME..].split(|&byte| byte == 0).next()?;
            if name == b"." || name == b".." {
                continue;
            }
            let (inode, kind) = (u64::from_ne_bytes(*record.first_chunk()?), record[TYPE]);
            // Looked up again: the loop may not lend what it returns.
            let name = OsStr::from_bytes(&self.buffer[start + NAME..][..name.len()]);
            return Some(Entry { name, inode, file_type: FileType::from_entry(kind) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &[u8], kind: u8) -> Vec<u8> {
        let length = (NAME + name.len() + 1).next_multiple_of(8);
        let mut record = 7u64.to_ne_bytes().to_vec();
        record.extend([0; 8]);
        record.extend(u16::try_from(length).unwrap().to_ne_bytes());
        record.push(kind);
        record.extend(name);
        record.resize(length, 0);
        record
    }

    fn names(buffer: Vec<u8>) -> Vec<String> {
        let mut entries = Entries { buffer, next: 0 };
        std::iter::from_fn(|| entries.next().map(|e| e.name.to_string_lossy().into())).collect()
    }

    #[test]
    fn records_become_entries() {
        let all = [record(b".", 4), record(b"a", 8), record(b"..", 4), record(b"...", 0)];
        let mut entries = Entries { buffer: all.concat(), next: 0 };
        let first = entries.next().unwrap();
        assert_eq!((first.name, first.inode), (OsStr::new("a"), 7));
        assert!(first.file_type.unwrap().is_file());
        let second = entries.next().unwrap();
        assert_eq!((second.name, second.file_type), (OsStr::new("..."), None));
        assert!(entries.next().is_none() && entries.next().is_none());
    }

    #[test]
    fn records_that_are_none_end_the_list() {
        let good = record(b"good", 8);
        for cut in 0..good.len() {
            let torn = [&good[..], &good[..cut]].concat();
            assert_eq!(names(torn), ["good"], "{cut}");
        }
        for length in [0u16, 1, 18, 19, 1000, u16::MAX] {
            let mut bad = record(b"bad", 8);
            bad[LENGTH..LENGTH + 2].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(names([&good[..], &bad[..]].concat()), ["good"], "{length}");
        }
        assert!(names(vec![0xff; 100]).is_empty());
    }
}
