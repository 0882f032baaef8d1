//! Sequential readers, told from those who jump about.

/// Readers that are told apart.
const STREAMS: usize = 4;

/// The last readers of a file.
#[derive(Default)]
pub(super) struct Streams {
    last: [Stream; STREAMS],
    /// Counts reads.
    reads: u64,
}

#[derive(Clone, Copy, Default)]
struct Stream {
    /// Where its next read would begin.
    next: u64,
    window: u64,
    /// When it has read last; 0: never.
    used: u64,
}

impl Streams {
    /// Notes a read; yields how many bytes to read ahead of it, from `least` to `most`: none unless it
    /// goes on where another has ended.
    pub(super) fn note(&mut self, at: u64, end: u64, least: u64, most: u64) -> u64 {
        self.reads += 1;
        let used = self.reads;
        let window = match self.last.iter().find(|stream| stream.used > 0 && stream.next == at) {
            Some(stream) => (stream.window * 2).max(least).min(most),
            None => 0,
        };
        // In place of itself, or of the one that has been silent for longest.
        let place = self.last.iter_mut().min_by_key(|stream| match stream.next == at {
            true if stream.used > 0 => 0,
            _ => stream.used + 1,
        });
        if let Some(place) = place {
            *place = Stream { next: end, window, used };
        }
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_are_told_apart() {
        let mut streams = Streams::default();
        let starts = [0, 1000, 2000, 3000];
        let window = |streams: &mut Streams, round: u64| {
            starts.map(|start| streams.note(start + round * 10, start + round * 10 + 10, 4, 15))
        };
        assert_eq!(window(&mut streams, 0), [0; 4]);
        assert_eq!(window(&mut streams, 1), [4; 4]);
        assert_eq!(window(&mut streams, 2), [8; 4]);
        assert_eq!(window(&mut streams, 3), [15; 4]);
        // One that jumps takes the place of the oldest, and has no window.
        assert_eq!(streams.note(500, 510, 4, 15), 0);
        assert_eq!(streams.note(1040, 1050, 4, 15), 15);
        assert_eq!(streams.note(40, 50, 4, 15), 0);
    }
}
