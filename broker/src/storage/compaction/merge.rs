//! Puts the records that are kept together to batches of a good size.
//!
//! The batches cover every offset from the first on without a hole: what was
//! dropped before a record lies in its gap, what was dropped behind the last one
//! in the span of the batch. Where so many offsets in a row are dropped that no
//! gap can say it, batches without a record cover them: to keep some record there
//! that should be gone could bring back what a tombstone deleted that is dropped
//! as well.
//!
//! A record keeps its offset, its content and its time. The time of one that
//! has none is that of its batch; so it gets it written into it when it comes into
//! a batch that was appended at another time.

use bytes::{Bytes, BytesMut};

use super::codec::{EncodedRecord, RecordCodec};
use crate::model::{BatchHeader, MAX_RECORDS_PER_BATCH, Offset};

/// Of a header's attributes: how the records are compressed.
const CODEC_BITS: u16 = 0b111;

/// Whether a batch is more than its records: nobody knows what would be lost if
/// it were taken apart.
pub(super) fn is_opaque(header: &BatchHeader) -> bool {
    header.attributes & !CODEC_BITS != 0
}

/// Where finished batches go.
pub(super) trait BatchSink {
    /// Takes the next batch.
    fn take(&mut self, header: &BatchHeader, payload: &[u8]);
}

/// How large batches become.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchBounds {
    /// Records, uncompressed, but at least one: bytes.
    pub(super) bytes: usize,
    /// Offsets that one covers.
    pub(super) span: u32,
}

/// Puts records together to batches.
#[derive(Debug)]
pub(super) struct Merger<'a> {
    codec: &'a dyn RecordCodec,
    bounds: BatchBounds,
    /// Finished batches cover everything from the first offset up to here.
    next: Offset,
    pending: Option<Pending>,
}

/// A batch that takes more records.
#[derive(Debug)]
struct Pending {
    /// Where the first of its records came from.
    source: BatchHeader,
    /// How it is compressed.
    codec: u16,
    base_offset: Offset,
    /// One past its last record.
    next: Offset,
    records: BytesMut,
    count: u32,
    max_timestamp_ms: i64,
}

impl<'a> Merger<'a> {
    /// For the records from `from` on.
    pub(super) fn new(codec: &'a dyn RecordCodec, bounds: BatchBounds, from: Offset) -> Merger<'a> {
        Merger {
            codec,
            bounds,
            next: from,
            pending: None,
        }
    }

    /// Keeps a record, which lies at `offset` in the batch of `source`.
    pub(super) fn keep(
        &mut self,
        offset: Offset,
        record: &EncodedRecord<'_>,
        source: &BatchHeader,
        sink: &mut impl BatchSink,
    ) {
        let takes = |pending: &Pending| pending.takes(offset, record, source, self.bounds);
        if !self.pending.as_ref().is_some_and(takes) {
            self.finish_pending(self.reached(), sink);
            self.cover_empty(offset, self.bounds.span - 1, sink);
        }
        let pending = self.pending.get_or_insert_with(|| Pending {
            source: *source,
            codec: 0,
            base_offset: self.next,
            next: self.next,
            records: BytesMut::new(),
            count: 0,
            max_timestamp_ms: i64::MIN,
        });
        pending.codec = pending.codec.max(source.attributes & CODEC_BITS);
        let of_batch = source.append_time_ms;
        let new_time = (of_batch != pending.source.append_time_ms).then_some(of_batch);
        let gap = u32::try_from(offset.0 - pending.next.0).expect("bounded by the span");
        self.codec.put(record, gap, new_time, &mut pending.records);
        pending.count += 1;
        pending.next = offset.advanced(1);
        let time = record.timestamp_ms.unwrap_or(of_batch);
        pending.max_timestamp_ms = pending.max_timestamp_ms.max(time);
    }

    /// Keeps a whole batch as it is.
    pub(super) fn keep_whole(
        &mut self,
        header: &BatchHeader,
        payload: &[u8],
        sink: &mut impl BatchSink,
    ) {
        self.cover(header.base_offset, sink);
        self.next = header.next_offset();
        sink.take(header, payload);
    }

    /// Whether a batch that begins at `offset` can be kept whole without one that
    /// has no record before it.
    pub(super) fn joins(&self, offset: Offset) -> bool {
        match &self.pending {
            Some(pending) => offset.0 - pending.base_offset.0 <= u64::from(self.bounds.span),
            None => offset == self.next,
        }
    }

    /// Finishes all batches, so that they cover everything before `offset`.
    pub(super) fn cover(&mut self, offset: Offset, sink: &mut impl BatchSink) {
        self.finish_pending(offset, sink);
        self.cover_empty(offset, 0, sink);
    }

    /// One past the last record that was kept.
    fn reached(&self) -> Offset {
        self.pending
            .as_ref()
            .map_or(self.next, |pending| pending.next)
    }

    /// Finishes the pending batch, which covers the offsets before `end` as far as
    /// it can.
    fn finish_pending(&mut self, end: Offset, sink: &mut impl BatchSink) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        let span = end.0 - pending.base_offset.0;
        let span = u32::try_from(span).map_or(self.bounds.span, |span| span.min(self.bounds.span));
        let (header, payload) = pending.into_batch(span, self.codec);
        self.next = header.next_offset();
        sink.take(&header, &payload);
    }

