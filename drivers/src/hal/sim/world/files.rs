//! Open files and directories.

use super::content::MOST;
use super::names::UMASK;
use super::tree::{Kind, Last, Node};
use super::{Attributes, Index, Outcome, Thing, World};

/// An open file, or directory.
pub(crate) struct Open {
    pub(super) inode: u64,
    reads: bool,
    writes: bool,
    appends: bool,
    /// Made without a name, and may be given one.
    nameless: bool,
    /// Direct I/O: offsets, lengths and memory are multiples of [`BLOCK`].
    pub(crate) direct: bool,
    pub(crate) position: u64,
    /// Of a directory that is being listed: what is still to be told.
    listing: Option<Vec<Entry>>,
}

/// A directory's entry.
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) inode: u64,
    pub(crate) kind: Kind,
}

/// How to open a path; `O_*` flags and permission bits.
#[derive(Clone, Copy)]
pub(crate) struct OpenHow {
    pub(crate) flags: i32,
    pub(crate) mode: u32,
}

/// What direct I/O is aligned to.
pub(crate) const BLOCK: u64 = 512;

/// The most that can be reserved in one call: there is only memory.
const ROOM: u64 = 1 << 30;

/// Flags that mean something here, or that may be ignored.
const KNOWN: i32 = libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_EXCL
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_DIRECT
    | libc::O_TMPFILE
    | libc::O_NOFOLLOW
    | libc::O_CLOEXEC
    | libc::O_LARGEFILE
    | libc::O_NOATIME
    | libc::O_NOCTTY
    | libc::O_NONBLOCK
    | libc::O_SYNC;

impl World {
    pub(crate) fn open(&mut self, at: Option<Index>, path: &[u8], how: OpenHow) -> Outcome<Index> {
        let has = |flag| how.flags & flag == flag;
        if how.flags & !KNOWN != 0 {
            return Err(libc::EOPNOTSUPP);
        }
        let access = how.flags & libc::O_ACCMODE;
        let writes = access != libc::O_RDONLY;
        let (nameless, mode) = (has(libc::O_TMPFILE), how.mode & 0o7777 & !UMASK);
        let exclusive = has(libc::O_CREAT | libc::O_EXCL);
        let stays = has(libc::O_NOFOLLOW) || exclusive;
        let end = if has(libc::O_CREAT) { Last::Make(stays) } else { Last::follow(!stays) };
        let place = self.walk(at, path, end)?;
        if place.inode.is_some() && !exclusive {
            place.found()?;
        }
        let number = match place.inode {
            Some(directory) if nameless => {
                self.entries(directory)?;
                if !writes {
                    return Err(libc::EINVAL);
                }
                self.add_inode(Node::File(Default::default()), mode)
            }
            Some(_) if exclusive => return Err(libc::EEXIST),
            Some(number) => {
                match self.inode(number).kind() {
                    Kind::Link => return Err(libc::ELOOP),
                    Kind::Socket => return Err(libc::ENXIO),
                    Kind::Directory if writes || has(libc::O_CREAT) => return Err(libc::EISDIR),
                    Kind::Directory => {}
                    Kind::File if has(libc::O_DIRECTORY) => return Err(libc::ENOTDIR),
                    Kind::File => {}
                }
                number
            }
            None if has(libc::O_CREAT) => {
                self.vacant(&place)?;
                let number = self.add_inode(Node::File(Default::default()), mode);
                self.attach(place.parent, place.name, number);
                number
            }
            None => return Err(libc::ENOENT),
        };
        let now = self.now;
        let inode = self.inode_mut(number);
        inode.opens += 1;
        if has(libc::O_TRUNC)
            && writes
            && let Node::File(content) = &mut inode.node
        {
            content.set_len(0);
            inode.changed = now;
        }
        Ok(self.insert(Thing::File(Open {
            inode: number,
            reads: access != libc::O_WRONLY,
            writes,
            appends: has(libc::O_APPEND),
            nameless: nameless && !has(libc::O_EXCL),
            direct: has(libc::O_DIRECT),
            position: 0,
            listing: None,
        })))
    }

    /// Whether the inode was made without a name, and may be given its first.
    pub(super) fn is_nameless(&self, inode: u64) -> bool {
        self.things
            .iter()
            .flatten()
            .any(|thing| matches!(thing, Thing::File(open) if open.inode == inode && open.nameless))
    }

    /// It has been given one.
    pub(super) fn name_given(&mut self, inode: u64) {
        for thing in self.things.iter_mut().flatten() {
            if let Thing::File(open) = thing
                && open.inode == inode
            {
                open.nameless = false;
            }
        }
    }

    pub(crate) fn file(&self, index: Index) -> Outcome<&Open> {
        match self.thing(index)? {
            Thing::File(open) => Ok(open),
            _ => Err(libc::ESPIPE),
        }
    }

    fn file_mut(&mut self, index: Index) -> Outcome<&mut Open> {
        match self.thing_mut(index)? {
            Thing::File(open) => Ok(open),
            _ => Err(libc::ESPIPE),
        }
    }

    /// Whether it is a regular file.
    pub(crate) fn is_regular(&self, index: Index) -> bool {
        self.file(index).is_ok_and(|open| self.inode(open.inode).kind() == Kind::File)
    }

