//! Standard input, output and error, in child processes: pipes, files, sockets, terminals.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::AsyncReadExt;
use overlapped::driver::Driver;
use overlapped::driver::filter::Xor;
use overlapped::io::{Stdin, pipe_stack_of, stderr, stdin, stdout};
use overlapped::time::timeout;
use overlapped::{Backend, LocalRuntime};
use support::{Dir, backends, pattern, watch};

/// Says in a child what to do, and names the test.
const ROLE: &str = "OVERLAPPED_STDIO_ROLE";

/// Runs this binary's `role` with the standard descriptors that `set` chooses.
fn start(backend: Backend, role: &str, set: impl FnOnce(&mut Command)) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    // The harness says its own to standard output; what is after it is the role's.
    command.args(["the_child", "--exact", "--nocapture", "--test-threads=1", "--quiet"]);
    command.env(ROLE, role).env("OVERLAPPED_BACKEND", backend.to_string());
    set(&mut command);
    command.spawn().unwrap()
}

fn runtime() -> LocalRuntime {
    overlapped::Builder::new().build_local().unwrap()
}

/// What the children do. Ends the process, so that the harness says nothing after it.
#[test]
fn the_child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let _watch = watch(format!("the child {role}"));
    match role.as_str() {
        "copy" => runtime().block_on(copy(false)),
        "copy while dropping" => runtime().block_on(copy(true)),
        "futures" => runtime().block_on(async {
            let mut text = Vec::new();
            stdin().unwrap().compat().read_to_end(&mut text).await.unwrap();
            stdout().unwrap().write_all(text).await.unwrap();
        }),
        "xor" => runtime().block_on(async {
            let stack = pipe_stack_of([Arc::new(Xor(0x20)) as Arc<dyn Driver>]).unwrap();
            let (_, buf) = Stdin::with(stack).unwrap().read(vec![0; 9]).await.unwrap();
            stdout().unwrap().write_all(buf).await.unwrap();
        }),
        "leave while reading" => {
            let reading = async {
                // Nothing comes; the program ends all the same, and soon.
                let limit = Duration::from_millis(50);
                let read = timeout(limit, stdin().unwrap().read(vec![0; 9])).await;
                assert!(read.is_err());
                let stdin = stdin().unwrap();
                let mut left = stdin.read_lease().deadline(Duration::from_secs(3600));
                assert!(support::poll_once(&mut left).is_pending());
                stderr().unwrap().write_all("left").await.unwrap();
            };
            runtime().block_on(reading);
        }
        "several runtimes" => {
            // What one runtime's dropped read has taken is for the next one's.
            for _ in 0..3 {
                runtime().block_on(async {
                    let (n, buf) = stdin().unwrap().read(vec![0; 1]).await.unwrap();
                    assert_eq!(n, 1);
                    let again = stdin().unwrap();
                    let mut dropped = again.read(vec![0; 1]);
                    let _ = support::poll_once(&mut dropped).map(|got| {
                        // It was there at once: then it is ours.
                        let got = got.unwrap().1;
                        std::io::stderr().write_all(&got).unwrap();
                    });
                    drop(dropped);
                    stdout().unwrap().write_all(buf).await.unwrap();
                });
            }
        }
        other => panic!("{other}"),
    }
    std::process::exit(0);
}

async fn copy(dropping: bool) {
    let (stdin, stdout) = (stdin().unwrap(), stdout().unwrap());
    let mut tries = 0u64;
    loop {
        tries += 1;
        let read = stdin.read(Vec::with_capacity(if dropping { 7 } else { 4096 }));
        let got = if dropping {
            let limit = Duration::from_micros(tries % 40);
            match timeout(limit, read).await {
                Ok(got) => got,
                Err(_) => continue,
            }
        } else {
            read.await
        };
        let (n, buf) = got.unwrap();
        if n == 0 {
            return;
        }
        stdout.write_all(buf).await.unwrap();
    }
}

/// What the role wrote, without what the harness wrote before it.
fn after_harness(output: &[u8]) -> &[u8] {
    const LINE: &[u8] = b"\nrunning 1 test\n";
    output.strip_prefix(LINE).unwrap_or(output)
}

fn flags(of: &impl AsRawFd) -> i32 {
    // SAFETY: the call only looks.
    unsafe { libc::fcntl(of.as_raw_fd(), libc::F_GETFL) }
}

#[test]
fn pipes() {
    for backend in backends() {
        for role in ["copy", "copy while dropping", "futures"] {
            let _watch = watch(format!("{role} on {backend}"));
            let mut child = start(backend, role, |command| {
                command.stdin(Stdio::piped()).stdout(Stdio::piped());
            });
            let mut to = child.stdin.take().unwrap();
            let from = child.stdout.as_ref().unwrap();
            let before = (flags(&to), flags(from));
            let whole = pattern(20_000);
            let send = whole.clone();
            let sender = std::thread::spawn(move || {
                for part in send.chunks(11) {
                    to.write_all(part).unwrap();
                }
                flags(&to)
            });
            let mut got = Vec::new();
            let mut from = child.stdout.take().unwrap();
            from.read_to_end(&mut got).unwrap();
            assert!(after_harness(&got) == whole, "{role}");
            assert_eq!((sender.join().unwrap(), flags(&from)), before);
            assert!(child.wait().unwrap().success());
        }
    }
}

