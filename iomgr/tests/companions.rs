//! What goes with a request's data: down and up, back to the operation, late, and when its code
//! panics.

#![cfg(not(loom))]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use overlapped_iomgr::{
    CancelSafeQueue, Companion, CompletionPort, Disposition, Done, Driver, FileHandle, FileObject,
    Irp, Late, Lower, Major, MajorSet, On, Operation, Part, Request, Setup, Stack, Status,
    downcast_companion, minor,
};
use support::*;

/// A text; counts how many of its kind are alive, and panics where it says.
struct Note {
    text: String,
    alive: Arc<AtomicUsize>,
}

impl Note {
    fn new(text: &str, alive: &Arc<AtomicUsize>) -> Box<Note> {
        alive.fetch_add(1, SeqCst);
        Box::new(Note { text: text.into(), alive: alive.clone() })
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, SeqCst);
        assert_ne!(self.text, "drop", "wanted");
    }
}

impl Companion for Note {
    fn copy(&self) -> Box<dyn Companion> {
        assert_ne!(self.text, "copy", "wanted");
        Note::new(&format!("copy of {}", self.text), &self.alive)
    }
    fn take_over(&mut self, late: Box<dyn Companion>) {
        let mut late = downcast_companion::<Note>(late).expect("of the same kind");
        assert_ne!(late.text, "take over", "wanted");
        self.text = std::mem::take(&mut late.text);
    }
}

/// Another type.
struct Other;

impl Companion for Other {
    fn copy(&self) -> Box<dyn Companion> {
        Box::new(Other)
    }
    fn take_over(&mut self, _: Box<dyn Companion>) {}
}

/// A receive, or a write, with a note.
struct Noted {
    buf: Vec<u8>,
    major: Major,
    minor: u8,
    note: Box<Note>,
    /// Its message's place in the stream.
    position: u64,
}

impl Operation for Noted {
    type Output = (Status, Vec<u8>, Option<String>);
    fn major(&self) -> Major {
        self.major
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.minor(self.minor).offset(self.position).companion(self.note);
        if matches!(self.major, Major::Read | Major::ReceiveFrom) {
            setup.data_in(self.buf);
        } else {
            setup.data_out(self.buf);
        }
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        let mut buf = done.take::<Vec<u8>>();
        buf.truncate(done.filled());
        (done.status(), buf, done.companion::<Note>().map(|mut n| std::mem::take(&mut n.text)))
    }
    fn refuse(self, status: Status) -> Self::Output {
        (status, self.buf, None)
    }
}

fn receive<'f>(
    file: &'f FileObject,
    len: usize,
    note: &str,
    alive: &Arc<AtomicUsize>,
) -> Request<'f, Noted> {
    receive_at(0, file, len, note, alive)
}

fn receive_at<'f>(
    position: u64,
    file: &'f FileObject,
    len: usize,
    note: &str,
    alive: &Arc<AtomicUsize>,
) -> Request<'f, Noted> {
    let (buf, note) = (vec![0; len], Note::new(note, alive));
    let (major, minor) = (Major::ReceiveFrom, minor::NONE);
    Request::new(file, Noted { buf, major, minor, note, position })
}

fn peek<'f>(file: &'f FileObject, len: usize, alive: &Arc<AtomicUsize>) -> Request<'f, Noted> {
    let (buf, note) = (vec![0; len], Note::new("peek", alive));
    Request::new(file, Noted { buf, major: Major::Read, minor: minor::PEEK, note, position: 0 })
}

/// A bottom whose receives wait until the test delivers a message.
#[derive(Default)]
struct Mail {
    waiting: CancelSafeQueue,
}

impl Mail {
    fn deliver(&self, text: &str) {
        let mut held = self.waiting.remove().expect("somebody waits");
        let n = held.copy_in(0, text.as_bytes());
        held.complete(Status::SUCCESS, n);
    }
}

struct MailDriver(Arc<Mail>);

