//! What programs ask a connection's TLS: operations for
//! [`Request::new`](overlapped_iomgr::Request::new) on the stream's file object.

use std::io;
use std::sync::{Mutex, PoisonError};

use overlapped_iomgr::{Done, Major, Operation, Setup, Status, minor};
use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion};

/// What was negotiated, and with whom.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Peer {
    /// The protocol's version.
    pub version: Option<ProtocolVersion>,
    /// The cipher suite.
    pub cipher_suite: Option<CipherSuite>,
    /// The application protocol, if both sides named some.
    pub alpn: Option<Vec<u8>>,
    /// The peer's certificate, and those of its issuers that it sent.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

impl Peer {
    pub(super) fn new(common: &CommonState) -> Peer {
        Peer {
            version: common.protocol_version(),
            cipher_suite: common.negotiated_cipher_suite().map(|suite| suite.suite()),
            alpn: common.alpn_protocol().map(<[u8]>::to_vec),
            certificates: common.peer_certificates().unwrap_or_default().to_vec(),
            resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

/// Does the handshake, if that is still to be done, and yields what came of it.
///
/// Fails as a write would; with `Unsupported` if the stream's stack has no TLS.
#[derive(Debug, Default)]
pub struct Query(Mutex<Option<Peer>>);

impl Query {
    /// The operation.
    pub fn new() -> Query {
        Query::default()
    }

    pub(super) fn answer(&self, peer: Option<Peer>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = peer;
    }
}

impl Operation for Query {
    type Output = io::Result<Peer>;

    fn major(&self) -> Major {
        Major::QueryInformation
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.minor(minor::DRIVER_DEFINED).payload(self);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        done.status().result(0)?;
        let Query(answer) = done.take();
        let peer = answer.into_inner().unwrap_or_else(PoisonError::into_inner);
        peer.ok_or_else(|| Status::NOT_SUPPORTED.into())
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}

/// Has the keys of this side replaced, and asks the peer to replace its own (TLS 1.3's key update).
/// `rustls` does so by itself when a key has been used for as long as it may be.
///
/// Fails with `Unsupported` before TLS 1.3, or if the stream's stack has no TLS.
#[derive(Debug, Default)]
pub struct Rekey;

impl Operation for Rekey {
    type Output = io::Result<()>;

    fn major(&self) -> Major {
        Major::SetInformation
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.minor(minor::DRIVER_DEFINED).payload(self);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        done.status().result(0).map(drop)
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}