#[test]
fn files_and_a_filter() {
    for backend in backends() {
        let _watch = watch(format!("files on {backend}"));
        let dir = Dir::new();
        let (input, output) = (dir.file("in", pattern(300_000)), dir.path("out"));
        let child = start(backend, "copy", |command| {
            command.stdin(File::open(&input).unwrap()).stdout(File::create(&output).unwrap());
        });
        assert!(child.wait_with_output().unwrap().status.success());
        let got = std::fs::read(&output).unwrap();
        assert!(after_harness(&got) == pattern(300_000));
        // Appending, and from the middle of what two processes share.
        let append = File::options().append(true).open(&output).unwrap();
        let mut shared = File::open(dir.file("text", "0123hello")).unwrap();
        shared.read_exact(&mut [0; 4]).unwrap();
        let child = start(backend, "xor", |command| {
            command.stdin(shared).stdout(append);
        });
        assert!(child.wait_with_output().unwrap().status.success());
        let all = std::fs::read(&output).unwrap();
        assert_eq!(after_harness(&all[got.len()..]), b"HELLO");
        // Nothing at all.
        let child = start(backend, "copy", |command| {
            command.stdin(Stdio::null()).stdout(Stdio::null());
        });
        assert!(child.wait_with_output().unwrap().status.success());
    }
}

#[test]
fn sockets() {
    for backend in backends() {
        // Also one that somebody else has made non-blocking.
        for nonblocking in [false, true] {
            let _watch = watch(format!("sockets on {backend}"));
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            theirs.set_nonblocking(nonblocking).unwrap();
            let shared = theirs.try_clone().unwrap();
            let mut child = start(backend, "copy", |command| {
                let (a, b) = (theirs.try_clone().unwrap(), theirs);
                command.stdin(OwnedFd::from(a)).stdout(OwnedFd::from(b));
            });
            ours.write_all(b"over a socket").unwrap();
            let mut got = vec![0; 16];
            ours.read_exact(&mut got).unwrap();
            assert_eq!(got, b"\nrunning 1 test\n");
            got.truncate(13);
            ours.read_exact(&mut got).unwrap();
            assert_eq!(got, b"over a socket");
            assert_eq!(flags(&shared) & libc::O_NONBLOCK != 0, nonblocking, "left as it was");
            ours.shutdown(std::net::Shutdown::Write).unwrap();
            assert!(child.wait().unwrap().success());
        }
    }
}

/// A terminal's two sides: the one a terminal emulator has, and the one programs have.
fn terminal() -> (File, File) {
    let (mut ours, mut theirs) = (0, 0);
    // SAFETY: both out-parameters live through the call; the rest asks for the defaults.
    let made = unsafe {
        let none = std::ptr::null_mut();
        libc::openpty(&mut ours, &mut theirs, none, std::ptr::null(), std::ptr::null())
    };
    assert_eq!(made, 0);
    // SAFETY: just made for us.
    unsafe { (File::from_raw_fd(ours), File::from_raw_fd(theirs)) }
}

fn read_until(terminal: &mut File, what: &str, times: usize) {
    let mut said = String::new();
    while said.matches(what).count() < times {
        let mut buf = [0; 100];
        let n = terminal.read(&mut buf).unwrap();
        said.push_str(&String::from_utf8_lossy(&buf[..n]));
    }
}

#[test]
fn terminals() {
    for backend in backends() {
        for role in ["copy", "copy while dropping"] {
            let _watch = watch(format!("{role} at a terminal on {backend}"));
            let (mut ours, theirs) = terminal();
            let shared = theirs.try_clone().unwrap();
            let mut child = start(backend, role, |command| {
                command.stdin(theirs.try_clone().unwrap()).stdout(theirs);
            });
            // The harness's own words may come in the middle of an echo.
            read_until(&mut ours, "running 1 test\r\n", 1);
            for line in ["one", "two", "three"] {
                writeln!(ours, "<{line}>").unwrap();
                // Once by the terminal's echo, once by the program.
                read_until(&mut ours, &format!("<{line}>"), 2);
            }
            assert_eq!(flags(&shared) & libc::O_NONBLOCK, 0);
            // Control-D: the end.
            ours.write_all(&[4]).unwrap();
            assert!(child.wait().unwrap().success());
        }
    }
}

#[test]
fn a_program_ends_while_it_reads() {
    for backend in backends() {
        let _watch = watch(format!("a program that ends on {backend}"));
        let (ours, theirs) = terminal();
        let (pipe, keeps) = std::io::pipe().unwrap();
        for input in [OwnedFd::from(theirs), OwnedFd::from(pipe)] {
            let child = start(backend, "leave while reading", |command| {
                command.stdin(input).stdout(Stdio::null()).stderr(Stdio::piped());
            });
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            assert_eq!(String::from_utf8_lossy(&output.stderr), "left");
        }
        drop((ours, keeps));
    }
}

#[test]
fn several_runtimes_one_after_the_other() {
    for backend in backends() {
        let _watch = watch(format!("several runtimes on {backend}"));
        let mut child = start(backend, "several runtimes", |command| {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        });
        let mut to = child.stdin.take().unwrap();
        for byte in b"abcdef" {
            // One by one; some are gone before all is written.
            if to.write_all(&[*byte]).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut all = [after_harness(&output.stdout), &output.stderr].concat();
        all.sort_unstable();
        assert!(b"abcdef".starts_with(&all) && all.len() >= 3, "{all:?}");
    }
}
