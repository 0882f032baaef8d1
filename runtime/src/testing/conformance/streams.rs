//! The cases of the suites for streams, each on a connection of its own.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use overlapped_drivers::class::{
    Connect, Read, ReadVectored, ReceiveLease, Shutdown, Write, WriteVectored,
};
use overlapped_iomgr::buf::{BufError, BufResult};
use overlapped_iomgr::{FileHandle, Operation, Request, Status};

use super::chance::Chance;
use super::{all, ensure, joined};
use crate::net::stream::{close, read_exact, write_all};
use crate::{spawn_local, yield_now};

/// Bytes that go each way in [`Case::Whole`].
const MANY: usize = 30_000;
/// Requests that are under way at once.
const TOGETHER: usize = 32;

/// What is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    Whole,
    Reads,
    Writes,
    Nothing,
    Peeks,
    Ends,
    Closes,
    Resets,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Case::Whole => "both ways at once",
            Case::Reads => "many reads at once",
            Case::Writes => "many writes at once",
            Case::Nothing => "requests of no bytes",
            Case::Peeks => "peeks",
            Case::Ends => "half closes",
            Case::Closes => "closed under a read",
            Case::Resets => "resets",
        })
    }
}

impl Case {
    pub(super) const ALL: [Case; 8] = [
        Case::Whole,
        Case::Reads,
        Case::Writes,
        Case::Nothing,
        Case::Peeks,
        Case::Ends,
        Case::Closes,
        Case::Resets,
    ];

    /// `resets`: a connection of this kind can be reset.
    pub(super) async fn check(
        self,
        [here, there]: [FileHandle; 2],
        resets: bool,
        seed: u64,
    ) -> Result<(), String> {
        if self != Case::Whole {
            greet(&here, &there).await?;
        }
        match self {
            Case::Whole => whole(here, there, seed).await,
            Case::Reads => reads(here, there, seed).await,
            Case::Writes => writes(here, there).await,
            Case::Nothing => nothing(here, there).await,
            Case::Peeks => peeks(here, there).await,
            Case::Ends => ends(here, there).await,
            Case::Closes => closes(here, there).await,
            Case::Resets => is_reset(here, there, resets).await,
        }
    }
}

fn ask<K: Operation>(file: &FileHandle, operation: K) -> Request<'static, K> {
    Request::owned(file.clone(), operation)
}

fn words(what: &str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{what} failed: {error} ({:?})", Status::from(&error))
}

/// As [`words`], of an error with a buffer.
fn without<B>(what: &str) -> impl Fn(BufError<B>) -> String {
    move |error| format!("{what} failed: {:?}", error.status())
}

async fn send(file: &FileHandle, bytes: Vec<u8>) -> Result<(), String> {
    write_all(file, bytes).await.map(drop).map_err(without("a write"))
}

async fn shut_down(file: &FileHandle) -> Result<(), String> {
    ask(file, Shutdown { how: libc::SHUT_WR }).await.map_err(words("a shutdown"))
}

