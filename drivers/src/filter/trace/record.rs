//! What is known of a request that has come back.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use overlapped_iomgr::{FileObject, Major, Status, Unwinding, View, minor};
use socket2::SockAddr;

use super::pcap::Flow;
use crate::bottom;
use crate::class::{
    Accepted, Allocate, CopyRange, Create, Delete, Envelope, Hint, Link, MakeDirectory,
    NormalizeName, QueryAttributes, ReadLink, Rename, SetSecurity, SymbolicLink, ZeroData,
    ZeroRange,
};
use crate::hal::system;

/// What the records of a file have in common.
pub(super) struct Traced {
    pub(super) layer: Arc<str>,
    pub(super) id: u64,
    /// A path; of a socket, its addresses.
    pub(super) name: Box<str>,
    /// Of a socket with IP addresses.
    pub(super) connection: Option<Connection>,
}

/// What packets are made of.
pub(super) struct Connection {
    pub(super) own: SocketAddr,
    /// `None`: a datagram socket that takes them from anybody.
    pub(super) peer: Option<SocketAddr>,
    pub(super) is_stream: bool,
    /// Bytes of a stream that have gone by, those without a record included.
    sent: AtomicU64,
    received: AtomicU64,
    pub(super) flow: Mutex<Flow>,
}

impl Traced {
    pub(super) fn new(layer: Arc<str>, file: &FileObject) -> Traced {
        let Some(messages) = bottom::carries_messages(file) else {
            return Traced { layer, id: file.id(), name: file.name().into(), connection: None };
        };
        let fd = file.fd();
        let system = system::of(fd);
        let ip = |address: std::io::Result<SockAddr>| {
            let mut address = address.ok()?.as_socket()?;
            address.set_ip(address.ip().to_canonical());
            Some(address)
        };
        let (own, peer) = (ip(system.local_address(fd)), ip(system.peer_address(fd)));
        let connection = own.filter(|_| messages || peer.is_some()).map(|own| Connection {
            own,
            peer,
            is_stream: !messages,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            flow: Mutex::default(),
        });
        let name = bottom::describe_socket(file).into();
        Traced { layer, id: file.id(), name, connection }
    }
}

/// Of a datagram socket that was connected after its first request: where it is now.
fn peer_now(traced: &Traced, file: &FileObject) -> Option<SocketAddr> {
    let connection = traced.connection.as_ref()?;
    if connection.is_stream || connection.peer.is_some() {
        return None;
    }
    system::of(file.fd()).peer_address(file.fd()).ok()?.as_socket()
}

impl Connection {
    /// Both ends of a datagram's way: of one kind, whatever the socket is bound to.
    pub(super) fn ends(&self, other: Option<SocketAddr>) -> Option<(SocketAddr, SocketAddr)> {
        let (mut own, mut peer) = (self.own, other.or(self.peer)?);
        peer.set_ip(peer.ip().to_canonical());
        match (own.ip(), peer.ip()) {
            (IpAddr::V6(_), IpAddr::V4(_)) => own.set_ip(Ipv4Addr::UNSPECIFIED.into()),
            (IpAddr::V4(_), IpAddr::V6(_)) => own.set_ip(Ipv6Addr::UNSPECIFIED.into()),
            _ => {}
        }
        Some((own, peer))
    }
}

/// One request.
#[derive(Clone)]
pub(super) struct Record {
    pub(super) file: Arc<Traced>,
    pub(super) major: Major,
    pub(super) minor: u8,
    pub(super) begin: Instant,
    pub(super) end: Instant,
    /// `None` where bytes have no offsets, or the current one was meant.
    pub(super) offset: Option<u64>,
    /// Bytes asked for, where data goes in or out; 0: as many as a pool buffer has.
    pub(super) len: Option<u64>,
    pub(super) arg: u64,
    pub(super) status: Status,
    pub(super) info: usize,
    /// Where a datagram goes, or came from.
    pub(super) address: Option<SocketAddr>,
    /// Of datagrams in one request.
    pub(super) segment: u16,
    /// Of a stream's bytes: how many have gone the same way before.
    pub(super) position: u64,
    /// What else was asked for.
    pub(super) detail: Option<Box<str>>,
    /// The data's first bytes.
    pub(super) data: Box<[u8]>,
}

