//! The services of the demo: one owns the state, others keep a view of it. They know
//! nothing of each other but the name of the topic.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use statecast_client::{
    Cleanup, Client, Error, Expect, StateView, TopicConfig, Version, Write, Written,
};
use tokio::sync::oneshot;
use tokio_stream::StreamExt;

use super::board::{Board, Latecomer, SENT, content};
use super::history::{Commit, File};
use crate::clock;

pub(super) const TOPIC: &str = "files";
pub(super) const PARTITIONS: u32 = 4;

/// Keys and values.
pub(super) type Map = BTreeMap<Vec<u8>, Vec<u8>>;

pub(super) async fn create_topic(client: &Client) -> Result<(), Error> {
    let config = TopicConfig::new().cleanup(Cleanup::Compact);
    let admin = client.admin();
    admin.create_topic(TOPIC, Some(PARTITIONS), config).await?;
    Ok(())
}

/// The service that owns the state.
pub(super) struct Owner {
    client: Client,
    board: Board,
    /// The version of each file that it has put there last.
    versions: HashMap<&'static str, Version>,
    /// The last change in each partition.
    last: BTreeMap<u32, Written>,
}

impl Owner {
    pub(super) fn new(client: Client, board: Board) -> Self {
        Self {
            client,
            board,
            versions: HashMap::new(),
            last: BTreeMap::new(),
        }
    }

    /// Replays commits, so many changes a second, and tells when half of them are
    /// written. Returns the last change in each partition.
    pub(super) async fn replay(
        mut self,
        commits: Vec<Commit>,
        rate: f64,
        halfway: oneshot::Sender<()>,
    ) -> Result<Vec<Written>, Error> {
        let (begun, count) = (self.board.elapsed(), commits.len());
        let mut halfway = Some(halfway);
        for (number, commit) in commits.into_iter().enumerate() {
            let written = self.board.notes().written;
            let due = begun + Duration::from_secs_f64(written as f64 / rate);
            tokio::time::sleep(due.saturating_sub(self.board.elapsed())).await;
            self.write(&commit).await?;
            if number >= count / 2
                && let Some(halfway) = halfway.take()
            {
                // Nobody waits for it if the demo is ending.
                let _ = halfway.send(());
            }
        }
        Ok(self.last.into_values().collect())
    }

    /// All files of a commit change at once, if they still are what they were: whoever
    /// else would own them is found out.
    async fn write(&mut self, commit: &Commit) -> Result<(), Error> {
        let stamp = self.board.stamp();
        let write = |file: &File| {
            let write = match file.blob {
                Some(blob) => Write::put(file.path, value(commit, blob)),
                None => Write::delete(file.path),
            };
            let expect = match self.versions.get(file.path) {
                Some(version) => Expect::Version(*version),
                None => Expect::Absent,
            };
            write.expect(expect).header(SENT, &stamp)
        };
        let writes: Vec<_> = commit.files.iter().map(write).collect();
        let written = self.client.state(TOPIC).put_all(writes).await?;
        for (file, written) in commit.files.iter().zip(written) {
            match file.blob {
                Some(_) => drop(self.versions.insert(file.path, written.version)),
                None => drop(self.versions.remove(file.path)),
            }
            self.last.insert(written.partition, written);
        }
        let mut notes = self.board.notes();
        notes.commits += 1;
        notes.written += commit.files.len() as u64;
        notes.last_commit = Some((commit.name, commit.time));
        Ok(())
    }
}

fn value(commit: &Commit, blob: &str) -> String {
    let (name, time) = (commit.name, commit.time);
    serde_json::json!({ "blob": blob, "commit": name, "time": time }).to_string()
}

/// The service that keeps a view, and notes every change of it.
pub(super) async fn view(client: &Client, board: &Board) -> Result<StateView, Error> {
    let board = board.clone();
    let view = client.state_view(TOPIC);
    let view = view.on_change(move |change| board.told(change));
    let view = view.open().await?;
    view.wait_synced().await?;
    Ok(view)
}

/// One that begins in the middle of it all.
pub(super) async fn latecomer(
    client: Client,
    board: Board,
    halfway: oneshot::Receiver<()>,
) -> Result<StateView, Error> {
    halfway.await.map_err(|_| Error::Closed)?;
    let (begun, at) = (clock::instant(), board.notes().written);
    let view = client.state_view(TOPIC).open().await?;
    view.wait_synced().await?;
    board.notes().latecomer = Some(Latecomer {
        at,
        keys: view.len(),
        took: begun.elapsed(),
    });
    Ok(view)
}

/// What a view holds once it has these changes.
pub(super) async fn map_of(view: &StateView, last: &[Written]) -> Result<Map, Error> {
    for written in last {
        view.wait_for(written).await?;
    }
    Ok(view.iter().map(|entry| content(&entry)).collect())
}

/// What the records of the topic make, one after the other: what a view has to be.
pub(super) async fn fold(client: &Client) -> Result<Map, Error> {
    let mut records = client.reader(TOPIC).until_end().open().await?;
    let mut map = Map::new();
    while let Some(record) = records.next().await {
        let record = record?;
        let key = record.key.unwrap_or_default().to_vec();
        match record.value {
            Some(value) => drop(map.insert(key, value.to_vec())),
            None => drop(map.remove(&key)),
        }
    }
    Ok(map)
}
