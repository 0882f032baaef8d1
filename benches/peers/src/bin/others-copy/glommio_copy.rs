//! On glommio: its streams for cached files, one chunk after the other. (With several on their way,
//! each chunk would have to be copied into a new buffer, as its positional writes keep theirs.)

use std::io;

use futures_util::io::{AsyncWriteExt, copy_buf};
use glommio::io::{BufferedFile, StreamReaderBuilder, StreamWriterBuilder};
use overlapped_benches::copying::{CHUNK, Options};

/// Copies.
pub fn copy(options: &Options) -> io::Result<()> {
    overlapped_bench_peers::glommio()?.run(async {
        let from = BufferedFile::open(&options.from).await?;
        let to = BufferedFile::create(&options.to).await?;
        let from = StreamReaderBuilder::new(from).with_buffer_size(CHUNK).build();
        let mut to = StreamWriterBuilder::new(to)
            .with_buffer_size(CHUNK)
            // The others do not wait for the disk either.
            .with_sync_on_close_disabled(true)
            .build();
        copy_buf(from, &mut to).await?;
        to.close().await
    })
}
