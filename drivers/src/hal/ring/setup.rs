//! Making a ring with the best flags the kernel takes, and learning what it can do.

use std::io;
use std::sync::OnceLock;

use io_uring::{IoUring, Probe, opcode};

/// What this kernel can do; asked once a process.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) truncate: bool,
}

/// Sets a ring up, going down the ladder of flags: each step is what some older kernel refuses with
/// `EINVAL`. The ring is made on the thread that drives it, so it need not start disabled.
pub(super) fn ring(entries: u32) -> io::Result<IoUring> {
    let mut last = None;
    for step in 0..4 {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(entries.saturating_mul(8).max(128));
        if step <= 2 {
            builder.setup_submit_all();
        }
        match step {
            // 6.6
            0 => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
                builder.setup_no_sqarray();
            }
            // 6.1
            1 => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
            }
            // 5.19
            2 => {
                builder.setup_coop_taskrun().setup_taskrun_flag();
            }
            _ => {}
        }
        match builder.build(entries) {
            Ok(ring) => return Ok(ring),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::Unsupported.into()))
}

pub(super) fn kernel(ring: &IoUring) -> io::Result<&'static Kernel> {
    static KERNEL: OnceLock<Result<Kernel, &'static str>> = OnceLock::new();
    let found = KERNEL.get_or_init(|| {
        let mut probe = Probe::new();
        if ring.submitter().register_probe(&mut probe).is_err() {
            return Err("the kernel's io_uring cannot be probed");
        }
        let needed = [
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::Recv::CODE,
            opcode::Send::CODE,
            opcode::Accept::CODE,
            opcode::Connect::CODE,
            opcode::Shutdown::CODE,
            opcode::OpenAt::CODE,
            opcode::Close::CODE,
            opcode::Statx::CODE,
            opcode::PollAdd::CODE,
            opcode::AsyncCancel::CODE,
        ];
        // 5.19 has all of these, and the multishot accept and poll that no probe tells of.
        if !needed.iter().all(|&code| probe.is_supported(code))
            || !probe.is_supported(opcode::Socket::CODE)
            || !ring.params().is_feature_ext_arg()
        {
            return Err("the kernel's io_uring is older than 5.19");
        }
        Ok(Kernel { truncate: probe.is_supported(opcode::Ftruncate::CODE) })
    });
    found.as_ref().map_err(|what| io::Error::new(io::ErrorKind::Unsupported, *what))
}
