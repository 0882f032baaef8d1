//! Contestants as processes: started on a core, measured from outside.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

/// Binds the calling thread (and what it becomes by `exec`) to one core.
pub fn pin(core: usize) {
    // SAFETY: the set is plain bits; the call only reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

/// A running contestant; killed when dropped.
pub struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts a command on a core.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &[String], core: usize, stdin: bool) -> io::Result<Running> {
        let mut builder = Command::new(&command[0]);
        builder.args(&command[1..]).stdout(Stdio::piped()).stderr(Stdio::null());
        builder.stdin(if stdin { Stdio::piped() } else { Stdio::null() });
        // SAFETY: between fork and exec, the closure makes one system call.
        unsafe {
            builder.pre_exec(move || {
                pin(core);
                Ok(())
            });
        }
        let mut child = builder.spawn()?;
        let output = BufReader::new(child.stdout.take().expect("piped above"));
        Ok(Running { child, output })
    }

    /// The next line it prints.
    ///
    /// # Errors
    /// `UnexpectedEof` when it has ended.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim().to_owned())
    }

    /// Ends its standard input: the sign to begin.
    pub fn go(&mut self) {
        self.child.stdin = None;
    }

    /// CPU time of all its threads so far, in nanoseconds, as the scheduler counts it.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu_ns(&self) -> io::Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let first = text.split_whitespace().next().unwrap_or("0");
            sum += first.parse::<u64>().map_err(io::Error::other)?;
        }
        Ok(sum)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
