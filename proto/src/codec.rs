//! The gRPC codec of our messages: prost's, with a buffer of the right size for
//! what is sent, and a bound on what a message that is received may unfold to. Two bytes of a `repeated` message become a struct of seventy, so a
//! bound on the size of a message alone would let 16 MiB become half a gigabyte.
//!
//! What is repeated lies in the message itself, but for what a member of a group says,
//! that is in the one field of its request, which may come several times and then is
//! one; for the headers of what is put; and for the places where a watch goes on. There
//! the fields of those fields are counted, too. Elsewhere they aren't: they may be bytes
//! that are no message.

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
        let deep = deep_fields(TypeId::of::<U>());
        let exceeds = |message| all_fields_exceed(message, deep, MAX_FIELDS);
        // It lies in one piece; what can't be counted isn't decoded.
        if whole.is_none_or(exceeds) {
            let text = format!("a message has at most {MAX_FIELDS} fields");
            return Err(Status::invalid_argument(text));
        }
        self.0.decode(buf)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// The fields of a message that hold something that is repeated.
fn deep_fields(of: TypeId) -> Deep {
    if of == TypeId::of::<v1::ConsumeRequest>() {
        Deep::All
    } else if of == TypeId::of::<v1::PutRequest>() {
        Deep::Only(PUT_WRITES)
    } else if of == TypeId::of::<v1::WatchRequest>() {
        Deep::Only(WATCH_FROM)
    } else {
        Deep::None
    }
}

/// The number of `PutRequest.writes`.
const PUT_WRITES: u64 = 2;

/// The number of `WatchRequest.from`.
const WATCH_FROM: u64 = 5;

/// Of which fields the fields are counted.
#[derive(Debug, Clone, Copy)]
enum Deep {
    None,
    Only(u64),
    All,
}

impl Deep {
    fn holds(self, number: u64) -> bool {
        match self {
            Deep::None => false,
            Deep::Only(only) => only == number,
            Deep::All => true,
        }
    }
}

/// Whether an encoded message has more than `max` fields, with those of the messages in
/// some of them. Of bytes that are no message the decoder tells.
fn all_fields_exceed(message: &[u8], deep: Deep, max: usize) -> bool {
    let mut counts = fields(message).map(|(number, field)| match deep.holds(number) {
        true => 1 + fields(field).take(max).count(),
        false => 1,
    });
    let mut left = max;
    counts.any(|count| {
        let exceeds = count > left;
        left = left.saturating_sub(count);
        exceeds
    })
}

/// The fields of an encoded message, as far as it is one: the number of each, and of
/// those with a length what they hold, nothing of others.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || match message.is_empty() {
        true => None,
        false => take_field(&mut message),
    })
}

fn take_field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    let tag = take_varint(bytes)?;
    let number = tag >> 3;
    let (len, holds) = match tag & 7 {
        0 => return take_varint(bytes).map(|_| (number, &[][..])),
        1 => (8, false),
        2 => (usize::try_from(take_varint(bytes)?).ok()?, true),
        5 => (4, false),
        // A group of old begins or ends. Where one is not expected the decoder leaves it
        // out, with all that is in it, and goes on behind it; so it ends nothing here.
        3 | 4 => (0, false),
        _ => return None,
    };
    let (field, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some((number, if holds { field } else { &[] }))
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

    fn exceeds(message: &[u8], max: usize) -> bool {
        all_fields_exceed(message, Deep::None, max)
    }

    fn all_exceed(message: &[u8], max: usize) -> bool {
        all_fields_exceed(message, Deep::All, max)
    }

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
        assert!(!exceeds(&request(0), 0));
        assert!(!exceeds(&request(5), 5));
        assert!(exceeds(&request(6), 5));
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
        assert!(!all_exceed(&commit(5, 1), 7));
        assert!(all_exceed(&commit(6, 1), 7));
        // What comes again is added to what came before.
        let both = v1::ConsumeRequest::decode(&*commit(5, 2)).unwrap();
        let Some(v1::consume_request::Request::Commit(both)) = both.request else {
            panic!("{both:?}");
        };
        assert_eq!(both.positions.len(), 10);
        assert!(!all_exceed(&commit(5, 2), 14));
        assert!(all_exceed(&commit(5, 2), 13));
        assert!(!all_exceed(&[], 0));
    }

    #[test]
    fn headers_of_what_is_put_and_places_of_a_watch_are_counted_and_no_bytes() {
        let write = v1::Write {
            // As a message, it has 500 fields.
            key: vec![0; 1000].into(),
            headers: vec![v1::Header::default(); 100],
            ..v1::Write::default()
        };
        let put = v1::PutRequest {
            topic: "t".to_owned(),
            writes: vec![write; 2],
            ..v1::PutRequest::default()
        };
        let deep = deep_fields(TypeId::of::<v1::PutRequest>());
        // The topic, and for each write itself, its key and the headers.
        assert!(!all_fields_exceed(&put.encode_to_vec(), deep, 205));
        assert!(all_fields_exceed(&put.encode_to_vec(), deep, 204));

        let from = v1::WatchFrom {
            next_offsets: vec![v1::RecordPosition::default(); 100],
        };
        let watch = v1::WatchRequest {
            keys: vec![vec![0; 1000].into()],
            start: Some(v1::watch_request::Start::From(from)),
            ..v1::WatchRequest::default()
        };
        let deep = deep_fields(TypeId::of::<v1::WatchRequest>());
        assert!(!all_fields_exceed(&watch.encode_to_vec(), deep, 102));
        assert!(all_fields_exceed(&watch.encode_to_vec(), deep, 101));
    }

    #[test]
    fn every_kind_of_field_is_one() {
        // A varint of two bytes, 8 bytes, 3 bytes with a length, 4 bytes.
        let message = b"\x08\x80\x01\x11aaaaaaaa\x1a\x03aaa\x25aaaa";
        assert!(exceeds(message, 3));
        assert!(!exceeds(message, 4));
    }

    /// Two bytes for each, behind what no message of ours has.
    fn behind(unexpected: &[u8], writes: usize) -> Vec<u8> {
        [unexpected, &b"\x12\x00".repeat(writes)].concat()
    }

    #[test]
    fn what_follows_a_group_is_counted_as_the_decoder_decodes_it() {
        // Empty; with a field in it; with one within; and all of it in a known field.
        let groups = [
            &b"\x7b\x7c"[..],
            b"\x7b\x08\x01\x7c",
            b"\x7b\x73\x74\x7c",
            b"\x7b\x12\x00\x7c",
        ];
        let deep = deep_fields(TypeId::of::<v1::PutRequest>());
        for group in groups {
            let message = behind(group, 5);
            let decoded = v1::PutRequest::decode(&*message).unwrap();
            assert_eq!(decoded.writes.len(), 5);
            assert!(all_fields_exceed(&message, deep, 4), "{group:?}");
            // The same within a field of which the fields are counted.
            let write = behind(group, 0);
            let headers = [&write[..], &b"\x22\x00".repeat(5)].concat();
            let len = u8::try_from(headers.len()).unwrap();
            let message = [&[0x12, len][..], &headers].concat();
            let decoded = v1::PutRequest::decode(&*message).unwrap();
            assert_eq!(decoded.writes[0].headers.len(), 5);
            assert!(all_fields_exceed(&message, deep, 5), "{group:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_message_are_left_to_the_decoder() {
        for nonsense in [&b"\x0b"[..], b"\x0a\x05aa", b"\xff\xff", &[0x80; 20]] {
            assert!(!exceeds(nonsense, 100));
            assert!(!all_exceed(nonsense, 100));
        }
    }
}
