//! Requests that go below in parts.

use std::ops::Range;

use overlapped_iomgr::filter::{Io, Lend, Next, Shared};
use overlapped_iomgr::{Major, MajorSet, Status, minor};

/// All majors but cleanup and close, which end what others wait for.
pub(super) const BUT_ENDS: MajorSet = MajorSet::of(&[
    Major::Create,
    Major::Read,
    Major::Write,
    Major::QueryInformation,
    Major::SetInformation,
    Major::Flush,
    Major::DirectoryControl,
    Major::FileSystemControl,
    Major::DeviceControl,
    Major::SetSecurity,
    Major::Connect,
    Major::Accept,
    Major::SendTo,
    Major::ReceiveFrom,
    Major::Shutdown,
    Major::Poll,
    Major::Private,
]);

/// The majors that are in both.
pub(super) fn common(one: MajorSet, other: MajorSet) -> MajorSet {
    let both = |major: &&Major| one.contains(**major) && other.contains(**major);
    MajorSet::of(&Major::ALL.iter().filter(both).copied().collect::<Vec<_>>())
}

/// Whether the request's file is a stream of bytes: reads and writes may move fewer than they ask for.
pub(super) fn is_stream(io: &Io<'_>) -> bool {
    !io.file().is_seekable() && !io.file().has_messages()
}

/// Sends a stream's read below, for so many bytes at most (1 or more).
pub(super) async fn read_most<'a>(
    next: Next<'a>,
    io: &mut Io<'a>,
    most: usize,
) -> Result<usize, Status> {
    if io.minor() != minor::VECTORED {
        let (offset, most) = (io.offset(), u32::try_from(most).unwrap_or(u32::MAX));
        return next.forward(io).at(offset, most).await;
    }
    if io.len() <= most {
        return next.forward(io).await;
    }
    // Segments are not cut; a buffer in their place is.
    let (result, bytes) = next.forward(io).into(vec![0; most]).await;
    let n = result?;
    Ok(io.put(0, &bytes[..n]))
}

/// A part of a stream's write on its way below, in the request's name: as many of its bytes as lie in one
/// piece of memory. `None`: no bytes are in that range.
pub(super) fn write_part<'i, 'a>(
    next: Next<'a>,
    io: &'i mut Io<'a>,
    range: Range<usize>,
) -> Option<(usize, Lend<'i, Shared>)> {
    let part = io.share(range).into_iter().next()?;
    let len = part.len();
    let most = u32::try_from(len).unwrap_or(u32::MAX);
    Some((len, next.forward(io).at(u64::MAX, most).from(part)))
}
