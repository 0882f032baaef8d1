//! From files to what `rustls` wants, for stacks' texts.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use overlapped_iomgr::filter::Filter;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, KeyLog, RootCertStore, ServerConfig, SupportedProtocolVersion, version,
};

use super::Tls;
use crate::text::{Entry, Made, Parameters, TextError};

/// `tls` in stacks' texts.
pub(crate) const ENTRY: Entry = Entry {
    name: "tls",
    about: "TLS: tls(cert=PATH, key=PATH) where connections are accepted, tls(ca=PATH, name=HOST) \
            where they are made",
    make: |p| make(p).map(|tls| Made::Filter(tls.into_driver())),
};

fn make(p: &mut Parameters<'_>) -> Result<Tls, TextError> {
    let cert: Option<PathBuf> = p.optional("cert")?;
    let ca: Option<PathBuf> = p.optional("ca")?;
    let versions = versions(p)?;
    let alpn: Option<String> = p.optional("alpn")?;
    let alpn = alpn.map_or_else(Vec::new, |names| {
        names.split('+').map(|name| name.as_bytes().to_vec()).collect()
    });
    let log = match p.optional::<PathBuf>("keylog")? {
        Some(path) => {
            let log = KeyLogTo::new(&path);
            Some(Arc::new(log.map_err(|e| p.error("keylog", &unusable(&path, e)))?))
        }
        None => None,
    };
    let tls = match (cert, ca) {
        (Some(cert), None) => {
            let config = ServerConfig::builder_with_provider(provider());
            let config = config.with_protocol_versions(&versions).map_err(|e| p.refuse(e))?;
            let config = match p.optional::<PathBuf>("client_ca")? {
                Some(path) => {
                    let roots = roots(p, "client_ca", &path)?;
                    let asks = WebPkiClientVerifier::builder_with_provider(roots, provider());
                    config.with_client_cert_verifier(asks.build().map_err(|e| p.refuse(e))?)
                }
                None => config.with_no_client_auth(),
            };
            let key: PathBuf = p.required("key")?;
            let (chain, key) = (chain(p, "cert", &cert)?, key_of(p, "key", &key)?);
            let config = config.with_single_cert(chain, key);
            let mut config = config.map_err(|e| p.refuse(e))?;
            config.alpn_protocols = alpn;
            config.ticketer = ring::Ticketer::new().map_err(|e| p.refuse(e))?;
            if let Some(log) = log {
                config.key_log = log;
            }
            Tls::server(Arc::new(config))
        }
        (None, Some(ca)) => {
            let name: String = p.required("name")?;
            let name = ServerName::try_from(name)
                .map_err(|_| p.error("name", "a host's name or IP address"))?;
            let config = ClientConfig::builder_with_provider(provider());
            let config = config.with_protocol_versions(&versions).map_err(|e| p.refuse(e))?;
            let config = config.with_root_certificates(roots(p, "ca", &ca)?);
            let own: Option<PathBuf> = p.optional("client_cert")?;
            let mut config = match own {
                Some(cert) => {
                    let key: PathBuf = p.required("client_key")?;
                    let chain = chain(p, "client_cert", &cert)?;
                    let key = key_of(p, "client_key", &key)?;
                    config.with_client_auth_cert(chain, key).map_err(|e| p.refuse(e))?
                }
                None => config.with_no_client_auth(),
            };
            config.alpn_protocols = alpn;
            if let Some(log) = log {
                config.key_log = log;
            }
            Tls::client(Arc::new(config), name)
        }
        _ => return Err(p.refuse("it takes either cert and key, or ca and name")),
    };
    let tls = tls.allow_truncation(p.or("truncation", false)?);
    Ok(match p.optional("handshake_ms")? {
        Some(0) => tls.handshake_limit(None),
        Some(ms) => tls.handshake_limit(Some(Duration::from_millis(ms))),
        None => tls,
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn versions(p: &mut Parameters<'_>) -> Result<Vec<&'static SupportedProtocolVersion>, TextError> {
    let all = [&version::TLS12, &version::TLS13];
    let mut place = |key, default| {
        let name: Option<String> = p.optional(key)?;
        match name.as_deref() {
            None => Ok(default),
            Some("1.2") => Ok(0),
            Some("1.3") => Ok(1),
            Some(_) => Err(p.error(key, "1.2 or 1.3")),
        }
    };
    let (min, max) = (place("min", 0)?, place("max", 1)?);
    if min > max {
        return Err(p.error("min", "a version that is not above max"));
    }
    Ok(all[min..=max].to_vec())
}

fn unusable(path: &Path, why: impl fmt::Display) -> String {
    format!("a file that can be used ({}: {why})", path.display())
}

fn chain(
    p: &Parameters<'_>,
    key: &str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TextError> {
    let bad = |why: String| p.error(key, &unusable(path, why));
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| bad(e.to_string()))?;
    let chain: Result<Vec<_>, _> = certificates.collect();
    match chain.map_err(|e| bad(e.to_string()))? {
        none if none.is_empty() => Err(bad("no certificate in it".to_owned())),
        chain => Ok(chain),
    }
}

fn key_of(p: &Parameters<'_>, key: &str, path: &Path) -> Result<PrivateKeyDer<'static>, TextError> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| p.error(key, &unusable(path, e)))
}

fn roots(p: &Parameters<'_>, key: &str, path: &Path) -> Result<Arc<RootCertStore>, TextError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(p, key, path)? {
        roots.add(certificate).map_err(|e| p.error(key, &unusable(path, e)))?;
    }
    Ok(Arc::new(roots))
}

/// Writes secrets into a file, in the format that Wireshark reads.
struct KeyLogTo(Mutex<File>);

impl KeyLogTo {
    fn new(path: &Path) -> std::io::Result<KeyLogTo> {
        // For nobody else's eyes.
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(KeyLogTo(Mutex::new(file)))
    }
}

impl fmt::Debug for KeyLogTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyLogTo")
    }
}

impl KeyLog for KeyLogTo {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line.as_bytes()) {
            tracing::warn!(%error, "the key log cannot be written");
        }
    }
}
