//! One connection's TLS, without any I/O: bytes go in, bytes come out.
//!
//! `rustls` decrypts in the input's buffer and encrypts into the output's. **Invariant:** what is in
//! the output, and in `unsent` before it, goes to the peer in this order; whoever takes some of it sets
//! `sending` and brings back what was not sent.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use overlapped_iomgr::Status;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, ReadEarlyData, UnbufferedStatus,
};
use rustls::{ClientConfig, CommonState, Error, ProtocolVersion, ServerConfig};

use super::buffers::{Input, Output};
use super::error;

/// Which side of a connection this is.
#[derive(Clone)]
pub(super) enum Role {
    Server(Arc<ServerConfig>),
    Client(Arc<ClientConfig>, ServerName<'static>),
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What both sides have.
trait Endpoint {
    type Data;

    /// Whether there is something to be sent that is not in the output.
    fn has_more(&self) -> bool;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// The next record of data that came ahead of the handshake's end (servers only, and only if their
    /// configuration allows it).
    fn early(early: &mut ReadEarlyData<'_, '_, Self::Data>, each: &mut dyn FnMut(&[u8])) {
        let _ = (early, each);
    }
}

impl Endpoint for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn has_more(&self) -> bool {
        self.wants_write()
    }

    fn process<'c, 'i>(
        &'c mut self,
        input: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(input)
    }
}

impl Endpoint for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn has_more(&self) -> bool {
        self.wants_write()
    }

    fn process<'c, 'i>(
        &'c mut self,
        input: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(input)
    }

    fn early(early: &mut ReadEarlyData<'_, '_, ServerConnectionData>, each: &mut dyn FnMut(&[u8])) {
        while let Some(Ok(record)) = early.next_record() {
            each(record.payload);
        }
    }
}

/// What is to be done when the connection can be written to.
#[derive(Clone, Copy)]
enum Task<'a> {
    Nothing,
    Encrypt(&'a [u8]),
    Close,
    Rekey,
}

/// What comes of a [`Session::read`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// So many bytes.
    Data(usize),
    /// The peer has ended its side.
    End,
    /// Nothing, and nothing more comes.
    Failed(Status),
    /// Nothing before more has been received.
    Nothing,
}

/// See the module's header.
#[derive(Default)]
pub(super) struct Session {
    side: Option<Side>,
    input: Input,
    /// Decrypted, and not asked for yet; from `plain_at` on.
    plain: Vec<u8>,
    plain_at: usize,
    output: Output,
    /// What somebody took to send, and did not: from the first number to the second.
    unsent: Option<(Vec<u8>, usize, usize)>,
    /// Somebody has taken output to send.
    pub sending: bool,
    /// Data may be written. Stays.
    pub established: bool,
    /// TLS has failed.
    pub failed: Option<Status>,
    /// What is below cannot be written to any more.
    pub broken: Option<Status>,
    /// The end of this side has been put into the output.
    pub closing: bool,
    peer_closed: bool,
    /// The stream below has ended.
    below_ended: bool,
    /// This side does not want to read any more.
    pub read_shut: bool,
    /// The stream below may end without close_notify.
    pub truncation: bool,
    /// Counts what has been received.
    pub fed: u64,
    /// Plaintext bytes that have been read.
    pub position: u64,
    /// The handshake must be finished by then.
    pub deadline: Option<Instant>,
    /// Memory for the pieces of vectored writes.
    pub gathered: Vec<u8>,
    /// Who waits for anything here to change.
    pub watchers: Vec<Waker>,
}

