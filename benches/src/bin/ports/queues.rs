//! The contestants.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex};

use overlapped::{CompletionPort, Packet, Status};

/// A queue that threads sleep at when it is empty.
pub trait Queue: Default + Sync {
    /// Puts a packet in.
    fn post(&self, value: u64);

    /// What takes packets out, for one thread.
    fn remover(&self) -> impl FnMut() -> u64;
}

/// Ours, packet by packet.
#[derive(Default)]
pub struct One(CompletionPort);

impl Queue for One {
    fn post(&self, value: u64) {
        self.0.post(0, value, Status::SUCCESS, 0).expect("fewer than the port's limit");
    }

    fn remover(&self) -> impl FnMut() -> u64 {
        || self.0.remove(None).expect("waits for ever").value()
    }
}

/// Ours, removing what is there at once.
#[derive(Default)]
pub struct Many(CompletionPort);

impl Queue for Many {
    fn post(&self, value: u64) {
        self.0.post(0, value, Status::SUCCESS, 0).expect("fewer than the port's limit");
    }

    fn remover(&self) -> impl FnMut() -> u64 {
        const MOST: usize = 64;
        let mut packets: Vec<Packet> = Vec::with_capacity(MOST);
        move || {
            if packets.is_empty() {
                self.0.remove_many(&mut packets, MOST, None).expect("waits for ever");
                packets.reverse();
            }
            packets.pop().expect("waits for ever").value()
        }
    }
}

/// `crossbeam-channel`, unbounded as a port is. Spins before it sleeps.
pub struct Crossbeam(crossbeam_channel::Sender<u64>, crossbeam_channel::Receiver<u64>);

impl Default for Crossbeam {
    fn default() -> Crossbeam {
        let (sender, receiver) = crossbeam_channel::unbounded();
        Crossbeam(sender, receiver)
    }
}

impl Queue for Crossbeam {
    fn post(&self, value: u64) {
        self.0.send(value).expect("the receiver lives");
    }

    fn remover(&self) -> impl FnMut() -> u64 {
        || self.1.recv().expect("the sender lives")
    }
}

/// A queue behind a lock.
#[derive(Default)]
pub struct Locked {
    packets: Mutex<VecDeque<u64>>,
    arrived: Condvar,
}

impl Queue for Locked {
    fn post(&self, value: u64) {
        self.packets.lock().expect("nobody panics").push_back(value);
        self.arrived.notify_one();
    }

    fn remover(&self) -> impl FnMut() -> u64 {
        || {
            let packets = self.packets.lock().expect("nobody panics");
            let is_empty = |packets: &mut VecDeque<u64>| packets.is_empty();
            let mut packets = self.arrived.wait_while(packets, is_empty).expect("nobody panics");
            packets.pop_front().expect("not empty")
        }
    }
}

/// One packet in a futex word: what waking a thread costs at least. 0 is empty.
#[derive(Default)]
pub struct Futex(AtomicU32);

impl Futex {
    fn call(&self, operation: i32, value: u32) {
        let word = self.0.as_ptr();
        // SAFETY: the word lives as long as `self`. Whatever comes back, the caller looks at the
        // word again.
        unsafe {
            let no_time = std::ptr::null::<libc::timespec>();
            libc::syscall(libc::SYS_futex, word, operation, value, no_time);
        }
    }
}

impl Queue for Futex {
    fn post(&self, value: u64) {
        let value = u32::try_from(value + 1).expect("fewer rounds than that");
        self.0.store(value, Ordering::Release);
        self.call(libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1);
    }

    fn remover(&self) -> impl FnMut() -> u64 {
        || loop {
            match self.0.swap(0, Ordering::Acquire) {
                0 => self.call(libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 0),
                value => return u64::from(value) - 1,
            }
        }
    }
}
