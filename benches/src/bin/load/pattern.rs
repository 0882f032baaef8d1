//! What is sent: bytes that depend on the connection and on the position in its stream.

/// A prime, so that no shift by whole messages or buffers goes unseen.
const PERIOD: u64 = 65_521;

/// The most that is compared or sent in one piece.
pub const PIECE: usize = 256 << 10;

/// One table for all connections; each starts at another place in it.
pub struct Pattern(Box<[u8]>);

impl Pattern {
    pub fn new() -> Pattern {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        let mut table: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
        table.extend_from_within(..);
        while table.len() < PERIOD as usize + PIECE {
            table.extend_from_within(..PERIOD as usize);
        }
        Pattern(table.into_boxed_slice())
    }

    /// The bytes of a connection's stream from a position on.
    pub fn at(&self, connection: usize, position: u64, len: usize) -> &[u8] {
        let start = (connection as u64 * 7919 + position) % PERIOD;
        &self.0[start as usize..][..len]
    }
}
