//! Inodes, and the way along a path to them.

use std::collections::BTreeMap;

use super::content::Content;
use super::{Index, Outcome, Thing, World};

/// The root's inode.
pub(super) const ROOT: u64 = 2;

/// The longest name, and path.
const NAME: usize = 255;
const PATH: usize = 4095;
/// The most links along a path.
const LINKS: usize = 40;

/// How the name of an open file begins that `bottom/names.rs` makes a link to.
const OPEN_FILES: &[u8] = b"/proc/thread-self/fd/";

pub(super) enum Node {
    File(Content),
    Directory { entries: BTreeMap<Vec<u8>, u64>, parent: u64 },
    Link(Vec<u8>),
    Socket,
}

/// What an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    File,
    Directory,
    Link,
    Socket,
}

pub(super) struct Inode {
    pub(super) node: Node,
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) opens: u32,
    made: u64,
    pub(super) changed: u64,
    pub(super) read: u64,
}

impl Inode {
    pub(super) fn kind(&self) -> Kind {
        match self.node {
            Node::File(_) => Kind::File,
            Node::Directory { .. } => Kind::Directory,
            Node::Link(_) => Kind::Link,
            Node::Socket => Kind::Socket,
        }
    }
}

/// What `statx` tells of an inode.
pub(crate) struct Attributes {
    pub(crate) inode: u64,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) links: u32,
    pub(crate) len: u64,
    pub(crate) allocated: u64,
    pub(crate) made: u64,
    pub(crate) changed: u64,
    pub(crate) read: u64,
}

/// Where a path leads.
pub(super) struct Place {
    pub(super) parent: u64,
    /// In the parent; empty for the end of a path that names none, such as `/` or `a/..`.
    pub(super) name: Vec<u8>,
    pub(super) inode: Option<u64>,
    /// The path ended in a slash: it can only be a directory's.
    pub(super) slash: bool,
    /// It did, and what is there is none.
    crooked: bool,
}

/// What becomes of a link at the end of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Last {
    /// It is followed.
    Follow,
    /// It is what the path leads to, unless a slash says that there is more to it.
    Look,
    /// It is a name, in any case.
    Name,
    /// It is followed to where a file may be made, which no slash can name; or not, if `true`.
    Make(bool),
}

impl Last {
    pub(super) fn follow(follow: bool) -> Last {
        if follow { Last::Follow } else { Last::Look }
    }

    fn follows(self, slash: bool) -> bool {
        match self {
            Last::Follow | Last::Make(false) => true,
            Last::Look => slash,
            Last::Name | Last::Make(true) => false,
        }
    }
}

impl Place {
    pub(super) fn found(&self) -> Outcome<u64> {
        if self.crooked { Err(libc::ENOTDIR) } else { self.inode.ok_or(libc::ENOENT) }
    }
}

impl World {
    pub(super) fn make_root(&mut self) {
        let root =
            self.add_inode(Node::Directory { entries: BTreeMap::new(), parent: ROOT }, 0o755);
        self.inode_mut(root).links = 2;
        let temporary = Node::Directory { entries: BTreeMap::new(), parent: root };
        let temporary = self.add_inode(temporary, 0o1777);
        self.attach(root, b"tmp".to_vec(), temporary);
    }

    pub(super) fn add_inode(&mut self, node: Node, mode: u32) -> u64 {
        let (number, now) = (self.next_inode, self.now);
        self.next_inode += 1;
        let times = (now, now, now);
        let inode = Inode {
            node,
            mode,
            links: 0,
            opens: 0,
            made: times.0,
            changed: times.1,
            read: times.2,
        };
        self.inodes.insert(number, inode);
        number
    }

    /// An inode that something refers to.
    pub(super) fn inode(&self, number: u64) -> &Inode {
        &self.inodes[&number]
    }

    pub(super) fn inode_mut(&mut self, number: u64) -> &mut Inode {
        self.inodes.get_mut(&number).expect("named or open, so it is there")
    }

    pub(super) fn entries(&self, directory: u64) -> Outcome<&BTreeMap<Vec<u8>, u64>> {
        match &self.inode(directory).node {
            Node::Directory { entries, .. } => Ok(entries),
            _ => Err(libc::ENOTDIR),
        }
    }

    pub(super) fn entries_mut(&mut self, directory: u64) -> Outcome<&mut BTreeMap<Vec<u8>, u64>> {
        match &mut self.inode_mut(directory).node {
            Node::Directory { entries, .. } => Ok(entries),
            _ => Err(libc::ENOTDIR),
        }
    }

    /// Gives an inode a name in a directory.
    pub(super) fn attach(&mut self, directory: u64, name: Vec<u8>, number: u64) {
        let now = self.now;
        if let Node::Directory { parent, .. } = &mut self.inode_mut(number).node {
            *parent = directory;
            // Its own `.`; and the parent's by its `..`.
            self.inode_mut(number).links += 1;
            self.inode_mut(directory).links += 1;
        }
        self.inode_mut(number).links += 1;
        self.inode_mut(directory).changed = now;
        if let Ok(entries) = self.entries_mut(directory) {
            entries.insert(name, number);
        }
    }

