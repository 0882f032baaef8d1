//! Packets that might have carried what went over a socket, for `tcpdump` and Wireshark.
//!
//! The format is libpcap's, with nanoseconds and without link headers (`LINKTYPE_RAW`). A packet is made
//! when a request has come back. Sequence numbers count the bytes that have gone by on this layer, those
//! of requests without a record too: what was dropped, or not sampled, shows as a segment that is
//! missing.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::PoisonError;
use std::time::Duration;

use overlapped_iomgr::{Major, minor};

use super::record::{Connection, Record, receives, sends};
use super::sink::Start;

/// Most bytes of data in a packet: with the headers they fit the lengths in them.
const MOST: usize = 65_000;

/// Where the two sides' sequence numbers begin.
const OWN: u32 = 0x1000_0000;
const PEERS: u32 = 0x2000_0000;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// What has been written of a stream. The writer's alone; a lock for the compiler.
#[derive(Default)]
pub(super) struct Flow {
    has_begun: bool,
    /// Bytes, and what has an end has one more.
    sent: u64,
    received: u64,
    own_fin: bool,
    peer_fin: bool,
}

/// The beginning of a file.
pub(super) fn header() -> Vec<u8> {
    let mut out = Vec::new();
    // Nanoseconds; version 2.4; no time zone; the most bytes of a packet; raw IP.
    out.extend(0xA1B2_3C4D_u32.to_ne_bytes());
    out.extend([2u16, 4].map(u16::to_ne_bytes).as_flattened());
    out.extend([0u32, 0, 262_144, 101].map(u32::to_ne_bytes).as_flattened());
    out
}

/// One's complement sum.
fn sum(bytes: &[u8], mut sum: u32) -> u32 {
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum
}

/// Both ends of a packet, and the number of the protocol in it.
#[derive(Clone, Copy)]
struct Way {
    from: SocketAddr,
    to: SocketAddr,
    protocol: u8,
}

impl Way {
    fn back(self) -> Way {
        Way { from: self.to, to: self.from, ..self }
    }
}

/// A packet with a header of TCP's or UDP's, whose checksum is at `checksum`, and the first bytes of
/// `len` of data.
fn packet(
    out: &mut impl Write,
    at: Duration,
    way: Way,
    mut transport: Vec<u8>,
    checksum: usize,
    (data, len): (&[u8], usize),
) -> io::Result<()> {
    let length = transport.len() + len;
    let mut ip = Vec::new();
    let addresses = match (way.from.ip(), way.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            let total = (20 + length) as u16;
            ip.extend([0x45, 0]);
            ip.extend(total.to_be_bytes());
            // Not to be fragmented, so without an identification; 64 hops.
            ip.extend([0, 0, 0x40, 0, 64, way.protocol, 0, 0]);
            ip.extend(&addresses);
            let check = !(sum(&ip, 0) as u16);
            ip[10..12].copy_from_slice(&check.to_be_bytes());
            addresses
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            ip.extend([0x60, 0, 0, 0]);
            ip.extend((length as u16).to_be_bytes());
            ip.extend([way.protocol, 64]);
            ip.extend(&addresses);
            addresses
        }
        // A socket's both ends are of one kind.
        _ => return Ok(()),
    };
    // Of what is not here there is no sum; readers do not check it then.
    if data.len() == len {
        let pseudo = sum(&[0, way.protocol], sum(&(length as u16).to_be_bytes(), 0));
        let check = !(sum(data, sum(&transport, sum(&addresses, pseudo))) as u16);
        // 0 stands for none.
        let check = if check == 0 && way.protocol == 17 { 0xFFFF } else { check };
        transport[checksum..checksum + 2].copy_from_slice(&check.to_be_bytes());
    }
    let headers = ip.len() + transport.len();
    let (kept, whole) = ((headers + data.len()) as u32, (headers + len) as u32);
    let (seconds, nanos) = (at.as_secs() as u32, at.subsec_nanos());
    out.write_all([seconds, nanos, kept, whole].map(u32::to_ne_bytes).as_flattened())?;
    out.write_all(&ip)?;
    out.write_all(&transport)?;
    out.write_all(data)
}