    /// `offset`: `None` for the file's own position.
    pub(crate) fn read(
        &mut self,
        index: Index,
        offset: Option<u64>,
        most: usize,
    ) -> Outcome<Vec<u8>> {
        let now = self.now;
        let open = self.file(index)?;
        if !open.reads {
            return Err(libc::EBADF);
        }
        let (at, number) = (offset.unwrap_or(open.position), open.inode);
        let Node::File(content) = &self.inode(number).node else { return Err(libc::EISDIR) };
        let bytes = content.read(at, most);
        self.inode_mut(number).read = now;
        if offset.is_none() {
            self.file_mut(index)?.position += bytes.len() as u64;
        }
        Ok(bytes)
    }

    /// `offset`: `None` for the file's own position. An appending file's end in any case.
    pub(crate) fn write(
        &mut self,
        index: Index,
        offset: Option<u64>,
        bytes: &[u8],
    ) -> Outcome<usize> {
        let now = self.now;
        let open = self.file(index)?;
        if !open.writes {
            return Err(libc::EBADF);
        }
        let (position, appends, number) = (open.position, open.appends, open.inode);
        let inode = self.inode_mut(number);
        let Node::File(content) = &mut inode.node else { return Err(libc::EISDIR) };
        if bytes.is_empty() {
            return Ok(0);
        }
        let at = if appends { content.len() } else { offset.unwrap_or(position) };
        let end = at.checked_add(bytes.len() as u64).filter(|&end| end <= MOST);
        let end = end.ok_or(libc::EFBIG)?;
        content.write(at, bytes);
        inode.changed = now;
        if offset.is_none() {
            self.file_mut(index)?.position = end;
        }
        Ok(bytes.len())
    }

    pub(crate) fn stat(&self, index: Index) -> Outcome<Attributes> {
        Ok(self.attributes(self.file(index)?.inode))
    }

    /// Changes a file that is open for writing.
    fn change(
        &mut self,
        index: Index,
        f: impl FnOnce(&mut super::content::Content),
    ) -> Outcome<()> {
        let now = self.now;
        let open = self.file(index)?;
        if !open.writes {
            return Err(libc::EBADF);
        }
        let number = open.inode;
        let inode = self.inode_mut(number);
        let Node::File(content) = &mut inode.node else { return Err(libc::EISDIR) };
        f(content);
        inode.changed = now;
        Ok(())
    }

    pub(crate) fn set_len(&mut self, index: Index, len: u64) -> Outcome<()> {
        if len > MOST {
            return Err(libc::EFBIG);
        }
        // As the kernel says it for `ftruncate`.
        if !self.file(index)?.writes {
            return Err(libc::EINVAL);
        }
        self.change(index, |content| content.set_len(len))
    }

    /// `fallocate`.
    pub(crate) fn allocate(&mut self, index: Index, mode: i32, at: u64, len: u64) -> Outcome<()> {
        let end = at.checked_add(len).filter(|&end| end <= MOST).ok_or(libc::EFBIG)?;
        if len == 0 {
            return Err(libc::EINVAL);
        }
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        match mode {
            0 | libc::FALLOC_FL_KEEP_SIZE | ZERO if len > ROOM => Err(libc::ENOSPC),
            0 => self.change(index, |content| {
                content.reserve(at, len);
                content.set_len(content.len().max(end));
            }),
            libc::FALLOC_FL_KEEP_SIZE => self.change(index, |content| content.reserve(at, len)),
            PUNCH => self.change(index, |content| content.punch(at, len)),
            ZERO => self.change(index, |content| {
                content.punch(at, len);
                content.reserve(at, len);
            }),
            _ => Err(libc::EOPNOTSUPP),
        }
    }

    pub(crate) fn copy_range(
        &mut self,
        (from, from_at): (Index, u64),
        (to, to_at): (Index, u64),
        len: usize,
    ) -> Outcome<usize> {
        // More would only cost memory here; the caller goes on.
        let len = len.min(1 << 20);
        let (source, target) = (self.file(from)?, self.file(to)?);
        if target.appends {
            return Err(libc::EBADF);
        }
        if source.inode == target.inode && from_at.abs_diff(to_at) < len as u64 {
            return Err(libc::EINVAL);
        }
        let bytes = self.read(from, Some(from_at), len)?;
        self.write(to, Some(to_at), &bytes)
    }

    /// The next entries of a directory, as many as `fits` lets through; none at the end. In an order
    /// of chance's making (V-62), which stays the same while the directory is open.
    pub(crate) fn list(
        &mut self,
        index: Index,
        mut fits: impl FnMut(&Entry) -> bool,
    ) -> Outcome<()> {
        let number = self.file(index)?.inode;
        let entries = self.entries(number)?;
        if self.inode(number).links == 0 {
            return Err(libc::ENOENT);
        }
        if self.file(index)?.listing.is_none() {
            let entry = |(name, &inode): (&Vec<u8>, &u64)| Entry {
                name: name.clone(),
                inode,
                kind: self.inode(inode).kind(),
            };
            let mut list: Vec<Entry> = entries.iter().map(entry).collect();
            for last in (1..list.len()).rev() {
                list.swap(last, self.random.below(last as u64 + 1) as usize);
            }
            self.file_mut(index)?.listing = Some(list);
        }
        let listing = self.file_mut(index)?.listing.as_mut().expect("just made");
        while let Some(entry) = listing.pop() {
            if !fits(&entry) {
                listing.push(entry);
                break;
            }
        }
        Ok(())
    }
}