    /// Takes a name away, and with the last one, if it is not open, the inode.
    pub(super) fn detach(&mut self, directory: u64, name: &[u8]) {
        let now = self.now;
        let Some(number) = self.entries_mut(directory).ok().and_then(|e| e.remove(name)) else {
            return;
        };
        self.inode_mut(directory).changed = now;
        self.inode_mut(number).links -= 1;
        if self.inode(number).kind() == Kind::Directory {
            self.inode_mut(number).links -= 1;
            self.inode_mut(directory).links -= 1;
        }
        self.free_if_unused(number);
    }

    /// An open file is closed.
    pub(super) fn let_go(&mut self, number: u64) {
        self.inode_mut(number).opens -= 1;
        self.free_if_unused(number);
    }

    fn free_if_unused(&mut self, number: u64) {
        let inode = self.inode(number);
        if inode.links == 0 && inode.opens == 0 {
            self.inodes.remove(&number);
        }
    }

    /// Where relative paths start: the root, or an open directory.
    pub(super) fn start(&self, at: Option<Index>) -> Outcome<u64> {
        match at.map(|at| self.thing(at)).transpose()? {
            None => Ok(ROOT),
            Some(Thing::File(open)) => self.entries(open.inode).map(|_| open.inode),
            Some(_) => Err(libc::ENOTDIR),
        }
    }

    /// Follows a path.
    pub(super) fn walk(&self, at: Option<Index>, path: &[u8], end: Last) -> Outcome<Place> {
        if path.is_empty() {
            return Err(libc::ENOENT);
        }
        if path.len() > PATH {
            return Err(libc::ENAMETOOLONG);
        }
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            let parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty());
            parts.rev().map(<[u8]>::to_vec).collect()
        };
        let mut directory = if path[0] == b'/' { ROOT } else { self.start(at)? };
        let mut slash = path.ends_with(b"/");
        let (mut todo, mut links) = (parts(path), 0);
        loop {
            let Some(part) = todo.pop() else {
                let (parent, name) = (directory, Vec::new());
                let inode = Some(directory);
                return Ok(Place { parent, name, inode, slash, crooked: false });
            };
            if part.len() > NAME {
                return Err(libc::ENAMETOOLONG);
            }
            let Node::Directory { entries, parent } = &self.inode(directory).node else {
                return Err(libc::ENOTDIR);
            };
            match &part[..] {
                b"." => continue,
                b".." => {
                    directory = *parent;
                    continue;
                }
                _ => {}
            }
            let (inode, last) = (entries.get(&part).copied(), todo.is_empty());
            if last && slash && matches!(end, Last::Make(_)) {
                return Err(libc::EISDIR);
            }
            if let Some(Node::Link(target)) = inode.map(|number| &self.inode(number).node)
                && (!last || end.follows(slash))
            {
                links += 1;
                if links > LINKS {
                    return Err(libc::ELOOP);
                }
                if target.starts_with(b"/") {
                    directory = ROOT;
                }
                slash |= last && target.ends_with(b"/");
                todo.extend(parts(target));
                continue;
            }
            if last {
                let is_directory = |n| self.inode(n).kind() == Kind::Directory;
                let crooked = slash && inode.is_some_and(|n| !is_directory(n));
                return Ok(Place { parent: directory, name: part, inode, slash, crooked });
            }
            directory = inode.ok_or(libc::ENOENT)?;
        }
    }

    /// As [`World::walk`], or to an open file by its name in procfs.
    pub(super) fn walk_to_open(
        &self,
        at: Option<Index>,
        path: &[u8],
        follow: bool,
        index: impl Fn(i32) -> Outcome<Index>,
    ) -> Outcome<u64> {
        let number = path.strip_prefix(OPEN_FILES).filter(|_| follow);
        let Some(number) = number else {
            return self.walk(at, path, Last::follow(follow))?.found();
        };
        let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
        match self.thing(index(number.ok_or(libc::ENOENT)?)?)? {
            Thing::File(open) => Ok(open.inode),
            _ => Err(libc::EXDEV),
        }
    }

    pub(super) fn attributes(&self, number: u64) -> Attributes {
        let inode = self.inode(number);
        let (len, allocated) = match &inode.node {
            Node::File(content) => (content.len(), content.allocated()),
            Node::Directory { .. } => (4096, 4096),
            Node::Link(target) => (target.len() as u64, 0),
            Node::Socket => (0, 0),
        };
        let (mode, links) = (inode.mode, inode.links);
        let (made, changed, read) = (inode.made, inode.changed, inode.read);
        let (inode, kind) = (number, inode.kind());
        Attributes { inode, kind, mode, links, len, allocated, made, changed, read }
    }

    /// The path of a directory from the root.
    pub(super) fn path_of(&self, mut directory: u64) -> Vec<u8> {
        let mut path = Vec::new();
        while directory != ROOT {
            let Node::Directory { parent, .. } = &self.inode(directory).node else { break };
            let name = self.entries(*parent).ok().and_then(|entries| {
                entries.iter().find(|&(_, &number)| number == directory).map(|(name, _)| name)
            });
            // One that has been removed has none.
            let Some(name) = name else { break };
            path.splice(0..0, [b"/", &name[..]].concat());
            directory = *parent;
        }
        path
    }
}
