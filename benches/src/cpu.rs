//! CPU time of other processes, and cores.

use std::io;

/// The CPU time of a whole process, read from outside: what the scheduler counts as run time, the
/// same sums as in `/proc/PID/task/*/schedstat`, but with the threads that have ended.
#[derive(Clone, Copy, Debug)]
pub struct ProcessClock(libc::clockid_t);

impl ProcessClock {
    /// The clock of a process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> io::Result<ProcessClock> {
        let mut clock = 0;
        // SAFETY: the call fills the identifier, which lives here.
        match unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) } {
            0 => Ok(ProcessClock(clock)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Nanoseconds so far.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn ns(self) -> io::Result<u64> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call fills the time, which lives here.
        if unsafe { libc::clock_gettime(self.0, &mut time) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }
}

/// Binds the calling thread (and what it becomes by `exec`) to one core.
///
/// # Errors
/// When the machine has no such core, or it is not allowed.
pub fn pin(core: usize) -> io::Result<()> {
    // SAFETY: the set is plain bits; the call only reads it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core % libc::CPU_SETSIZE as usize, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets this process have as many descriptors as it may.
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the calls fill and read the limit, which lives here. A refusal shows at the first
    // descriptor that is one too many.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
}
