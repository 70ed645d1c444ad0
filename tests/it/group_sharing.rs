//! Processes that share the work of a group, one of which is killed and one added
//! while records flow.
//!
//! ```sh
//! STATECAST_GROUP_RECORDS=1000000 cargo test -p statecast-tests --test it group_sharing -- --nocapture
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use statecast_client::{Client, GroupDescription, GroupState, RecordRef, TopicConfig};
use tokio::sync::watch;

use crate::support::{Binary, statecast};

const PARTITIONS: u32 = 12;
const KEYS: u64 = 97;
const GROUP: &str = "workers";
const LOOK: Duration = Duration::from_millis(2);

/// Where a record lies, and which one it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    partition: u32,
    offset: u64,
    number: u64,
}

impl Line {
    fn parse(text: &str) -> Line {
        let mut words = text.split(' ').map(|word| word.parse().unwrap());
        let mut word = || -> u64 { words.next().unwrap() };
        Line {
            partition: u32::try_from(word()).unwrap(),
            offset: word(),
            number: word(),
        }
    }
}

/// What all processes together have printed.
#[derive(Default)]
struct Seen {
    /// By process, in its order.
    lines: Vec<Vec<Line>>,
    numbers: BTreeSet<u64>,
}

/// A `statecast consume` and the thread that reads what it prints.
struct Process {
    child: Child,
    reading: JoinHandle<()>,
}

impl Process {
    fn start(endpoint: &str, seen: &Arc<Mutex<Seen>>) -> Process {
        let mut command: Command = statecast();
        let mut child = command
            .args(["consume", "t", "--group", GROUP, "-f", "%p %o %v\\n"])
            .env("STATECAST_ENDPOINT", endpoint)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.lines.push(Vec::new());
            seen.lines.len() - 1
        };
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let seen = Arc::clone(seen);
        let reading = std::thread::spawn(move || {
            for line in stdout.lines() {
                let text = line.unwrap();
                // A process that is killed may leave a part of a line.
                if text.split(' ').count() < 3 {
                    continue;
                }
                let line = Line::parse(&text);
                let mut seen = seen.lock().unwrap();
                seen.lines[number].push(line);
                seen.numbers.insert(line.number);
            }
        });
        Process { child, reading }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.reading.join().unwrap();
    }

    fn terminate(mut self) -> ExitStatus {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        self.reading.join().unwrap();
        status
    }
}

fn records() -> u64 {
    let records = std::env::var("STATECAST_GROUP_RECORDS");
    records.map_or(20_000, |n| n.parse().expect("it is a number"))
}

async fn describe(client: &Client) -> GroupDescription {
    client.admin().describe_group(GROUP).await.unwrap()
}

/// Waits until so many members have all partitions.
async fn until_stable(client: &Client, members: u32) {
    loop {
        let groups = client.admin().list_groups(GROUP).await.unwrap();
        let stable = |group: &statecast_client::Group| {
            group.state == GroupState::Stable && group.members == members
        };
        if groups.iter().any(stable) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn until_seen(seen: &Arc<Mutex<Seen>>, count: u64) {
    while (lock(seen).numbers.len() as u64) < count {
        tokio::time::sleep(LOOK).await;
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap()
}

/// Sends the numbers up to a count, those of one key to one partition; no more
/// of them than are allowed.
async fn produce(client: Client, count: u64, mut allowed: watch::Receiver<u64>) {
    let producer = client.producer();
    for number in 0..count {
        if *allowed.borrow() <= number {
            allowed.wait_for(|allowed| *allowed > number).await.unwrap();
        }
        let (key, value) = ((number % KEYS).to_string(), number.to_string());
        let record = RecordRef::new(key.as_bytes(), value.as_bytes());
        drop(producer.send("t", &record).await.unwrap());
    }
    producer.close().await.unwrap();
}

/// Waits until all that was printed is committed.
async fn until_committed(client: &Client) -> BTreeMap<u32, u64> {
    loop {
        let description = describe(client).await;
        if description.partitions.iter().all(|p| p.lag == 0) {
            return committed(&description);
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_processed_though_one_member_is_killed_and_one_added() {
    let data = tempfile::tempdir().unwrap();
    let broker = Binary::serve(data.path());
    let client = Client::connect(broker.endpoint()).await.unwrap();
    let admin = client.admin();
    let config = TopicConfig::new();
    admin
        .create_topic("t", Some(PARTITIONS), config)
        .await
        .unwrap();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let start = || Process::start(&broker.endpoint(), &seen);
    let mut processes = vec![start(), start(), start()];
    until_stable(&client, 3).await;

    let records = records();
    let (allow, allowed) = watch::channel(records / 3);
    let producing = tokio::spawn(produce(client.clone(), records, allowed));
    until_seen(&seen, records / 3).await;
    let committed = until_committed(&client).await;
    // In the midst of the second third, of which little is committed.
    allow.send_replace(records / 3 * 2);
    until_seen(&seen, records / 2).await;
    processes.remove(0).kill();
    allow.send_replace(records);
    processes.push(start());
    producing.await.unwrap();
    until_stable(&client, 3).await;
    until_seen(&seen, records).await;
    for process in processes {
        assert!(process.terminate().success());
    }

    check(&lock(&seen), records, &committed);
    let description = describe(&client).await;
    assert_eq!(description.group.state, GroupState::Empty);
    for partition in description.partitions {
        assert_eq!(partition.lag, 0, "{partition:?}");
    }
}

fn check(seen: &Seen, records: u64, committed: &BTreeMap<u32, u64>) {
    assert!(seen.numbers.iter().copied().eq(0..records), "none is lost");
    check_repeats(seen, committed);
    check_order(seen);
}

fn committed(description: &GroupDescription) -> BTreeMap<u32, u64> {
    let partitions = description.partitions.iter();
    partitions
        .map(|p| (p.partition, p.committed_offset.unwrap_or_default()))
        .collect()
}

/// Only what the killed process, the first one, had printed and not committed
/// was printed again, and that once.
fn check_repeats(seen: &Seen, committed: &BTreeMap<u32, u64>) {
    let mut printed: HashMap<u64, Vec<(usize, Line)>> = HashMap::new();
    for (process, lines) in seen.lines.iter().enumerate() {
        for line in lines {
            printed
                .entry(line.number)
                .or_default()
                .push((process, *line));
        }
    }
    let mut repeats = 0;
    for printed in printed.values().filter(|printed| printed.len() > 1) {
        repeats += 1;
        assert!(
            printed.len() == 2 && printed.iter().any(|(process, _)| *process == 0),
            "only what the killed one had: {printed:?}"
        );
        let line = printed[0].1;
        assert!(
            line.offset >= committed[&line.partition],
            "{line:?} was committed"
        );
    }
    println!("{} records, {repeats} of them twice", seen.numbers.len());
}

/// Records of a partition, and so those of a key, are in order in each process.
fn check_order(seen: &Seen) {
    for lines in &seen.lines {
        let mut last: HashMap<u32, u64> = HashMap::new();
        let mut of_key: HashMap<u64, u64> = HashMap::new();
        for line in lines {
            if let Some(last) = last.insert(line.partition, line.offset) {
                assert!(line.offset > last, "{line:?} behind {last}");
            }
            if let Some(last) = of_key.insert(line.number % KEYS, line.number) {
                assert!(line.number > last, "{line:?} behind {last}");
            }
        }
    }
}