impl Session {
    /// Begins. Does nothing if it has.
    pub(super) fn start(&mut self, role: &Role) {
        if self.side.is_some() || self.failed.is_some() {
            return;
        }
        let side = match role {
            Role::Server(config) => {
                UnbufferedServerConnection::new(config.clone()).map(Side::Server)
            }
            Role::Client(config, name) => {
                UnbufferedClientConnection::new(config.clone(), name.clone()).map(Side::Client)
            }
        };
        match side {
            Ok(side) => self.side = Some(side),
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &Error) {
        tracing::debug!(%error, "TLS failed");
        self.fail_with(error::status(error));
    }

    pub(super) fn fail_with(&mut self, status: Status) {
        self.failed.get_or_insert(status);
    }

    /// What was negotiated, once that has begun.
    pub(super) fn common(&self) -> Option<&CommonState> {
        Some(match self.side.as_ref()? {
            Side::Client(client) => client,
            Side::Server(server) => server,
        })
    }

    /// Whether the handshake is not finished: each side has proved who it is when it is.
    pub(super) fn is_handshaking(&self) -> bool {
        self.common().is_none_or(CommonState::is_handshaking)
    }

    /// Goes on as far as possible without more input. Stops when `plain` says so: it gets what is
    /// decrypted.
    /// Whether the task is done.
    fn drive(
        &mut self,
        plain: &mut dyn FnMut(&[u8], &mut Vec<u8>) -> bool,
        task: Task<'_>,
    ) -> bool {
        if self.failed.is_some() {
            return false;
        }
        let mut parts = Parts {
            input: &mut self.input,
            output: &mut self.output,
            kept: &mut self.plain,
            established: &mut self.established,
            peer_closed: &mut self.peer_closed,
        };
        let result = match &mut self.side {
            Some(Side::Client(client)) => parts.drive(client, plain, task),
            Some(Side::Server(server)) => parts.drive(server, plain, task),
            None => Ok(false),
        };
        result.unwrap_or_else(|error| {
            self.fail(&error);
            false
        })
    }

    /// Goes on as far as possible; data is kept.
    pub(super) fn advance(&mut self) {
        self.drive(&mut keep, Task::Nothing);
    }

    /// Decrypts up to `want` bytes. `sink` takes all that it is given, in order.
    pub(super) fn read(&mut self, want: usize, sink: &mut dyn FnMut(&[u8])) -> Got {
        let kept = &self.plain[self.plain_at..];
        let mut got = kept.len().min(want);
        sink(&kept[..got]);
        self.plain_at += got;
        if self.plain_at == self.plain.len() {
            self.plain.clear();
            self.plain_at = 0;
            if got < want {
                let mut take = |bytes: &[u8], kept: &mut Vec<u8>| {
                    let n = bytes.len().min(want - got);
                    sink(&bytes[..n]);
                    got += n;
                    kept.extend_from_slice(&bytes[n..]);
                    got < want
                };
                self.drive(&mut take, Task::Nothing);
            }
        }
        self.position += got as u64;
        self.got(got)
    }

    /// Shows up to `want` bytes, which stay.
    pub(super) fn peek(&mut self, want: usize, sink: &mut dyn FnMut(&[u8])) -> Got {
        if self.plain.is_empty() {
            let mut take = |bytes: &[u8], kept: &mut Vec<u8>| {
                kept.extend_from_slice(bytes);
                kept.is_empty()
            };
            self.drive(&mut take, Task::Nothing);
        }
        let kept = &self.plain[self.plain_at..];
        let n = kept.len().min(want);
        sink(&kept[..n]);
        self.got(n)
    }

    fn got(&self, n: usize) -> Got {
        if n > 0 {
            Got::Data(n)
        } else if self.peer_closed {
            Got::End
        } else if let Some(status) = self.failed {
            Got::Failed(status)
        } else if self.read_shut {
            Got::End
        } else if self.below_ended {
            if self.truncation && !self.is_handshaking() {
                Got::End
            } else {
                Got::Failed(Status::TLS_TRUNCATED)
            }
        } else {
            Got::Nothing
        }
    }

    /// Whether a read would get something at once.
    pub(super) fn is_readable(&mut self) -> bool {
        self.peek(1, &mut |_| ()) != Got::Nothing
    }

    /// Encrypts data into the output. `false`: the session has failed, or is closed.
    pub(super) fn encrypt(&mut self, data: &[u8]) -> bool {
        self.drive(&mut keep, Task::Encrypt(data))
    }

    /// Puts the end of this side into the output, if there is anybody to tell.
    pub(super) fn close(&mut self) {
        if self.established && !self.closing && self.failed.is_none() {
            self.drive(&mut keep, Task::Close);
            self.closing = true;
        }
    }

    /// Has this side's keys replaced, and asks the peer to do the same.
    ///
    /// # Errors
    /// [`Status::NOT_SUPPORTED`] before TLS 1.3.
    pub(super) fn rekey(&mut self) -> Result<(), Status> {
        let version = self.common().and_then(CommonState::protocol_version);
        if version != Some(ProtocolVersion::TLSv1_3) {
            return Err(Status::NOT_SUPPORTED);
        }
        let done = self.drive(&mut keep, Task::Rekey);
        self.advance();
        if done { Ok(()) } else { Err(self.failed.unwrap_or(Status::PIPE_BROKEN)) }
    }

    // The stream below.

    /// The buffer for what is to be received, and from where on it may be filled.
    pub(super) fn buffer_to_fill(&mut self) -> (Vec<u8>, usize) {
        self.input.buffer_to_fill()
    }

    /// That buffer, with so many bytes received. None are no end.
    pub(super) fn feed(&mut self, buffer: Vec<u8>, n: usize) {
        self.fed += u64::from(n > 0);
        if !self.input.feed(buffer, n) {
            self.fail_with(Status::TLS_PROTOCOL_ERROR);
        }
    }

    /// The stream below has ended.
    pub(super) fn end(&mut self) {
        self.fed += 1;
        self.below_ended = true;
        if self.is_handshaking() {
            self.fail_with(Status::TLS_TRUNCATED);
        }
    }

    /// Whether something is to be sent, and nobody sends.
    pub(super) fn has_output(&self) -> bool {
        !self.sending && (self.unsent.is_some() || !self.output.is_empty())
    }

    /// Whether something has been sent in part.
    pub(super) fn is_sending(&self) -> bool {
        self.sending || self.unsent.is_some()
    }

    /// What is to be sent: from the first number to the second.
    pub(super) fn take_output(&mut self) -> Option<(Vec<u8>, usize, usize)> {
        let taken = self.unsent.take().or_else(|| {
            let (buffer, len) = self.output.take()?;
            Some((buffer, 0, len))
        });
        self.sending = taken.is_some();
        taken
    }

    /// What was taken comes back; what it says is left is still to be sent.
    pub(super) fn bring_back(&mut self, buffer: Vec<u8>, from: usize, to: usize) {
        self.sending = false;
        if from < to {
            self.unsent = Some((buffer, from, to));
        } else {
            self.output.give_back(buffer);
        }
    }
}

fn keep(bytes: &[u8], kept: &mut Vec<u8>) -> bool {
    kept.extend_from_slice(bytes);
    true
}

/// What goes on when a side is driven.
struct Parts<'a> {
    input: &'a mut Input,
    output: &'a mut Output,
    kept: &'a mut Vec<u8>,
    established: &'a mut bool,
    peer_closed: &'a mut bool,
}

