//! The tour: a real file through a stack of two filters, TCP both ways, each route on a real
//! request, and a live request in the list. Checks every byte; exit status 0 only if all is well.
//!
//! `cargo run --release --example tour`

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use overlapped::buf::BufResult;
use overlapped::driver::filter::Xor;
use overlapped::driver::{Disposition, Driver, Irp, Lower, Major, MajorSet};
use overlapped::fs::{self, File, OpenOptions};
use overlapped::net::{TcpListener, TcpStream, stack_of};
use overlapped::operation::Read;
use overlapped::wait::{Alertable, Event, Waited, wait_any};
use overlapped::{CompletionPort, Runtime, Status};

/// The tour's own filter: counts bytes on their way down.
#[derive(Default)]
struct Count(AtomicU64);

impl Driver for Count {
    fn name(&self) -> &str {
        "count"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Write])
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        self.0.fetch_add(irp.len() as u64, Ordering::Relaxed);
        lower.skip(irp)
    }
}

fn check(what: &str, good: bool) -> io::Result<()> {
    println!("  {} {what}", if good { "ok  " } else { "FAIL" });
    if good { Ok(()) } else { Err(io::Error::other(format!("the tour failed: {what}"))) }
}

/// A file through two filters: what is on the disk is changed, what is read back is not.
async fn files(directory: &Path) -> io::Result<()> {
    println!("files: a copy through the stack count | xor | file");
    let plain: Vec<u8> = (0..8_000_000u32).flat_map(|i| i.to_le_bytes()).collect();
    let (from, to) = (directory.join("plain"), directory.join("secret"));
    fs::write(&from, plain.clone()).await?;

    let count = Arc::new(Count::default());
    let options = OpenOptions::new().read(true).write(true).create(true);
    let options = options.filter(count.clone()).filter(Arc::new(Xor(0xA5)));
    let secret = options.open(&to).await?;
    let source = File::open(&from).await?;
    let (mut offset, mut buf) = (0, Vec::with_capacity(256 * 1024));
    loop {
        let n;
        (n, buf) = source.read_at(buf, offset).await?;
        if n == 0 {
            break;
        }
        ((), buf) = secret.write_all_at(buf, offset).await?;
        offset += n as u64;
    }
    secret.sync_data().await?;
    check(
        "the filter above saw every byte",
        count.0.load(Ordering::Relaxed) == plain.len() as u64,
    )?;
    let raw = std::fs::read(&to)?;
    let changed = raw.iter().zip(&plain).all(|(a, b)| *a == b ^ 0xA5);
    check("the bytes on the disk are changed", raw.len() == plain.len() && changed)?;
    let ((), back) = secret.read_exact_at(vec![0; plain.len()].into_boxed_slice(), 0).await?;
    check("the bytes read through the stack are not", back[..] == plain[..])?;
    secret.close().await?;

    let copied = fs::copy(&from, directory.join("copy")).await?;
    let same = std::fs::read(directory.join("copy"))? == plain;
    check("fs::copy copies", copied == plain.len() as u64 && same)
}

/// A server with a filter, and a client with the same one: plain at both ends, changed between.
async fn sockets() -> io::Result<()> {
    println!("sockets: an echo server and 32 clients, xor on every connection");
    let listener = TcpListener::bind_with("127.0.0.1:0", stack_of([xor()])?).await?;
    let address = listener.local_addr()?;
    let server = overlapped::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await?;
            overlapped::spawn(async move {
                loop {
                    let lease = stream.read_lease().await?;
                    if lease.is_empty() {
                        return io::Result::Ok(());
                    }
                    stream.write_all(lease).await?;
                }
            });
        }
        #[expect(unreachable_code, reason = "gives the block its type")]
        io::Result::Ok(())
    });
    let clients: Vec<_> = (0..32u8)
        .map(|i| {
            overlapped::spawn(async move {
                let stream = TcpStream::connect_with(address, stack_of([xor()])?).await?;
                let message = vec![i; 50_000];
                let (_, sent) = stream.write_all(message.clone()).await?;
                let room = vec![0; sent.len()].into_boxed_slice();
                let (_, back) = stream.read_exact(room).await?;
                io::Result::Ok(back[..] == message[..])
            })
        })
        .collect();
    let mut good = 0;
    for client in clients {
        good += u32::from(client.await??);
    }
    check("every client got its own bytes back", good == 32)?;

    let peek = std::net::TcpStream::connect(address)?;
    let answered = overlapped::spawn_blocking(move || {
        use std::io::{Read, Write};
        let mut peek = peek;
        peek.write_all(b"plain")?;
        let mut back = [0; 5];
        peek.read_exact(&mut back)?;
        io::Result::Ok(back)
    });
    check("a client without the filter gets its bytes too", &answered.await?? == b"plain")?;
    server.abort();
    Ok(())
}