/// The result if it is there at once; else the request is dropped.
async fn at_once<F: Future>(request: F) -> Option<F::Output> {
    let mut request = pin!(request);
    poll_fn(|cx| match request.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// What came, if it was not too late; `Some` and empty at the end.
type Came = Result<Option<Vec<u8>>, String>;

fn came(result: Result<Vec<u8>, std::io::Error>) -> Came {
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(None),
        Err(error) => Err(words("a read")(error)),
    }
}

/// Reads once, in a way of chance's. Yields nothing if the read was dropped or ran out of time.
async fn read_somehow(file: &FileHandle, chance: &mut Chance) -> Came {
    let most = chance.of(&[1, 40, 9000]);
    let room = 1 + chance.below(most);
    let parts = |sizes: &[usize]| sizes.iter().map(|&n| Vec::with_capacity(n)).collect::<Vec<_>>();
    let late = Duration::from_micros(chance.below(800) as u64);
    let plain = |result: BufResult<usize, Vec<u8>>| -> Came {
        match result {
            // A vector may have more room than was asked for.
            Ok((n, bytes)) if n == bytes.len() => Ok(Some(bytes)),
            Ok((n, bytes)) => Err(format!("a read says {n}, and brings {} bytes", bytes.len())),
            Err(error) => came(Err(error.into())),
        }
    };
    let vectored = |result: BufResult<usize, Vec<Vec<u8>>>| -> Came {
        came(result.map(|(_, parts)| parts.concat()).map_err(Into::into))
    };
    match chance.below(7) {
        0 => plain(ask(file, Read::next(Vec::with_capacity(room))).await),
        1 => {
            let buffers = parts(&[room / 3 + 1, 1, room]);
            vectored(ask(file, ReadVectored { buffers, offset: u64::MAX }).await)
        }
        2 => {
            let lease = ask(file, ReceiveLease { most: room as u32 }).await;
            came(lease.map(|lease| lease.to_vec()))
        }
        3 => {
            let read = ask(file, Read::next(Vec::with_capacity(room)));
            at_once(read).await.map_or(Ok(None), plain)
        }
        4 => {
            let buffers = parts(&[room, room]);
            let read = ask(file, ReadVectored { buffers, offset: u64::MAX });
            at_once(read).await.map_or(Ok(None), vectored)
        }
        5 => plain(ask(file, Read::next(Vec::with_capacity(room))).deadline(late).await),
        _ => {
            let lease = ask(file, ReceiveLease { most: 0 }).deadline(late).await;
            came(lease.map(|lease| lease.to_vec()))
        }
    }
}

/// Reads up to the end, and compares.
async fn read_all(file: FileHandle, sent: Vec<u8>, mut chance: Chance) -> Result<(), String> {
    let mut at = 0;
    loop {
        match read_somehow(&file, &mut chance).await? {
            Some(bytes) if bytes.is_empty() => break,
            Some(bytes) => {
                let right = sent.get(at..at + bytes.len()) == Some(&bytes[..]);
                ensure(right, || format!("other bytes than were sent came after {at}"))?;
                at += bytes.len();
            }
            None => yield_now().await,
        }
    }
    ensure(at == sent.len(), || format!("{at} bytes came of {}", sent.len()))
}

/// Writes in ways of chance's, and ends that direction.
async fn write_all_somehow(
    file: FileHandle,
    sent: Vec<u8>,
    mut chance: Chance,
) -> Result<(), String> {
    let mut at = 0;
    while at < sent.len() {
        let most = chance.of(&[1, 100, 20_000]).min(sent.len() - at);
        let bytes = sent[at..at + 1 + chance.below(most)].to_vec();
        let len = bytes.len();
        let n = match chance.below(3) {
            0 => ask(&file, Write::next(bytes)).await.map_err(without("a write"))?.0,
            1 => {
                send(&file, bytes).await?;
                len
            }
            _ => {
                let (one, other) = bytes.split_at(len / 2);
                let buffers = vec![one.to_vec(), Vec::new(), other.to_vec()];
                let write = ask(&file, WriteVectored { buffers, offset: u64::MAX }).await;
                write.map_err(without("a vectored write"))?.0
            }
        };
        ensure(0 < n && n <= len, || format!("{n} bytes are written of {len}"))?;
        at += n;
    }
    shut_down(&file).await
}

/// Some bytes each way. A filter may need both sides' requests before it has anything to pass on.
async fn greet(here: &FileHandle, there: &FileHandle) -> Result<(), String> {
    for (from, to) in [(here, there), (there, here)] {
        let to = to.clone();
        let received = spawn_local(async move { read_exact(&to, Vec::with_capacity(5)).await });
        send(from, b"hello".to_vec()).await?;
        joined(received).await?.map_err(without("a read"))?;
    }
    Ok(())
}

/// Bytes both ways; reads that are dropped lose nothing.
async fn whole(here: FileHandle, there: FileHandle, seed: u64) -> Result<(), String> {
    let mut chance = Chance(seed);
    let mut tasks = Vec::new();
    for (from, to) in [(&here, &there), (&there, &here)] {
        let sent = chance.bytes(MANY);
        let seeds = [chance.below(usize::MAX), chance.below(usize::MAX)].map(|n| Chance(n as u64));
        let [one, other] = seeds;
        tasks.push(spawn_local(write_all_somehow(from.clone(), sent.clone(), one)));
        tasks.push(spawn_local(read_all(to.clone(), sent, other)));
    }
    all(tasks).await
}

/// Reads that wait for one another get the bytes in their order.
async fn reads(here: FileHandle, there: FileHandle, seed: u64) -> Result<(), String> {
    let reading = |_| spawn_local(ask(&here, Read::next(Vec::with_capacity(50))));
    let reads: Vec<_> = (0..TOGETHER).map(reading).collect();
    // They are issued before anything comes.
    yield_now().await;
    let sent = Chance(seed).bytes(TOGETHER * 50);
    for piece in sent.chunks(70) {
        send(&there, piece.to_vec()).await?;
    }
    shut_down(&there).await?;
    let mut all = Vec::new();
    for read in reads {
        let result = joined(read).await?;
        all.extend(result.map_err(without("a read"))?.1);
    }
    ensure(sent.starts_with(&all), || "reads got the bytes out of order".to_owned())?;
    read_all(here, sent[all.len()..].to_vec(), Chance(seed)).await
}

/// Writes beside one another are all there, in whatever order.
async fn writes(here: FileHandle, there: FileHandle) -> Result<(), String> {
    let came = spawn_local(count(there));
    let writing = |i: usize| spawn_local(ask(&here, Write::next(vec![i as u8; 100 + i])));
    let writes: Vec<_> = (0..TOGETHER).map(writing).collect();
    let mut taken = [0; TOGETHER];
    for (write, taken) in writes.into_iter().zip(&mut taken) {
        *taken = joined(write).await?.map_err(without("a write"))?.0;
    }
    shut_down(&here).await?;
    let same = joined(came).await?? == taken;
    ensure(same, || "other bytes came than the writes have taken".to_owned())
}

/// How often each byte comes before the end.
async fn count(file: FileHandle) -> Result<[usize; TOGETHER], String> {
    let mut came = [0; TOGETHER];
    loop {
        let read = ask(&file, Read::next(Vec::with_capacity(4000))).await;
        let (n, bytes) = read.map_err(without("a read"))?;
        if n == 0 {
            return Ok(came);
        }
        for byte in bytes {
            *came.get_mut(usize::from(byte)).ok_or("a byte came that nobody sent")? += 1;
        }
    }
}

/// Requests of no bytes end at once, and take nothing.
async fn nothing(here: FileHandle, there: FileHandle) -> Result<(), String> {
    let (n, _) = ask(&here, Read::next(Vec::new())).await.map_err(without("a read of nothing"))?;
    ensure(n == 0, || format!("a read of nothing brings {n} bytes"))?;
    let (n, _) = ask(&here, Write::next(Vec::new())).await.map_err(without("an empty write"))?;
    ensure(n == 0, || format!("an empty write has taken {n} bytes"))?;
    let buffers = vec![Vec::new(), b"ab".to_vec(), Vec::new()];
    let write = ask(&here, WriteVectored { buffers, offset: u64::MAX }).await;
    let (n, _) = write.map_err(without("a write with empty parts"))?;
    ensure(n <= 2, || format!("{n} bytes are written of 2"))?;
    send(&here, b"ab"[n..].to_vec()).await?;
    let room = vec![Vec::new(), Vec::with_capacity(1), Vec::new(), Vec::with_capacity(9)];
    let read = ask(&there, ReadVectored { buffers: room, offset: u64::MAX }).await;
    let bytes = read.map_err(without("a read with empty parts"))?.1.concat();
    ensure(!bytes.is_empty() && b"ab".starts_with(&bytes), || format!("{bytes:?} came"))
}

/// What a peek has seen is read afterwards. A filter may refuse it.
async fn peeks(here: FileHandle, there: FileHandle) -> Result<(), String> {
    send(&there, b"0123456789".to_vec()).await?;
    match ask(&here, Read::peek(Vec::with_capacity(5))).await {
        Ok((n, bytes)) => {
            let right = n > 0 && b"01234".starts_with(&bytes);
            ensure(right, || format!("a peek sees {bytes:?}"))?;
        }
        Err(error)
            if matches!(error.status(), Status::NOT_SUPPORTED | Status::INVALID_DEVICE_REQUEST) => {
        }
        Err(error) => return Err(without("a peek")(error)),
    }
    let ((), bytes) = read_exact(&here, Vec::with_capacity(10)).await.map_err(without("a read"))?;
    ensure(bytes == b"0123456789", || "other bytes than were peeked at".to_owned())
}

/// One direction ends, and stays at its end; the other goes on.
async fn ends(here: FileHandle, there: FileHandle) -> Result<(), String> {
    send(&here, vec![1; 1000]).await?;
    shut_down(&here).await?;
    read_all(there.clone(), vec![1; 1000], Chance(1)).await?;
    for _ in 0..2 {
        let read = ask(&there, Read::next(Vec::with_capacity(9))).await;
        let (n, _) = read.map_err(without("a read at the end"))?;
        let lease = ask(&there, ReceiveLease { most: 0 }).await;
        let lease = lease.map_err(words("a read at the end"))?;
        ensure(n + lease.len() == 0, || "bytes come after the end".to_owned())?;
    }
    send(&there, vec![2; 1000]).await?;
    close(&there).await.map_err(words("a close"))?;
    read_all(here, vec![2; 1000], Chance(2)).await
}

/// A read that waits ends when its file is closed, and the peer finds the end.
async fn closes(here: FileHandle, there: FileHandle) -> Result<(), String> {
    let read = spawn_local(ask(&here, Read::next(Vec::with_capacity(9))));
    yield_now().await;
    close(&here).await.map_err(words("a close"))?;
    let read = joined(read).await?;
    ensure(read.is_err(), || "a read brings something of a closed stream".to_owned())?;
    let read = ask(&here, Read::next(Vec::with_capacity(9))).await;
    ensure(read.is_err(), || "a closed stream can be read".to_owned())?;
    let left = ask(&there, Read::next(Vec::with_capacity(9))).await;
    ensure(!left.is_ok_and(|(n, _)| n > 0), || "bytes come that nobody sent".to_owned())
}

/// A connection that is taken away is an error, for a read that waits and for those after it.
async fn is_reset(here: FileHandle, there: FileHandle, resets: bool) -> Result<(), String> {
    let read = spawn_local(ask(&here, Read::next(Vec::with_capacity(9))));
    yield_now().await;
    if let Err(error) = ask(&there, Connect::reset()).await {
        read.abort();
        return ensure(!resets, || words("a reset")(error));
    }
    let waited = joined(read).await?;
    ensure(waited.is_err(), || "a read that waits takes a reset for an end".to_owned())
}
