//! Processes that share the work of a group, one of which is killed and one added
//! while records flow: every record is processed, each partition is worked on in its
//! order whoever has it, and again comes only what the killed one had not committed.
//! How long other partitions pause meanwhile is measured by `statecast bench group`.
//!
//! ```sh
//! STATECAST_GROUP_RECORDS=1000000 cargo test -p statecast-tests --test it group_sharing -- --nocapture
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use statecast_client::{Client, GroupDescription, GroupState, RecordRef, TopicConfig};
use tokio::sync::watch;

use crate::support::{Binary, statecast, until_stopped};

const PARTITIONS: u32 = 12;
const KEYS: u64 = 97;
const GROUP: &str = "workers";
const LOOK: Duration = Duration::from_millis(2);

/// A record that a process has printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    process: usize,
    partition: u32,
    offset: u64,
    number: u64,
}

impl Line {
    fn parse(text: &str) -> Line {
        let mut words = text.split(' ').map(|word| word.parse().expect(text));
        let mut word = || -> u64 { words.next().expect(text) };
        Line {
            process: usize::try_from(word()).unwrap(),
            partition: u32::try_from(word()).unwrap(),
            offset: word(),
            number: word(),
        }
    }
}

/// What all processes together have printed, in the order in which they did: it is
/// one file, and each of them appends whole lines with one write.
struct Printed {
    path: PathBuf,
    reader: BufReader<File>,
    /// The beginning of a line of which the rest is being written.
    begun: String,
    lines: Vec<Line>,
    numbers: BTreeSet<u64>,
}

impl Printed {
    fn new(dir: &Path) -> Printed {
        let path = dir.join("printed");
        File::create(&path).unwrap();
        Printed {
            reader: BufReader::new(File::open(&path).unwrap()),
            path,
            begun: String::new(),
            lines: Vec::new(),
            numbers: BTreeSet::new(),
        }
    }

    /// Reads what was printed since, up to so many records.
    fn read(&mut self, count: u64) {
        while (self.numbers.len() as u64) < count
            && self.reader.read_line(&mut self.begun).unwrap() > 0
        {
            let Some(text) = self.begun.strip_suffix('\n') else {
                return;
            };
            let line = Line::parse(text);
            self.lines.push(line);
            self.numbers.insert(line.number);
            self.begun.clear();
        }
    }

    /// Waits until a process has printed a record of this number or a higher one.
    async fn until_of(&mut self, process: usize, number: u64) {
        let is_it = |line: &Line| line.process == process && line.number >= number;
        let mut looked_at = 0;
        while !self.lines[looked_at..].iter().any(is_it) {
            looked_at = self.lines.len();
            self.until(self.numbers.len() as u64 + 1).await;
        }
    }

