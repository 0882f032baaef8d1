//! What a failure of TLS is to those who read and write.

use overlapped_iomgr::Status;
use rustls::{CertificateError, Error};

/// The status of a failure. What exactly it was is in the program's log.
pub(super) fn status(error: &Error) -> Status {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::NoCertificatesPresented => Status::CERTIFICATE_MISSING,
        Error::AlertReceived(_) => Status::TLS_ALERT,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Status::TLS_INCOMPATIBLE,
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_)
        | Error::PeerSentOversizedRecord
        | Error::UnsupportedNameType
        | Error::DecryptError => Status::TLS_PROTOCOL_ERROR,
        _ => Status::UNEXPECTED_IO_ERROR,
    }
}

fn certificate(error: &CertificateError) -> Status {
    match error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Status::CERTIFICATE_EXPIRED,
        CertificateError::UnknownIssuer => Status::CERTIFICATE_UNTRUSTED,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Status::CERTIFICATE_WRONG_NAME
        }
        _ => Status::CERTIFICATE_INVALID,
    }
}
