//! What the filter `tls` adds to a stream, beside what TLS costs in memory: `cargo bench -p
//! overlapped-benches --bench tls`.
//!
//! Time per byte, in both directions of one connection on one thread, of processor time:
//!
//! - `aead`: AES-256-GCM of records of 16 KiB in memory, sealed and opened, by `ring`;
//! - `rustls`: a client's and a server's connection of `rustls`, buffered, from memory to memory;
//! - `filter`: a stream with `tls` on both ends, less the same stream without.
//!
//! Rounds of the three take turns; printed are the medians, and the filter's share of each.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use overlapped::Builder;
use overlapped::driver::filter::tls::{Tls, rustls};
use overlapped::driver::{Driver, Filter};
use overlapped::net::{UnixListener, UnixStream, stack_of};
use overlapped_examples::cpu_us;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

/// Bytes of one write, and of one round.
const PIECE: usize = 64 * 1024;
const ROUND: usize = 256 << 20;
const ROUNDS: usize = 7;

fn configs() -> (Arc<rustls::ClientConfig>, Arc<rustls::ServerConfig>) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let certificate: CertificateDer<'static> = own.cert.der().clone();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::CryptoProvider {
        cipher_suites: vec![rustls::crypto::ring::cipher_suite::TLS13_AES_256_GCM_SHA384],
        ..rustls::crypto::ring::default_provider()
    });
    let versions = &[&rustls::version::TLS13];
    let client = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .expect("1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a pair");
    (Arc::new(client), Arc::new(server))
}

/// Nanoseconds of processor time per byte of a round.
fn per_byte(round: impl FnOnce()) -> f64 {
    let before = cpu_us();
    round();
    (cpu_us() - before) * 1000.0 / ROUND as f64
}

fn aead() -> f64 {
    use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("a key"));
    let mut record = vec![0; 16 * 1024];
    per_byte(|| {
        for i in 0..ROUND / record.len() {
            let nonce = || {
                let mut bytes = [0; 12];
                bytes[..8].copy_from_slice(&(i as u64).to_le_bytes());
                Nonce::assume_unique_for_key(bytes)
            };
            let aad = || Aad::from([23, 3, 3, 64, 17]);
            key.seal_in_place_append_tag(nonce(), aad(), &mut record).expect("sealed");
            key.open_in_place(nonce(), aad(), &mut record).expect("opened");
            record.truncate(16 * 1024);
        }
    })
}

fn in_memory() -> f64 {
    let (client, server) = configs();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = rustls::ClientConnection::new(client, name).expect("a client");
    let mut server = rustls::ServerConnection::new(server).expect("a server");
    let mut wire = Vec::with_capacity(2 * PIECE);
    while client.is_handshaking() || server.is_handshaking() {
        wire.clear();
        client.write_tls(&mut wire).expect("memory");
        let mut rest = &wire[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("memory");
            server.process_new_packets().expect("a handshake");
        }
        wire.clear();
        server.write_tls(&mut wire).expect("memory");
        let mut rest = &wire[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("memory");
            client.process_new_packets().expect("a handshake");
        }
    }
    let (data, mut got) = (vec![7; PIECE], vec![0; PIECE]);
    per_byte(|| {
        for _ in 0..ROUND / PIECE {
            client.writer().write_all(&data).expect("room");
            wire.clear();
            while client.wants_write() {
                client.write_tls(&mut wire).expect("memory");
            }
            let (mut rest, mut done) = (&wire[..], 0);
            while !rest.is_empty() {
                server.read_tls(&mut rest).expect("memory");
                server.process_new_packets().expect("records");
                while let Ok(n @ 1..) = server.reader().read(&mut got[done..]) {
                    done += n;
                }
            }
            assert_eq!(done, PIECE);
        }
    })
}

fn stream(filters: Option<[Arc<dyn Driver>; 2]>) -> f64 {
    let runtime = Builder::new().build_local().expect("a runtime");
    let [client, server] = match filters {
        Some(filters) => filters.map(|filter| stack_of([filter]).expect("a stack")),
        None => [(); 2].map(|()| stack_of([]).expect("a stack")),
    };
    let path = std::env::temp_dir().join(format!("overlapped-tls-bench-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let result = runtime.block_on(async {
        let listener = UnixListener::bind_with(&path, server).expect("a listener");
        let client = UnixStream::connect_with(&path, client).await.expect("a client");
        let (server, _) = listener.accept().await.expect("a connection");
        let reading = |rounds: usize, server: UnixStream| {
            overlapped::spawn(async move {
                let (mut left, mut buf) = (rounds * PIECE, Vec::with_capacity(PIECE));
                while left > 0 {
                    let n;
                    (n, buf) = server.read(buf).await.expect("bytes");
                    assert!(n > 0);
                    left -= n;
                }
                server
            })
        };
        // The handshake is no part of it.
        let reader = reading(1, server);
        let ((), mut data) = client.write_all(vec![7; PIECE]).await.expect("written");
        let server = reader.await.expect("read");
        let before = cpu_us();
        let reader = reading(ROUND / PIECE, server);
        for _ in 0..ROUND / PIECE {
            ((), data) = client.write_all(data).await.expect("written");
        }
        drop(reader.await.expect("read"));
        (cpu_us() - before) * 1000.0 / ROUND as f64
    });
    let _ = std::fs::remove_file(&path);
    result
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() {
    let (client, server) = configs();
    let name = ServerName::try_from("localhost").expect("a name");
    let filters = || {
        let client = Tls::client(client.clone(), name.clone()).into_driver();
        Some([client, Tls::server(server.clone()).into_driver()])
    };
    let mut all: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        let now = [aead(), in_memory(), stream(None), stream(filters())];
        all.iter_mut().zip(now).for_each(|(all, now)| all.push(now));
    }
    let [aead, rustls, plain, tls] = all.map(median);
    let filter = tls - plain;
    println!("ns of processor time per byte, sealed and opened, TLS 1.3 with AES-256-GCM:");
    println!("  aead    {aead:.3}");
    println!("  rustls  {rustls:.3}");
    println!("  filter  {filter:.3}   (stream {plain:.3}, with tls {tls:.3})");
    println!(
        "filter / rustls in memory {:.2}, filter / aead {:.2}",
        filter / rustls,
        filter / aead
    );
}
