//! The two buffers of a connection: what came from below and is not decrypted, and what goes there.

/// Room in front of what is received, for what is left of the record before: one record.
const HEAD: usize = 16 * 1024 + 2048 + 5 + 64;

/// Bytes received at once: at first, and when there is much to receive.
const LITTLE: usize = 16 * 1024;
const MUCH: usize = 64 * 1024;

/// More than that is never kept undecrypted: no message of a handshake is so long.
const MOST: usize = 128 * 1024;

/// What came from below: `start..end` of the buffer.
#[derive(Default)]
pub(super) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Another buffer, to be received into while this one has something in it.
    spare: Vec<u8>,
    much: bool,
}

impl Input {
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    pub(super) fn discard(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }

    /// A buffer to receive into, from its byte `HEAD` on, all initialised; and that number.
    pub(super) fn buffer_to_fill(&mut self) -> (Vec<u8>, usize) {
        let mut buffer = if self.start == self.end {
            (self.start, self.end) = (0, 0);
            std::mem::take(&mut self.buffer)
        } else {
            std::mem::take(&mut self.spare)
        };
        let size = HEAD + if self.much { MUCH } else { LITTLE };
        if buffer.len() < size {
            buffer = vec![0; size];
        }
        (buffer, HEAD)
    }

    /// The buffer comes back, with `n` bytes more. `false`: that is too much.
    pub(super) fn feed(&mut self, mut buffer: Vec<u8>, n: usize) -> bool {
        let left = self.end - self.start;
        self.much |= n == buffer.len() - HEAD;
        if n == 0 {
            if self.buffer.is_empty() {
                self.buffer = buffer;
            } else {
                self.spare = buffer;
            }
        } else if left <= HEAD {
            let start = HEAD - left;
            buffer[start..HEAD].copy_from_slice(&self.buffer[self.start..self.end]);
            let before = std::mem::replace(&mut self.buffer, buffer);
            if !before.is_empty() {
                self.spare = before;
            }
            (self.start, self.end) = (start, HEAD + n);
        } else {
            if left + n > MOST {
                return false;
            }
            let mut all = self.buffer[self.start..self.end].to_vec();
            all.extend_from_slice(&buffer[HEAD..HEAD + n]);
            (self.start, self.end) = (0, all.len());
            self.buffer = all;
            self.spare = buffer;
        }
        true
    }
}

/// What goes below: the first `used` bytes of the buffer, the rest of which is zeroes or was sent.
#[derive(Default)]
pub(super) struct Output {
    buffer: Vec<u8>,
    used: usize,
    /// A buffer that has been sent.
    spare: Vec<u8>,
}

/// A buffer that is larger is not kept.
const KEPT: usize = 256 * 1024;

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The room that so much data needs when it is encrypted.
    pub(super) fn for_data(len: usize) -> usize {
        len + (len / 16384 + 1) * 64 + 256
    }

    /// Has `put` write behind what is there: it says how many bytes, or how many it needs.
    pub(super) fn put<E>(
        &mut self,
        room: usize,
        mut put: impl FnMut(&mut [u8]) -> Result<Result<usize, usize>, E>,
    ) -> Result<(), E> {
        let mut room = room;
        loop {
            let end = self.used + room;
            if self.buffer.len() < end {
                self.buffer.resize(end, 0);
            }
            match put(&mut self.buffer[self.used..])? {
                Ok(n) => {
                    self.used += n;
                    return Ok(());
                }
                Err(needed) => room = needed.max(room + 1),
            }
        }
    }

    /// All of it: the buffer, and how many of its bytes.
    pub(super) fn take(&mut self) -> Option<(Vec<u8>, usize)> {
        if self.used == 0 {
            return None;
        }
        let spare = std::mem::take(&mut self.spare);
        let len = std::mem::take(&mut self.used);
        Some((std::mem::replace(&mut self.buffer, spare), len))
    }

    /// A buffer that has been sent.
    pub(super) fn give_back(&mut self, buffer: Vec<u8>) {
        if self.used == 0 && self.buffer.is_empty() {
            self.buffer = buffer;
        } else if buffer.len() <= KEPT {
            self.spare = buffer;
        }
    }
}
