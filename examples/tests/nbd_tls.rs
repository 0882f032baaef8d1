//! The example `nbd` over TLS: who is let in, who is not, and who tries.

#[path = "support/running.rs"]
mod running;
#[path = "../nbd/server/mod.rs"]
mod server;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use overlapped::driver::filter::tls::rustls;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use running::{PATIENCE, Server};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use server::Tls;

const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const LIST: u32 = 3;
const STARTTLS: u32 = 5;
const INFO: u32 = 6;
const GO: u32 = 7;
const STRUCTURED: u32 = 8;

const ACK: u32 = 1;
const INVALID: u32 = (1 << 31) + 3;
const TLS_REQUIRED: u32 = (1 << 31) + 5;

// Certificates.

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key, as PEM.
fn issue(authority: &Authority, name: &str, until: i32) -> [String; 2] {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().unwrap();
    [params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem()]
}

/// The server's directory, gone with this, and who signs clients' certificates.
struct Directory(PathBuf, Authority);

static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Directory {
    /// With a quote and a backslash in its name, which are none of the stack text's.
    fn new() -> Directory {
        let number = NUMBER.fetch_add(1, SeqCst);
        let name = format!("overlapped-nbd-tls-{}-{number}-\"\\", std::process::id());
        let directory = Directory(std::env::temp_dir().join(name), authority("root"));
        std::fs::create_dir(&directory.0).unwrap();
        let [certificate, key] = issue(&directory.1, "localhost", 4000);
        directory.write("server-cert.pem", &certificate);
        directory.write("server-key.pem", &key);
        directory.write("ca-cert.pem", &directory.1.pem());
        directory
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    /// A client that trusts the server, and shows the certificate, if it has one.
    fn client(
        &self,
        own: Option<[String; 2]>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.1.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
        Arc::new(match own {
            None => config.with_no_client_auth(),
            Some([certificate, key]) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        })
    }

    /// One that is let in.
    fn honest(&self) -> Arc<ClientConfig> {
        self.client(Some(issue(&self.1, "client", 4000)), &[&TLS12, &TLS13])
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

// The server, in this process.

impl Server {
    fn start(directory: &Directory) -> Server {
        let tls = Tls::open(directory.path()).unwrap();
        Server::run(directory.0.join("socket"), "memory(size=1M)", false, Some(tls))
    }

    /// A connection, greeted, whose flags have been said.
    fn greeted(&self) -> UnixStream {
        let mut stream = self.connect();
        stream.read_exact(&mut [0; 18]).unwrap();
        stream.write_all(&[0, 0, 0, 3]).unwrap();
        stream
    }

    /// One on which TLS may begin.
    fn starttls(&self) -> UnixStream {
        let mut stream = self.greeted();
        assert_eq!(ask(&mut stream, STARTTLS, b""), [ACK]);
        stream
    }

    /// One over TLS, as far as the client can tell.
    fn secure(&self, config: &Arc<ClientConfig>) -> io::Result<Secure> {
        let name = "localhost".try_into().unwrap();
        let connection = ClientConnection::new(config.clone(), name).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, self.starttls());
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    /// A client is served.
    fn serves(&self, config: &Arc<ClientConfig>) -> Secure {
        let mut stream = self.secure(config).unwrap();
        assert_eq!(ask(&mut stream, GO, &[0; 6]), [3, ACK]);
        assert_eq!(read(&mut stream, 1000, 3), [0; 3]);
        stream
    }

    /// All its clients have gone, and it ends.
    fn end(self) {
        let begun = Instant::now();
        while self.graceful.tasks() > 1 {
            assert!(begun.elapsed() < PATIENCE, "a client's task does not end");
            thread::sleep(Duration::from_millis(1));
        }
        self.stop();
    }
}

// What clients say.

type Secure = rustls::StreamOwned<ClientConnection, UnixStream>;

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let len = (data.len() as u32).to_be_bytes();
    [b"IHAVEOPT", &number.to_be_bytes()[..], &len, data].concat()
}

/// The kinds of the answers to an option, up to the last one.
fn ask(stream: &mut (impl Read + Write), number: u32, data: &[u8]) -> Vec<u32> {
    stream.write_all(&option(number, data)).unwrap();
    let mut kinds = Vec::new();
    loop {
        let mut head = [0; 20];
        stream.read_exact(&mut head).unwrap();
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!(word(8), number);
        stream.read_exact(&mut vec![0; word(16) as usize]).unwrap();
        kinds.push(word(12));
        if word(12) == ACK || word(12) >> 31 == 1 {
            return kinds;
        }
    }
}

fn request(command: u16, offset: u64, len: u32) -> Vec<u8> {
    let cookie = 7u64.to_be_bytes();
    let (command, offset, len) = (command.to_be_bytes(), offset.to_be_bytes(), len.to_be_bytes());
    [&[0x25, 0x60, 0x95, 0x13, 0, 0][..], &command, &cookie, &offset, &len].concat()
}

/// A simple reply, without an error.
fn is_done(stream: &mut impl Read) {
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply, [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
}

fn read(stream: &mut (impl Read + Write), offset: u64, len: u32) -> Vec<u8> {
    stream.write_all(&request(0, offset, len)).unwrap();
    is_done(stream);
    let mut data = vec![0; len as usize];
    stream.read_exact(&mut data).unwrap();
    data
}

/// Nothing more comes, but for what TLS says of it.
fn is_closed(mut stream: UnixStream) {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => {}
        // The server has not read all.
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
}

#[test]
fn clients_with_certificates_have_the_disk() {
    let directory = Directory::new();
    let server = Server::start(&directory);
    for version in [&TLS12, &TLS13] {
        let config = directory.client(Some(issue(&directory.1, "client", 4000)), &[version]);
        let mut client = server.serves(&config);
        assert_eq!(client.conn.protocol_version(), Some(version.version));
        // More than one record, there and back.
        let data: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        client.write_all(&[request(1, 5000, 300_000), data.clone()].concat()).unwrap();
        is_done(&mut client);
        assert!(read(&mut client, 5000, 300_000) == data);
        // Its end is told, and it is told that it has ended.
        client.write_all(&request(2, 0, 0)).unwrap();
        assert_eq!(client.read(&mut [0]).expect("close_notify"), 0);
    }
    // One that just goes, as NBD's clients may.
    let _ = server.serves(&directory.honest());
    server.end();
}

#[test]
fn nothing_is_to_be_had_in_the_clear() {
    let directory = Directory::new();
    let server = Server::start(&directory);
    let mut client = server.greeted();
    for (number, data) in
        [(LIST, &b""[..]), (INFO, &[0; 6]), (GO, &[0; 6]), (STRUCTURED, b""), (77, b"x")]
    {
        assert_eq!(ask(&mut client, number, data), [TLS_REQUIRED]);
    }
    assert_eq!(ask(&mut client, STARTTLS, b"x"), [INVALID]);
    assert_eq!(ask(&mut client, ABORT, b""), [ACK]);
    is_closed(client);
    // This one cannot be refused otherwise.
    let mut client = server.greeted();
    client.write_all(&option(EXPORT_NAME, b"")).unwrap();
    is_closed(client);
    // It is another's who is between: it does not count as the client's.
    let mut client = server.greeted();
    client.write_all(&[option(STARTTLS, b""), option(STRUCTURED, b"")].concat()).unwrap();
    is_closed(client);
    server.serves(&directory.honest());
    server.end();
}

#[test]
fn tls_begins_once() {
    let directory = Directory::new();
    let server = Server::start(&directory);
    let mut client = server.secure(&directory.honest()).unwrap();
    assert_eq!(ask(&mut client, STARTTLS, b""), [INVALID]);
    assert_eq!(ask(&mut client, GO, &[0; 6]), [3, ACK]);
    assert_eq!(read(&mut client, 0, 5), [0; 5]);
    drop(client);
    server.end();
}

#[test]
fn who_is_not_let_in() {
    let directory = Directory::new();
    let server = Server::start(&directory);
    let anybody = authority("anybody");
    for version in [&TLS12, &TLS13] {
        for (own, alert) in [
            (None, ["HandshakeFailure", "CertificateRequired"]),
            (Some(issue(&anybody, "client", 4000)), ["UnknownCA"; 2]),
            (Some(issue(&directory.1, "client", 1990)), ["CertificateExpired"; 2]),
        ] {
            // A client of TLS 1.3 hears of it behind its own end of the handshake.
            let refused = server.secure(&directory.client(own, &[version]));
            let said =
                refused.and_then(|mut client| client.read(&mut [0])).unwrap_err().to_string();
            assert!(alert.iter().any(|alert| said.contains(alert)), "{version:?}: {said}");
        }
    }
    server.serves(&directory.honest());
    server.end();
}

#[test]
fn without_an_authority_nobody_is_asked() {
    let directory = Directory::new();
    std::fs::remove_file(directory.0.join("ca-cert.pem")).unwrap();
    let server = Server::start(&directory);
    server.serves(&directory.client(None, &[&TLS13]));
    server.serves(&directory.honest());
    server.end();
}

/// What a client's TLS says first.
fn hello(directory: &Directory) -> Vec<u8> {
    let name = "localhost".try_into().unwrap();
    let mut hello = Vec::new();
    ClientConnection::new(directory.honest(), name).unwrap().write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn garbage_in_place_of_tls() {
    let directory = Directory::new();
    let server = Server::start(&directory);
    let mut honest = server.serves(&directory.honest());
    let mut changed = hello(&directory);
    changed[9] ^= 0x55;
    let largest = [&[0x16, 3, 1, 0xff, 0xff][..], &[1; 70_000]].concat();
    for garbage in [option(GO, &[0; 6]), vec![0; 100_000], vec![0xff; 100_000], changed, largest] {
        let mut client = server.starttls();
        // The server may be done before all is sent.
        let _ = client.write_all(&garbage);
        let _ = client.shutdown(Shutdown::Write);
        is_closed(client);
    }
    // In place of a record, when it has begun.
    for garbage in [
        &[0; 1000][..],
        &[0x17, 3, 3, 0, 20, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ] {
        let mut client = server.serves(&directory.honest());
        client.sock.write_all(garbage).unwrap();
        client.read_to_end(&mut Vec::new()).unwrap_err();
    }
    // As it should be, but not NBD.
    let mut client = server.serves(&directory.honest());
    client.write_all(&[0xaa; 28]).unwrap();
    assert_eq!(client.read(&mut [0]).expect("close_notify"), 0);
    assert_eq!(read(&mut honest, 0, 9), [0; 9], "others are served as ever");
    drop((client, honest));
    server.end();
}

#[test]
fn clients_that_vanish_while_tls_begins() {
    let directory = Directory::new();
    let server = Server::start(&directory);
    let hello = hello(&directory);
    for sent in [0, 1, 5, 6, hello.len() - 1, hello.len()] {
        server.starttls().write_all(&hello[..sent]).unwrap();
    }
    // Without waiting for an answer to the option.
    server.greeted().write_all(&option(STARTTLS, b"")).unwrap();
    // Just behind the handshake; in a request; in a write's data, which is not written.
    drop(server.secure(&directory.honest()).unwrap());
    server.serves(&directory.honest()).write_all(&request(0, 0, 9)[..20]).unwrap();
    let mut client = server.serves(&directory.honest());
    client.write_all(&[request(1, 0, 1000), vec![7; 999]].concat()).unwrap();
    // In a record.
    client.conn.writer().write_all(&[7; 1000]).unwrap();
    let mut record = Vec::new();
    client.conn.write_tls(&mut record).unwrap();
    client.sock.write_all(&record[..record.len() / 2]).unwrap();
    drop(client);
    let mut client = server.serves(&directory.honest());
    assert_eq!(read(&mut client, 0, 1000), [0; 1000]);
    drop(client);
    server.end();
}

#[test]
fn directories_that_are_of_no_use() {
    let directory = Directory::new();
    let path = Path::new(directory.path());
    let refused = || Tls::open(directory.path()).map(drop).unwrap_err().to_string();
    directory.write("ca-cert.pem", "nothing");
    assert!(refused().contains("ca-cert.pem: no certificate in it"), "{}", refused());
    directory.write("ca-cert.pem", &directory.1.pem());
    let [_, other] = issue(&directory.1, "localhost", 4000);
    directory.write("server-key.pem", &other);
    assert!(refused().contains("tls"), "a key that is another's: {}", refused());
    std::fs::remove_file(path.join("server-key.pem")).unwrap();
    assert!(refused().contains("server-key.pem"), "{}", refused());
    std::fs::remove_file(path.join("server-cert.pem")).unwrap();
    assert!(refused().contains("server-cert.pem"), "{}", refused());
}
