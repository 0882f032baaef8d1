//! Making a ring with the best flags the kernel takes, and learning what the kernel can do.
//!
//! **Invariant.** A ring of one thread is made on that thread, so `SINGLE_ISSUER` binds it to the
//! right one at once and it need not start disabled (`R_DISABLED`). A ring that several threads drive
//! has neither that flag nor `DEFER_TASKRUN`, which would tie its completions to one of them.
//!
//! Reads next: `gate.rs`, which enters the kernel through the ring made here.

use overlapped_iomgr::panics::log;
use std::io;
use std::sync::OnceLock;

use io_uring::squeue::Flags;
use io_uring::{Builder, IoUring, Probe};

use super::UringConfig;

/// One step of the ladder of set-up flags, best first. A kernel that does not know a flag answers
/// `EINVAL`, and the next step is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rung {
    /// Deferred task work, no indirection array: 6.6.
    Defer,
    /// Deferred task work: 6.1.
    DeferSqArray,
    /// Cooperative task work: 5.19.
    Coop,
    /// Batches are submitted whole: 5.18.
    SubmitAll,
    /// Nothing but sizes.
    Plain,
}

impl Rung {
    pub(super) const ALL: [Rung; 5] =
        [Rung::Defer, Rung::DeferSqArray, Rung::Coop, Rung::SubmitAll, Rung::Plain];

    /// For a ring that several threads drive.
    pub(super) const SHARED: [Rung; 3] = [Rung::Coop, Rung::SubmitAll, Rung::Plain];

    /// Whether one thread alone may enter the ring.
    pub(super) fn is_of_one_thread(self) -> bool {
        matches!(self, Rung::Defer | Rung::DeferSqArray)
    }

    fn apply(self, builder: &mut Builder) {
        match self {
            Rung::Defer => {
                Rung::DeferSqArray.apply(builder);
                builder.setup_no_sqarray();
            }
            Rung::DeferSqArray => {
                builder.setup_single_issuer().setup_defer_taskrun();
                builder.setup_taskrun_flag().setup_submit_all();
            }
            Rung::Coop => {
                builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
            }
            Rung::SubmitAll => {
                builder.setup_submit_all();
            }
            Rung::Plain => {}
        }
    }
}

/// Makes a ring on the first of `rungs` that the kernel takes.
///
/// # Errors
/// Those of `io_uring_setup` (`EPERM`, `ENOSYS`, `ENOMEM`, …), and `Unsupported` on kernels before
/// 5.11, which cannot wait with a time limit.
pub(super) fn open(config: &UringConfig, rungs: &[Rung]) -> io::Result<(IoUring, Rung)> {
    let entries = config.entries.clamp(8, 1 << 15);
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for &rung in rungs {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(config.cq_entries.max(2 * entries));
        rung.apply(&mut builder);
        match builder.build(entries) {
            Ok(ring) => {
                let has = ring.params();
                // NODROP: a completion queue that overflows loses nothing.
                if !(has.is_feature_ext_arg() && has.is_feature_nodrop()) {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                log(|| tracing::debug!(?rung, ?has, "io_uring set up"));
                return Ok((ring, rung));
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// The flags of an entry whose success is no news: it leaves no completion, where the kernel knows how.
pub(super) fn silent(ring: &IoUring) -> Flags {
    let can = ring.params().is_feature_skip_cqe_on_success();
    if can { Flags::SKIP_SUCCESS } else { Flags::empty() }
}

/// What this process's kernel can do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    /// Bit `n`: opcode `n` is there.
    opcodes: u64,
}

impl Kernel {
    /// Whether the kernel knows this opcode.
    #[inline]
    pub(super) fn has(&self, opcode: u32) -> bool {
        opcode < 64 && self.opcodes & (1 << opcode) != 0
    }

    /// Asks the kernel, once a process.
    ///
    /// # Errors
    /// When it does not answer; then it is too old, or forbids asking.
    pub(super) fn probe(ring: &IoUring) -> io::Result<Kernel> {
        static KERNEL: OnceLock<Kernel> = OnceLock::new();
        if let Some(kernel) = KERNEL.get() {
            return Ok(*kernel);
        }
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let mut opcodes = 0;
        for opcode in 0..64 {
            opcodes |= u64::from(probe.is_supported(opcode)) << opcode;
        }
        Ok(*KERNEL.get_or_init(|| Kernel { opcodes }))
    }

    #[cfg(test)]
    pub(super) fn without(mut self, opcode: u8) -> Kernel {
        self.opcodes &= !(1 << opcode);
        self
    }
}
