//! The NBD protocol without I/O: what is said to clients, to good ones and to bad ones.

use std::sync::Arc;

use overlapped_examples::nbd::{
    Command, Errno, Export, Extent, HEADER_LEN, Handshake, Header, MAX_PAYLOAD, Session, Turn,
    Violation, fuzz_handshake, fuzz_requests,
};
use proptest::prelude::*;

const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const LIST: u32 = 3;
const STARTTLS: u32 = 5;
const INFO: u32 = 6;
const GO: u32 = 7;
const STRUCTURED: u32 = 8;
const LIST_CONTEXTS: u32 = 9;
const SET_CONTEXTS: u32 = 10;
const EXTENDED: u32 = 11;

const ACK: u32 = 1;
const UNSUPPORTED: u32 = (1 << 31) + 1;
const INVALID: u32 = (1 << 31) + 3;
const UNKNOWN: u32 = (1 << 31) + 6;
const TLS_REQUIRED: u32 = (1 << 31) + 5;
const TOO_BIG: u32 = (1 << 31) + 9;

// What a client says.

fn flags(flags: u32) -> Vec<u8> {
    flags.to_be_bytes().into()
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let len = (data.len() as u32).to_be_bytes();
    [b"IHAVEOPT", &number.to_be_bytes()[..], &len, data].concat()
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}

/// The data of "info" and "go".
fn wanted(name: &str, infos: &[u16]) -> Vec<u8> {
    let count = (infos.len() as u16).to_be_bytes();
    let infos = infos.iter().flat_map(|info| info.to_be_bytes());
    string(name).into_iter().chain(count).chain(infos).collect()
}

/// The data of the options of contexts.
fn queries(name: &str, queries: &[&str]) -> Vec<u8> {
    let count = (queries.len() as u32).to_be_bytes();
    let queries = queries.iter().flat_map(|query| string(query));
    string(name).into_iter().chain(count).chain(queries).collect()
}

// What it hears.

fn export(read_only: bool) -> Arc<Export> {
    Arc::new(Export { read_only, ..Export::example() })
}

#[derive(Debug)]
enum Over {
    Ready(Session),
    Aborted,
    Waits,
    Bad(Violation),
}

/// Tells a server everything, in pieces of that many bytes; yields what it says behind its greeting, what
/// comes of it, and how many bytes it has taken.
fn tell(read_only: bool, told: &[u8], piece: usize) -> (Vec<u8>, Over, usize) {
    tell_of(export(read_only), told, piece)
}

fn tell_of(export: Arc<Export>, told: &[u8], piece: usize) -> (Vec<u8>, Over, usize) {
    tell_to(Handshake::new(export), told, piece)
}

fn tell_to(mut handshake: Handshake, told: &[u8], piece: usize) -> (Vec<u8>, Over, usize) {
    let (mut said, mut taken, mut given) = (Vec::new(), 0, 0);
    let over = loop {
        match handshake.advance(&told[taken..given], &mut said) {
            Err(violation) => break Over::Bad(violation),
            Ok((n, turn)) => {
                taken += n;
                assert!(taken <= given);
                match turn {
                    Turn::More if given == told.len() => break Over::Waits,
                    Turn::More => given = told.len().min(given + piece),
                    Turn::Next | Turn::StartTls => {}
                    Turn::Ready(session) => break Over::Ready(session),
                    Turn::Aborted => break Over::Aborted,
                }
            }
        }
    };
    (said, over, taken)
}