impl Driver for MailDriver {
    fn name(&self) -> &str {
        "mail"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write, Major::ReceiveFrom, Major::SendTo, Major::Close])
    }
    fn dispatch(&self, mut irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        match irp.major() {
            Major::Close => irp.complete(Status::SUCCESS, 0),
            Major::Write | Major::SendTo => {
                if let Some(note) = irp.companion_mut::<Note>() {
                    note.text += " seen";
                }
                let n = irp.segments().map(<[u8]>::len).sum();
                irp.complete(Status::SUCCESS, n)
            }
            _ if irp.file().has_late() => irp.complete(Status::DATA_ABOVE, 0),
            _ => irp.park(&self.0.waiting),
        }
    }
    fn abandoned(&self, file: &FileObject, mut late: Late<'_>) {
        file.keep_late(&mut late, true);
    }
}

fn mail() -> (Arc<Mail>, FileHandle) {
    mail_below(vec![])
}

fn mail_below(filters: Vec<Filter>) -> (Arc<Mail>, FileHandle) {
    let mail = Arc::new(Mail::default());
    let filters = filters.into_iter().map(|f| Arc::new(f) as Arc<dyn Driver>);
    let stack = Stack::new(filters, Arc::new(MailDriver(mail.clone()))).unwrap();
    let file = open(&stack, FD);
    (mail, file)
}

/// Messages that come for receives which nobody looks at any more.
fn late(mail: &Mail, file: &FileObject, messages: &[(&str, &str)], alive: &Arc<AtomicUsize>) {
    let receives = messages.iter().zip(0..);
    let mut left: Vec<_> =
        receives.map(|((_, note), position)| receive_at(position, file, 9, note, alive)).collect();
    assert!(left.iter_mut().all(|receive| poll(receive).is_pending()));
    messages.iter().for_each(|(text, _)| mail.deliver(text));
}

#[test]
fn goes_down_and_comes_back() {
    let h = Harness::new();
    let alive = Arc::new(AtomicUsize::new(0));
    let filter = Filter::new("notes", |mut irp, lower| {
        assert!(irp.has_companion() && irp.companion::<Other>().is_none());
        irp.companion_mut::<Note>().expect("it is one").text += " down";
        lower.forward(irp, On::ALL)
    })
    .hooks(&[Major::ReceiveFrom, Major::Write, Major::SendTo])
    .completed(|mut irp| {
        irp.companion_mut::<Note>().expect("still there").text += " up";
        irp.proceed()
    });
    let (mail, file) = mail_below(vec![filter]);
    for major in [Major::Write, Major::SendTo] {
        let (buf, note) = (vec![1, 2, 3], Note::new("sent", &alive));
        let mut send =
            Request::new(&file, Noted { buf, major, minor: minor::NONE, note, position: 0 });
        let (status, _, text) = now(&mut send);
        assert_eq!((status, text.unwrap().as_str()), (Status::SUCCESS, "sent down seen up"));
    }
    let mut waits = receive(&file, 9, "asked", &alive);
    assert!(poll(&mut waits).is_pending());
    mail.deliver("text");
    let (status, buf, text) = now(&mut waits);
    assert_eq!(
        (status, &buf[..], text.unwrap().as_str()),
        (Status::SUCCESS, &b"text"[..], "asked down up")
    );
    drop(waits);
    // By a port, and with a packet that is dropped.
    let port = CompletionPort::new();
    for look in [true, false] {
        assert!(receive(&file, 9, "posted", &alive).post(&port, 1).is_ok());
        mail.deliver("text");
        h.turn();
        let packet = port.remove(Some(std::time::Duration::ZERO)).expect("it has come");
        if look {
            assert_eq!(packet.into_output::<Noted>().2.unwrap(), "posted down up");
        }
    }
    // Never issued, and cancelled.
    drop(receive(&file, 9, "inert", &alive));
    let mut cancelled = receive(&file, 9, "cancelled", &alive);
    assert!(poll(&mut cancelled).is_pending());
    drop(cancelled);
    h.turn();
    assert_eq!(alive.load(SeqCst), 0);
    drop(file);
    h.finish();
}

