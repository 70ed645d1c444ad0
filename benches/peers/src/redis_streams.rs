//! Redis Streams: XADD through one multiplexed connection, XREAD through another.

use anyhow::Result;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use redis::streams::StreamReadReply;

use crate::Peer;

pub struct Redis {
    client: redis::Client,
    connection: MultiplexedConnection,
    stream: String,
}

impl Redis {
    pub async fn open(address: &str, stream: &str) -> Result<Self> {
        let client = redis::Client::open(address)?;
        Ok(Self {
            connection: connect(&client).await?,
            client,
            stream: stream.to_owned(),
        })
    }
}

/// A read may block for as long as it likes.
async fn connect(client: &redis::Client) -> Result<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    Ok(connection.await?)
}

impl Peer for Redis {
    fn send(&self, payload: Vec<u8>) -> BoxFuture<'_, Result<BoxFuture<'static, Result<()>>>> {
        let mut connection = self.connection.clone();
        let stream = self.stream.clone();
        // Spawned, so that it is on its way before anybody waits for it.
        let answer = tokio::spawn(async move {
            let mut command = redis::cmd("XADD");
            command.arg(stream).arg("*").arg("v").arg(payload);
            command.query_async::<String>(&mut connection).await
        });
        Box::pin(async move {
            let acknowledged: BoxFuture<'static, Result<()>> = Box::pin(async move {
                answer.await??;
                Ok(())
            });
            Ok(acknowledged)
        })
    }

    fn read(&self) -> BoxFuture<'_, Result<BoxStream<'static, Result<Vec<u8>>>>> {
        Box::pin(async move {
            let connection = connect(&self.client).await?;
            let begin = (connection, self.stream.clone(), "0".to_owned());
            let pages = stream::try_unfold(begin, |(mut connection, stream, last)| async move {
                let mut command = redis::cmd("XREAD");
                command.arg("COUNT").arg(1000).arg("BLOCK").arg(60_000);
                command.arg("STREAMS").arg(&stream).arg(&last);
                let page: StreamReadReply = command.query_async(&mut connection).await?;
                let entries = page.keys.into_iter().flat_map(|key| key.ids);
                let mut last = last;
                let mut values = Vec::new();
                for entry in entries {
                    values.push(Ok(entry.get::<Vec<u8>>("v").unwrap_or_default()));
                    last = entry.id;
                }
                let next = (connection, stream, last);
                anyhow::Ok(Some((stream::iter(values), next)))
            });
            let values = pages.flat_map(|page| match page {
                Ok(values) => values.left_stream(),
                Err(error) => stream::iter([Err(error)]).right_stream(),
            });
            Ok(values.boxed())
        })
    }
}
