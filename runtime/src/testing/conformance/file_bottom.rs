//! Bottoms for files.

use std::fmt;
use std::io;

use super::chance::Chance;
use super::{Nonconformity, all, ensure, joined, run};
use crate::fs::File;
use crate::{spawn_local, yield_now};

/// Bytes of the file that the cases work on.
const LEN: usize = 64 * 1024;
/// Operations by chance.
const OPERATIONS: usize = 300;

/// Puts a bottom driver for files through a suite: `make` opens a new file on it, for reading and writing.
/// One that is empty grows as it is written to; one that has a length (64 KiB at least), all zeroes, is a
/// disk, which does not. Then
///
/// - reads and writes by chance, whole and in several parts, that overlap one another, are those of an array
///   of bytes;
/// - the end is where it should be, and nothing is read past it; what was never written is zeroes;
/// - requests of no bytes, far offsets, and requests whose parts are empty, or many;
/// - many requests at once, and requests that are dropped;
/// - flushes, and closing under requests.
///
/// `seed`: what chance begins with.
///
/// # Errors
/// The first thing that is not as it should be.
///
/// ```
/// use overlapped::driver::{bottom::Memory, testing::conformance};
/// use overlapped::fs::OpenOptions;
/// use std::sync::Arc;
///
/// let options = OpenOptions::new().read(true).write(true);
/// let make = async || options.clone().on(Arc::new(Memory::new())).open("new").await;
/// conformance::file_bottom(make, 1).unwrap();
/// ```
pub fn file_bottom(
    make: impl AsyncFn() -> io::Result<File>,
    seed: u64,
) -> Result<(), Nonconformity> {
    for case in Case::ALL {
        run(case.to_string(), async {
            let file = make().await.map_err(|error| format!("it cannot be opened: {error}"))?;
            let len = length(&file).await?;
            case.check(file, len, seed).await
        })?;
    }
    Ok(())
}

/// What is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Model,
    Ends,
    Nothing,
    Parts,
    Together,
    Dropped,
    Closes,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Case::Model => "reads and writes by chance",
            Case::Ends => "at the end",
            Case::Nothing => "requests of no bytes",
            Case::Parts => "requests in parts",
            Case::Together => "many requests at once",
            Case::Dropped => "requests that are dropped",
            Case::Closes => "closed under requests",
        })
    }
}

impl Case {
    const ALL: [Case; 7] = [
        Case::Model,
        Case::Ends,
        Case::Nothing,
        Case::Parts,
        Case::Together,
        Case::Dropped,
        Case::Closes,
    ];

    /// `len`: what the file has to begin with.
    async fn check(self, file: File, len: u64, seed: u64) -> Result<(), String> {
        match self {
            Case::Model => model(file, seed).await,
            Case::Ends if len == 0 => growing(file).await,
            Case::Ends => fixed(file, len).await,
            Case::Nothing => nothing(file, len).await,
            Case::Parts => parts(file).await,
            Case::Together => together(file).await,
            Case::Dropped => dropped(file).await,
            Case::Closes => closes(file).await,
        }
    }
}

fn words(what: impl fmt::Display) -> impl FnOnce(io::Error) -> String {
    move |error| format!("{what} failed: {error}")
}

async fn length(file: &File) -> Result<u64, String> {
    Ok(file.metadata().await.map_err(words("asking for the length"))?.len())
}

async fn write(file: &File, bytes: &[u8], at: u64) -> Result<(), String> {
    let written = file.write_all_at(bytes.to_vec(), at).await;
    written.map(drop).map_err(|e| words(format_args!("a write at {at}"))(e.into()))
}

/// Reads until so many bytes have come, or the end.
async fn read(file: &File, at: u64, len: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let (from, room) = (at + bytes.len() as u64, len - bytes.len());
        // No more room than that.
        let part = file.read_at(vec![0; room].into_boxed_slice(), from).await;
        let (n, part) = part.map_err(|e| words(format_args!("a read at {from}"))(e.into()))?;
        ensure(n <= room, || format!("a read of {room} brings {n} bytes"))?;
        if n == 0 {
            break;
        }
        bytes.extend_from_slice(&part[..n]);
    }
    Ok(bytes)
}

/// That these bytes are there, and, read past them, what follows.
async fn expect(file: &File, at: u64, bytes: &[u8]) -> Result<(), String> {
    let there = read(file, at, bytes.len()).await?;
    ensure(there == bytes, || format!("other bytes than were written, read at {at}"))
}