#[test]
fn a_request_with_a_companion_is_not_split() {
    let h = Harness::new();
    let alive = Arc::new(AtomicUsize::new(0));
    let filter = Filter::new("splits", |irp, _| {
        irp.split(&[Part { start: 0, len: 1, offset: 0 }, Part { start: 1, len: 1, offset: 1 }])
    })
    .hooks(&[Major::ReceiveFrom]);
    let (_mail, file) = mail_below(vec![filter]);
    let (status, _, text) = now(&mut receive(&file, 2, "whole", &alive));
    assert_eq!((status, text.unwrap().as_str()), (Status::NOT_SUPPORTED, "whole"));
    drop(file);
    h.finish();
}

/// whole for the next receive, cut as a message is cut, with what came along.
#[test]
fn late_messages_are_whole() {
    let h = Harness::new();
    let alive = Arc::new(AtomicUsize::new(0));
    let (mail, file) = mail();
    let messages = [("first", "one"), ("", "empty"), ("third", "three"), ("fourth", "four")];
    late(&mail, &file, &messages, &alive);
    let (status, buf, text) = now(&mut peek(&file, 2, &alive));
    assert_eq!((status, &buf[..]), (Status::BUFFER_OVERFLOW, &b"fi"[..]));
    assert_eq!(text.unwrap(), "copy of one");
    let (status, buf, text) = now(&mut receive(&file, 3, "asked", &alive));
    assert_eq!((status, &buf[..]), (Status::BUFFER_OVERFLOW, &b"fir"[..]));
    assert_eq!(text.unwrap(), "one");
    let (status, buf, text) = now(&mut receive(&file, 3, "asked", &alive));
    assert_eq!((status, buf.len(), text.unwrap().as_str()), (Status::SUCCESS, 0, "empty"));
    // A request without a companion has no use for one.
    assert_eq!(now(&mut read(&file, 9, 0)).unwrap().1, b"third");
    assert_eq!(now(&mut receive(&file, 9, "asked", &alive)).2.unwrap(), "four");
    assert!(!file.has_late());
    assert_eq!(alive.load(SeqCst), 0);
    // Left behind, they go with the file.
    late(&mail, &file, &[("left", "behind")], &alive);
    assert_eq!(alive.load(SeqCst), 1);
    drop(file);
    h.finish();
    assert_eq!(alive.load(SeqCst), 0);
}

#[test]
fn panics_in_its_code_end_nothing_else() {
    let h = Harness::new();
    let alive = Arc::new(AtomicUsize::new(0));
    let (mail, file) = mail();
    late(&mail, &file, &[("first", "copy")], &alive);
    let (status, buf, text) = now(&mut peek(&file, 9, &alive));
    assert_eq!(
        (status, &buf[..], text.unwrap().as_str()),
        (Status::SUCCESS, &b"first"[..], "peek")
    );
    assert_eq!(now(&mut receive(&file, 9, "asked", &alive)).1, b"first");
    late(&mail, &file, &[("second", "take over")], &alive);
    let (status, buf, text) = now(&mut receive(&file, 9, "own", &alive));
    assert_eq!(
        (status, &buf[..], text.unwrap().as_str()),
        (Status::SUCCESS, &b"second"[..], "own")
    );
    late(&mail, &file, &[("third", "drop")], &alive);
    assert_eq!(now(&mut read(&file, 9, 0)).unwrap().1, b"third");
    let mut dropped = receive(&file, 9, "drop", &alive);
    assert!(poll(&mut dropped).is_pending());
    drop(dropped);
    h.turn();
    assert_eq!(alive.load(SeqCst), 0);
    drop(file);
    h.finish();
}
