//! The example `nbd` under clients that behave, that do not, and that vanish.

#[path = "../../runtime/tests/support/loop_device.rs"]
mod loop_device;
#[path = "support/running.rs"]
mod running;
#[path = "../nbd/server/mod.rs"]
mod server;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use loop_device::Loop;
use overlapped::Status;
use overlapped::driver::text::{Entry, Made, register};
use overlapped::driver::{Filter, Io, Major, MajorSet, Next};
use running::{PATIENCE, Server};
use server::{Disk, Tls};

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const ZEROES: u16 = 6;
const STATUS: u16 = 7;

const FUA: u16 = 1;
const NO_HOLE: u16 = 2;
const FAST_ZERO: u16 = 16;

const OK: u32 = 0;
const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const ENOTSUP: u32 = 95;

// A filter that tests look through: `probe(id=N)`.

#[derive(Default)]
struct Probe {
    /// Reads of the first byte wait.
    holds: AtomicBool,
    reads: AtomicU64,
    /// Reads at once, and the most there were.
    now: AtomicU64,
    most: AtomicU64,
    flushes: AtomicU64,
    /// Writes that are to be on the medium when they complete.
    durable: AtomicU64,
    /// What such requests end with.
    fails: Mutex<Option<(Major, Status)>>,
}

static PROBES: LazyLock<Mutex<HashMap<u64, Arc<Probe>>>> = LazyLock::new(Mutex::default);

fn probe(id: u64) -> Arc<Probe> {
    PROBES.lock().unwrap().entry(id).or_default().clone()
}

struct Looks(Arc<Probe>);

impl Looks {
    fn fails(&self, major: Major) -> Result<(), Status> {
        match *self.0.fails.lock().unwrap() {
            Some((failing, status)) if failing == major => Err(status),
            _ => Ok(()),
        }
    }
}

impl Filter for Looks {
    type Open = ();
    fn name(&self) -> &str {
        "probe"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write, Major::Flush])
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let probe = &self.0;
        probe.reads.fetch_add(1, SeqCst);
        probe.most.fetch_max(probe.now.fetch_add(1, SeqCst) + 1, SeqCst);
        while io.offset() == 0 && probe.holds.load(SeqCst) && !next.is_cancelled() {
            next.sleep(Duration::from_millis(1)).await;
        }
        probe.now.fetch_sub(1, SeqCst);
        self.fails(Major::Read)?;
        next.forward(&mut io).await
    }
    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        self.0.durable.fetch_add(u64::from(io.is_write_through()), SeqCst);
        self.fails(Major::Write)?;
        next.forward(&mut io).await
    }
    async fn flush(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        self.0.flushes.fetch_add(1, SeqCst);
        self.fails(Major::Flush)?;
        next.forward(&mut io).await
    }
}

/// Waits until something is so.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not come about");
        thread::sleep(Duration::from_millis(1));
    }
}

// The server, in this process.

static NUMBER: AtomicU64 = AtomicU64::new(0);

fn path(what: &str) -> PathBuf {
    let number = NUMBER.fetch_add(1, SeqCst);
    std::env::temp_dir().join(format!("overlapped-nbd-{}-{number}-{what}", std::process::id()))
}

/// A file of zeroes, without space; gone with this.
struct Image(PathBuf);

