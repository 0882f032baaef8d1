//! The inbox of a worker; see `loom.rs`.

#[path = "../../../src/executor/inbox.rs"]
mod real;

use std::ptr::NonNull;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicPtr;
use loom::thread;

use super::explore;
use real::{Inbox, Linked};

/// A node of an inbox.
struct Node {
    link: AtomicPtr<Node>,
    taken: UnsafeCell<bool>,
}

impl Node {
    fn new() -> Arc<Node> {
        let link = AtomicPtr::new(std::ptr::null_mut());
        Arc::new(Node { link, taken: UnsafeCell::new(false) })
    }

    fn is_taken(&self) -> bool {
        self.taken.with(|taken| unsafe { *taken })
    }
}

unsafe impl Linked for Node {
    fn link(&self) -> &AtomicPtr<Node> {
        &self.link
    }
}

fn push(inbox: &Inbox<Node>, node: &Arc<Node>) -> bool {
    // Ours until it is pushed.
    node.taken.with_mut(|taken| unsafe { *taken = false });
    unsafe { inbox.push(NonNull::from(&**node)) }
}

/// Takes a node off, once.
fn taken(node: NonNull<Node>) {
    let node = unsafe { node.as_ref() };
    node.taken.with_mut(|taken| assert!(!unsafe { std::mem::replace(&mut *taken, true) }));
}

#[test]
fn mail_comes_out_once_and_in_order() {
    explore(|| {
        let inbox = Arc::new(Inbox::new());
        let nodes = [Node::new(), Node::new(), Node::new()];
        let pusher = thread::spawn({
            let (inbox, nodes) = (inbox.clone(), nodes.clone());
            move || assert!(push(&inbox, &nodes[0]) && push(&inbox, &nodes[1]))
        });
        assert!(push(&inbox, &nodes[2]));
        let mut order = Vec::new();
        let mut take = |node: NonNull<Node>| {
            taken(node);
            order.push(node);
        };
        inbox.take(&mut take);
        pusher.join().unwrap();
        inbox.take(&mut take);
        let place = |n: usize| order.iter().position(|&node| node == NonNull::from(&*nodes[n]));
        assert!(order.len() == 3 && place(2).is_some() && place(0) < place(1));
        assert!(inbox.is_empty());
    });
}

#[test]
fn mail_is_taken_or_refused_when_the_inbox_closes() {
    explore(|| {
        let inbox = Arc::new(Inbox::new());
        let node = Node::new();
        let pusher = thread::spawn({
            let (inbox, node) = (inbox.clone(), node.clone());
            move || push(&inbox, &node)
        });
        inbox.take(taken);
        inbox.close(taken);
        let pushed = pusher.join().unwrap();
        assert_eq!(node.is_taken(), pushed);
        assert!(!push(&inbox, &node) && inbox.is_empty());
    });
}
