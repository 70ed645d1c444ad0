//! The producer of the client library while the broker is killed: each record is
//! there once, and in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use statecast_client::{Delivery, Producer, Reason, RecordRef};

use crate::library::{Phoenix, create, read_all, text};

const PARTITIONS: u32 = 3;
/// Records of a producer that wait for their acknowledgement.
const ON_THEIR_WAY: usize = 3000;

/// What the producers of a test share.
#[derive(Default)]
struct Load {
    stopping: AtomicBool,
    acknowledged: AtomicU64,
}

impl Load {
    /// Sends numbers, one after the other, to all partitions in turn, until it is
    /// told to stop. Returns how many.
    async fn send(self: Arc<Self>, producer: Producer, name: usize) -> u32 {
        let mut on_their_way = VecDeque::new();
        let mut sent = 0_u32;
        while !self.stopping.load(Ordering::Relaxed) {
            let value = format!("{name} {sent}");
            let record = RecordRef::of_value(value.as_bytes());
            let delivery = producer.send_to("t", sent % PARTITIONS, &record).await;
            on_their_way.push_back(delivery.unwrap());
            sent += 1;
            if on_their_way.len() == ON_THEIR_WAY {
                self.acknowledge(on_their_way.pop_front().unwrap()).await;
            }
        }
        for delivery in on_their_way {
            self.acknowledge(delivery).await;
        }
        sent
    }

    async fn acknowledge(&self, delivery: Delivery) {
        delivery.await.unwrap();
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for more acknowledgements.
    async fn until_more(&self) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        while self.acknowledged.load(Ordering::Relaxed) < before + 500 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_there_once_and_in_order_however_often_the_broker_is_killed() {
    let mut phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", PARTITIONS).await;
    let load = Arc::new(Load::default());
    // One that knows nothing of batches, one with many small requests on their way,
    // one with a name.
    let builder = client.producer_builder();
    let producers = [
        builder.clone().build(),
        builder.clone().batch_bytes(1024).max_in_flight(32).build(),
        builder.batch_bytes(4096).producer_name("lamps").build(),
    ];
    let producers = producers.into_iter().enumerate();
    let sending = producers.map(|(name, producer)| tokio::spawn(load.clone().send(producer, name)));
    let sending: Vec<_> = sending.collect();
    for _ in 0..8 {
        load.until_more().await;
        let crash = tokio::task::spawn_blocking(|| phoenix.crash_and_return());
        phoenix = crash.await.unwrap();
    }
    load.until_more().await;
    load.stopping.store(true, Ordering::Relaxed);
    let mut sent = Vec::new();
    for sending in sending {
        sent.push(sending.await.unwrap());
    }

    let mut next = vec![[0, 1, 2]; sent.len()];
    for record in read_all(&client, "t").await {
        let (name, number) = text(&record).split_once(' ').unwrap();
        let (name, number): (usize, u32) = (name.parse().unwrap(), number.parse().unwrap());
        let next = &mut next[name][record.partition as usize];
        assert_eq!(number, *next, "of producer {name}");
        *next += PARTITIONS;
    }
    for (next, sent) in next.iter().zip(&sent) {
        assert!(next.iter().all(|next| next >= sent), "{next:?} of {sent}");
    }
}

#[tokio::test]
async fn name_that_is_taken_ends_the_former_producer_for_good() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 1).await;
    let named = || client.producer_builder().producer_name("lamps").build();
    let send = async |producer: &Producer, value: &str| {
        let record = RecordRef::of_value(value.as_bytes());
        producer.send("t", &record).await?.await
    };
    let former = named();
    send(&former, "first").await.unwrap();
    let latter = named();
    send(&latter, "second").await.unwrap();
    let error = send(&former, "third").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ProducerFenced));
    // Who was fenced before the broker was killed is fenced after it.
    let phoenix = phoenix.crash_and_return();
    let error = send(&former, "fourth").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ProducerFenced));
    send(&latter, "fifth").await.unwrap();
    let records = read_all(&client, "t").await;
    let values: Vec<_> = records.iter().map(text).collect();
    assert_eq!(values, ["first", "second", "fifth"]);
    drop(phoenix);
}

#[tokio::test]
async fn topic_that_is_made_anew_takes_records_of_the_same_producer() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    let producer = client.producer();
    for round in 0..3 {
        create(&client, "t", 1).await;
        for number in 0..3 {
            let value = format!("{round} {number}");
            let record = RecordRef::of_value(value.as_bytes());
            let position = producer.send("t", &record).await.unwrap().await.unwrap();
            assert_eq!(position.offset, Some(number));
        }
        client.admin().delete_topic("t").await.unwrap();
    }
}
