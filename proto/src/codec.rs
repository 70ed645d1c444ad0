//! The gRPC codec of our messages: prost's, with a buffer of the right size for
//! what is sent, and a bound on what a message that is received may unfold to. Two bytes of a `repeated` message become a struct of seventy, so a
//! bound on the size of a message alone would let 16 MiB become half a gigabyte.

use std::marker::PhantomData;

use bytes::Buf;
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// The most fields of a message that is decoded, repeated ones counted each.
/// The largest that is of use has 65,536: a position for each record of a call.
const MAX_FIELDS: usize = 100_000;

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

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let message = buf.chunk();
        let whole = message.get(..buf.remaining());
        if whole.is_some_and(|message| fields_exceed(message, MAX_FIELDS)) {
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
fn fields_exceed(mut message: &[u8], max: usize) -> bool {
    for _ in 0..max {
        if message.is_empty() || skip_field(&mut message).is_none() {
            return false;
        }
    }
    !message.is_empty()
}

fn skip_field(bytes: &mut &[u8]) -> Option<()> {
    let tag = take_varint(bytes)?;
    let len = match tag & 7 {
        0 => return take_varint(bytes).map(|_| ()),
        1 => 8,
        2 => usize::try_from(take_varint(bytes)?).ok()?,
        5 => 4,
        _ => return None,
    };
    *bytes = bytes.get(len..)?;
    Some(())
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
    use crate::v1;

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
        }
    }
}
