//! The tree of tokens: who is told when one of them is cancelled.
//!
//! **Invariants.**
//! - A node is in its tree's list as long as it has handles and is not cancelled. One whose last
//!   handle goes hands its children to its parent, so that a long line of descent keeps only those
//!   that somebody holds.
//! - `cancelled` is written under the tree's lock, for a node and all below it before anyone is
//!   woken: who has been woken by one finds the others cancelled as well.
//! - A waker is kept only under the node's own lock by one who has found it not cancelled there; a
//!   cancel takes the wakers after it has written `cancelled`. So no wake is lost.
//!
//! Checked with loom in `models/tests/loom.rs` of this crate. The list names nodes by key and a node names
//! its tree; a node leaves the list by being cancelled or with its last handle, so nothing leaks.

use std::sync::PoisonError;
use std::task::Waker;

use overlapped_iomgr::panics::{caught, log};
use slab::Slab;

#[cfg(loom)]
use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
#[cfg(not(loom))]
use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// A counted handle of a node.
pub struct Handle(Arc<Node>);

struct Node {
    tree: Arc<Mutex<Slab<Place>>>,
    /// Its key in the tree's list, while it is there.
    key: usize,
    cancelled: AtomicBool,
    handles: AtomicUsize,
    waiting: Mutex<Slab<Waker>>,
}

/// A node's place in its tree.
struct Place {
    node: Arc<Node>,
    parent: Option<usize>,
    first_child: Option<usize>,
    /// Its neighbours among its parent's children.
    previous: Option<usize>,
    next: Option<usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Foreign code never runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    /// A tree of one.
    pub fn root() -> Handle {
        let tree = Arc::new(Mutex::new(Slab::new()));
        let mut places = lock(&tree);
        let node = insert(&tree, &mut places, None);
        drop(places);
        Handle(node)
    }

    /// A new child; of one that is cancelled, a cancelled one.
    pub fn child(&self) -> Handle {
        let mut places = lock(&self.0.tree);
        if self.is_cancelled() {
            return Handle(Arc::new(Node::new(&self.0.tree, usize::MAX, true)));
        }
        Handle(insert(&self.0.tree, &mut places, Some(self.0.key)))
    }

    /// Cancels the node and all below it.
    pub fn cancel(&self) {
        let mut cancelled = Vec::new();
        let mut places = lock(&self.0.tree);
        if self.is_cancelled() {
            return;
        }
        unlink(&mut places, self.0.key);
        let mut to_do = vec![self.0.key];
        while let Some(key) = to_do.pop() {
            let place = places.remove(key);
            let mut child = place.first_child;
            while let Some(key) = child {
                to_do.push(key);
                child = places[key].next;
            }
            place.node.cancelled.store(true, Ordering::Release);
            cancelled.push(place.node);
        }
        drop(places);
        for node in &cancelled {
            let waiting = std::mem::take(&mut *lock(&node.waiting));
            for (_, waker) in waiting {
                // One that panics must not keep the others from being woken.
                if caught(|| waker.wake()).is_none() {
                    log(|| tracing::error!("a waker panicked"));
                }
            }
        }
    }

    /// Whether it has been cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// Keeps a waker, in the place of the one under `key` if there is one. `false`: cancelled.
    pub fn watch(&self, key: &mut Option<usize>, waker: &Waker) -> bool {
        // Cloning and dropping wakers is foreign code.
        let mut new = Some(waker.clone());
        let mut waiting = lock(&self.0.waiting);
        if self.is_cancelled() {
            return false;
        }
        match *key {
            Some(key) => new = new.map(|new| std::mem::replace(&mut waiting[key], new)),
            None => *key = new.take().map(|new| waiting.insert(new)),
        }
        drop(waiting);
        drop(new);
        true
    }

    /// Gives the waker back that is kept under the key.
    pub fn leave(&self, key: usize) {
        let waker = lock(&self.0.waiting).try_remove(key);
        drop(waker);
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        self.0.handles.fetch_add(1, Ordering::Relaxed);
        Handle(self.0.clone())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        // Nobody can make another handle out of none.
        let mut places = lock(&self.0.tree);
        if !self.is_cancelled() {
            unlink(&mut places, self.0.key);
            let place = places.remove(self.0.key);
            let mut child = place.first_child;
            while let Some(key) = child {
                child = places[key].next;
                link(&mut places, key, place.parent);
            }
        }
    }
}

impl Node {
    fn new(tree: &Arc<Mutex<Slab<Place>>>, key: usize, cancelled: bool) -> Node {
        Node {
            tree: tree.clone(),
            key,
            cancelled: AtomicBool::new(cancelled),
            handles: AtomicUsize::new(1),
            waiting: Mutex::new(Slab::new()),
        }
    }
}

// The list, under its lock.

fn insert(
    tree: &Arc<Mutex<Slab<Place>>>,
    places: &mut Slab<Place>,
    parent: Option<usize>,
) -> Arc<Node> {
    let entry = places.vacant_entry();
    let key = entry.key();
    let node = Arc::new(Node::new(tree, key, false));
    let place =
        Place { node: node.clone(), parent: None, first_child: None, previous: None, next: None };
    entry.insert(place);
    link(places, key, parent);
    node
}

/// Makes a node the first child of `parent`; with `None`, a root.
fn link(places: &mut Slab<Place>, key: usize, parent: Option<usize>) {
    let next = parent.and_then(|parent| places[parent].first_child.replace(key));
    if let Some(next) = next {
        places[next].previous = Some(key);
    }
    let place = &mut places[key];
    (place.parent, place.previous, place.next) = (parent, None, next);
}

/// Takes a node out of its parent's children.
fn unlink(places: &mut Slab<Place>, key: usize) {
    let place = &places[key];
    let (parent, previous, next) = (place.parent, place.previous, place.next);
    if let Some(next) = next {
        places[next].previous = previous;
    }
    match (previous, parent) {
        (Some(previous), _) => places[previous].next = next,
        (None, Some(parent)) => places[parent].first_child = next,
        (None, None) => {}
    }
}
