//! One client: negotiation, and then requests, many at once.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use overlapped::task::{CancellationToken, JoinSet};
use overlapped::time::timeout;
use overlapped_examples::nbd::{Command, Errno, Handshake, Session, Turn};

use super::budget::{Budget, Share};
use super::disk::Disk;
use super::incoming::{Incoming, invalid};
use super::outgoing::{Outgoing, Reply};
use super::socket::Stream;
use super::tls::Tls;

/// How long negotiation may take: a client that says nothing is not waited for.
const NEGOTIATION: Duration = Duration::from_secs(30);

/// How long requests may go on when their client has ended: then they are cancelled.
const REST: Duration = Duration::from_secs(30);

/// Serves a client until it is gone, or the end begins.
///
/// # Errors
/// Those of the connection, and what a client must not do.
pub async fn run(
    stream: Stream,
    disk: Arc<Disk>,
    tls: Option<Tls>,
    ending: &CancellationToken,
) -> io::Result<()> {
    let stream = Arc::new(stream);
    let mut incoming = Incoming::new(stream.clone());
    let negotiation = timeout(NEGOTIATION, negotiate(&stream, &mut incoming, &disk, tls));
    let session = match ending.run_until_cancelled(negotiation).await {
        None => return Ok(()),
        Some(negotiated) => match negotiated.map_err(io::Error::from)?? {
            Some(session) => session,
            None => return Ok(()),
        },
    };
    let outgoing = Outgoing::new(stream);
    let mut connection = Connection {
        shared: Arc::new(Shared { session, disk, outgoing }),
        budget: Budget::default(),
        tasks: JoinSet::new(),
    };
    let received = connection.receive(&mut incoming, ending).await;
    // What has been asked is done, and answered if anybody listens; but not for ever.
    let rest = async { while connection.tasks.join_next().await.is_some() {} };
    if timeout(REST, rest).await.is_err() {
        connection.tasks.shutdown().await;
    }
    received
}

/// Negotiates. `None`: the client wants no more.
async fn negotiate(
    stream: &Stream,
    incoming: &mut Incoming,
    disk: &Disk,
    tls: Option<Tls>,
) -> io::Result<Option<Session>> {
    let export = disk.export().clone();
    let mut handshake = match tls {
        Some(_) => Handshake::over_tls(export),
        None => Handshake::new(export),
    };
    let mut said = Vec::new();
    handshake.greet(&mut said);
    loop {
        let turn = match handshake.advance(incoming.bytes(), &mut said) {
            Ok((n, turn)) => {
                incoming.consume(n);
                Ok(turn)
            }
            Err(violation) => Err(invalid(violation)),
        };
        if !matches!(turn, Ok(Turn::Next)) && !said.is_empty() {
            let sent = stream.write_all(vec![std::mem::take(&mut said)]).await;
            // A client that wants no more need not wait to hear that this is fine.
            if !matches!(turn, Ok(Turn::Aborted)) {
                sent?;
            }
        }
        match turn? {
            Turn::Next => {}
            Turn::StartTls => {
                let tls = tls.as_ref().expect("asked for where there is one");
                tls.begin(stream).await?;
            }
            Turn::Ready(session) => return Ok(Some(session)),
            Turn::Aborted => return Ok(None),
            Turn::More if incoming.more().await? => {}
            Turn::More => return Ok(None),
        }
    }
}

struct Connection {
    shared: Arc<Shared>,
    budget: Budget,
    /// Of requests under way.
    tasks: JoinSet<()>,
}

/// What a request's task has of its connection.
struct Shared {
    session: Session,
    disk: Arc<Disk>,
    outgoing: Outgoing,
}

impl Connection {
    /// Receives requests, and begins each, until the client ends it or the end begins.
    async fn receive(
        &mut self,
        incoming: &mut Incoming,
        ending: &CancellationToken,
    ) -> io::Result<()> {
        while let Some(more) = ending.run_until_cancelled(self.receive_one(incoming)).await {
            if !more? {
                break;
            }
            // Those that are done need not be kept.
            while self.tasks.try_join_next().is_some() {}
        }
        Ok(())
    }

    /// Receives a request and begins it; `false`: there are no more.
    async fn receive_one(&mut self, incoming: &mut Incoming) -> io::Result<bool> {
        let Some(header) = incoming.header().await? else { return Ok(false) };
        let payload = header.payload() as usize;
        let command = match self.shared.session.command(&header) {
            Ok(Command::Disconnect) => return Ok(false),
            Ok(command) => command,
            Err(refusal) => {
                let share = self.budget.take(0).await;
                incoming.skip(payload).await?;
                let shared = self.shared.clone();
                let head = shared.session.failed(header.cookie, refusal.errno, refusal.why);
                let reply = Reply { head, data: Vec::new(), share };
                // As a task: one that sends is not to be dropped, for it may be sending for others.
                self.tasks.spawn(async move { shared.outgoing.send(reply).await });
                return Ok(true);
            }
        };
        let bytes = match command {
            Command::Read { len, .. } | Command::Write { len, .. } => len as usize,
            _ => 0,
        };
        let share = self.budget.take(bytes).await;
        let payload = incoming.payload(payload).await?;
        self.tasks.spawn(self.shared.clone().serve(header.cookie, command, payload, share));
        Ok(true)
    }
}

impl Shared {
    /// Does a request and answers it.
    async fn serve(self: Arc<Self>, cookie: u64, command: Command, payload: Vec<u8>, share: Share) {
        let reply = match self.perform(cookie, command, payload).await {
            Ok((head, data)) => Reply { head, data, share },
            Err(error) => {
                let head = self.session.failed(cookie, Errno::of(&error), &error.to_string());
                Reply { head, data: Vec::new(), share }
            }
        };
        self.outgoing.send(reply).await;
    }

    /// Does a request; yields its reply, and the data behind it.
    async fn perform(
        &self,
        cookie: u64,
        command: Command,
        payload: Vec<u8>,
    ) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let disk = &self.disk;
        let fua = match command {
            Command::Read { offset, len } => {
                let data = disk.read(offset, len).await?;
                return Ok((self.session.data(cookie, offset, len), data));
            }
            Command::BlockStatus { offset, len, one } => {
                let extents = disk.extents(offset, len, one).await?;
                return Ok((self.session.extents(cookie, &extents), Vec::new()));
            }
            Command::Write { offset, fua: false, .. } => {
                disk.write(offset, payload).await?;
                false
            }
            Command::Write { offset, fua: true, .. } => {
                disk.write_through(offset, payload).await?;
                false
            }
            Command::Trim { offset, len, fua } => {
                disk.trim(offset, len).await?;
                fua
            }
            Command::WriteZeroes { offset, len, fua, no_hole, fast } => {
                disk.write_zeroes(offset, len, (no_hole, fast)).await?;
                fua
            }
            Command::Cache { offset, len } => {
                disk.cache(offset, len).await?;
                false
            }
            Command::Flush => true,
            // It has no reply, and never comes here.
            Command::Disconnect => false,
        };
        if fua {
            // Of everything, and so of what has just been written.
            disk.flush().await?;
        }
        Ok((self.session.done(cookie), Vec::new()))
    }
}
