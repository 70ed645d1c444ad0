//! A view as bytes, so that a start needn't fold the whole log.
//!
//! A header says what log it belongs to; then come blocks of entries in the order of
//! their keys, and a footer, each with a checksum. Whatever is damaged, cut off or of another layout is no
//! view: the log is folded instead. Numbers are little-endian.
//!
//! It is taken while the view changes: it holds everything below `applied`, and some
//! of what lies between there and `end`. Applying the records from `applied` on again
//! makes it whole, since [`super::PartitionView::apply`] ignores what it knows.

use std::io::{self, Read, Write};
use std::num::NonZeroU64;

use super::partition_view::{Entry, LeaseId};
use crate::model::{Offset, PartitionId};

/// How it is laid out. Another number: not a view that we can read.
const MAGIC: [u8; 4] = *b"SCV\x01";

/// A block is written once it has so many bytes.
const BLOCK_BYTES: usize = 256 << 10;

/// No block is larger: one entry with the largest key and record, and a block before it.
const MAX_BLOCK_BYTES: u32 = 32 << 20;

/// What log a view belongs to, and from where on it is to be caught up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointHeader {
    /// The data directory.
    pub cluster_id: String,
    /// The partition.
    pub partition: PartitionId,
    /// Everything below is in it.
    pub applied: Offset,
}

/// How far a view reflects the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointFooter {
    /// Nothing at or behind is in it.
    pub end: Offset,
    /// The batch that was applied last: it ends there.
    pub last: Fingerprint,
}

/// Tells whether a batch is the same as one that was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fingerprint {
    /// When it was appended: milliseconds since the Unix epoch.
    pub append_time_ms: i64,
    /// CRC-32 of its payload.
    pub payload_crc: u32,
}

/// Writes a view.
#[derive(Debug)]
pub struct CheckpointWriter<W> {
    out: W,
    block: Vec<u8>,
    entries: u64,
}

impl<W: Write> CheckpointWriter<W> {
    /// Begins with the header.
    pub fn new(mut out: W, header: &CheckpointHeader) -> io::Result<CheckpointWriter<W>> {
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, header.cluster_id.as_bytes());
        bytes.extend(header.partition.0.to_le_bytes());
        bytes.extend(header.applied.0.to_le_bytes());
        out.write_all(&MAGIC)?;
        let mut writer = CheckpointWriter {
            out,
            block: bytes,
            entries: 0,
        };
        writer.write_block()?;
        Ok(writer)
    }

    /// Adds an entry to the block; they come in the order of their keys. Says whether the
    /// block is full, and to be written. Whoever holds a lock writes it afterwards.
    pub fn push(&mut self, key: &[u8], entry: &Entry) -> bool {
        put_bytes(&mut self.block, key);
        self.block.extend(entry.offset.0.to_le_bytes());
        let lease = entry.lease.map_or(0, |lease| lease.0.get());
        self.block.extend(lease.to_le_bytes());
        match &entry.kept {
            Some(kept) => {
                self.block.push(1);
                put_bytes(&mut self.block, kept);
            }
            None => self.block.push(0),
        }
        self.entries += 1;
        self.block.len() >= BLOCK_BYTES
    }

    /// Ends it with the footer; gives back what was written to.
    pub fn finish(mut self, footer: &CheckpointFooter) -> io::Result<W> {
        self.write_block()?;
        self.out.write_all(&0_u32.to_le_bytes())?;
        self.block.extend(self.entries.to_le_bytes());
        self.block.extend(footer.end.0.to_le_bytes());
        self.block.extend(footer.last.append_time_ms.to_le_bytes());
        self.block.extend(footer.last.payload_crc.to_le_bytes());
        self.write_block()?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Writes the block, unless it is empty.
    pub fn write_block(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let len = u32::try_from(self.block.len()).expect("keys and records are far smaller");
        self.out.write_all(&len.to_le_bytes())?;
        self.out
            .write_all(&crc32fast::hash(&self.block).to_le_bytes())?;
        self.out.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("keys and records are far smaller");
    out.extend(len.to_le_bytes());
    out.extend(bytes);
}

/// Reads a view.
#[derive(Debug)]
pub struct CheckpointReader<R> {
    input: R,
    header: CheckpointHeader,
    entries: u64,
}

/// An entry of a view that was saved.
pub type SavedEntry = (Box<[u8]>, Entry);

impl<R: Read> CheckpointReader<R> {
    /// Reads the header; an error of the kind `InvalidData` when this is no view.
    pub fn new(mut input: R) -> io::Result<CheckpointReader<R>> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(damaged());
        }
        let block = read_block(&mut input)?.ok_or_else(damaged)?;
        let mut fields = Fields(&block);
        let cluster_id = String::from_utf8(fields.bytes()?.to_vec()).map_err(|_| damaged())?;
        let header = CheckpointHeader {
            cluster_id,
            partition: PartitionId(fields.u32()?),
            applied: Offset(fields.u64()?),
        };
        Ok(CheckpointReader {
            input,
            header,
            entries: 0,
        })
    }

    /// What log it belongs to.
    pub fn header(&self) -> &CheckpointHeader {
        &self.header
    }

    /// The next entries, at least one; the footer at the end of a view that is whole.
    pub fn next_block(&mut self) -> io::Result<Result<Vec<SavedEntry>, CheckpointFooter>> {
        let Some(block) = read_block(&mut self.input)? else {
            return self.read_footer().map(Err);
        };
        let mut fields = Fields(&block);
        let mut entries = Vec::new();
        while !fields.0.is_empty() {
            let key = fields.bytes()?.into();
            let offset = Offset(fields.u64()?);
            let lease = NonZeroU64::new(fields.u64()?).map(LeaseId);
            let kept = match fields.take(1)?[0] {
                0 => None,
                _ => Some(fields.bytes()?.into()),
            };
            let entry = Entry {
                offset,
                lease,
                kept,
            };
            entries.push((key, entry));
        }
        self.entries += entries.len() as u64;
        Ok(Ok(entries))
    }

    fn read_footer(&mut self) -> io::Result<CheckpointFooter> {
        let block = read_block(&mut self.input)?.ok_or_else(damaged)?;
        let mut fields = Fields(&block);
        if fields.u64()? != self.entries {
            return Err(damaged());
        }
        Ok(CheckpointFooter {
            end: Offset(fields.u64()?),
            last: Fingerprint {
                append_time_ms: fields.u64()?.cast_signed(),
                payload_crc: fields.u32()?,
            },
        })
    }
}

