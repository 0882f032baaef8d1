//! The tutorial's filter, at both levels, on a file and on a connection.
//!
//! `cargo run --release --example xor`

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use overlapped::Status;
use overlapped::driver::{
    Class, Completion, Disposition, Driver, Filter, Io, Irp, Lower, Major, MajorSet, Next, On,
    Unwinding,
};
use overlapped::fs::OpenOptions;
use overlapped::net::{TcpListener, TcpStream, stack_of};

/// Level 2: a function for each operation.
struct Xor(u8);

impl Filter for Xor {
    type Open = ();
    fn name(&self) -> &str {
        "xor"
    }
    fn class(&self) -> Class {
        Class::Transform
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let n = next.forward(&mut io).await?;
        io.received_mut(n).flatten().for_each(|byte| *byte ^= self.0);
        Ok(n)
    }
    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let changed: Vec<u8> = io.segments().flatten().map(|byte| byte ^ self.0).collect();
        next.forward(&mut io).from(changed).await.0
    }
}

/// Level 1: the way down, and the way up.
struct Xor1(u8);

impl Driver for Xor1 {
    fn name(&self) -> &str {
        "xor"
    }
    fn class(&self) -> Class {
        Class::Transform
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    fn dispatch(&self, mut irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        if irp.major() == Major::Write {
            let changed: Vec<u8> = irp.segments().flatten().map(|byte| byte ^ self.0).collect();
            irp.next().lend(changed);
        }
        lower.forward(irp, On::SUCCESS)
    }
    fn completed(&self, mut irp: Unwinding<'_>) -> Completion {
        irp.received_mut().flatten().for_each(|byte| *byte ^= self.0);
        irp.proceed()
    }
}

const HERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn main() -> io::Result<()> {
    overlapped::block_on(async {
        for filter in [Xor(0x55).into_driver(), Arc::new(Xor1(0x55)) as Arc<dyn Driver>] {
            // A file: what is below the filter is changed.
            let path = std::env::temp_dir().join(format!("overlapped-xor-{}", std::process::id()));
            let options = OpenOptions::new().read(true).write(true).create(true);
            let file = options.filter(filter.clone()).open(&path).await?;
            file.write_all_at("plain", 0).await?;
            let (_, back) = file.read_at(Vec::with_capacity(5), 0).await?;
            let below = std::fs::read(&path)?;
            std::fs::remove_file(&path)?;
            println!("file:       wrote \"plain\", below it is {below:x?}, read {back:x?}");
            assert!(back == b"plain" && below == b"plain".map(|byte| byte ^ 0x55));

            // A connection with the filter at both ends.
            let stack = stack_of([filter])?;
            let listener = TcpListener::bind_with(HERE, stack.clone()).await?;
            let address = listener.local_addr()?;
            let client = TcpStream::connect_with(address, stack).await?;
            let (server, _) = listener.accept().await?;
            client.write_all("hello").await?;
            let ((), heard) = server.read_exact(Vec::with_capacity(5)).await?;
            println!("connection: sent \"hello\", heard {:?}", String::from_utf8_lossy(&heard));
            assert_eq!(heard, b"hello");
        }
        Ok(())
    })
}