fn xor() -> Arc<dyn Driver> {
    Arc::new(Xor(0x3C))
}

/// The same request, reported in each way.
fn routes(runtime: &Runtime, directory: &Path) -> io::Result<()> {
    println!("routes: one read, reported in six ways");
    let path = directory.join("plain");
    let expected = std::fs::read(&path)?;
    let good = |n: usize, buf: &[u8]| n == 4096 && buf[..n] == expected[8192..8192 + 4096];

    let (n, buf) = runtime.block_on(async {
        File::open(&path)
            .await?
            .read_at(Vec::with_capacity(4096), 8192)
            .await
            .map_err(io::Error::from)
    })?;
    check("awaited", good(n, &buf))?;

    let file = OpenOptions::new().read(true).open_wait(&path)?;
    let (n, buf) = file.read_at(Vec::with_capacity(4096), 8192).wait()?;
    check("waited for on a plain thread", good(n, &buf))?;

    let port = CompletionPort::new();
    file.read_at(Vec::<u8>::with_capacity(4096), 8192).post(&port, 77).map_err(at_once)?;
    let packet = port.remove(Some(Duration::from_secs(5)))?;
    let key = packet.key();
    let (n, buf) = packet.into_output::<Read<Vec<u8>>>()?;
    check("reaped from a completion port", key == 77 && good(n, &buf))?;

    let read = || file.read_at(Vec::<u8>::with_capacity(4096), 8192);
    let event = Event::manual(false);
    let block = read().signal(&event).map_err(at_once)?;
    wait_any(&[&event], None, Alertable::No)?;
    let (n, buf) = block.take().expect("the event says that it is done")?;
    check("told by an event", good(n, &buf))?;

    let (sender, receiver) = std::sync::mpsc::channel();
    read()
        .queue_apc(move |result| sender.send(result).expect("is received below"))
        .map_err(at_once)?;
    let slept = overlapped::wait::sleep(Some(Duration::from_secs(5)), Alertable::Yes)?;
    let (n, buf) = receiver.try_recv().map_err(io::Error::other)??;
    check("called back, on this thread", slept == Waited::Apc && good(n, &buf))?;

    // Beside the route, a port gets a copy of the result, without the buffer.
    let mut block = read().tee(&port, 78).start().map_err(at_once)?;
    let (n, buf) = loop {
        match block.take() {
            Ok(result) => break result?,
            Err(pending) => block = pending,
        }
        std::thread::yield_now();
    };
    let copy = port.remove(Some(Duration::from_secs(5)))?;
    check(
        "looked at, with a copy to the port",
        good(n, &buf) && copy.key() == 78 && copy.info() == n,
    )
}

/// What a request that fails at once gives its issuer, by whatever route: its result.
fn at_once(result: BufResult<usize, Vec<u8>>) -> io::Error {
    result.map_or_else(io::Error::from, |_| io::Error::other("it was not issued, and did not fail"))
}

/// A request that waits is in the list; its deadline ends it; its buffer comes back.
async fn live() -> io::Result<()> {
    println!("live requests: a read that nobody answers");
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let silent = TcpStream::connect(listener.local_addr()?).await?;
    let waiting = overlapped::spawn(async move {
        silent.read(vec![7; 100]).deadline(Duration::from_millis(300)).await
    });
    overlapped::time::sleep(Duration::from_millis(100)).await;
    let census = overlapped::live_requests(Duration::from_secs(1));
    let found = census.requests.iter().find(|r| r.major == Major::Read);
    for r in &census.requests {
        println!(
            "       {:?} by {} on {:?}: {}, {:?} old",
            r.major, r.route, r.driver, r.state, r.age
        );
    }
    check("it is listed, with its driver", found.is_some_and(|r| r.driver == "stream"))?;
    let error = waiting.await?.err().ok_or_else(|| io::Error::other("nobody sent anything"))?;
    check("its deadline ended it", error.status() == Status::IO_TIMEOUT)?;
    check("its buffer came back with the error", error.into_buf().len() == 100)
}

fn main() -> io::Result<()> {
    let directory = std::env::temp_dir().join(format!("overlapped-tour-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let result = tour(&directory);
    std::fs::remove_dir_all(&directory)?;
    result?;
    println!("all is well");
    Ok(())
}

fn tour(directory: &Path) -> io::Result<()> {
    let runtime = Runtime::new_default()?;
    runtime.block_on(async {
        files(directory).await?;
        sockets().await?;
        live().await
    })?;
    routes(&runtime, directory)?;
    let report = runtime.shutdown(Duration::from_secs(5));
    check("nothing was left behind", report.leaked_requests == 0 && report.stuck_workers == 0)
}