/// Replies to options: option, kind, data.
fn replies(mut said: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let mut replies = Vec::new();
    while !said.is_empty() {
        let u32_at = |at: usize| u32::from_be_bytes(said[at..at + 4].try_into().unwrap());
        assert_eq!(said[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
        let (option, kind, len) = (u32_at(8), u32_at(12), u32_at(16) as usize);
        replies.push((option, kind, said[20..20 + len].to_vec()));
        said = &said[20 + len..];
    }
    replies
}

/// The kinds of the replies to one option after the client's flags.
fn kinds(number: u32, data: &[u8]) -> Vec<u32> {
    let told = [flags(3), option(STRUCTURED, b""), option(number, data)].concat();
    let (said, over, taken) = tell(false, &told, 1000);
    assert!(matches!(over, Over::Waits | Over::Ready(_)), "{over:?}");
    assert_eq!(taken, told.len());
    replies(&said)[1..].iter().map(|(_, kind, _)| *kind).collect()
}

fn session(told: &[Vec<u8>]) -> Session {
    match tell(false, &told.concat(), 1000).1 {
        Over::Ready(session) => session,
        other => panic!("{other:?}"),
    }
}

fn plain() -> Session {
    session(&[flags(3), option(GO, &wanted("", &[]))])
}

fn structured() -> Session {
    session(&[
        flags(3),
        option(STRUCTURED, b""),
        option(SET_CONTEXTS, &queries("", &["base:allocation"])),
        option(GO, &wanted("", &[])),
    ])
}

fn read_only() -> Session {
    let told = [flags(3), option(GO, &wanted("", &[]))].concat();
    match tell(true, &told, 1000).1 {
        Over::Ready(session) => session,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_greeting() {
    let mut said = Vec::new();
    Handshake::new(export(false)).greet(&mut said);
    assert_eq!(said, b"NBDMAGICIHAVEOPT\0\x03");
}

#[test]
fn an_old_client_names_its_export() {
    for (client, zeroes) in [(0, 124), (1, 124), (2, 0), (3, 0)] {
        let told = [flags(client), option(EXPORT_NAME, b"")].concat();
        let (said, over, taken) = tell(false, &told, 1);
        assert!(matches!(&over, Over::Ready(s) if !s.is_structured()), "{over:?}");
        assert_eq!((taken, said.len()), (told.len(), 10 + zeroes));
        assert_eq!(said[..8], (1u64 << 30).to_be_bytes());
        // Flags, flush, FUA, trim, write zeroes, multi-conn, cache, fast zero; not "read-only" and "DF".
        assert_eq!(said[8..10], 0b1101_0110_1101_u16.to_be_bytes());
        assert!(said[10..].iter().all(|&byte| byte == 0));
    }
    let told = [flags(3), option(EXPORT_NAME, b"other")].concat();
    assert!(matches!(tell(false, &told, 9).1, Over::Bad(Violation::NoExport)));
    let told = [flags(3), option(EXPORT_NAME, &[b'x'; 40_000])].concat();
    assert!(matches!(tell(false, &told, 9).1, Over::Bad(Violation::NoExport)));
}

#[test]
fn what_is_no_client_is_told_so() {
    let bad = |told: &[Vec<u8>]| match tell(false, &told.concat(), 7).1 {
        Over::Bad(violation) => violation,
        other => panic!("{other:?}"),
    };
    assert_eq!(bad(&[flags(4)]), Violation::Flags(4));
    let http = b"GET / HTTP/1.1\r\n";
    assert!(matches!(bad(&[http.to_vec()]), Violation::Flags(_)));
    assert!(matches!(bad(&[flags(3), http.to_vec()]), Violation::Magic(_)));
    // Without the fixed newstyle there are no answers.
    assert_eq!(bad(&[flags(0), option(LIST, b"")]), Violation::NotFixed(LIST));
}

#[test]
fn what_the_stack_cannot_is_not_offered() {
    let export = Arc::new(Export { fua: false, trim: false, ..Export::example() });
    let (said, ..) = tell_of(export, &[flags(3), option(EXPORT_NAME, b"")].concat(), 1);
    // Flags, flush, write zeroes, multi-conn, cache, fast zero.
    assert_eq!(said[8..10], 0b1101_0100_0101_u16.to_be_bytes());
}

#[test]
fn go_tells_what_was_asked_for() {
    let told = [flags(3), option(STRUCTURED, b""), option(GO, &wanted("", &[3, 2, 1, 3, 77]))];
    let (said, over, _) = tell(true, &told.concat(), 3);
    assert!(matches!(&over, Over::Ready(s) if s.is_structured()), "{over:?}");
    let replies = replies(&said);
    assert_eq!(replies[0], (STRUCTURED, ACK, vec![]));
    // Flags, read-only, flush, FUA, DF, multi-conn, cache.
    let flags = 0b101_1000_1111_u16.to_be_bytes();
    let of = |parts: &[&[u8]]| (GO, 3, parts.concat());
    assert_eq!(replies[1], of(&[&[0, 0], &(1u64 << 30).to_be_bytes(), &flags]));
    assert_eq!(replies[2], of(&[&[0, 1]]));
    assert_eq!(replies[3], of(&[&[0, 2], b"example"]));
    let (preferred, most) = (4096u32.to_be_bytes(), MAX_PAYLOAD.to_be_bytes());
    assert_eq!(replies[4], of(&[&[0, 3], &[0, 0, 0, 1], &preferred, &most]));
    assert_eq!(replies[5], (GO, ACK, vec![]));
    assert_eq!(replies.len(), 6);
}

#[test]
fn options_and_their_answers() {
    assert_eq!(kinds(INFO, &wanted("", &[])), [3, ACK]);
    assert_eq!(kinds(GO, &wanted("", &[])), [3, ACK]);
    assert_eq!(kinds(LIST, b""), [2, ACK]);
    assert_eq!(kinds(STRUCTURED, b""), [ACK]);
    assert_eq!(kinds(LIST, b"x"), [INVALID]);
    assert_eq!(kinds(STRUCTURED, b"x"), [INVALID]);
    for unknown in [4, STARTTLS, EXTENDED, 0, u32::MAX] {
        assert_eq!(kinds(unknown, b"whatever"), [UNSUPPORTED]);
    }
    for number in [INFO, GO] {
        assert_eq!(kinds(number, &wanted("other", &[])), [UNKNOWN]);
        assert_eq!(kinds(number, b""), [INVALID]);
        assert_eq!(kinds(number, &[0xff; 8]), [INVALID]);
        let mut long = wanted("", &[3]);
        long.push(0);
        assert_eq!(kinds(number, &long), [INVALID]);
        assert_eq!(kinds(number, &long[..long.len() - 2]), [INVALID]);
    }
    // Skipped, however long, and what comes behind it is understood.
    let told = [flags(3), option(77, &[0; 100_000]), option(LIST, b"")].concat();
    let (said, _, taken) = tell(false, &told, 4096);
    assert_eq!(taken, told.len());
    assert_eq!(replies(&said).iter().map(|r| r.1).collect::<Vec<_>>(), [TOO_BIG, 2, ACK]);
    let told = [flags(3), option(ABORT, b""), option(LIST, b"")].concat();
    let (said, over, taken) = tell(false, &told, 4096);
    assert!(matches!(over, Over::Aborted));
    assert_eq!((taken, replies(&said)), (20, vec![(ABORT, ACK, vec![])]));
}

/// The answers of a server that has TLS, and what comes of it, to options in pieces of a byte.
fn over_tls(options: &[Vec<u8>]) -> (Vec<(u32, u32)>, Over) {
    let told = [flags(3), options.concat()].concat();
    let (said, over, _) = tell_to(Handshake::over_tls(export(false)), &told, 1);
    (replies(&said).iter().map(|(option, kind, _)| (*option, *kind)).collect(), over)
}

#[test]
fn where_tls_is_a_must() {
    let go = || option(GO, &wanted("", &[]));
    // Nothing else comes before it.
    for number in [LIST, INFO, GO, STRUCTURED, LIST_CONTEXTS, SET_CONTEXTS, EXTENDED, 0] {
        let (said, over) = over_tls(&[option(number, b"whatever")]);
        assert_eq!(said, [(number, TLS_REQUIRED)]);
        assert!(matches!(over, Over::Waits), "{over:?}");
    }
    assert!(matches!(over_tls(&[option(ABORT, b"")]).1, Over::Aborted));
    assert!(matches!(over_tls(&[option(EXPORT_NAME, b"")]).1, Over::Bad(Violation::NoTls)));
    // It begins once, and all is as ever behind it.
    let (said, over) = over_tls(&[
        option(STARTTLS, b"x"),
        option(STARTTLS, b""),
        option(STARTTLS, b""),
        option(STRUCTURED, b""),
        go(),
    ]);
    let begun = [(STARTTLS, INVALID), (STARTTLS, ACK), (STARTTLS, INVALID), (STRUCTURED, ACK)];
    assert_eq!(said, [&begun[..], &[(GO, 3), (GO, ACK)]].concat());
    assert!(matches!(&over, Over::Ready(session) if session.is_structured()), "{over:?}");
    let told = [flags(3), option(STARTTLS, b""), option(EXPORT_NAME, b"")].concat();
    let (_, over, _) = tell_to(Handshake::over_tls(export(false)), &told, 1);
    assert!(matches!(over, Over::Ready(_)), "{over:?}");
}

#[test]
fn what_comes_behind_starttls_in_the_clear_ends_it() {
    let told = [flags(3), option(STARTTLS, b""), option(LIST, b"")].concat();
    let (said, over, _) = tell_to(Handshake::over_tls(export(false)), &told, 1000);
    assert!(matches!(over, Over::Bad(Violation::InTheClear)), "{over:?}");
    assert!(said.is_empty());
}

#[test]
fn metadata_contexts() {
    let allocation = "base:allocation";
    for (number, asked, found) in [
        (LIST_CONTEXTS, &[][..], true),
        (LIST_CONTEXTS, &["base:"], true),
        (LIST_CONTEXTS, &[allocation], true),
        (LIST_CONTEXTS, &["qemu:", "x", "base:nothing"], false),
        (SET_CONTEXTS, &[allocation, allocation, "qemu:dirty-bitmap:x"], true),
        (SET_CONTEXTS, &["base:"], false),
        (SET_CONTEXTS, &[], false),
    ] {
        let kinds = kinds(number, &queries("", asked));
        assert_eq!(kinds, if found { &[4, ACK][..] } else { &[ACK] }, "{number} {asked:?}");
    }
    assert_eq!(kinds(SET_CONTEXTS, &queries("other", &[allocation])), [UNKNOWN]);
    assert_eq!(kinds(SET_CONTEXTS, &[0; 7]), [INVALID]);
    assert_eq!(kinds(SET_CONTEXTS, &queries("", &["x"; 65])), [INVALID]);

    let set = |queries_: &[&str]| option(SET_CONTEXTS, &queries("", queries_));
    let go = || option(GO, &wanted("", &[]));
    let on = || option(STRUCTURED, b"");
    assert!(session(&[flags(3), on(), set(&[allocation]), go()]).has_block_status());
    assert!(!session(&[flags(3), on(), go()]).has_block_status());
    // The last choice counts.
    assert!(!session(&[flags(3), on(), set(&[allocation]), set(&[]), go()]).has_block_status());
    // Structured replies come first.
    let told = [flags(3), set(&[allocation])].concat();
    assert_eq!(replies(&tell(false, &told, 99).0)[0].1, INVALID);
    assert!(!session(&[flags(3), set(&[allocation]), go()]).has_block_status());
}

fn header(command: u16, flags: u16, offset: u64, len: u32) -> Header {
    Header { flags, command, cookie: 7, offset, len }
}

fn refused(session: &Session, header: Header) -> Errno {
    session.command(&header).expect_err("it is refused").errno
}

#[test]
fn requests_that_are_refused() {
    let (plain, structured, read_only) = (plain(), structured(), read_only());
    let size = plain.export().size;
    for number in 8..40 {
        assert_eq!(refused(&structured, header(number, 0, 0, 1)), Errno::INVAL);
    }
    // Past the end: what would have to grow has no space.
    for (number, errno) in [
        (0, Errno::INVAL),
        (1, Errno::NOSPC),
        (4, Errno::INVAL),
        (5, Errno::INVAL),
        (6, Errno::NOSPC),
        (7, Errno::INVAL),
    ] {
        assert!(structured.command(&header(number, 0, size - 1, 1)).is_ok(), "{number}");
        for (offset, len) in [(size, 1), (size - 1, 2), (u64::MAX, 1), (u64::MAX - 1, u32::MAX)] {
            assert_eq!(refused(&structured, header(number, 0, offset, len.min(1 << 25))), errno);
        }
    }
    assert!(plain.command(&header(0, 0, 0, MAX_PAYLOAD)).is_ok());
    for number in [0, 1] {
        assert_eq!(refused(&plain, header(number, 0, 0, MAX_PAYLOAD + 1)), Errno::INVAL);
    }
    // What carries nothing may be as long as the export.
    assert!(plain.command(&header(6, 0, 0, size as u32)).is_ok());
    for number in [1, 4, 6] {
        assert_eq!(refused(&read_only, header(number, 0, 0, 1)), Errno::PERM);
    }
    for number in [0, 3, 5] {
        let len = u32::from(number != 3);
        assert!(read_only.command(&header(number, 0, 0, len)).is_ok());
    }
    // Flags that a command does not have.
    for (number, flags) in
        [(0, 2), (1, 4), (1, 32), (3, 8), (4, 2), (5, 16), (6, 4), (7, 2), (0, 1 << 15)]
    {
        let len = u32::from(number != 3);
        assert_eq!(refused(&structured, header(number, flags, 0, len)), Errno::INVAL);
        assert!(structured.command(&header(number, 1, 0, len)).is_ok(), "FUA is no error");
    }
    assert!(structured.command(&header(0, 4, 0, 1)).is_ok());
    assert_eq!(refused(&plain, header(0, 4, 0, 1)), Errno::INVAL, "DF without structured replies");
    assert_eq!(refused(&plain, header(7, 0, 0, 1)), Errno::INVAL, "no context");
    assert_eq!(refused(&structured, header(7, 0, 0, 0)), Errno::INVAL, "of nothing");
    assert_eq!(refused(&plain, header(3, 0, 0, 1)), Errno::INVAL, "a flush of something");
}

#[test]
fn requests_that_are_done() {
    let session = structured();
    let of = |number, flags| session.command(&header(number, flags, 5, 9)).unwrap();
    let (offset, len) = (5, 9);
    assert_eq!(of(0, 4), Command::Read { offset, len });
    assert_eq!(of(1, 1), Command::Write { offset, len, fua: true });
    assert_eq!(of(2, 0xffff), Command::Disconnect);
    assert_eq!(session.command(&header(3, 0, 0, 0)).unwrap(), Command::Flush);
    assert_eq!(of(4, 0), Command::Trim { offset, len, fua: false });
    assert_eq!(of(5, 0), Command::Cache { offset, len });
    let zeroes = |fua, no_hole, fast| Command::WriteZeroes { offset, len, fua, no_hole, fast };
    assert_eq!(of(6, 1), zeroes(true, false, false));
    assert_eq!(of(6, 2), zeroes(false, true, false));
    assert_eq!(of(6, 16), zeroes(false, false, true));
    assert_eq!(of(7, 8), Command::BlockStatus { offset, len, one: true });
    assert_eq!(header(1, 0, 0, 9).payload(), 9);
    assert_eq!(header(0, 0, 0, 9).payload(), 0);
}

#[test]
fn replies_simple_and_structured() {
    let (plain, structured) = (plain(), structured());
    let cookie: u64 = 0x0102_0304_0506_0708;
    let bytes = cookie.to_be_bytes();
    let simple =
        |errno: u32| [&[0x67, 0x44, 0x66, 0x98], &errno.to_be_bytes()[..], &bytes].concat();
    let chunk = |kind: u16, data: &[u8], len: u32| {
        let head = [0x66, 0x8e, 0x33, 0xef, 0, 1];
        [&head, &kind.to_be_bytes()[..], &bytes, &len.to_be_bytes(), data].concat()
    };
    for session in [&plain, &structured] {
        assert_eq!(session.done(cookie), simple(0));
    }
    assert_eq!(plain.failed(cookie, Errno::IO, "why"), simple(5));
    assert_eq!(plain.data(cookie, 3, 9), simple(0));
    let error = [0, 0, 0, 28, 0, 3, b'w', b'h', b'y'];
    assert_eq!(structured.failed(cookie, Errno::NOSPC, "why"), chunk(1 << 15 | 1, &error, 9));
    let long = structured.failed(cookie, Errno::IO, &"é".repeat(100_000));
    assert_eq!(long.len(), 20 + 6 + 4096);
    // The data itself comes behind it.
    assert_eq!(structured.data(cookie, 3, 9), chunk(1, &3u64.to_be_bytes(), 17));
    assert_eq!(structured.data(cookie, 3, 0), chunk(0, b"", 0));
    let extents = [Extent::data(5), Extent::hole(6)];
    let data = [0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 3];
    assert_eq!(structured.extents(cookie, &extents), chunk(5, &data, 20));
}

/// An option, good or bad.
fn any_option() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![4 => Just(""), 1 => Just("other")];
    let query = prop_oneof![Just("base:"), Just("base:allocation"), Just("qemu:"), Just("")];
    let info = (name.clone(), prop::collection::vec(0..6u16, 0..6));
    let contexts = (name, prop::collection::vec(query, 0..5));
    prop_oneof![
        Just(option(STRUCTURED, b"")),
        Just(option(LIST, b"")),
        (prop_oneof![Just(INFO), Just(GO)], info).prop_map(|(n, (x, i))| option(n, &wanted(x, &i))),
        (prop_oneof![Just(LIST_CONTEXTS), Just(SET_CONTEXTS)], contexts)
            .prop_map(|(n, (x, q))| option(n, &queries(x, &q))),
        (0..13u32, prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(n, data)| option(n, &data)),
        (3..13u32).prop_map(|n| option(n, &[1; 33_000])),
    ]
}

fn any_header() -> impl Strategy<Value = Header> {
    let offset = prop_oneof![0..1u64 << 31, any::<u64>()];
    let len = prop_oneof![0..64u32, any::<u32>()];
    (0..10u16, prop_oneof![4 => 0..64u16, 1 => any::<u16>()], any::<u64>(), offset, len).prop_map(
        |(command, flags, cookie, offset, len)| Header { flags, command, cookie, offset, len },
    )
}

fn encoded(header: &Header) -> Vec<u8> {
    let mut bytes = vec![0x25, 0x60, 0x95, 0x13];
    bytes.extend(header.flags.to_be_bytes());
    bytes.extend(header.command.to_be_bytes());
    bytes.extend(header.cookie.to_be_bytes());
    bytes.extend(header.offset.to_be_bytes());
    bytes.extend(header.len.to_be_bytes());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn pieces_make_no_difference(
        options in prop::collection::vec(any_option(), 0..6),
        client in prop_oneof![4 => Just(3), 1 => 0..4u32],
        piece in 1..50usize,
    ) {
        let told = [flags(client)].into_iter().chain(options).collect::<Vec<_>>().concat();
        let (said, over, taken) = tell(false, &told, usize::MAX >> 1);
        let in_pieces = tell(false, &told, piece);
        prop_assert_eq!((said, taken), (in_pieces.0, in_pieces.2));
        prop_assert_eq!(format!("{over:?}"), format!("{:?}", in_pieces.1));
    }

    #[test]
    fn any_bytes_for_a_handshake(
        mut bytes in prop::collection::vec(any_option(), 0..4).prop_map(|o| o.concat()),
        change in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        noise in prop::collection::vec(any::<u8>(), 0..64),
        begin in any::<bool>(),
    ) {
        for (at, to) in change {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = to;
            }
        }
        let begin = if begin { vec![9, 0, 0, 0, 3] } else { vec![] };
        fuzz_handshake(&[begin, bytes, noise].concat());
    }

    #[test]
    fn any_bytes_for_requests(
        headers in prop::collection::vec(any_header(), 0..20),
        noise in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes: Vec<u8> = headers.iter().flat_map(encoded).collect();
        bytes.extend(noise);
        fuzz_requests(&bytes);
    }

    #[test]
    fn a_header_is_read_as_it_was_written(header in any_header(), wrong in 0..4usize) {
        let mut bytes: [u8; HEADER_LEN] = encoded(&header).try_into().unwrap();
        prop_assert_eq!(Header::parse(&bytes), Ok(header));
        bytes[wrong] ^= 1;
        prop_assert!(matches!(Header::parse(&bytes), Err(Violation::Magic(_))));
    }
}
