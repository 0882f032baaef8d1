//! Filters for streams: what comes out at one end is what went in at the other.

use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;

use overlapped_drivers::filter::{Later, Slice};
use overlapped_iomgr::filter::Filter;
use overlapped_iomgr::{Driver, FileHandle, Stack};

use super::streams::Case;
use super::{Nonconformity, run};
use crate::net::{TcpListener, TcpStream, UnixStream, stack_of};

/// What stands below the filters under test, and how the rounds are called.
const BELOW: [(&str, Make); 3] = [
    ("directly on the sockets", Vec::new),
    ("where all pends", || vec![Arc::new(Later)]),
    ("with short transfers below", || vec![Slice::fixed(SHORT).into_driver()]),
];

/// Makes filters.
type Make = fn() -> Vec<Arc<dyn Driver>>;

/// Bytes of a short transfer.
const SHORT: NonZeroU32 = NonZeroU32::new(499).unwrap();

/// Bytes that a Unix socket holds, about: few, so that writes have to wait.
const SOCKET: usize = 8192;

/// Puts filters for streams through a suite: `make` gives those of the two ends of a connection, top first;
/// the same ones twice, if they look on or undo at one end what they have done at the other, or a client's
/// and a server's. They are put on pairs of sockets, Unix and TCP, that are as they are, have everything
/// pend, or transfer less than asked for. Then
///
/// - bytes go both ways at once, written whole, in parts and in pieces of a byte, and read in every way,
///   with reads that are dropped and reads that run out of time: none is lost or comes twice (X-35);
/// - many reads and many writes are under way at once;
/// - requests of no bytes end at once, and a peek leaves what it has seen;
/// - one end is shut down, which the other finds as the end, as often as it asks; the other direction goes
///   on;
/// - a connection is closed under a read, and, on TCP, reset: that is an error, and not an end.
///
/// `seed`: what chance begins with.
///
/// # Errors
/// The first thing that is not as it should be.
///
/// ```
/// use overlapped::driver::{Driver, filter::Xor, testing::conformance};
/// use std::sync::Arc;
///
/// let xor = || vec![Arc::new(Xor(0x55)) as Arc<dyn Driver>];
/// conformance::stream_filters(|| Ok([xor(), xor()]), 1).unwrap();
/// ```
pub fn stream_filters(
    make: impl Fn() -> io::Result<[Vec<Arc<dyn Driver>>; 2]>,
    seed: u64,
) -> Result<(), Nonconformity> {
    for (name, below) in BELOW {
        for tcp in [false, true] {
            for case in Case::ALL {
                let round = format!("{case}, {}, {name}", if tcp { "TCP" } else { "Unix sockets" });
                run(round, async {
                    let error = |error| format!("the ends cannot be made: {error}");
                    let stacks = make().map_err(error)?.map(|mut filters| {
                        filters.extend(below());
                        stack_of(filters)
                    });
                    let ends = connected(stacks, tcp).await.map_err(error)?;
                    case.check(ends, tcp, seed).await
                })?;
            }
        }
    }
    Ok(())
}

/// The two ends of a connection, on these stacks.
async fn connected(stacks: [io::Result<Arc<Stack>>; 2], tcp: bool) -> io::Result<[FileHandle; 2]> {
    let [here, there] = stacks;
    if !tcp {
        let (a, b) = std::os::unix::net::UnixStream::pair()?;
        let (a, b) = (UnixStream::from_std_with(a, here?)?, UnixStream::from_std_with(b, there?)?);
        a.options().set_send_buffer_size(SOCKET)?;
        b.options().set_send_buffer_size(SOCKET)?;
        return Ok([a.object().handle(), b.object().handle()]);
    }
    let listener = TcpListener::bind_with("127.0.0.1:0", there?).await?;
    let address = listener.local_addr()?;
    let accepted = crate::spawn_local(async move { listener.accept().await });
    let a = TcpStream::connect_with(address, here?).await?;
    a.set_nodelay(true)?;
    let (b, _) = accepted.await??;
    b.set_nodelay(true)?;
    Ok([a.object().handle(), b.object().handle()])
}
