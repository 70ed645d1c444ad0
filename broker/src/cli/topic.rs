//! `statecast topic`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use jiff::Timestamp;
use serde_json::{Value, json};
use statecast_client::{
    Admin, Cleanup, FlushLevel, Retention, Topic, TopicConfig, TopicDescription,
};

use super::common::{Common, Output};
use super::failure::Failure;
use super::session::{block_on, print, print_json};
use super::units;

/// Create, list, describe, alter and delete topics.
#[derive(Debug, Args)]
#[command(visible_alias = "topics")]
pub(super) struct TopicCommand {
    #[command(subcommand)]
    verb: TopicVerb,
}

#[derive(Debug, Subcommand)]
enum TopicVerb {
    /// Create a topic.
    Create {
        /// 1 to 200 of A–Z a–z 0–9 . _ -
        name: String,
        /// Number of partitions [default: 1]
        #[arg(short, long, value_name = "N")]
        partitions: Option<u32>,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// List topics.
    #[command(visible_alias = "ls")]
    List {
        /// Only those whose name begins so.
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Show a topic and its partitions.
    Describe {
        /// The topic.
        name: String,
    },
    /// Change the configuration of a topic, or add partitions.
    Alter {
        /// The topic.
        name: String,
        /// The new number of partitions; it can only grow.
        #[arg(short, long, value_name = "N")]
        partitions: Option<u32>,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Delete topics and their records.
    #[command(visible_alias = "rm")]
    Delete {
        /// The topics.
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// The configuration of a topic; what isn't given has the broker's default, or
/// stays as it is.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// How long records are kept: a time or `forever`; not with `--cleanup compact`
    /// [default: 7d]
    #[arg(long, value_name = "TIME", value_parser = units::retention)]
    retention: Option<Retention<Duration>>,
    /// How much a partition keeps: a size or `unlimited`; not with `--cleanup compact`
    /// [default: unlimited]
    #[arg(long, value_name = "SIZE", value_parser = units::retention_bytes)]
    retention_bytes: Option<Retention<u64>>,
    /// What happens to old records; a topic stays compacted, or not, for good
    /// [default: delete]
    #[arg(long, value_enum, value_name = "HOW")]
    cleanup: Option<CleanupArg>,
    /// How long tombstones of a compacted topic stay after what they removed is gone
    /// [default: 1d]
    #[arg(long, value_name = "TIME", value_parser = units::whole_milliseconds)]
    tombstone_grace: Option<Duration>,
    /// When an append is acknowledged: `always` when it is on disk, a time such
    /// as `100ms` for how often it is written to disk, `os` when it likes
    /// [default: always]
    #[arg(long, value_name = "LEVEL", value_parser = units::flush_level)]
    flush: Option<FlushLevel>,
    /// Size of a segment [default: 128MiB]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    segment_bytes: Option<u64>,
    /// The largest batch that is taken [default: 4MiB]
    #[arg(long, value_name = "SIZE", value_parser = units::batch_size)]
    max_batch_bytes: Option<u32>,
}

/// What happens to old records.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum CleanupArg {
    /// They are removed by age and size, as the retention says.
    Delete,
    /// The latest record of each key is kept; every record needs a key.
    Compact,
    /// The latest record of each key is kept, until the retention removes it.
    #[value(name = "compact,delete", alias = "delete,compact")]
    CompactDelete,
}

impl From<CleanupArg> for Cleanup {
    fn from(cleanup: CleanupArg) -> Cleanup {
        match cleanup {
            CleanupArg::Delete => Cleanup::Delete,
            CleanupArg::Compact => Cleanup::Compact,
            CleanupArg::CompactDelete => Cleanup::CompactDelete,
        }
    }
}

impl ConfigArgs {
    fn config(&self) -> TopicConfig {
        let mut config = TopicConfig::new();
        config.retention = self.retention;
        config.retention_bytes = self.retention_bytes;
        config.cleanup = self.cleanup.map(Cleanup::from);
        config.tombstone_grace = self.tombstone_grace;
        config.flush = self.flush;
        config.segment_bytes = self.segment_bytes;
        config.max_batch_bytes = self.max_batch_bytes;
        config
    }
}

impl TopicCommand {
    pub(super) fn run(self, common: &Common) -> Result<(), Failure> {
        block_on(self.verb.run(common))
    }
}

impl TopicVerb {
    async fn run(self, common: &Common) -> Result<(), Failure> {
        let admin = common.connect().await?.admin();
        let json = common.output == Output::Json;
        match self {
            Self::Create {
                name,
                partitions,
                config,
            } => {
                let topic = admin
                    .create_topic(&name, partitions, config.config())
                    .await?;
                changed(common, &topic, "created")
            }
            Self::Alter {
                name,
                partitions,
                config,
            } => {
                let topic = admin
                    .alter_topic(&name, partitions, config.config())
                    .await?;
                changed(common, &topic, "altered")
            }
            Self::Delete { names } => delete(common, &admin, &names).await,
            Self::List { prefix } => {
                let topics = admin.list_topics(&prefix).await?;
                if json {
                    print_json(&topics.iter().map(topic_json).collect())
                } else {
                    print(&topics_table(&topics))
                }
            }
            Self::Describe { name } => {
                let description = admin.describe_topic(&name).await?;
                if json {
                    print_json(&description_json(&description))
                } else {
                    print(&description_text(&description))
                }
            }
        }
    }
}

/// Tries all of them, and tells of each what became of it.
async fn delete(common: &Common, admin: &Admin, names: &[String]) -> Result<(), Failure> {
    let mut deleted = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        match admin.delete_topic(name).await {
            Ok(()) => {
                common.note(format_args!("deleted topic {name}"));
                deleted.push(name);
            }
            Err(error) => failures.push(Failure::from(error).of(&format!("can't delete {name}"))),
        }
    }
    if common.output == Output::Json {
        print_json(&json!({ "deleted": deleted }))?;
    }
    // The last one is left to whoever reports how the verb ended.
    let last = failures.pop();
    for failure in failures {
        failure.report(common.output);
    }
    last.map_or(Ok(()), Err)
}

fn changed(common: &Common, topic: &Topic, how: &str) -> Result<(), Failure> {
    if common.output == Output::Json {
        return print_json(&topic_json(topic));
    }
    let Topic {
        name, partitions, ..
    } = topic;
    common.note(format_args!(
        "{how} topic {name} with {partitions} partitions"
    ));
    Ok(())
}

fn topic_json(topic: &Topic) -> Value {
    let config = &topic.config;
    let retention_ms = match config.retention {
        Some(Retention::Limit(time)) => json!(time.as_millis()),
        _ => Value::Null,
    };
    let retention_bytes = match config.retention_bytes {
        Some(Retention::Limit(bytes)) => json!(bytes),
        _ => Value::Null,
    };
    json!({
        "name": topic.name,
        "partitions": topic.partitions,
        "created_ms": topic.created_ms,
        "config": {
            "retention_ms": retention_ms,
            "retention_bytes": retention_bytes,
            "cleanup": config.cleanup.map(show_cleanup),
            "tombstone_grace_ms": config.tombstone_grace.map(|grace| grace.as_millis()),
            "flush": config.flush.map(units::show_flush),
            "segment_bytes": config.segment_bytes,
            "max_batch_bytes": config.max_batch_bytes,
        },
    })
}

fn description_json(description: &TopicDescription) -> Value {
    let mut topic = topic_json(&description.topic);
    let partitions = description.partitions.iter().map(|partition| {
        let ranges = partition.quarantined.iter();
        json!({
            "partition": partition.partition,
            "log_start_offset": partition.log_start_offset,
            "high_watermark": partition.high_watermark,
            "segment_bytes": partition.segment_bytes,
            "quarantined": ranges
                .map(|range| json!({ "from": range.start, "to": range.end }))
                .collect::<Value>(),
        })
    });
    topic["partition_states"] = partitions.collect();
    topic
}

fn topics_table(topics: &[Topic]) -> String {
    let mut table = new_table(&["NAME", "PARTITIONS", "RETENTION", "MAX SIZE", "FLUSH"]);
    for topic in topics {
        table.add_row([
            topic.name.clone(),
            topic.partitions.to_string(),
            show_retention(topic.config.retention),
            show_retention_bytes(topic.config.retention_bytes),
            topic
                .config
                .flush
                .map(units::show_flush)
                .unwrap_or_default(),
        ]);
    }
    table_text(table)
}

fn description_text(description: &TopicDescription) -> String {
    let topic = &description.topic;
    let config = &topic.config;
    let created = Timestamp::from_millisecond(topic.created_ms)
        .map_or_else(|_| topic.created_ms.to_string(), |time| time.to_string());
    let size = |bytes: Option<u64>| bytes.map(units::show_size).unwrap_or_default();
    let mut facts = new_table(&[]);
    facts.add_rows([
        ["name:", &topic.name],
        ["created:", &created],
        ["partitions:", &topic.partitions.to_string()],
        ["retention:", &show_retention(config.retention)],
        ["max size:", &show_retention_bytes(config.retention_bytes)],
        [
            "cleanup:",
            config.cleanup.map(show_cleanup).unwrap_or_default(),
        ],
        [
            "tombstone grace:",
            &config
                .tombstone_grace
                .map_or_else(|| "none".to_owned(), units::show_duration),
        ],
        [
            "flush:",
            &config.flush.map(units::show_flush).unwrap_or_default(),
        ],
        ["segment size:", &size(config.segment_bytes)],
        ["max batch:", &size(config.max_batch_bytes.map(u64::from))],
    ]);
    let mut partitions = new_table(&[
        "PARTITION",
        "START",
        "END",
        "RECORDS",
        "SEGMENTS",
        "DAMAGED",
    ]);
    for partition in &description.partitions {
        let damaged: u64 = partition.quarantined.iter().map(|r| r.end - r.start).sum();
        let records = partition
            .high_watermark
            .saturating_sub(partition.log_start_offset);
        partitions.add_row([
            partition.partition.to_string(),
            partition.log_start_offset.to_string(),
            partition.high_watermark.to_string(),
            records.to_string(),
            units::show_size(partition.segment_bytes),
            damaged.to_string(),
        ]);
    }
    format!("{}\n{}", table_text(facts), table_text(partitions))
}

fn show_retention(retention: Option<Retention<Duration>>) -> String {
    match retention {
        Some(Retention::Limit(time)) => units::show_duration(time),
        Some(Retention::Forever) | None => "forever".to_owned(),
    }
}

fn show_retention_bytes(retention: Option<Retention<u64>>) -> String {
    match retention {
        Some(Retention::Limit(bytes)) => units::show_size(bytes),
        Some(Retention::Forever) | None => "unlimited".to_owned(),
    }
}

fn show_cleanup(cleanup: Cleanup) -> &'static str {
    match cleanup {
        Cleanup::Delete => "delete",
        Cleanup::Compact => "compact",
        Cleanup::CompactDelete => "compact,delete",
        // This binary holds the library of its own version.
        _ => "unknown",
    }
}

/// Columns without lines: easy to read, and to cut with other tools.
pub(super) fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header);
    }
    table
}

pub(super) fn table_text(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    format!("{}\n", table.trim_fmt())
}