/// As a queue's documentation says.
const _: () = assert!(size_of::<Record>() <= 216);

impl Record {
    pub(super) fn new(
        file: Arc<Traced>,
        irp: &Unwinding<'_>,
        begin: Instant,
        end: Instant,
        position: u64,
    ) -> Record {
        let offset = (irp.offset() != u64::MAX && file.connection.is_none())
            .then(|| irp.offset())
            .filter(|_| irp.file().is_seekable());
        let len = moves_data(irp.major()).then(|| match irp.minor() {
            minor::POOLED => irp.arg(),
            _ => irp.len() as u64,
        });
        let envelope = irp.companion::<Envelope>();
        let address = envelope.and_then(|envelope| envelope.address.as_ref()?.as_socket());
        Record {
            major: irp.major(),
            minor: irp.minor(),
            begin,
            end,
            offset,
            len,
            arg: irp.arg(),
            status: irp.status(),
            info: irp.info(),
            address: address.or_else(|| peer_now(&file, irp.file())),
            segment: envelope.map_or(0, |envelope| envelope.segment_size),
            position,
            detail: detail(irp),
            data: Box::default(),
            file,
        }
    }

    pub(super) fn latency(&self) -> Duration {
        self.end.saturating_duration_since(self.begin)
    }

    /// Bytes that have gone in or out; 0 of what has failed, or carries none.
    pub(super) fn transferred(&self) -> usize {
        transferred(self.major, self.status, self.info)
    }

    /// The variant, by its name; `None` for the plain one.
    pub(super) fn variant(&self) -> Option<Variant> {
        (self.minor != minor::NONE).then_some(Variant(self.major, self.minor))
    }
}

fn transferred(major: Major, status: Status, info: usize) -> usize {
    if moves_data(major) && !status.is_error() { info } else { 0 }
}

pub(crate) fn moves_data(major: Major) -> bool {
    receives(major) || sends(major)
}

pub(super) fn receives(major: Major) -> bool {
    matches!(major, Major::Read | Major::ReceiveFrom)
}

pub(super) fn sends(major: Major) -> bool {
    matches!(major, Major::Write | Major::SendTo)
}

/// The first bytes, up to so many, that a request has moved.
pub(super) fn first_bytes(irp: &mut Unwinding<'_>, most: usize) -> Box<[u8]> {
    let n = transferred(irp.major(), irp.status(), irp.info()).min(most);
    let mut bytes = Vec::new();
    if n == 0 {
        return bytes.into();
    }
    bytes.reserve_exact(n);
    let mut take = |piece: &[u8]| {
        bytes.extend_from_slice(&piece[..piece.len().min(n - bytes.len())]);
    };
    if sends(irp.major()) {
        irp.segments().for_each(&mut take);
    } else {
        irp.received_mut().for_each(|piece| take(piece));
    }
    bytes.into()
}

/// Counts a stream's bytes that have gone by; how many there were before.
pub(super) fn advance(file: &Traced, irp: &Unwinding<'_>) -> u64 {
    let n = transferred(irp.major(), irp.status(), irp.info()) as u64;
    match &file.connection {
        // What was only looked at comes again.
        Some(_) if irp.minor() == minor::PEEK && irp.major() == Major::Read => 0,
        Some(connection) if n > 0 => {
            let way = if sends(irp.major()) { &connection.sent } else { &connection.received };
            way.fetch_add(n, Ordering::Relaxed)
        }
        _ => 0,
    }
}

