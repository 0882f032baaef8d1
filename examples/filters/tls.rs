//! `tls`: a server and a client that know nothing of TLS, and speak it.
//!
//! `cargo run --example filter-tls`

use std::io;
use std::sync::Arc;

use overlapped::driver::Stack;
use overlapped::driver::text::Text;
use overlapped::net::{TcpListener, TcpStream, stack_of};

async fn serve(listener: TcpListener) -> io::Result<()> {
    let (stream, _) = listener.accept().await?;
    let (_, asked) = stream.read_exact(vec![0; 6]).await?;
    assert_eq!(asked, b"secret");
    stream.write_all("answer").await?;
    stream.close().await
}

fn stack(text: String) -> io::Result<Arc<Stack>> {
    let built = text.parse::<Text>().and_then(|text| text.build());
    stack_of(built.map_err(io::Error::other)?.filters)
}

#[overlapped::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("filter-tls-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    std::fs::write(dir.join("cert.pem"), cert.pem())?;
    std::fs::write(dir.join("key.pem"), signing_key.serialize_pem())?;
    let here = dir.display();

    let server = stack(format!("tls(cert={here}/cert.pem, key={here}/key.pem)"))?;
    let listener = TcpListener::bind_with("127.0.0.1:0", server).await?;
    let address = listener.local_addr()?;
    let server = overlapped::spawn(serve(listener));

    let client = stack(format!("tls(ca={here}/cert.pem, name=localhost)"))?;
    let client = TcpStream::connect_with(address, client).await?;
    client.write_all("secret").await?;
    let (_, answer) = client.read_exact(vec![0; 6]).await?;
    println!("{}", String::from_utf8_lossy(&answer));
    assert_eq!(answer, b"answer");
    server.await??;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
