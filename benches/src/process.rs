//! Contestants as processes: started on a core, stopped by a signal.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cpu::pin;

/// A running contestant; killed when dropped.
pub struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts a command, on one core if asked for, with an open standard input if `stdin`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &[String], core: Option<usize>, stdin: bool) -> io::Result<Running> {
        let mut builder = Command::new(&command[0]);
        builder.args(&command[1..]).stdout(Stdio::piped());
        builder.stdin(if stdin { Stdio::piped() } else { Stdio::null() });
        // SAFETY: between fork and exec, the closure makes system calls and nothing else.
        unsafe {
            builder.pre_exec(move || {
                // Does not outlive the harness.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                core.map_or(Ok(()), pin)
            });
        }
        let mut child = builder.spawn()?;
        let output = BufReader::new(child.stdout.take().expect("piped above"));
        Ok(Running { child, output })
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line it prints.
    ///
    /// # Errors
    /// When it has ended, with its status.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            return Err(io::Error::other(format!("has ended ({status})")));
        }
        Ok(line.trim().to_owned())
    }

    /// Ends its standard input: the sign to begin.
    pub fn go(&mut self) {
        self.child.stdin = None;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: a signal to our own child, which has not been waited for.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Asks it to end, and gives the last line it prints.
    ///
    /// # Errors
    /// When it does not end in time, or prints nothing.
    pub fn stop(mut self, signal: i32) -> io::Result<String> {
        self.signal(signal);
        let begin = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begin.elapsed() > Duration::from_secs(10) {
                return Err(io::Error::other("does not end"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut text = String::new();
        self.output.read_to_string(&mut text)?;
        Ok(text.lines().last().unwrap_or_default().to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