    /// Waits until so many records were printed.
    async fn until(&mut self, count: u64) {
        loop {
            self.read(count);
            if self.numbers.len() as u64 >= count {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A `statecast consume`.
struct Process(Child);

impl Process {
    fn start(endpoint: &str, printed: &Printed, number: usize) -> Process {
        let stdout = File::options().append(true).open(&printed.path).unwrap();
        let child = statecast()
            .args(["consume", "t", "--group", GROUP])
            .args(["-f", &format!("{number} %p %o %v\\n")])
            .env("STATECAST_ENDPOINT", endpoint)
            .stdout(stdout)
            .spawn();
        Process(child.unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap()
    }

    /// Ends it as a crash does. Returns what its group had committed at that moment:
    /// the process is stopped in the midst of what it does, so nobody else has its
    /// partitions while the broker is asked, and doesn't get to run again.
    async fn kill(mut self, client: &Client) -> BTreeMap<u32, u64> {
        kill_process(self.pid(), Signal::STOP).unwrap();
        until_stopped(self.0.id());
        let committed = committed(&describe(client).await);
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        committed
    }

    fn terminate(mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).unwrap();
        self.0.wait().unwrap()
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
    let broker = Binary::serve(&data.path().join("broker"));
    let client = Client::connect(broker.endpoint()).await.unwrap();
    let admin = client.admin();
    let config = TopicConfig::new();
    admin
        .create_topic("t", Some(PARTITIONS), config)
        .await
        .unwrap();
    let mut printed = Printed::new(data.path());
    let start = |printed: &Printed, number| Process::start(&broker.endpoint(), printed, number);
    let mut processes: Vec<Process> = (0..3).map(|number| start(&printed, number)).collect();
    until_stable(&client, 3).await;

    let records = records();
    let (allow, allowed) = watch::channel(records / 3);
    let producing = tokio::spawn(produce(client.clone(), records, allowed));
    printed.until(records / 3).await;
    let before = until_committed(&client).await;
    // In the midst of what follows, of which little is committed.
    allow.send_replace(records / 3 * 2);
    printed.until(records / 3 + records / 30).await;
    printed.until_of(0, records / 3).await;
    let committed = processes.remove(0).kill(&client).await;
    for (partition, before) in before {
        assert!(committed[&partition] >= before, "{partition} went back");
    }
    allow.send_replace(records);
    processes.push(start(&printed, 3));
    producing.await.unwrap();
    until_stable(&client, 3).await;
    printed.until(records).await;
    for process in processes {
        assert!(process.terminate().success());
    }

    printed.read(u64::MAX);
    assert_eq!(printed.begun, "", "lines are whole");
    check(&printed, records, &committed);
    let description = describe(&client).await;
    assert_eq!(description.group.state, GroupState::Empty);
    for partition in description.partitions {
        assert_eq!(partition.lag, 0, "{partition:?}");
    }
}

fn committed(description: &GroupDescription) -> BTreeMap<u32, u64> {
    let partitions = description.partitions.iter();
    partitions
        .map(|p| (p.partition, p.committed_offset.unwrap_or_default()))
        .collect()
}

/// A partition, as far as it was printed.
#[derive(Default)]
struct Course {
    /// Who printed each record first, by its offset, and what it was.
    first: Vec<Line>,
    /// Where the next line has to lie.
    next: usize,
    /// What was printed once more.
    again: Option<Range<usize>>,
}

impl Course {
    /// Takes the next line that was printed. They come in the order of their
    /// offsets without a gap, whoever prints them; but once whoever follows the
    /// killed process, the first one, goes back, and no further than it had
    /// committed.
    fn take(&mut self, line: Line, committed: u64) {
        let at = usize::try_from(line.offset).unwrap();
        if at != self.next {
            assert!(at < self.next, "{line:?} leaves something out");
            assert_eq!(self.again, None, "{line:?} goes back once more");
            assert!(line.offset >= committed, "{line:?} was committed");
            self.again = Some(at..self.next);
        }
        self.next = at + 1;
        let Some(first) = self.first.get(at) else {
            return self.first.push(line);
        };
        assert_eq!(line.number, first.number, "{line:?} was {first:?}");
        let was_lost = first.process == 0 && line.process != 0;
        assert!(
            was_lost,
            "{line:?} was printed by one that lives: {first:?}"
        );
    }
}

fn check(printed: &Printed, records: u64, committed: &BTreeMap<u32, u64>) {
    let numbers = printed.numbers.iter().copied();
    assert!(numbers.eq(0..records), "none is lost");
    let mut courses: BTreeMap<u32, Course> = BTreeMap::new();
    for line in &printed.lines {
        let course = courses.entry(line.partition).or_default();
        course.take(*line, committed[&line.partition]);
    }
    let mut repeats = 0;
    for course in courses.values() {
        repeats += course.again.as_ref().map_or(0, Range::len);
        assert_eq!(course.next, course.first.len(), "it goes on to the end");
        let mut of_key: HashMap<u64, u64> = HashMap::new();
        for line in &course.first {
            if let Some(last) = of_key.insert(line.number % KEYS, line.number) {
                assert!(line.number > last, "{line:?} behind {last}");
            }
        }
    }
    println!("{records} records, {repeats} of them twice");
}
