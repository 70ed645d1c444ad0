//! Leases: keys that end by themselves.

use std::pin::Pin;

use futures_util::Stream;
use statecast_proto::v1;
use tonic::Status;

/// The responses of one call.
pub(super) type KeepAliveStream =
    Pin<Box<dyn Stream<Item = Result<v1::KeepAliveResponse, Status>> + Send>>;