fn segment(
    out: &mut impl Write,
    at: Duration,
    way: Way,
    (sequence, acknowledged): (u32, u32),
    flags: u8,
    data: (&[u8], usize),
) -> io::Result<()> {
    let mut tcp = Vec::new();
    tcp.extend(way.from.port().to_be_bytes());
    tcp.extend(way.to.port().to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend((if flags & ACK == 0 { 0 } else { acknowledged }).to_be_bytes());
    // Five words; the window; no checksum yet; nothing urgent.
    tcp.extend([5 << 4, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
    packet(out, at, way, tcp, 16, data)
}

fn datagram(out: &mut impl Write, at: Duration, way: Way, data: (&[u8], usize)) -> io::Result<()> {
    let mut udp = Vec::new();
    udp.extend(way.from.port().to_be_bytes());
    udp.extend(way.to.port().to_be_bytes());
    udp.extend(((8 + data.1) as u16).to_be_bytes());
    udp.extend([0, 0]);
    packet(out, at, way, udp, 6, data)
}

/// Parts of so many bytes each, of which the first bytes are there; one at least.
fn parts(data: &[u8], len: usize, each: usize) -> impl Iterator<Item = (&[u8], usize)> {
    (0..len.div_ceil(each).max(1)).map(move |i| {
        let (begin, end) = (i * each, (i * each + each).min(len));
        (&data[begin.min(data.len())..end.min(data.len())], end - begin)
    })
}

/// What a request was, as packets: none, one, or several.
pub(super) fn packets(out: &mut impl Write, record: &Record, start: &Start) -> io::Result<()> {
    let Some(connection) = &record.file.connection else { return Ok(()) };
    let at = start.wall(record.end);
    if connection.is_stream {
        stream(out, at, connection, record)
    } else {
        datagrams(out, at, record)
    }
}

fn datagrams(out: &mut impl Write, at: Duration, record: &Record) -> io::Result<()> {
    let connection = record.file.connection.as_ref().expect("the caller has looked");
    let looks = receives(record.major) && record.minor == minor::PEEK;
    let moves = receives(record.major) || sends(record.major);
    if !moves || looks || record.status.is_error() {
        return Ok(());
    }
    let Some((own, peer)) = connection.ends(record.address) else { return Ok(()) };
    let mut way = Way { from: own, to: peer, protocol: 17 };
    if receives(record.major) {
        way = way.back();
    }
    let each = if record.segment == 0 { MOST + 600 } else { usize::from(record.segment) };
    for part in parts(&record.data, record.transferred(), each) {
        datagram(out, at, way, part)?;
    }
    Ok(())
}

fn stream(
    out: &mut impl Write,
    at: Duration,
    connection: &Connection,
    record: &Record,
) -> io::Result<()> {
    let Some((own, peer)) = connection.ends(None) else { return Ok(()) };
    let (to, from) =
        (Way { from: own, to: peer, protocol: 6 }, Way { from: peer, to: own, protocol: 6 });
    let mut flow = connection.flow.lock().unwrap_or_else(PoisonError::into_inner);
    let flow = &mut *flow;
    let n = record.transferred();
    let is_reset = record.status.errno() == Some(libc::ECONNRESET);
    let ends_own = record.major == Major::Close
        || record.major == Major::Shutdown && record.arg as i32 != libc::SHUT_RD;
    let ends_peers = record.major == Major::Read
        && record.status.is_success()
        && n == 0
        // Without a limit, that is 0 for a pool buffer.
        && (record.len != Some(0) || record.minor == minor::POOLED);
    let moves = n > 0 && !(record.major == Major::Read && record.minor == minor::PEEK);
    let connects = record.major == Major::Connect && record.status.is_success();
    if !(moves || is_reset || ends_peers || connects || ends_own && record.status.is_success()) {
        return Ok(());
    }
    if !flow.has_begun {
        flow.has_begun = true;
        // Who connects speaks first.
        let (a, b, mine, theirs) =
            if connects { (to, from, OWN, PEERS) } else { (from, to, PEERS, OWN) };
        let at = if connects { at.saturating_sub(record.latency()) } else { at };
        segment(out, at, a, (mine, 0), SYN, (&[], 0))?;
        segment(out, at, b, (theirs, mine + 1), SYN | ACK, (&[], 0))?;
        segment(out, at, a, (mine + 1, theirs + 1), ACK, (&[], 0))?;
    }
    // The sequence number of a byte; it goes round.
    let mine = |position: u64| OWN.wrapping_add(1).wrapping_add(position as u32);
    let theirs = |position: u64| PEERS.wrapping_add(1).wrapping_add(position as u32);
    if moves {
        let mut position = record.position;
        for part in parts(&record.data, n, MOST) {
            let (way, numbers) = if record.major == Major::Write {
                (to, (mine(position), theirs(flow.received)))
            } else {
                (from, (theirs(position), mine(flow.sent)))
            };
            segment(out, at, way, numbers, PSH | ACK, part)?;
            position += part.1 as u64;
            let passed =
                if record.major == Major::Write { &mut flow.sent } else { &mut flow.received };
            *passed = position.max(*passed);
        }
    }
    if is_reset {
        return segment(
            out,
            at,
            from,
            (theirs(flow.received), mine(flow.sent)),
            RST | ACK,
            (&[], 0),
        );
    }
    if ends_peers && !flow.peer_fin {
        let numbers = (theirs(flow.received), mine(flow.sent));
        segment(out, at, from, numbers, FIN | ACK, (&[], 0))?;
        (flow.peer_fin, flow.received) = (true, flow.received + 1);
    }
    if ends_own && !flow.own_fin {
        let numbers = (mine(flow.sent), theirs(flow.received));
        segment(out, at, to, numbers, FIN | ACK, (&[], 0))?;
        (flow.own_fin, flow.sent) = (true, flow.sent + 1);
    }
    Ok(())
}
