//! What becomes of the completions of a thread that does something else: a port shared by threads
//! must strand none behind a busy one.
//!
//! One thread issues a request whose packet goes to a port, and then waits at another port, or
//! computes; a second thread removes from the first port. Measured: from the moment at which the
//! request can be done, to the packet.

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use overlapped::io::Readiness;
use overlapped::{CompletionPort, NoPacket, Status};

/// What the issuing thread does when it has issued.
#[derive(Clone, Copy)]
pub enum Issuer {
    /// Waits at a port of its own.
    Waits,
    /// Computes.
    Computes,
}

/// After the issue: long enough for the thread to be gone for good.
const AWAY: Duration = Duration::from_millis(5);

/// The times, one a round.
pub fn latencies(issuer: Issuer, rounds: u64) -> io::Result<Vec<f64>> {
    let (mut here, there) = UnixStream::pair()?;
    let there = Readiness::new(there)?;
    let (shared, own) = (CompletionPort::new(), CompletionPort::new());
    let back = AtomicBool::new(false);
    let (issue, issues) = mpsc::channel();
    let (issued, is_issued) = mpsc::channel();
    let (take, takes) = mpsc::channel();
    thread::scope(|scope| {
        let (there, shared, own, back) = (&there, &shared, &own, &back);
        scope.spawn(move || {
            for () in issues {
                there.readable().post(shared, 0).expect("fewer than the port's limit");
                issued.send(()).expect("somebody listens");
                match issuer {
                    Issuer::Waits => drop(own.remove(None).expect("comes")),
                    Issuer::Computes => {
                        while !back.swap(false, Ordering::Relaxed) {
                            std::hint::spin_loop();
                        }
                    }
                }
            }
        });
        scope.spawn(move || {
            loop {
                match shared.remove(None) {
                    Ok(_) => take.send(Instant::now()).expect("somebody listens"),
                    Err(NoPacket::Closed) => return,
                    Err(none) => panic!("{none}"),
                }
            }
        });
        let mut times = Vec::new();
        for _ in 0..rounds {
            issue.send(()).expect("it listens");
            is_issued.recv().expect("it is issued");
            thread::sleep(AWAY);
            let begin = Instant::now();
            here.write_all(b"x")?;
            let taken = takes.recv().expect("a packet comes");
            times.push((taken - begin).as_nanos() as f64);
            match issuer {
                Issuer::Waits => own.post(0, 0, Status::SUCCESS, 0).expect("not full"),
                Issuer::Computes => back.store(true, Ordering::Relaxed),
            }
            // For the next round.
            io::Read::read_exact(&mut there.get_ref(), &mut [0])?;
        }
        drop(issue);
        shared.close();
        Ok(times)
    })
}