    /// Covers offsets by batches without a record, until at most `left` are left
    /// before `end`.
    fn cover_empty(&mut self, end: Offset, left: u32, sink: &mut impl BatchSink) {
        debug_assert!(self.pending.is_none(), "it comes first");
        while end.0 - self.next.0 > u64::from(left) {
            let span = u32::try_from(end.0 - self.next.0).unwrap_or(u32::MAX);
            let header = without_records(self.next, span.min(self.bounds.span));
            self.next = header.next_offset();
            sink.take(&header, &[]);
        }
    }
}

impl Pending {
    /// Whether a record fits into the batch.
    fn takes(
        &self,
        offset: Offset,
        record: &EncodedRecord<'_>,
        source: &BatchHeader,
        bounds: BatchBounds,
    ) -> bool {
        // A small batch of a producer that compresses may not be compressed: such
        // ones go with any.
        let codec = source.attributes & CODEC_BITS;
        let fits = codec == self.codec || codec == 0 || self.codec == 0;
        fits && source.leader_epoch == self.source.leader_epoch
            && self.count < MAX_RECORDS_PER_BATCH
            && self.records.len() + record.bytes.len() <= bounds.bytes
            && offset.0 - self.base_offset.0 < u64::from(bounds.span)
    }

    /// The batch, which covers `span` offsets.
    fn into_batch(self, span: u32, codec: &dyn RecordCodec) -> (BatchHeader, Bytes) {
        let uncompressed_len = u32::try_from(self.records.len()).expect("bounded");
        let (payload, codec_bits) = codec.pack(self.records, self.count, self.codec);
        let header = BatchHeader {
            payload_crc: crc32fast::hash(&payload),
            payload_len: u32::try_from(payload.len()).expect("bounded"),
            record_count: self.count,
            append_time_ms: self.source.append_time_ms,
            max_timestamp_ms: self.max_timestamp_ms,
            leader_epoch: self.source.leader_epoch,
            uncompressed_len,
            attributes: codec_bits,
            ..without_records(self.base_offset, span)
        };
        (header, payload)
    }
}

/// The header of a batch that only covers offsets.
fn without_records(base_offset: Offset, offset_span: u32) -> BatchHeader {
    BatchHeader {
        payload_crc: crc32fast::hash(&[]),
        payload_len: 0,
        base_offset,
        record_count: 0,
        offset_span,
        append_time_ms: 0,
        max_timestamp_ms: i64::MIN,
        producer_id: 0,
        base_sequence: 0,
        leader_epoch: 0,
        uncompressed_len: 0,
        producer_epoch: 0,
        attributes: 0,
    }
}
