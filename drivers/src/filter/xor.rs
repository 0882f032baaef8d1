//! The tutorial's filter: every byte XOR a key, on files and sockets alike.

use overlapped_iomgr::{
    Class, Completion, Disposition, Driver, Irp, Lower, Major, MajorSet, On, Unwinding,
};

/// XORs the bytes of reads and writes with a key. Not encryption.
#[derive(Debug)]
pub struct Xor(pub u8);

impl Driver for Xor {
    fn name(&self) -> &str {
        "xor"
    }
    fn class(&self) -> Class {
        Class::Transform
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write, Major::SendTo, Major::ReceiveFrom])
    }
    fn dispatch(&self, mut irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        if matches!(irp.major(), Major::Write | Major::SendTo) {
            let changed: Vec<u8> = irp.segments().flatten().map(|b| b ^ self.0).collect();
            irp.next().lend(changed);
        }
        // Warnings too: a datagram that was cut is data all the same (0.1).
        lower.forward(irp, On::SUCCESS | On::ERROR)
    }
    fn completed(&self, mut irp: Unwinding<'_>) -> Completion {
        // Nothing for requests that send, or have failed.
        irp.received_mut().flatten().for_each(|b| *b ^= self.0);
        irp.proceed()
    }
}