/// The parameters that have no field of their own.
fn detail(irp: &View) -> Option<Box<str>> {
    macro_rules! as_they_are {
        ($($type:ty),*) => {
            None$(.or_else(|| irp.payload::<$type>().map(|payload| format!("{payload:?}"))))*
        };
    }
    let detail = match irp.major() {
        Major::Create => irp.payload::<Create>().map(|create| {
            let (path, flags, mode) = (create.path.to_string_lossy(), create.flags, create.mode);
            format!("{path} flags {flags:#o} mode {mode:#o}")
        }),
        Major::Connect => irp.payload::<Box<SockAddr>>().map(|address| {
            let path = address.as_pathname().map(|path| path.display().to_string());
            let address = address.as_socket().map(|address| address.to_string());
            address.or(path).unwrap_or_else(|| String::from("an unnamed address"))
        }),
        Major::Accept => irp.payload::<Accepted>().map(|file| format!("file {}", file.0.id())),
        Major::FileSystemControl => as_they_are!(ZeroData, ZeroRange).or_else(|| {
            irp.payload::<CopyRange>().map(|copy| {
                let ((from, len), source) = (copy.range(), copy.source());
                format!("{len} bytes from {from} of file {} ({})", source.id(), source.name())
            })
        }),
        Major::SetInformation => as_they_are!(Rename, Delete, Link, SymbolicLink, Allocate, Hint),
        Major::QueryInformation => as_they_are!(QueryAttributes, ReadLink, NormalizeName),
        Major::DirectoryControl => as_they_are!(MakeDirectory),
        Major::SetSecurity => as_they_are!(SetSecurity),
        _ => None,
    };
    detail.map(String::into_boxed_str)
}

/// An operation's name, as stacks' texts have it.
pub(crate) fn name_of(major: Major) -> &'static str {
    match major {
        Major::Create => "create",
        Major::Close => "close",
        Major::Read => "read",
        Major::Write => "write",
        Major::QueryInformation => "query",
        Major::SetInformation => "set",
        Major::Flush => "flush",
        Major::DirectoryControl => "directory",
        Major::FileSystemControl => "control",
        Major::DeviceControl => "device",
        Major::Cleanup => "cleanup",
        Major::SetSecurity => "security",
        Major::Connect => "connect",
        Major::Accept => "accept",
        Major::SendTo => "send",
        Major::ReceiveFrom => "receive",
        Major::Shutdown => "shutdown",
        Major::Poll => "poll",
        Major::Private => "private",
        _ => "other",
    }
}

/// An operation's variant; shown by its name, or its number.
pub(super) struct Variant(Major, u8);

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.0, self.1) {
            (Major::Read | Major::Write | Major::SendTo | Major::ReceiveFrom, minor) => match minor
            {
                minor::VECTORED => "vectored",
                minor::POOLED => "pooled",
                minor::PEEK => "peek",
                minor::ALL => "all",
                minor::NOW => "now",
                _ => "",
            },
            (Major::Flush, minor::DATA_ONLY) => "data",
            (Major::QueryInformation | Major::SetInformation, minor) => match minor {
                minor::RENAME => "rename",
                minor::LINK => "link",
                minor::DISPOSITION => "delete",
                minor::POSITION => "position",
                minor::ALLOCATION => "allocate",
                minor::REPARSE_POINT => "symlink",
                minor::FULL_ATTRIBUTES => "attributes",
                minor::HINT => "hint",
                minor::NORMALIZED_NAME => "normalize",
                _ => "",
            },
            (Major::DirectoryControl, minor::QUERY_DIRECTORY) => "entries",
            (Major::DirectoryControl, minor::MAKE_DIRECTORY) => "make",
            (Major::FileSystemControl, minor::ZERO_DATA) => "zero",
            (Major::FileSystemControl, minor::ZERO_RANGE) => "zero_range",
            (Major::FileSystemControl, minor::COPY_RANGE) => "copy",
            _ => "",
        };
        if name.is_empty() { write!(f, "{}", self.1) } else { f.write_str(name) }
    }
}

/// A status in a word: its name, an errno's text, or its number.
pub(super) struct Word(pub(super) Status);

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.name(), self.0.errno()) {
            (Some(name), _) => f.write_str(name),
            (None, Some(errno)) => std::io::Error::from_raw_os_error(errno).fmt(f),
            (None, None) => write!(f, "0x{:08X}", self.0.raw()),
        }
    }
}
