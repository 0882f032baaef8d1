//! `idle`: a server that gets rid of clients who say nothing, and has no timer of its own.
//!
//! `cargo run --example filter-idle`

use std::io::{self, ErrorKind};
use std::time::Duration;

use overlapped::driver::Filter;
use overlapped::driver::filter::Idle;
use overlapped::net::{TcpListener, TcpStream, stack_of};

/// Sends back what comes, until the client ends it.
async fn echo(stream: TcpStream) -> io::Result<()> {
    loop {
        let (n, buf) = stream.read(Vec::with_capacity(1000)).await?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(buf).await?;
    }
}

#[overlapped::main]
async fn main() -> io::Result<()> {
    let idle = Idle::new().reads(Duration::from_millis(200)).into_driver();
    let listener = TcpListener::bind_with("127.0.0.1:0", stack_of([idle])?).await?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    let server = overlapped::spawn(echo(listener.accept().await?.0));

    client.write_all("hello").await?;
    assert_eq!(client.read_exact(vec![0; 5]).await?.1, b"hello");
    // Now it says nothing, and hears that it has been left.
    assert_eq!(client.read(vec![0; 5]).await?.0, 0);
    let error = server.await?.unwrap_err();
    println!("{error}");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    Ok(())
}