impl Image {
    fn new(size: u64) -> Image {
        let path = path("image");
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        Image(path)
    }
    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.0).unwrap()
    }
    fn stack(&self, above: &str) -> String {
        format!("{above}file({})", self.0.display())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Server {
    fn start(stack: &str) -> Server {
        Server::start_with(stack, false)
    }

    fn start_with(stack: &str, read_only: bool) -> Server {
        register(Entry {
            name: "probe",
            about: "looks: probe(id=N)",
            make: |p| Ok(Made::Filter(Looks(probe(p.required("id")?)).into_driver())),
        });
        Server::run(path("socket"), stack, read_only, None)
    }

    fn client(&self) -> Client {
        Client::new(self.connect())
    }

    /// The server goes on: it serves a client.
    fn serves(&self) {
        let mut client = self.client();
        assert_eq!(client.ask(READ, 0, 512, 512).0, OK);
        client.disconnect();
    }
}

// A client.

struct Client(UnixStream);

/// A reply: its cookie, its error, its data.
type Reply = (u64, u32, Vec<u8>);

impl Client {
    fn new(mut stream: UnixStream) -> Client {
        let option = |number: u8, data: &[u8]| {
            [b"IHAVEOPT\0\0\0", &[number, 0, 0, 0, data.len() as u8][..], data].concat()
        };
        let context = [&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 15][..], b"base:allocation"].concat();
        let told = [
            vec![0, 0, 0, 3],
            option(8, b""),
            option(10, &context),
            option(7, &[0, 0, 0, 0, 0, 0]),
        ];
        stream.write_all(&told.concat()).unwrap();
        // The greeting, an ACK, the context and an ACK, an export and an ACK.
        let mut said = [0; 18 + 20 + (20 + 19) + 20 + (20 + 12) + 20];
        stream.read_exact(&mut said).unwrap();
        Client(stream)
    }

    fn send(&mut self, command: u16, flags: u16, cookie: u64, offset: u64, len: u32) {
        let mut request = vec![0x25, 0x60, 0x95, 0x13];
        request.extend(flags.to_be_bytes());
        request.extend(command.to_be_bytes());
        request.extend(cookie.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(len.to_be_bytes());
        self.0.write_all(&request).unwrap();
    }

    /// The next reply, whatever it answers.
    fn reply(&mut self) -> Reply {
        let mut head = [0; 16];
        self.0.read_exact(&mut head).unwrap();
        let cookie = u64::from_be_bytes(head[8..].try_into().unwrap());
        let word = u32::from_be_bytes(head[4..8].try_into().unwrap());
        if head[..4] == 0x6744_6698u32.to_be_bytes() {
            return (cookie, word, vec![]);
        }
        assert_eq!(head[..4], 0x668e_33efu32.to_be_bytes());
        assert_eq!(word >> 16, 1, "every reply is one chunk");
        let mut len = [0; 4];
        self.0.read_exact(&mut len).unwrap();
        let mut data = vec![0; u32::from_be_bytes(len) as usize];
        self.0.read_exact(&mut data).unwrap();
        match word as u16 {
            0 => (cookie, OK, data),
            1 => (cookie, OK, data.split_off(8)),
            5 => (cookie, OK, data.split_off(4)),
            _ => (cookie, u32::from_be_bytes(data[..4].try_into().unwrap()), data.split_off(6)),
        }
    }

    fn ask(&mut self, command: u16, flags: u16, offset: u64, len: u32) -> (u32, Vec<u8>) {
        self.send(command, flags, 77, offset, len);
        let (cookie, error, data) = self.reply();
        assert_eq!(cookie, 77);
        (error, data)
    }

    fn write(&mut self, flags: u16, offset: u64, data: &[u8]) -> (u32, Vec<u8>) {
        self.send(WRITE, flags, 78, offset, data.len() as u32);
        self.0.write_all(data).unwrap();
        let (cookie, error, text) = self.reply();
        assert_eq!(cookie, 78);
        (error, text)
    }

    /// Extents: bytes, flags.
    fn extents(&mut self, flags: u16, offset: u64, len: u32) -> Vec<(u32, u32)> {
        let (error, data) = self.ask(STATUS, flags, offset, len);
        assert_eq!(error, OK);
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        data.chunks(8).map(|extent| (word(&extent[..4]), word(&extent[4..]))).collect()
    }

    /// Nothing more comes.
    fn is_closed(&mut self) {
        // A ring of this thread's may interrupt it, which this sees to.
        let mut more = Vec::new();
        self.0.read_to_end(&mut more).expect("an end, not an error");
        assert_eq!(more, b"");
    }

    fn disconnect(mut self) {
        self.send(DISCONNECT, 0, 0, 0, 0);
        self.is_closed();
    }
}

#[test]
fn reads_and_writes_at_every_offset() {
    let image = Image::new(1 << 20);
    for above in ["", "xor(key=0x5a) | "] {
        let server = Server::start(&image.stack(above));
        let mut client = server.client();
        let mut mirror = client.ask(READ, 0, 0, 1 << 20).1;
        for (i, (offset, len)) in [(0, 1), (1, 511), (4095, 2), (4097, 100_001), ((1 << 20) - 3, 3)]
            .into_iter()
            .enumerate()
        {
            let data: Vec<u8> = (0..len).map(|n| (n * 7 + i) as u8).collect();
            assert_eq!(client.write(FUA, offset as u64, &data).0, OK);
            mirror[offset..offset + len].copy_from_slice(&data);
            assert_eq!(client.ask(READ, 4, 0, 1 << 20), (OK, mirror.clone()));
        }
        assert_eq!(client.ask(READ, 0, 5, 0), (OK, vec![]));
        assert_eq!(client.write(0, 5, b"").0, OK);
        assert_eq!(client.ask(CACHE, 0, 0, 1 << 20).0, OK);
        assert_eq!(client.ask(READ, 0, (1 << 20) - 1, 2).0, EINVAL);
        assert_eq!(client.write(0, (1 << 20) - 1, b"xy").0, ENOSPC);
        client.disconnect();
        server.stop();
        let key = if above.is_empty() { 0 } else { 0x5a };
        assert!(image.bytes().iter().zip(&mirror).all(|(disk, told)| disk ^ key == *told));
    }
}

#[test]
fn replies_come_as_requests_are_done() {
    let server = Server::start("probe(id=1) | memory(size=1M)");
    let probe = probe(1);
    probe.holds.store(true, SeqCst);
    let mut client = server.client();
    client.send(READ, 0, 1, 0, 10);
    until("the first read", || probe.now.load(SeqCst) == 1);
    // It waits; those behind it do not.
    for cookie in 2..9 {
        client.send(READ, 0, cookie, 4096, 10);
        assert_eq!(client.reply(), (cookie, OK, vec![0; 10]));
    }
    probe.holds.store(false, SeqCst);
    assert_eq!(client.reply(), (1, OK, vec![0; 10]));
    server.stop();
}

#[test]
fn a_client_has_so_many_requests_under_way_and_no_more() {
    let server = Server::start("probe(id=2) | memory(size=1M)");
    let probe = probe(2);
    probe.holds.store(true, SeqCst);
    let mut client = server.client();
    for cookie in 0..200 {
        client.send(READ, 0, cookie, 0, 100);
    }
    until("64 reads", || probe.now.load(SeqCst) == 64);
    // Others are not kept from anything by that.
    assert_eq!(server.client().ask(READ, 0, 1, 1).0, OK);
    assert_eq!(probe.reads.load(SeqCst), 65);
    probe.holds.store(false, SeqCst);
    let mut cookies: Vec<u64> = (0..200).map(|_| client.reply().0).collect();
    cookies.sort_unstable();
    assert!(cookies.into_iter().eq(0..200));
    assert!(probe.most.load(SeqCst) <= 65);
    server.stop();
}

#[test]
fn large_requests_are_bounded_in_bytes() {
    let server = Server::start("probe(id=3) | memory(size=40M)");
    let probe = probe(3);
    probe.holds.store(true, SeqCst);
    let mut client = server.client();
    for cookie in 0..5 {
        client.send(READ, 0, cookie, 0, 32 << 20);
    }
    until("two reads", || probe.now.load(SeqCst) == 2);
    // A client that sends on is not listened to; one that comes is.
    assert_eq!(server.client().ask(READ, 0, 1, 1).0, OK);
    assert_eq!(probe.reads.load(SeqCst), 3);
    probe.holds.store(false, SeqCst);
    for _ in 0..5 {
        let (_, error, data) = client.reply();
        assert_eq!((error, data.len()), (OK, 32 << 20));
    }
    server.stop();
}

#[test]
fn errors_of_the_stack_are_the_clients() {
    let server = Server::start("probe(id=4) | memory(size=1M)");
    let probe = probe(4);
    let mut client = server.client();
    let fail = |with| *probe.fails.lock().unwrap() = with;
    fail(Some((Major::Write, Status::from_errno(libc::ENOSPC))));
    let (error, text) = client.write(0, 0, b"x");
    assert_eq!(error, ENOSPC);
    assert!(String::from_utf8(text).unwrap().contains("space"), "the text says what it is");
    assert_eq!(client.ask(READ, 0, 0, 1).0, OK);
    fail(Some((Major::Read, Status::CRC_ERROR)));
    assert_eq!(client.ask(READ, 0, 0, 1).0, EIO);
    fail(Some((Major::Flush, Status::from_errno(libc::EIO))));
    assert_eq!(client.ask(FLUSH, 0, 0, 0).0, EIO);
    assert_eq!(client.ask(TRIM, FUA, 0, 10).0, EIO, "it was done, and is not safe");
    assert_eq!(client.write(0, 0, b"x").0, OK);
    fail(None);
    assert_eq!(client.ask(FLUSH, 0, 0, 0).0, OK);
    server.stop();
}

#[test]
fn flushes_reach_the_stack() {
    let server = Server::start("probe(id=5) | memory(size=1M)");
    let flushes = || probe(5).flushes.load(SeqCst);
    let (mut one, mut two) = (server.client(), server.client());
    assert_eq!(one.write(0, 0, b"x").0, OK);
    assert_eq!(flushes(), 0);
    // One file: a flush on any connection is of all.
    assert_eq!(two.ask(FLUSH, 0, 0, 0).0, OK);
    assert_eq!(flushes(), 1);
    // A write is durable by itself; the rest is followed by a flush.
    assert_eq!(one.write(FUA, 0, b"x").0, OK);
    assert_eq!((flushes(), probe(5).durable.load(SeqCst)), (1, 1));
    assert_eq!(one.ask(TRIM, FUA, 0, 10).0, OK);
    assert_eq!(one.ask(ZEROES, FUA, 0, 10).0, OK);
    assert_eq!(flushes(), 3);
    assert_eq!(one.ask(READ, FUA, 0, 10).0, OK);
    assert_eq!(flushes(), 3);
    server.stop();
    assert_eq!(flushes(), 4);
}

/// Clients are told what the stack can, by itself or with the I/O manager's help.
#[test]
fn what_the_stack_can_is_advertised() {
    let told = |stack: &str| {
        let stack = stack.to_owned();
        let disk = overlapped::block_on(async move { Disk::open(&stack, false).await }).unwrap();
        (disk.export().fua, disk.export().trim)
    };
    assert_eq!(told("memory(size=1M)"), (true, true));
    assert_eq!(told("xor(key=1) | memory(size=1M)"), (true, false));
    assert_eq!(told("cache(mode=writeback) | memory(size=1M)"), (true, true));
}

/// A cache that keeps writes is flushed for one that is to be durable.
#[test]
fn a_durable_write_through_a_cache() {
    let server = Server::start("cache(mode=writeback) | probe(id=10) | memory(size=1M)");
    let probe = probe(10);
    let mut client = server.client();
    assert_eq!(client.write(FUA, 0, b"x").0, OK);
    assert_eq!(probe.flushes.load(SeqCst), 1);
    *probe.fails.lock().unwrap() = Some((Major::Flush, Status::from_errno(libc::EIO)));
    assert_eq!(client.write(FUA, 0, b"x").0, EIO, "it was written, and is not safe");
    *probe.fails.lock().unwrap() = None;
    server.stop();
}

#[test]
fn zeroes_and_holes_of_a_file() {
    let image = Image::new(1 << 20);
    let server = Server::start(&image.stack("probe(id=6) | "));
    let mut client = server.client();
    let blocks = || std::fs::metadata(&image.0).unwrap().blocks() * 512;
    assert_eq!(client.extents(0, 0, 1 << 20), [(1 << 20, 3)]);
    assert_eq!(client.write(0, 256 << 10, &[7; 512 << 10]).0, OK);
    let (quarter, half) = (256 << 10, 512 << 10);
    assert_eq!(client.extents(0, 0, 1 << 20), [(quarter, 3), (half, 0), (quarter, 3)]);
    assert_eq!(client.extents(8, 0, 1 << 20), [(quarter, 3)]);
    assert_eq!(client.extents(0, 300 << 10, 10), [(10, 0)]);
    assert_eq!(client.ask(TRIM, 0, 256 << 10, 128 << 10).0, OK);
    assert_eq!(client.extents(8, 0, 1 << 20), [(384 << 10, 3)]);
    assert_eq!(client.ask(ZEROES, FAST_ZERO, 384 << 10, 128 << 10).0, OK);
    assert_eq!(client.extents(8, 0, 1 << 20), [(512 << 10, 3)]);
    // With space for it.
    let before = blocks();
    assert_eq!(client.ask(ZEROES, NO_HOLE, 0, 256 << 10).0, OK);
    assert!(blocks() >= before + (256 << 10), "the space is there");
    assert_eq!(client.ask(ZEROES, NO_HOLE | FAST_ZERO, (768 << 10) - 5, 5).0, OK);
    assert_eq!(client.ask(ZEROES, 0, 0, 0).0, OK);
    assert_eq!(client.ask(TRIM, 0, 0, 0).0, OK);
    server.stop();
    let bytes = image.bytes();
    let is_data = (512 << 10)..(768 << 10) - 5;
    assert!(bytes.iter().enumerate().all(|(i, &b)| b == if is_data.contains(&i) { 7 } else { 0 }));
}

#[test]
fn a_block_device() {
    let image = Image::new(1 << 20);
    let Some(device) = Loop::over(&image.0) else { return };
    let server = Server::start(&format!("file({})", device.0.display()));
    let mut client = server.client();
    assert_eq!(server.disk.export().size, 1 << 20);
    assert_eq!(client.extents(0, 0, 1 << 20), [(1 << 20, 0)], "it does not tell its holes");
    assert_eq!(client.write(0, 0, &[7; 1 << 20]).0, OK);
    assert_eq!(client.ask(TRIM, 0, 256 << 10, 128 << 10).0, OK);
    assert_eq!(client.ask(ZEROES, 0, 512 << 10, 128 << 10).0, OK);
    assert_eq!(client.ask(FLUSH, 0, 0, 0).0, OK);
    let mut told = vec![7; 1 << 20];
    told[256 << 10..384 << 10].fill(0);
    told[512 << 10..640 << 10].fill(0);
    assert_eq!(client.ask(READ, 0, 0, 1 << 20), (OK, told.clone()));
    assert_eq!(client.ask(READ, 0, (1 << 20) - 1, 2).0, EINVAL);
    assert_eq!(client.write(0, (1 << 20) - 1, b"xy").0, ENOSPC);
    server.stop();
    drop(device);
    assert!(image.bytes() == told);
}

#[test]
fn zeroes_through_a_filter_that_changes_data() {
    let image = Image::new(1 << 20);
    let server = Server::start(&image.stack("xor(key=0x5a) | "));
    let mut client = server.client();
    assert_eq!(client.extents(0, 0, 1 << 20), [(1 << 20, 0)], "holes are not zeroes here");
    assert_eq!(client.write(0, 0, &[7; 1 << 20]).0, OK);
    assert_eq!(client.ask(ZEROES, FAST_ZERO, 100, 1000).0, ENOTSUP);
    assert_eq!(client.ask(ZEROES, NO_HOLE | FAST_ZERO, 100, 1000).0, ENOTSUP);
    assert_eq!(client.ask(TRIM, 0, 0, 1 << 20).0, OK);
    assert_eq!(client.ask(READ, 0, 0, 1 << 20), (OK, vec![7; 1 << 20]), "all as it was");
    assert_eq!(client.ask(ZEROES, 0, 3, 600_001).0, OK);
    assert_eq!(client.ask(ZEROES, NO_HOLE, 700_000, 9).0, OK);
    server.stop();
    let is_zero = |i| (3..600_004).contains(&i) || (700_000..700_009).contains(&i);
    let told = |i| if is_zero(i) { 0 } else { 7 };
    assert!(image.bytes().iter().enumerate().all(|(i, &b)| b ^ 0x5a == told(i)));
}

#[test]
fn a_read_only_export_stays_as_it_is() {
    let image = Image::new(1 << 20);
    let server = Server::start_with(&image.stack("probe(id=7) | "), true);
    let mut client = server.client();
    assert_eq!(client.write(0, 0, b"x").0, EPERM);
    for command in [TRIM, ZEROES] {
        assert_eq!(client.ask(command, 0, 0, 10).0, EPERM);
    }
    assert_eq!(client.ask(READ, 0, 0, 10), (OK, vec![0; 10]));
    assert_eq!(client.ask(FLUSH, 0, 0, 0).0, OK);
    assert_eq!(client.extents(0, 0, 10), [(10, 3)]);
    client.disconnect();
    server.stop();
    assert!(image.bytes().iter().all(|&byte| byte == 0));
}

#[test]
fn requests_that_make_no_sense_are_refused_and_the_next_is_served() {
    let server = Server::start("memory(size=1M)");
    let mut client = server.client();
    for command in 8..40 {
        assert_eq!(client.ask(command, 0, 0, 1).0, EINVAL);
    }
    assert_eq!(client.ask(READ, 0x8000, 0, 1).0, EINVAL);
    assert_eq!(client.ask(READ, 0, 0, u32::MAX).0, EINVAL);
    assert_eq!(client.ask(READ, 0, u64::MAX, 1).0, EINVAL);
    // What follows such a write is not taken for requests.
    assert_eq!(client.write(0, 0, &vec![0x25; (32 << 20) + 1]).0, EINVAL);
    assert_eq!(client.write(0x40, 0, &[0x25; 100_000]).0, EINVAL);
    assert_eq!(client.ask(READ, 0, 0, 3), (OK, vec![0; 3]));
    server.stop();
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let server = Server::start("memory(size=1M)");
    let mut honest = server.client();
    for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0; 4096], &[0xff; 100_000]] {
        let mut stream = server.connect();
        // The server may be done before all is sent.
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(Shutdown::Write);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(said.starts_with(b"NBDMAGICIHAVEOPT"));
    }
    // In place of a request, behind one that is answered.
    let mut client = server.client();
    client.send(READ, 0, 1, 0, 10);
    client.0.write_all(&[0xaa; 28]).unwrap();
    assert_eq!(client.reply(), (1, OK, vec![0; 10]));
    client.is_closed();
    assert_eq!(honest.ask(READ, 0, 0, 10).0, OK);
    server.serves();
    server.stop();
}