/// A block; nothing when it is the empty one behind the last.
fn read_block(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut number = || {
        let mut bytes = [0; 4];
        input.read_exact(&mut bytes)?;
        io::Result::Ok(u32::from_le_bytes(bytes))
    };
    let len = number()?;
    if len == 0 {
        return Ok(None);
    }
    let checksum = number()?;
    if len > MAX_BLOCK_BYTES {
        return Err(damaged());
    }
    let mut block = vec![0; len as usize];
    input.read_exact(&mut block)?;
    match crc32fast::hash(&block) == checksum {
        true => Ok(Some(block)),
        false => Err(damaged()),
    }
}

fn damaged() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "it is damaged, or of another version",
    )
}

/// The fields of a block, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> io::Result<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("4 bytes")))
    }

    fn u64(&mut self) -> io::Result<u64> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
    }

    fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let len = self.u32()?;
        self.take(len as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> CheckpointHeader {
        CheckpointHeader {
            cluster_id: "cluster".to_owned(),
            partition: PartitionId(17),
            applied: Offset(100),
        }
    }

    const FOOTER: CheckpointFooter = CheckpointFooter {
        end: Offset(120),
        last: Fingerprint {
            append_time_ms: -5,
            payload_crc: 7,
        },
    };

    fn entry(number: u64) -> SavedEntry {
        let entry = Entry {
            offset: Offset(number),
            lease: NonZeroU64::new(number % 3).map(LeaseId),
            kept: number.is_multiple_of(2).then(|| vec![1; 50].into()),
        };
        (format!("key-{number:06}").into_bytes().into(), entry)
    }

    fn written(entries: u64) -> Vec<u8> {
        let mut writer = CheckpointWriter::new(Vec::new(), &header()).unwrap();
        for number in 0..entries {
            let (key, entry) = entry(number);
            if writer.push(&key, &entry) {
                writer.write_block().unwrap();
            }
        }
        writer.finish(&FOOTER).unwrap()
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<SavedEntry>> {
        let mut reader = CheckpointReader::new(bytes)?;
        if *reader.header() != header() {
            return Err(damaged());
        }
        let mut entries = Vec::new();
        loop {
            match reader.next_block()? {
                Ok(some) => entries.extend(some),
                Err(FOOTER) => return Ok(entries),
                Err(_) => return Err(damaged()),
            }
        }
    }

    #[test]
    fn a_view_survives_as_bytes() {
        for count in [0, 1, 20_000] {
            let entries = read(&written(count)).unwrap();
            assert_eq!(entries.len() as u64, count);
            for (number, (key, found)) in (0..).zip(entries) {
                let (expected_key, expected) = entry(number);
                assert_eq!((key, found.offset), (expected_key, expected.offset));
                assert_eq!((found.lease, found.kept), (expected.lease, expected.kept));
            }
        }
    }

    #[test]
    fn one_that_was_cut_off_or_damaged_is_none() {
        let bytes = written(20);
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len]).is_err(), "{len}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(read(&damaged).is_err(), "{at}");
        }
    }
}
