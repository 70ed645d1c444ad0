//! Frames go to the file in whole pages.
//!
//! What a page holds that is written in part, the kernel reads from the disk first: a
//! recycled file has frames of an earlier use there, and one bad sector among them,
//! which nobody would miss, would make the append fail, and the whole log with it.
//! So the page that was begun is written again from memory, and the rest of the last
//! one is filled with zeros. Where something durable lies, the same bytes are written
//! once more: a crash changes nothing there.

use std::io;

use crate::storage::dir::{File, PAGE};

/// What fills a page up.
const ZEROS: [u8; PAGE] = [0; PAGE];

/// What a file holds in its last page, up to its last frame. Nothing, if a page ends
/// there.
#[derive(Debug, Default)]
pub(super) struct BegunPage(Vec<u8>);

impl BegunPage {
    /// Writes frames at `position`, which is where the last frame ends.
    pub(super) fn write(&self, file: &dyn File, frames: &[u8], position: u32) -> io::Result<()> {
        let end = self.0.len() + frames.len();
        let padding = &ZEROS[..end.next_multiple_of(PAGE) - end];
        let from = u64::from(position) - self.0.len() as u64;
        file.write_parts_at([&self.0, frames, padding], from)
    }

    /// These frames were written.
    pub(super) fn follow(&mut self, frames: &[u8]) {
        let begun = (self.0.len() + frames.len()) % PAGE;
        match frames.len().checked_sub(begun) {
            Some(before) => {
                self.0.clear();
                self.0.extend_from_slice(&frames[before..]);
            }
            None => self.0.extend_from_slice(frames),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::storage::dir::Dir;
    use crate::storage::dir::sim::SimDir;

    #[test]
    fn whatever_the_sizes_the_bytes_lie_one_behind_the_other_in_whole_pages() {
        let dir = SimDir::new();
        let path = Path::new("a");
        let file = dir.create(path).unwrap();
        let first = u32::try_from(PAGE).unwrap();
        file.write_all_at(&vec![0xee; 9 * PAGE], 0).unwrap();
        let mut page = BegunPage::default();
        let mut written = Vec::new();
        let sizes = [
            8,
            16,
            PAGE - 24,
            PAGE,
            40,
            PAGE - 40,
            8,
            2 * PAGE,
            PAGE - 16,
            8,
        ];
        for (size, byte) in sizes.into_iter().zip(1..) {
            // Whatever is in the way can't be read any more.
            for sector in 8..9 * 8 {
                dir.break_sector(path, sector);
            }
            let frames = vec![byte; size];
            let position = first + u32::try_from(written.len()).unwrap();
            page.write(file.as_ref(), &frames, position).unwrap();
            page.follow(&frames);
            written.extend(frames);
            let begun = page.0.len();
            assert_eq!(begun, written.len() % PAGE);
            assert_eq!(page.0, written[written.len() - begun..]);
        }
        // Each page was whole when it was written last.
        let mut last = vec![0; PAGE];
        let at = PAGE + (written.len() - 1) / PAGE * PAGE;
        file.read_at(&mut last, at as u64).unwrap();
        let used = written.len() - (at - PAGE);
        assert_eq!(last[..used], written[at - PAGE..]);
        assert_eq!(last[used..], ZEROS[used..]);
    }
}
