//! How connections are set up. The figures behind these settings are in
//! docs/adr/0009: with the defaults of HTTP/2, throughput halves.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::client::Settings;
use crate::error::Error;

/// Both ends must ask for large frames; the receiver's wish counts.
const MAX_FRAME: u32 = 64 * 1024;
/// Bounds what a stream that nobody reads can pile up here.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const PRODUCE_WINDOW: u32 = 16 * 1024 * 1024;
/// Readers share their connections. Memory is bounded by the window of each
/// stream; a small window for the connection would only let a few readers that
/// stand still hold up all others.
const FETCH_WINDOW: u32 = 1024 * 1024 * 1024;
/// The largest message taken: a response holds at most 8 MiB of batches, or
/// one batch that is larger.
pub(crate) const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// A broker that vanished without closing the connection is noticed within the
/// sum of both.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Produce,
    Fetch,
}

/// A connection that is made when first used, and again after it was lost.
pub(crate) fn open(settings: &Settings, purpose: Purpose) -> Result<Channel, Error> {
    let window = match purpose {
        Purpose::Produce => PRODUCE_WINDOW,
        Purpose::Fetch => FETCH_WINDOW,
    };
    let endpoint = Endpoint::from_shared(address(&settings.url)?)
        .map_err(|error| Error::invalid(format_args!("bad address {:?}: {error}", settings.url)))?
        .connect_timeout(settings.connect_timeout)
        .tcp_nodelay(true)
        .http2_adaptive_window(false)
        .max_frame_size(MAX_FRAME)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(window)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    Ok(endpoint.connect_lazy())
}

fn address(url: &str) -> Result<String, Error> {
    match url.split_once("://") {
        None => Ok(format!("http://{url}")),
        Some(("http", _)) => Ok(url.to_owned()),
        Some((scheme, _)) => Err(Error::invalid(format_args!(
            "bad address {url:?}: the scheme {scheme} is not supported, only http"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_may_be_left_out() {
        assert_eq!(address("broker:7420").unwrap(), "http://broker:7420");
        assert_eq!(address("http://broker:7420").unwrap(), "http://broker:7420");
    }

    #[test]
    fn unsupported_scheme_is_named() {
        let error = address("kafka://broker:9092").unwrap_err();
        assert!(error.to_string().contains("kafka"), "{error}");
    }
}
