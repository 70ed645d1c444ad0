//! Lines of a file or of standard input, read ahead on a thread of its own.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

/// Read at once: bytes.
const CHUNK: usize = 256 * 1024;
/// Chunks read ahead.
const AHEAD: usize = 4;

/// Whole lines without their line feeds. What was read is handed on at once, so
/// that lines typed by hand, or written by a slow program, don't wait.
pub(super) struct Lines {
    chunks: mpsc::Receiver<std::io::Result<Bytes>>,
    /// Read but not yet a whole line.
    partial: BytesMut,
    current: Bytes,
    at_end: bool,
}

impl Lines {
    pub(super) fn read(mut input: impl Read + Send + 'static) -> Self {
        let (sender, chunks) = mpsc::channel(AHEAD);
        // Reading standard input blocks for as long as nobody types.
        std::thread::spawn(move || {
            loop {
                let mut chunk = vec![0; CHUNK];
                let read = match input.read(&mut chunk) {
                    Ok(0) => return,
                    Ok(read) => {
                        chunk.truncate(read);
                        Ok(Bytes::from(chunk))
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = read.is_err();
                if sender.blocking_send(read).is_err() || failed {
                    return;
                }
            }
        });
        Self {
            chunks,
            partial: BytesMut::new(),
            current: Bytes::new(),
            at_end: false,
        }
    }

    /// The next line. The last one may lack its line feed.
    pub(super) async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            if self.at_end {
                let rest = self.partial.split().freeze();
                return Ok((!rest.is_empty()).then_some(rest));
            }
            match self.chunks.recv().await {
                Some(chunk) => self.current = chunk?,
                None => self.at_end = true,
            }
        }
    }

    fn take_line(&mut self) -> Option<Bytes> {
        let end = self.current.iter().position(|byte| *byte == b'\n');
        let Some(end) = end else {
            self.partial.extend_from_slice(&self.current);
            self.current.clear();
            return None;
        };
        let mut line = self.current.split_to(end + 1);
        line.truncate(end);
        if self.partial.is_empty() {
            return Some(line);
        }
        self.partial.extend_from_slice(&line);
        Some(self.partial.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Yields one piece a read.
    struct Pieces(std::vec::IntoIter<&'static [u8]>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let piece = self.0.next().unwrap_or_default();
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    async fn lines(pieces: Vec<&'static [u8]>) -> Vec<Bytes> {
        let mut lines = Lines::read(Pieces(pieces.into_iter()));
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn lines_span_reads_and_the_last_needs_no_line_feed() {
        let pieces: Vec<&[u8]> = vec![b"a\nb", b"c", b"d\n\ne"];
        assert_eq!(lines(pieces).await, ["a", "bcd", "", "e"]);
    }

    #[tokio::test]
    async fn empty_input_has_no_lines() {
        assert!(lines(vec![]).await.is_empty());
    }
}
