//! The gRPC codec of our messages: prost's, with a buffer of the right size for
//! what is sent, and a bound on what a message that is received may unfold to. Two bytes of a `repeated` message become a struct of seventy, so a
//! bound on the size of a message alone would let 16 MiB become half a gigabyte.
//!
//! What is repeated lies in the message itself, but for what a member of a group says:
//! that is in the one field of its request, which may come several times and then is
//! one. There the fields of fields are counted, too. Elsewhere they aren't: they may be
//! bytes that are no message.

use std::any::TypeId;
use std::marker::PhantomData;

use bytes::Buf;
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

use crate::v1;

/// The most fields of a message that is decoded, repeated ones counted each.
/// The largest that is of use gives back all 100,000 partitions that there can be.
const MAX_FIELDS: usize = 1 << 17;

/// Encodes `T` and decodes `U`.
#[derive(Debug)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        BoundedCodec(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ReservingEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ReservingEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstDecoder::default())
    }
}

/// Encodes `T` into a buffer that is made large enough first: prost alone would
/// let it grow, and copy what is in it, several times per batch.
#[derive(Debug)]
pub struct ReservingEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for ReservingEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let len = item.encoded_len();
        buf.reserve(len);
        item.encode(buf)
            .map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// Decodes `U`, unless it has too many fields.
#[derive(Debug)]
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default + 'static> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let message = buf.chunk();
        let whole = message.get(..buf.remaining());
        let is_deep = TypeId::of::<U>() == TypeId::of::<v1::ConsumeRequest>();
        let exceeds = |message| match is_deep {
            true => all_fields_exceed(message, MAX_FIELDS),
            false => fields_exceed(message, MAX_FIELDS),
        };
        if whole.is_some_and(exceeds) {
            let text = format!("a message has at most {MAX_FIELDS} fields");
            return Err(Status::invalid_argument(text));
        }
        self.0.decode(buf)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// Whether an encoded message has more than `max` fields. Of bytes that are no
/// message the decoder tells.
fn fields_exceed(message: &[u8], max: usize) -> bool {
    fields(message).take(max + 1).count() > max
}

/// As [`fields_exceed`], with the fields of the messages in it.
fn all_fields_exceed(message: &[u8], max: usize) -> bool {
    let mut counts = fields(message).map(|field| 1 + fields(field).take(max).count());
    let mut left = max;
    counts.any(|count| {
        let exceeds = count > left;
        left = left.saturating_sub(count);
        exceeds
    })
}

/// The fields of an encoded message, as far as it is one: of those with a length what
/// they hold, and nothing of others.
fn fields(mut message: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || match message.is_empty() {
        true => None,
        false => take_field(&mut message),
    })
}

fn take_field<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let tag = take_varint(bytes)?;
    let (len, holds) = match tag & 7 {
        0 => return take_varint(bytes).map(|_| &[][..]),
        1 => (8, false),
        2 => (usize::try_from(take_varint(bytes)?).ok()?, true),
        5 => (4, false),
        _ => return None,
    };
    let (field, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(if holds { field } else { &[] })
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(batches: usize) -> Vec<u8> {
        let batch = v1::PartitionBatch {
            topic: "t".to_owned(),
            partition: 300,
            checksum: Some(7),
            ..v1::PartitionBatch::default()
        };
        let batches = vec![batch; batches];
        v1::ProduceStreamRequest { batches }.encode_to_vec()
    }

    #[test]
    fn repeated_fields_are_counted() {
        assert!(!fields_exceed(&request(0), 0));
        assert!(!fields_exceed(&request(5), 5));
        assert!(fields_exceed(&request(6), 5));
    }

    /// What a member says in a request, `times` times with so many positions each.
    fn commit(positions: usize, times: usize) -> Vec<u8> {
        let commit = v1::Commit {
            commit_id: 7,
            positions: vec![v1::CommitPosition::default(); positions],
        };
        let request = Some(v1::consume_request::Request::Commit(commit));
        v1::ConsumeRequest { request }.encode_to_vec().repeat(times)
    }

    #[test]
    fn what_a_member_repeats_is_counted_though_it_lies_deeper() {
        // The request has one field, and the commit an id.
        assert!(!all_fields_exceed(&commit(5, 1), 7));
        assert!(all_fields_exceed(&commit(6, 1), 7));
        // What comes again is added to what came before.
        let both = v1::ConsumeRequest::decode(&*commit(5, 2)).unwrap();
        let Some(v1::consume_request::Request::Commit(both)) = both.request else {
            panic!("{both:?}");
        };
        assert_eq!(both.positions.len(), 10);
        assert!(!all_fields_exceed(&commit(5, 2), 14));
        assert!(all_fields_exceed(&commit(5, 2), 13));
        assert!(!all_fields_exceed(&[], 0));
    }

    #[test]
    fn every_kind_of_field_is_one() {
        // A varint of two bytes, 8 bytes, 3 bytes with a length, 4 bytes.
        let message = b"\x08\x80\x01\x11aaaaaaaa\x1a\x03aaa\x25aaaa";
        assert!(fields_exceed(message, 3));
        assert!(!fields_exceed(message, 4));
    }

    #[test]
    fn bytes_that_are_no_message_are_left_to_the_decoder() {
        for nonsense in [&b"\x0b"[..], b"\x0a\x05aa", b"\xff\xff", &[0x80; 20]] {
            assert!(!fields_exceed(nonsense, 100));
            assert!(!all_fields_exceed(nonsense, 100));
        }
    }
}