async fn model(file: File, seed: u64) -> Result<(), String> {
    let mut model = vec![0; LEN];
    write(&file, &model, 0).await?;
    let mut chance = Chance(seed);
    for _ in 0..OPERATIONS {
        let at = chance.below(LEN);
        let most = chance.of(&[16, 600, 9000]).min(LEN - at);
        let len = 1 + chance.below(most);
        match chance.below(6) {
            0 | 1 => {
                let bytes = chance.bytes(len);
                write(&file, &bytes, at as u64).await?;
                model[at..at + len].copy_from_slice(&bytes);
            }
            2 => {
                let bytes = chance.bytes(len);
                let buffers = vec![bytes[..len / 3].to_vec(), bytes[len / 3..].to_vec()];
                let written = file.write_vectored_at(buffers, at as u64).await;
                let (n, _) = written.map_err(|e| words("a vectored write")(e.into()))?;
                ensure(0 < n && n <= len, || format!("{n} bytes are written of {len}"))?;
                model[at..at + n].copy_from_slice(&bytes[..n]);
            }
            3 => {
                let room = vec![vec![0; len / 3], vec![0; len - len / 3]];
                let room: Vec<_> = room.into_iter().map(Vec::into_boxed_slice).collect();
                let read = file.read_vectored_at(room, at as u64).await;
                let (n, parts) = read.map_err(|e| words("a vectored read")(e.into()))?;
                let right = 0 < n && n <= len && parts.concat()[..n] == model[at..at + n];
                ensure(right, || format!("a vectored read at {at} brings other bytes"))?;
            }
            4 if chance.below(2) == 0 => file.sync_all().await.map_err(words("a flush"))?,
            4 => file.sync_data().await.map_err(words("a flush"))?,
            _ => expect(&file, at as u64, &model[at..at + len]).await?,
        }
    }
    expect(&file, 0, &model).await?;
    file.close().await.map_err(words("a close"))
}

/// The end of a file that grows.
async fn growing(file: File) -> Result<(), String> {
    ensure(read(&file, 0, 9).await?.is_empty(), || "an empty file has bytes".to_owned())?;
    write(&file, b"hello", 1000).await?;
    ensure(length(&file).await? == 1005, || "a write past the end makes no length".to_owned())?;
    expect(&file, 0, &[&[0; 1000][..], b"hello"].concat()).await?;
    // Across the end, at it, and past it.
    for (at, there) in [(1003, 2), (1005, 0), (1006, 0), (1 << 40, 0), (i64::MAX as u64 - 9, 0)] {
        let bytes = read(&file, at, 9).await?;
        ensure(bytes.len() == there, || format!("{} bytes are read at {at}", bytes.len()))?;
    }
    // Far away, if the medium has so large files.
    let far = (1 << 32) + 7;
    if write(&file, b"far", far).await.is_ok() {
        expect(&file, far - 2, b"\0\0far").await?;
        expect(&file, 1000, b"hello\0\0").await?;
    }
    file.set_len(1002).await.map_err(words("a new length"))?;
    ensure(length(&file).await? == 1002, || "a file is not cut".to_owned())?;
    file.set_len(1010).await.map_err(words("a new length"))?;
    expect(&file, 1000, b"he\0\0\0\0\0\0\0\0").await?;
    file.close().await.map_err(words("a close"))
}

/// The end of a disk.
async fn fixed(file: File, len: u64) -> Result<(), String> {
    expect(&file, len - 9, &[0; 9]).await?;
    write(&file, b"hello", len - 5).await?;
    let (n, _) = file
        .write_at(vec![1; 20], len - 10)
        .await
        .map_err(io::Error::from)
        .map_err(words("a write across the end"))?;
    ensure(n <= 10, || format!("{n} bytes are written before the end, where 10 are"))?;
    let past = file.write_at(vec![1; 20], len).await;
    ensure(!past.is_ok_and(|(n, _)| n > 0), || "a write past the end succeeds".to_owned())?;
    for (at, there) in [(len - 3, 3), (len, 0), (len + 1, 0), (i64::MAX as u64 - 9, 0)] {
        let bytes = read(&file, at, 9).await?;
        ensure(bytes.len() == there, || format!("{} bytes are read at {at}", bytes.len()))?;
    }
    ensure(length(&file).await? == len, || "a disk has another length".to_owned())?;
    file.close().await.map_err(words("a close"))
}