#[test]
fn clients_that_vanish() {
    let server = Server::start("probe(id=8) | memory(size=1M)");
    let probe = probe(8);
    // At every step of the beginning.
    drop(server.connect());
    server.connect().write_all(&[0, 0]).unwrap();
    server.connect().write_all(b"\0\0\0\x03IHAVEOPT\0\0").unwrap();
    drop(server.client());
    // In a header, and in a payload, which is not written.
    server.client().0.write_all(&[0x25, 0x60]).unwrap();
    let mut client = server.client();
    client.send(WRITE, 0, 1, 0, 1000);
    client.0.write_all(&[7; 999]).unwrap();
    drop(client);
    // With requests under way, whose replies nobody takes.
    probe.holds.store(true, SeqCst);
    let mut client = server.client();
    for cookie in 0..10 {
        client.send(READ, 0, cookie, 0, 100_000);
    }
    until("ten reads", || probe.now.load(SeqCst) == 10);
    drop(client);
    server.serves();
    probe.holds.store(false, SeqCst);
    // Only the server is left.
    until("the end of all clients", || server.graceful.tasks() == 1);
    let mut client = server.client();
    assert_eq!(client.ask(READ, 0, 0, 1000), (OK, vec![0; 1000]));
    server.stop();
}

#[test]
fn a_client_that_takes_no_replies() {
    let server = Server::start("probe(id=12) | memory(size=40M)");
    let reads = || probe(12).reads.load(SeqCst);
    let mut client = server.client();
    for cookie in 0..64 {
        client.send(READ, 0, cookie, 1 << 20, 1 << 20);
    }
    // All are done, and the socket has room for some.
    until("64 reads", || reads() == 64);
    // What it asks for beyond that is not begun; and others are served.
    let asked = client.0.try_clone().unwrap();
    let more = thread::spawn(move || {
        let mut client = Client(asked);
        (64..200).for_each(|cookie| client.send(READ, 0, cookie, 1 << 20, 1 << 20));
    });
    for _ in 0..10 {
        server.serves();
    }
    assert_eq!(reads(), 64 + 10, "what nobody takes is bounded");
    more.join().unwrap();
    // It goes, and what was kept for it.
    drop(client);
    until("the end of all clients", || server.graceful.tasks() == 1);
    server.serves();
    server.stop();
}

