//! The suites for filters and bottoms of streams: what they let pass, and what they find.

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use overlapped::Status;
use overlapped::driver::filter::{Fault, PassKind, pass};
use overlapped::driver::testing::conformance::{stream_bottom, stream_filters};
use overlapped::driver::testing::{Log, Verifier};
use overlapped::driver::text::Text;
use overlapped::driver::{Driver, Filter, Io, Major, MajorSet, Next};
use overlapped::net::{TcpListener, TcpStream, UnixStream};
use support::{Dir, alone};
use tls::Certificates;

fn filters(text: &str) -> std::io::Result<Vec<Arc<dyn Driver>>> {
    Ok(text.parse::<Text>()?.build()?.filters)
}

/// Puts filters through the suite, as they are and with verifiers around them.
fn check(name: &str, make: impl Fn() -> std::io::Result<[Vec<Arc<dyn Driver>>; 2]>) {
    stream_filters(&make, 11).unwrap_or_else(|error| panic!("{name}: {error}"));
    let verifier = Verifier::new();
    let verified = || Ok(make()?.map(|filters| verifier.around(filters)));
    stream_filters(verified, 12).unwrap_or_else(|error| panic!("{name}, verified: {error}"));
    assert_eq!(verifier.findings(), [], "{name}");
}

/// The same ones at both ends.
fn conforms(text: &str) {
    check(text, || Ok([filters(text)?, filters(text)?]));
}

#[test]
fn filters_that_look_on_conform() {
    alone("filters_that_look_on_conform", |_| {
        let dir = Dir::new();
        let out = dir.path("out");
        let out = out.to_str().unwrap();
        conforms(&format!("trace(jsonl={out})"));
        conforms(&format!("stats(path={out})"));
        let fault = || vec![Fault::new(1, []).into_driver()];
        stream_filters(|| Ok([fault(), fault()]), 3).unwrap();
        conforms("idle(ms=60000)");
        for kind in [PassKind::Unhooked, PassKind::Skip, PassKind::Routine, PassKind::Future] {
            stream_filters(|| Ok([vec![pass(kind)], vec![pass(kind)]]), 5).unwrap();
        }
        let log = || vec![Log::new().driver()];
        stream_filters(|| Ok([log(), log()]), 6).unwrap();
    });
}

#[test]
fn filters_that_hold_conform() {
    alone("filters_that_hold_conform", |_| {
        conforms("delay(us=10)");
        conforms("throttle(iops=1000000, bps=1G)");
    });
}

#[test]
fn filters_that_cut_conform() {
    alone("filters_that_cut_conform", |_| {
        conforms("slice(max=700, seed=1)");
        conforms("fault(seed=1, rate=0.1, kind=short)");
        conforms("slice(max=3000, seed=2) | idle(ms=60000) | delay(us=10)");
    });
}

#[test]
fn filters_that_transform_conform() {
    alone("filters_that_transform_conform", |_| {
        conforms("xor(key=7)");
        let certificates = Certificates::new();
        let make = || {
            let client = certificates.text("tls(ca=$root.pem, name=localhost)");
            let server = certificates.text("tls(cert=$server.pem, key=$server.key)");
            Ok([filters(&client)?, filters(&server)?])
        };
        check("tls", make);
    });
}

#[test]
fn the_bottoms_of_streams_conform() {
    alone("the_bottoms_of_streams_conform", |_| {
        let unix = async || {
            let (a, b) = UnixStream::pair()?;
            Ok([a.object().handle(), b.object().handle()])
        };
        stream_bottom(unix, 1).unwrap();
        let tcp = async || {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let a = TcpStream::connect(listener.local_addr()?).await?;
            let (b, _) = listener.accept().await?;
            Ok([a.object().handle(), b.object().handle()])
        };
        stream_bottom(tcp, 2).unwrap();
    });
}

/// What a filter may do wrong.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    /// Loses what has come for a read that is cancelled then.
    Loses,
    /// Brings the first byte of a read twice, now and then.
    Doubles,
    /// Takes an error for the end.
    Hides,
    /// Of a write in parts, passes on the first, and says it was all.
    Forgets,
    /// Fails at the end when it is found once more.
    Fails,
    /// Asks for a byte where none was asked for.
    Waits,
}

struct Bad(Wrong);

impl Filter for Bad {
    /// Reads that have succeeded, and the ends that were found.
    type Open = [AtomicUsize; 2];
    fn name(&self) -> &str {
        "bad"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    async fn read(
        &self,
        open: &Self::Open,
        next: Next<'_>,
        mut io: Io<'_>,
    ) -> Result<usize, Status> {
        let result = next.forward(&mut io).await;
        if matches!(self.0, Wrong::Hides) {
            return result.or_else(|status| match status {
                Status::CANCELLED | Status::DATA_ABOVE | Status::FILE_CLOSED => Err(status),
                _ => Ok(0),
            });
        }
        let n = result?;
        match self.0 {
            Wrong::Loses => {
                next.sleep(Duration::from_micros(300)).await;
                if next.is_cancelled() { Err(Status::CANCELLED) } else { Ok(n) }
            }
            Wrong::Doubles
                if open[0].fetch_add(1, Ordering::Relaxed) % 9 == 8 && io.minor() == 0 =>
            {
                let mut first = None;
                for byte in io.received_mut(n).flatten() {
                    let before = first.get_or_insert(*byte);
                    (*before, *byte) = (*byte, *before);
                }
                Ok(n)
            }
            Wrong::Fails if n == 0 && open[1].fetch_add(1, Ordering::Relaxed) > 0 => {
                Err(Status::DATA_ERROR)
            }
            Wrong::Waits if io.is_empty() => Err(Status::INVALID_PARAMETER),
            _ => Ok(n),
        }
    }
    async fn write(&self, _: &Self::Open, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let (parts, len) = (io.segments().count(), io.len());
        if matches!(self.0, Wrong::Forgets) && parts > 1 {
            let first = io.segments().next().unwrap_or_default().to_vec();
            let (result, first) = next.forward(&mut io).from(first).await;
            return result.map(|n| if n == first.len() { len } else { n });
        }
        next.forward(&mut io).await
    }
}

#[test]
fn what_is_wrong_with_a_filter_is_found() {
    for (wrong, found) in [
        (Wrong::Loses, "(both ways at once"),
        (Wrong::Doubles, "other bytes than were sent came"),
        (Wrong::Hides, "a read that waits takes a reset for an end"),
        (Wrong::Forgets, "(both ways at once"),
        (Wrong::Fails, "DATA_ERROR"),
        (Wrong::Waits, "a read of nothing failed"),
    ] {
        let bad = || vec![Bad(wrong).into_driver()];
        let error = stream_filters(|| Ok([bad(), bad()]), 3).unwrap_err().to_string();
        assert!(error.contains(found), "{wrong:?}: {error}");
    }
}