impl Parts<'_> {
    fn drive<E: Endpoint>(
        &mut self,
        side: &mut E,
        plain: &mut dyn FnMut(&[u8], &mut Vec<u8>) -> bool,
        task: Task<'_>,
    ) -> Result<bool, Error> {
        let mut done = false;
        loop {
            let UnbufferedStatus { mut discard, state } = side.process(self.input.bytes());
            let mut go_on = true;
            let mut result = Ok(());
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        go_on &= plain(record.payload, self.kept);
                    }
                }
                Ok(ConnectionState::ReadEarlyData(mut early)) => {
                    E::early(&mut early, &mut |bytes| go_on &= plain(bytes, self.kept));
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    result = self.output.put(512, |room| match data.encode(room) {
                        Ok(n) => Ok(Ok(n)),
                        Err(EncodeError::InsufficientSize(e)) => Ok(Err(e.required_size)),
                        Err(error) => Err(Error::General(error.to_string())),
                    });
                }
                // It is on its way: nothing overtakes it in the output.
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::PeerClosed) => *self.peer_closed = true,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    *self.established = true;
                    (go_on, done) = (false, true);
                    let exhausted = |e| match e {
                        EncryptError::InsufficientSize(e) => Ok(Err(e.required_size)),
                        EncryptError::EncryptExhausted => Err(Error::EncryptError),
                    };
                    result = match task {
                        Task::Nothing => Ok(()),
                        Task::Encrypt(data) => {
                            self.output.put(Output::for_data(data.len()), |room| {
                                traffic.encrypt(data, room).map(Ok).or_else(exhausted)
                            })
                        }
                        Task::Close => self.output.put(512, |room| {
                            traffic.queue_close_notify(room).map(Ok).or_else(exhausted)
                        }),
                        Task::Rekey => traffic.refresh_traffic_keys(),
                    };
                }
                Ok(_) => go_on = false,
                Err(error) => result = Err(error),
            }
            self.input.discard(discard);
            if let Err(error) = result {
                self.say_why(side);
                return Err(error);
            }
            if !go_on {
                return Ok(done);
            }
        }
    }

    /// Puts the alert about a failure into the output.
    fn say_why<E: Endpoint>(&mut self, side: &mut E) {
        // Only as long as there is something: to go on after that is forbidden.
        while side.has_more() {
            let UnbufferedStatus { discard, state } = side.process(self.input.bytes());
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    let put = self.output.put(512, |room| match data.encode(room) {
                        Ok(n) => Ok(Ok(n)),
                        Err(EncodeError::InsufficientSize(e)) => Ok(Err(e.required_size)),
                        Err(error) => Err(Error::General(error.to_string())),
                    });
                    if put.is_err() {
                        return;
                    }
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                _ => return,
            }
            self.input.discard(discard);
        }
    }
}
