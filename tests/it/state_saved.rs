//! Views on disk: whatever becomes of them, what is true is what the log folds to.

use std::path::Path;

use bytes::Bytes;
use statecast_proto::v1;

use crate::state::{Fold, append, change, compacted, fold, state};
use crate::support::TestBroker;

/// More than a view has to have changed to be saved at the end.
const KEYS: usize = 3000;

async fn all(broker: &TestBroker) -> Fold {
    let mut state = state(broker).await;
    let mut found = Fold::new();
    let mut request = v1::ScanRequest {
        topic: "t".to_owned(),
        ..v1::ScanRequest::default()
    };
    loop {
        let page = state.scan(request.clone()).await.unwrap().into_inner();
        found.extend(
            page.entries
                .into_iter()
                .map(|entry| (entry.key, entry.value)),
        );
        if page.next_page_token.is_empty() {
            return found;
        }
        request.page_token = page.next_page_token;
    }
}

async fn load(broker: &TestBroker, round: usize) -> Vec<v1::Record> {
    let one = |key: usize| {
        let value = format!("{round}-{key}");
        let is_removal = (key + round).is_multiple_of(7);
        change(format!("k/{key}"), (!is_removal).then_some(&*value))
    };
    let records: Vec<v1::Record> = (0..KEYS).map(one).collect();
    append(broker, "t", records.clone()).await;
    records
}

fn files(data_dir: &Path) -> Vec<std::path::PathBuf> {
    let Ok(files) = std::fs::read_dir(data_dir.join("index/views")) else {
        return Vec::new();
    };
    files.map(|file| file.unwrap().path()).collect()
}

#[tokio::test]
async fn a_view_comes_back_as_it_was_saved_and_goes_on() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", 1).await;
    let mut records = load(&broker, 0).await;
    let (stopped, _) = broker.stop_serving().await;
    let mut saved = None;
    let broker = stopped.start_changed(|dir| {
        let files = files(dir);
        assert_eq!(files.len(), 1);
        saved = Some(std::fs::read(&files[0]).unwrap());
    });
    let broker = broker.await;
    assert_eq!(all(&broker).await, fold(&records));
    records.extend(load(&broker, 1).await);
    assert_eq!(all(&broker).await, fold(&records));
    // One that is behind is caught up.
    let (stopped, _) = broker.stop_serving().await;
    let saved = saved.unwrap();
    let broker = stopped
        .start_changed(|dir| std::fs::write(&files(dir)[0], &saved).unwrap())
        .await;
    assert_eq!(all(&broker).await, fold(&records));
}

#[tokio::test]
async fn one_that_is_lost_damaged_cut_off_or_foreign_is_made_anew() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", 1).await;
    let records = load(&broker, 0).await;
    let expected = fold(&records);
    let changes: [fn(&Path); 5] = [
        |file| std::fs::remove_file(file).unwrap(),
        |file| {
            let mut bytes = std::fs::read(file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(file, bytes).unwrap();
        },
        |file| {
            let bytes = std::fs::read(file).unwrap();
            std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
        },
        |file| std::fs::rename(file, file.with_file_name("4711.view")).unwrap(),
        |file| std::fs::remove_dir_all(file.parent().unwrap().parent().unwrap()).unwrap(),
    ];
    let mut broker = broker;
    for change in changes {
        let (stopped, _) = broker.stop_serving().await;
        broker = stopped
            .start_changed(|dir| {
                let files = files(dir);
                assert_eq!(files.len(), 1);
                change(&files[0]);
            })
            .await;
        assert_eq!(all(&broker).await, expected);
        // So that it is saved again.
        append(&broker, "t", vec![change_nothing(); 1000]).await;
    }
}

/// A record that leaves the state as it is.
fn change_nothing() -> v1::Record {
    change("never there", None)
}

/// A log that lost its end in a power cut, and was written on since, has another record
/// where the view ends.
#[tokio::test]
async fn one_that_doesnt_fit_the_log_is_made_anew() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", 1).await;
    load(&broker, 0).await;
    let (stopped, _) = broker.stop_serving().await;
    let mut foreign = Vec::new();
    let broker = stopped.start_changed(|dir| foreign = std::fs::read(&files(dir)[0]).unwrap());
    drop(broker.await);

    // As many records, and other ones.
    let broker = TestBroker::start().await;
    compacted(&broker, "t", 1).await;
    let records = load(&broker, 1).await;
    let (stopped, _) = broker.stop_serving().await;
    let data_dir = stopped.data_dir().to_owned();
    let broker = stopped
        .start_changed(|dir| {
            // The same data directory by its name.
            let own = std::fs::read(&files(dir)[0]).unwrap();
            let cluster_id = &own[16..48];
            let mut bytes = foreign.clone();
            bytes[16..48].copy_from_slice(cluster_id);
            let checksum = crc32fast::hash(&bytes[12..12 + header_len(&bytes)]);
            bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
            std::fs::write(&files(dir)[0], bytes).unwrap();
        })
        .await;
    assert_eq!(all(&broker).await, fold(&records));
    assert!(files(&data_dir).is_empty(), "it was recognized and removed");
}

fn header_len(bytes: &[u8]) -> usize {
    u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize
}

#[tokio::test]
async fn what_was_saved_of_a_topic_goes_with_it() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", 1).await;
    load(&broker, 0).await;
    let broker = broker.restart().await;
    let name = "t".to_owned();
    broker
        .admin()
        .delete_topic(v1::DeleteTopicRequest { name })
        .await
        .unwrap();
    let (stopped, _) = broker.stop_serving().await;
    let data_dir = stopped.data_dir().to_owned();
    let broker = stopped.start().await;
    assert!(files(&data_dir).is_empty());
    compacted(&broker, "t", 1).await;
    assert_eq!(all(&broker).await, Fold::new());
    let record = change("a", Some("1"));
    append(&broker, "t", vec![record.clone()]).await;
    assert_eq!(
        all(&broker).await,
        Fold::from([(Bytes::from_static(b"a"), Bytes::from_static(b"1"))])
    );
}