#[test]
fn the_end_answers_what_was_asked() {
    let server = Server::start("probe(id=9) | memory(size=1M)");
    let probe = probe(9);
    probe.holds.store(true, SeqCst);
    let mut client = server.client();
    let mut idle = server.client();
    let silent = server.connect();
    client.send(READ, 0, 5, 0, 10);
    until("the read", || probe.now.load(SeqCst) == 1);
    let ending = server.graceful.token().clone();
    let stop = thread::spawn(move || server.stop());
    until("the end", || ending.is_cancelled());
    idle.is_closed();
    probe.holds.store(false, SeqCst);
    assert_eq!(client.reply(), (5, OK, vec![0; 10]));
    client.is_closed();
    stop.join().unwrap();
    drop(silent);
    assert_eq!(probe.flushes.load(SeqCst), 1);
}

#[test]
fn what_cannot_be_exported() {
    let open = |stack: &str| -> io::Error {
        let stack = stack.to_owned();
        overlapped::block_on(async move { Disk::open(&stack, false).await.map(drop) }).unwrap_err()
    };
    assert!(open("null").to_string().contains("'null' has no size"));
    assert!(open("xor(key=1)").to_string().contains("no bottom"));
    assert!(open("xor(key=1) | nothing").to_string().contains("nothing"));
    assert_eq!(open("file(/nonexistent/image)").kind(), io::ErrorKind::NotFound);
    let error = Tls::open("/nonexistent").map(drop).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/server-cert.pem"), "{error}");
}
