//! Statecast, through its own client.

use anyhow::{Result, bail};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use statecast_client::{Client, FlushLevel, Producer, RecordRef, TopicConfig};

use crate::Peer;

pub struct Statecast {
    client: Client,
    producer: Producer,
    topic: String,
}

impl Statecast {
    pub async fn open(address: &str, topic: &str, flush: &str) -> Result<Self> {
        let client = Client::connect(address).await?;
        let level = match flush {
            "always" => FlushLevel::Always,
            "os" => FlushLevel::Os,
            other => bail!("no flush level {other}"),
        };
        let config = TopicConfig::new().flush(level);
        client.admin().create_topic(topic, Some(1), config).await?;
        Ok(Self {
            producer: client.producer(),
            client,
            topic: topic.to_owned(),
        })
    }
}

impl Peer for Statecast {
    fn send(&self, payload: Vec<u8>) -> BoxFuture<'_, Result<BoxFuture<'static, Result<()>>>> {
        Box::pin(async move {
            let record = RecordRef::of_value(&payload);
            let delivery = self.producer.send(&self.topic, &record).await?;
            let acknowledged: BoxFuture<'static, Result<()>> = Box::pin(async move {
                delivery.await?;
                Ok(())
            });
            Ok(acknowledged)
        })
    }

    fn read(&self) -> BoxFuture<'_, Result<BoxStream<'static, Result<Vec<u8>>>>> {
        Box::pin(async move {
            let reader = self.client.reader(self.topic.as_str()).open().await?;
            let records = reader.map(|record| Ok(record?.value.unwrap_or_default().to_vec()));
            Ok(records.boxed())
        })
    }
}
