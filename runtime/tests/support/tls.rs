//! Certificates of a test's own, and stacks with TLS.

#![allow(dead_code, reason = "each test binary uses some of it")]

use std::path::PathBuf;
use std::sync::Arc;

use overlapped::driver::Stack;
use overlapped::driver::text::Text;
use overlapped::net::stack_of;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};

use crate::support::Dir;

pub struct Certificates {
    pub dir: Dir,
    root: CertifiedIssuer<'static, KeyPair>,
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Certificates {
    /// `root.pem`, and one of its: `server.pem` of `localhost`, with its key; and `other.pem`, of an
    /// authority that has nothing to do with them.
    pub fn new() -> Certificates {
        let (dir, root) = (Dir::new(), authority("root"));
        dir.file("root.pem", root.pem());
        dir.file("other.pem", authority("other").pem());
        let these = Certificates { dir, root };
        these.issue("server", "localhost", None);
        these
    }

    /// One more, for the name, valid up to that year; with its key.
    pub fn issue(&self, file: &str, name: &str, until: Option<i32>) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if let Some(year) = until {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.root).unwrap();
        self.dir.file(&format!("{file}.pem"), certificate.pem());
        self.dir.file(&format!("{file}.key"), key.serialize_pem());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path(name)
    }

    /// A stack of sockets from a text, in which `$` stands for this directory.
    pub fn stack(&self, text: &str) -> Arc<Stack> {
        let text = self.text(text);
        let built = text.parse::<Text>().unwrap().build().unwrap_or_else(|e| panic!("{e}"));
        assert!(built.bottom.is_none());
        stack_of(built.filters).unwrap()
    }

    pub fn text(&self, text: &str) -> String {
        text.replace('$', self.dir.path("").to_str().unwrap())
    }

    /// The accepting side, with more parameters.
    pub fn server(&self, more: &str) -> Arc<Stack> {
        self.stack(&format!("tls(cert=$server.pem, key=$server.key{more})"))
    }

    /// The connecting side, with more parameters.
    pub fn client(&self, more: &str) -> Arc<Stack> {
        self.stack(&format!("tls(ca=$root.pem, name=localhost{more})"))
    }
}
