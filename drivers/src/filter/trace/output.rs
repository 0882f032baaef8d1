//! What is written to: a file, in which what was written may be taken back, or anything else.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

enum Target {
    File(File),
    Other(Box<dyn Write + Send>),
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Target::File(file) => file.write(bytes),
            Target::Other(other) => other.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Target::File(file) => file.flush(),
            Target::Other(other) => other.flush(),
        }
    }
}

/// See the module's header.
pub(super) struct Output {
    /// `None`: it has failed.
    to: Option<BufWriter<Target>>,
    can_go_back: bool,
}

impl Output {
    pub(super) fn file(mut file: File) -> Output {
        let is_regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        let can_go_back = is_regular && file.stream_position().is_ok();
        Output { to: Some(BufWriter::new(Target::File(file))), can_go_back }
    }

    pub(super) fn other(out: impl Write + Send + 'static) -> Output {
        Output { to: Some(BufWriter::new(Target::Other(Box::new(out)))), can_go_back: false }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.to.is_none()
    }

    /// Drops what is buffered, for good.
    pub(super) fn fail(&mut self) {
        if let Some(to) = self.to.take() {
            drop(to.into_parts());
        }
    }

    pub(super) fn can_go_back(&self) -> bool {
        self.can_go_back
    }

    /// The next bytes are written over the last ones.
    pub(super) fn go_back(&mut self, bytes: u64) -> io::Result<()> {
        self.flush()?;
        let back = SeekFrom::Current(-i64::try_from(bytes).map_err(io::Error::other)?);
        match self.to.as_mut().map(BufWriter::get_mut) {
            Some(Target::File(file)) => file.seek(back).map(drop),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.as_mut().map_or(Ok(bytes.len()), |to| to.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.as_mut().map_or(Ok(()), Write::flush)
    }
}
