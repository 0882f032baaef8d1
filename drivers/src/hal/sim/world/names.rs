//! What is done to names: making, removing, renaming, linking; attributes and modes.

use std::collections::BTreeMap;

use super::tree::{Kind, Last, Node, Place, ROOT};
use super::{Attributes, Index, Outcome, Thing, World};

/// What the mask takes from the permission bits of what is made.
pub(super) const UMASK: u32 = 0o022;

impl World {
    /// Checks that a new name can be made there.
    pub(super) fn vacant(&self, place: &Place) -> Outcome<()> {
        if place.inode.is_some() {
            return Err(libc::EEXIST);
        }
        // A directory that is gone, but open.
        if self.inode(place.parent).links == 0 { Err(libc::ENOENT) } else { Ok(()) }
    }

    pub(crate) fn make_directory(
        &mut self,
        at: Option<Index>,
        path: &[u8],
        mode: u32,
    ) -> Outcome<()> {
        let place = self.walk(at, path, Last::Name)?;
        self.vacant(&place)?;
        let node = Node::Directory { entries: BTreeMap::new(), parent: place.parent };
        let number = self.add_inode(node, mode & 0o7777 & !UMASK);
        self.attach(place.parent, place.name, number);
        Ok(())
    }

    pub(crate) fn symbolic_link(
        &mut self,
        at: Option<Index>,
        target: &[u8],
        path: &[u8],
    ) -> Outcome<()> {
        if target.is_empty() {
            return Err(libc::ENOENT);
        }
        let place = self.walk(at, path, Last::Name)?;
        self.vacant(&place)?;
        if place.slash {
            return Err(libc::ENOENT);
        }
        let number = self.add_inode(Node::Link(target.to_vec()), 0o777);
        self.attach(place.parent, place.name, number);
        Ok(())
    }

    /// `index`: which descriptor a number means.
    pub(crate) fn link(
        &mut self,
        at: Option<Index>,
        from: &[u8],
        to: &[u8],
        follow: bool,
        index: impl Fn(i32) -> Outcome<Index>,
    ) -> Outcome<()> {
        let number = self.walk_to_open(at, from, follow, index)?;
        let place = self.walk(at, to, Last::Name)?;
        self.vacant(&place)?;
        if place.slash {
            return Err(libc::ENOENT);
        }
        let inode = self.inode(number);
        if inode.kind() == Kind::Directory {
            return Err(libc::EPERM);
        }
        // Its last name has gone. One made without a name may get its first.
        let unnamed = matches!(&inode.node, Node::File(_)) && self.is_nameless(number);
        if inode.links == 0 && !unnamed {
            return Err(libc::ENOENT);
        }
        self.attach(place.parent, place.name, number);
        self.name_given(number);
        Ok(())
    }

    pub(crate) fn unlink(
        &mut self,
        at: Option<Index>,
        path: &[u8],
        directory: bool,
    ) -> Outcome<()> {
        let place = self.walk(at, path, Last::Name)?;
        let number = place.found()?;
        if directory {
            if place.name.is_empty() {
                let last = path.split(|&byte| byte == b'/').rfind(|part| !part.is_empty());
                return Err(match last {
                    Some(b".") => libc::EINVAL,
                    Some(_) => libc::ENOTEMPTY,
                    None => libc::EBUSY,
                });
            }
            if !self.entries(number)?.is_empty() {
                return Err(libc::ENOTEMPTY);
            }
        } else if self.inode(number).kind() == Kind::Directory {
            return Err(libc::EISDIR);
        }
        self.detach(place.parent, &place.name);
        Ok(())
    }

    /// Whether a directory is in another one, or is it.
    fn is_within(&self, mut directory: u64, other: u64) -> bool {
        loop {
            if directory == other {
                return true;
            }
            match self.inode(directory).node {
                Node::Directory { parent, .. } if directory != ROOT => directory = parent,
                _ => return false,
            }
        }
    }

    pub(crate) fn rename(&mut self, at: Option<Index>, from: &[u8], to: &[u8]) -> Outcome<()> {
        let (from, to) = (self.walk(at, from, Last::Name)?, self.walk(at, to, Last::Name)?);
        if from.name.is_empty() || to.name.is_empty() {
            return Err(libc::EBUSY);
        }
        let number = from.found()?;
        let is_directory = self.inode(number).kind() == Kind::Directory;
        if to.slash && !is_directory {
            return Err(libc::ENOTDIR);
        }
        if self.is_within(to.parent, number) {
            return Err(libc::EINVAL);
        }
        if to.inode.is_some_and(|there| self.is_within(from.parent, there)) {
            return Err(libc::ENOTEMPTY);
        }
        match to.inode {
            Some(there) if there == number => return Ok(()),
            Some(there) => {
                match (is_directory, self.inode(there).kind() == Kind::Directory) {
                    (true, false) => return Err(libc::ENOTDIR),
                    (false, true) => return Err(libc::EISDIR),
                    (true, true) if !self.entries(there)?.is_empty() => {
                        return Err(libc::ENOTEMPTY);
                    }
                    _ => {}
                }
                self.detach(to.parent, &to.name);
            }
            None => self.vacant(&to)?,
        }
        // Under its new name first, so that it is never without one.
        self.attach(to.parent, to.name, number);
        self.detach(from.parent, &from.name);
        Ok(())
    }

    pub(crate) fn stat_path(
        &self,
        at: Option<Index>,
        path: &[u8],
        follow: bool,
    ) -> Outcome<Attributes> {
        Ok(self.attributes(self.walk(at, path, Last::follow(follow))?.found()?))
    }

    pub(crate) fn set_mode(
        &mut self,
        at: Option<Index>,
        path: Option<&[u8]>,
        mode: u32,
    ) -> Outcome<()> {
        let number = match (path, at) {
            (Some(path), _) => self.walk(at, path, Last::Follow)?.found()?,
            (None, Some(at)) => match self.thing(at)? {
                Thing::File(open) => open.inode,
                _ => return Err(libc::EINVAL),
            },
            (None, None) => return Err(libc::EBADF),
        };
        self.inode_mut(number).mode = mode & 0o7777;
        Ok(())
    }

    pub(crate) fn read_link(&self, path: &[u8]) -> Outcome<Vec<u8>> {
        match &self.inode(self.walk(None, path, Last::Look)?.found()?).node {
            Node::Link(target) => Ok(target.clone()),
            _ => Err(libc::EINVAL),
        }
    }

    pub(crate) fn real_path(&self, path: &[u8]) -> Outcome<Vec<u8>> {
        let place = self.walk(None, path, Last::Follow)?;
        place.found()?;
        let mut path = self.path_of(place.parent);
        if !place.name.is_empty() || path.is_empty() {
            path.push(b'/');
            path.extend(place.name);
        }
        Ok(path)
    }
}
