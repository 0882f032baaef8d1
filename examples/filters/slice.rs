//! `slice`: does a program rely on what one read happens to bring? Here each brings one byte.
//!
//! `cargo run --example filter-slice`

use std::io;
use std::num::NonZeroU32;

use overlapped::driver::Filter;
use overlapped::driver::filter::Slice;
use overlapped::net::{TcpListener, TcpStream, stack_of};

/// A line, without its end; what comes behind it stays in `rest`.
async fn line(stream: &TcpStream, rest: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let line = rest.drain(..=end).collect::<Vec<u8>>();
            return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        let (n, buf) = stream.read(Vec::with_capacity(1000)).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        rest.extend(buf);
    }
}

#[overlapped::main]
async fn main() -> io::Result<()> {
    let bytes = Slice::fixed(NonZeroU32::MIN).into_driver();
    let listener = TcpListener::bind_with("127.0.0.1:0", stack_of([bytes])?).await?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    client.write_all("hello\nworld\n").await?;

    let (server, _) = listener.accept().await?;
    let mut rest = Vec::new();
    assert_eq!(line(&server, &mut rest).await?, "hello");
    assert!(rest.is_empty(), "not a byte of the next line has come");
    assert_eq!(line(&server, &mut rest).await?, "world");
    println!("two lines, in reads of one byte");
    Ok(())
}
