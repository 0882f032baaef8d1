//! Peers of TLS that send what is none: to clients and to servers, before the handshake and behind it.

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener as StdListener, TcpStream as StdStream};
use std::ops::DerefMut;
use std::sync::Arc;
use std::thread;

use futures_util::future::join;
use overlapped::Status;
use overlapped::driver::filter::tls::rustls::pki_types::pem::PemObject;
use overlapped::driver::filter::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use overlapped::driver::filter::tls::rustls::{
    self, ClientConnection, ConnectionCommon, ServerConnection, SideData, StreamOwned,
};
use overlapped::net::{TcpListener, TcpStream};
use support::{both, status};
use tls::Certificates;

/// A client by other means.
fn client(certificates: &Certificates) -> ClientConnection {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificates.path("root.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap()
}

/// A server by other means.
fn server(certificates: &Certificates) -> ServerConnection {
    let chain = vec![CertificateDer::from_pem_file(certificates.path("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(certificates.path("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    ServerConnection::new(Arc::new(config)).unwrap()
}

/// Sends bytes as they are, and no more; waits until the other side has ended.
fn send_raw(mut stream: &StdStream, bytes: &[u8]) {
    // The other side may be done before all has gone.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Every request on the stream fails like this from now on.
async fn has_failed(stream: TcpStream, expected: Status) {
    let (read, written) = join(stream.read(vec![0; 9]), stream.write(vec![1])).await;
    assert_eq!(status(read), expected);
    assert_eq!(status(written), expected);
    assert_eq!(status(stream.read_lease().await), expected);
    assert_eq!(status(stream.write_all(vec![1]).await), expected);
    stream.close().await.unwrap();
}

#[test]
fn servers_that_do_not_speak_tls() {
    let certificates = Certificates::new();
    let mut hello = Vec::new();
    client(&certificates).write_tls(&mut hello).unwrap();
    let cases: [(&[u8], Status); 7] = [
        (b"HTTP/1.0 400 Bad Request\r\n\r\n", Status::TLS_PROTOCOL_ERROR),
        (&[0; 100_000], Status::TLS_PROTOCOL_ERROR),
        (&[0x16, 3, 3, 0xff, 0xff, 2], Status::TLS_PROTOCOL_ERROR),
        // What a client says.
        (&hello, Status::TLS_PROTOCOL_ERROR),
        (&[0x16, 3, 3, 2, 0, 2], Status::TLS_TRUNCATED),
        (&[], Status::TLS_TRUNCATED),
        // An alert: handshake failure.
        (&[0x15, 3, 3, 0, 2, 2, 40], Status::TLS_ALERT),
    ];
    both(async |_| {
        for (bytes, expected) in cases {
            let listener = StdListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let bytes = bytes.to_vec();
            let peer = thread::spawn(move || send_raw(&listener.accept().unwrap().0, &bytes));
            let stream = TcpStream::connect_with(address, certificates.client("")).await.unwrap();
            has_failed(stream, expected).await;
            peer.join().unwrap();
        }
    });
}

/// Speaks TLS at first.
fn says_hello<S: SideData>(
    connection: impl DerefMut<Target = ConnectionCommon<S>>,
    stream: StdStream,
    garbage: &[u8],
) {
    let mut tls = StreamOwned::new(connection, stream);
    tls.write_all(b"hello").unwrap();
    tls.flush().unwrap();
    tls.read_exact(&mut [0; 5]).unwrap();
    send_raw(&tls.sock, garbage);
}

#[test]
fn garbage_behind_the_handshake() {
    let certificates = Arc::new(Certificates::new());
    let record = [&[0x17, 3, 3, 0, 40][..], &[0xa5; 40]].concat();
    let mut hello = Vec::new();
    client(&certificates).write_tls(&mut hello).unwrap();
    let cases: [(&[u8], Status); 7] = [
        (b"GET / HTTP/1.0\r\n\r\n", Status::TLS_PROTOCOL_ERROR),
        (&[0; 100_000], Status::TLS_PROTOCOL_ERROR),
        (&[0x17, 3, 3, 0xff, 0xff, 2], Status::TLS_PROTOCOL_ERROR),
        // A record that nobody has sealed; and a part of it.
        (&record, Status::TLS_PROTOCOL_ERROR),
        (&record[..20], Status::TLS_TRUNCATED),
        // Plain, where it has to be sealed.
        (&hello, Status::TLS_PROTOCOL_ERROR),
        (&[0x15, 3, 3, 0, 2, 1, 0], Status::TLS_PROTOCOL_ERROR),
    ];
    both(async |_| {
        for version in ["1.2", "1.3"] {
            let more = format!(", min={version}, max={version}");
            for (bytes, expected) in cases {
                for is_client in [false, true] {
                    let (theirs, bytes) = (certificates.clone(), bytes.to_vec());
                    let (stream, peer) = if is_client {
                        let listener = StdListener::bind("127.0.0.1:0").unwrap();
                        let address = listener.local_addr().unwrap();
                        let peer = thread::spawn(move || {
                            says_hello(server(&theirs), listener.accept().unwrap().0, &bytes);
                        });
                        let stack = certificates.client(&more);
                        (TcpStream::connect_with(address, stack).await.unwrap(), peer)
                    } else {
                        let stack = certificates.server(&more);
                        let listener = TcpListener::bind_with("127.0.0.1:0", stack).await.unwrap();
                        let address = listener.local_addr().unwrap();
                        let peer = thread::spawn(move || {
                            let stream = StdStream::connect(address).unwrap();
                            says_hello(client(&theirs), stream, &bytes);
                        });
                        (listener.accept().await.unwrap().0, peer)
                    };
                    // What has come before it is whole.
                    let said = stream.read_exact(Vec::with_capacity(5)).await.unwrap().1;
                    assert_eq!(said, b"hello");
                    stream.write_all("hello").await.unwrap();
                    assert_eq!(status(stream.read(vec![0; 9]).await), expected);
                    if expected == Status::TLS_TRUNCATED {
                        // The other direction is not cut.
                        stream.write_all("goodbye").await.unwrap();
                        stream.close().await.unwrap();
                    } else {
                        has_failed(stream, expected).await;
                    }
                    peer.join().unwrap();
                }
            }
        }
    });
}