async fn nothing(file: File, len: u64) -> Result<(), String> {
    for at in [0, 5, len, len + 5] {
        let read = file.read_at(Vec::new(), at).await.map_err(|e| words("a read")(e.into()))?;
        let written = file.write_at(Vec::new(), at).await;
        let written = written.map_err(|e| words("an empty write")(e.into()))?;
        ensure(read.0 + written.0 == 0, || "requests of no bytes bring some".to_owned())?;
    }
    ensure(length(&file).await? == len, || "an empty write changes the length".to_owned())?;
    file.close().await.map_err(words("a close"))
}

/// Some parts are empty, and there are as many as a request may have.
async fn parts(file: File) -> Result<(), String> {
    let bytes = Chance(1).bytes(1024);
    let mut buffers: Vec<Vec<u8>> = bytes.chunks(2).map(<[u8]>::to_vec).collect();
    buffers.extend(std::iter::repeat_n(Vec::new(), 500));
    let middle = buffers.len() / 2;
    buffers.swap(0, middle + 300);
    let flat = buffers.concat();
    let (n, _) = file
        .write_vectored_at(buffers, 3)
        .await
        .map_err(|e| words("a write in a thousand parts")(e.into()))?;
    write(&file, &flat[n..], 3 + n as u64).await?;
    expect(&file, 3, &flat).await?;
    let room = (0..1000).map(|i| vec![0; i % 3].into_boxed_slice()).collect();
    let (n, parts) = file
        .read_vectored_at(room, 3)
        .await
        .map_err(|e| words("a read in a thousand parts")(e.into()))?;
    let right = 0 < n && n <= 999 && parts.concat()[..n] == flat[..n];
    ensure(right, || "a read in a thousand parts brings other bytes".to_owned())?;
    file.close().await.map_err(words("a close"))
}

/// Reads and writes that are under way at once, of neighbouring ranges.
async fn together(file: File) -> Result<(), String> {
    write(&file, &vec![7; LEN], 0).await?;
    let part = LEN / 64;
    let mut tasks = Vec::new();
    let file = std::rc::Rc::new(file);
    for i in 0..64 {
        let file = file.clone();
        tasks.push(spawn_local(async move {
            let at = (i * part) as u64;
            if i % 2 == 0 {
                write(&file, &vec![i as u8; part], at).await?;
                return expect(&file, at, &vec![i as u8; part]).await;
            }
            expect(&file, at, &vec![7; part]).await
        }));
    }
    all(tasks).await
}

/// A request that nobody waits for any more has happened or not, and disturbs nobody else.
async fn dropped(file: File) -> Result<(), String> {
    write(&file, &vec![7; LEN], 0).await?;
    for i in 0..50u64 {
        let at = i * 1000;
        let mut reads: Vec<_> = (0..3).map(|_| Box::pin(file.read_at(vec![0; 900], at))).collect();
        let mut writes = vec![Box::pin(file.write_at(vec![9; 100], at + 900))];
        std::future::poll_fn(|cx| {
            reads.iter_mut().for_each(|read| _ = read.as_mut().poll(cx));
            writes.iter_mut().for_each(|write| _ = write.as_mut().poll(cx));
            std::task::Poll::Ready(())
        })
        .await;
        drop((reads, writes));
        expect(&file, at, &[7; 900]).await?;
    }
    for i in 0..50u64 {
        let bytes = read(&file, i * 1000 + 900, 100).await?;
        let one = bytes.iter().all(|byte| matches!(byte, 7 | 9)) && bytes.len() == 100;
        ensure(one, || "a write that was dropped wrote other bytes".to_owned())?;
    }
    file.close().await.map_err(words("a close"))
}

/// Requests that are under way when the file is closed end, and those after it fail.
async fn closes(file: File) -> Result<(), String> {
    write(&file, &vec![7; LEN], 0).await?;
    let handle = file.object().handle();
    let read = |_| {
        let read = overlapped_drivers::class::Read::at(vec![0; LEN], 0);
        spawn_local(overlapped_iomgr::Request::owned(handle.clone(), read))
    };
    let reads: Vec<_> = (0..16).map(read).collect();
    yield_now().await;
    file.close().await.map_err(words("a close"))?;
    for read in reads {
        if let Ok((n, bytes)) = joined(read).await? {
            let right = bytes[..n].iter().all(|&byte| byte == 7);
            ensure(right, || "a read brings other bytes of a file that closes".to_owned())?;
        }
    }
    let read = overlapped_drivers::class::Read::at(vec![0; 9], 0);
    let read = overlapped_iomgr::Request::owned(handle, read).await;
    ensure(read.is_err(), || "a closed file can be read".to_owned())
}
