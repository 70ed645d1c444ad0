//! The body of a request, read no further than there is room for.
//!
//! What is read of a body is no longer bounded by the windows of HTTP/2: the
//! library above collects a message until it is whole. So a message that doesn't
//! come in a single frame gets room for all of it before the rest is read. It has
//! the room until the body is asked for the next message, since whoever asks is
//! done with this one; that of a unary call until the call is answered.
//!
//! Streams whose messages come whole, frame by frame, take no room and pay for a
//! look at the length of each message.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
use futures_util::FutureExt;
use http_body::{Frame, SizeHint};
use statecast_proto::reason::Reason;
use tonic::Status;

use super::call::Call;
use super::connection::PlaceInLine;
use super::error::Refusal;
use super::memory::{Held, Waiting};

/// The body of a request.
pub(super) struct RequestBody {
    body: Body,
    call: Arc<Call>,
    messages: Messages,
    room: Room,
}

/// Room for the message that is being read.
enum Room {
    None,
    Waiting {
        waiting: Waiting,
        _place: PlaceInLine,
    },
    Held(Held),
}

impl RequestBody {
    pub(super) fn new(body: Body, call: Arc<Call>) -> RequestBody {
        RequestBody {
            body,
            call,
            messages: Messages::default(),
            room: Room::None,
        }
    }

    /// Ready when the body may be read on.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        if self.messages.begun {
            self.messages.begun = false;
            // That of the message before.
            self.room = Room::None;
            self.room = self.take_room()?;
        }
        match &mut self.room {
            Room::Waiting { waiting, .. } => {
                self.room = Room::Held(ready!(waiting.poll_unpin(cx)));
            }
            Room::Held(_) if self.messages.is_between() => self.room = Room::None,
            Room::Held(_) | Room::None => {}
        }
        Poll::Ready(Ok(()))
    }

    /// Takes room for the message that has begun.
    fn take_room(&self) -> Result<Room, Refusal> {
        let (budget, connection) = (&self.call.memory.receiving, &self.call.connection);
        if let Some(held) = budget.try_take(self.messages.len) {
            return Ok(Room::Held(held.by(connection)));
        }
        let Some(place) = connection.stand_in_line() else {
            let message = "the broker is busy with large messages, this connection's among them";
            return Err(Refusal::new(Reason::Overloaded, message));
        };
        let waiting = budget.wait(self.messages.len, connection);
        Ok(Room::Waiting {
            waiting,
            _place: place,
        })
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Err(refusal) = ready!(this.poll_room(cx)) {
            return Poll::Ready(Some(Err(Status::from(refusal).into())));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
        {
            this.messages.advance(bytes);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::into_inner)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Room::Held(held) = std::mem::replace(&mut self.room, Room::None) {
            self.call.received(held);
        }
    }
}

/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Where in the messages of a body its reader is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Messages {
    /// What has come of the bytes before a message.
    prefix: [u8; PREFIX],
    prefix_len: usize,
    /// Length of the last message that has begun: bytes.
    len: usize,
    /// What is missing of it.
    missing: usize,
    /// It has begun in the last bytes, and is not whole.
    begun: bool,
}

impl Messages {
    /// Whether a message is whole, and the next one has not begun.
    fn is_between(&self) -> bool {
        self.missing == 0
    }

    /// Goes on by these bytes.
    fn advance(&mut self, mut bytes: &[u8]) {
        loop {
            let of_message = self.missing.min(bytes.len());
            self.missing -= of_message;
            bytes = &bytes[of_message..];
            if bytes.is_empty() {
                return;
            }
            self.begun = false;
            let of_prefix = (PREFIX - self.prefix_len).min(bytes.len());
            let (prefix, rest) = bytes.split_at(of_prefix);
            self.prefix[self.prefix_len..][..of_prefix].copy_from_slice(prefix);
            self.prefix_len += of_prefix;
            bytes = rest;
            if self.prefix_len == PREFIX {
                self.prefix_len = 0;
                let [_, len @ ..] = self.prefix;
                self.len = u32::from_be_bytes(len) as usize;
                self.missing = self.len;
                self.begun = self.missing > bytes.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(len: usize) -> Vec<u8> {
        let prefix = u32::try_from(len).unwrap().to_be_bytes();
        [&[0], &prefix[..], &vec![7; len]].concat()
    }

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let lens = [0, 1, 300, 0, 70_000, 5];
        let bytes: Vec<u8> = lens.iter().flat_map(|&len| message(len)).collect();
        for size in [1, 4, 5, 6, 305, 1000, 65_536, bytes.len()] {
            let mut messages = Messages::default();
            let mut begun = Vec::new();
            for piece in bytes.chunks(size) {
                messages.advance(piece);
                if std::mem::take(&mut messages.begun) {
                    begun.push(messages.len);
                }
            }
            assert!(messages.is_between());
            assert_eq!(messages.prefix_len, 0);
            if size == 1 {
                assert_eq!(begun, [1, 300, 70_000, 5], "in pieces of {size}");
            }
            if size == 65_536 {
                assert_eq!(begun, [70_000]);
            }
            if size == bytes.len() {
                assert!(begun.is_empty(), "what is whole needs no room");
            }
        }
    }
}
