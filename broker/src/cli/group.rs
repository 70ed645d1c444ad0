//! `statecast group`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};
use statecast_client::{
    Admin, Error, Group, GroupDescription, GroupMember, GroupPartition, GroupState, Reason,
};

use super::common::{Common, Output};
use super::failure::Failure;
use super::session::{block_on, print, print_json};
use super::start::From;
use super::topic::{new_table, table_text};
use super::units;
use crate::clock::Clock;

/// List, describe, reset and delete consumer groups.
#[derive(Debug, Args)]
#[command(visible_alias = "groups")]
pub(super) struct GroupCommand {
    #[command(subcommand)]
    verb: GroupVerb,
}

#[derive(Debug, Subcommand)]
enum GroupVerb {
    /// List groups.
    #[command(visible_alias = "ls")]
    List {
        /// Only those whose name begins so.
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Show a group: its members, what each reads, and how far behind it is.
    Describe {
        /// The group.
        name: String,
    },
    /// Let a group go on elsewhere in a topic.
    Reset {
        /// The group.
        name: String,
        /// The topic.
        #[arg(short, long, value_name = "TOPIC")]
        topic: String,
        /// Where to go on: earliest, latest, an offset, @MILLISECONDS since
        /// 1970, a time before now such as -1h, or an RFC 3339 time.
        #[arg(
            long,
            value_name = "WHERE",
            value_parser = From::parse,
            allow_hyphen_values = true
        )]
        to: From,
        /// Only this partition; may be given several times [default: all]
        #[arg(short, long, value_name = "N")]
        partition: Vec<u32>,
        /// Also when the group has members: they lose what they have of the
        /// topic, and begin again there.
        #[arg(long)]
        force: bool,
    },
    /// Forget groups that have no members, with what they committed; or only what
    /// they committed for a topic that they read no more.
    #[command(visible_alias = "rm")]
    Delete {
        /// The groups.
        #[arg(required = true)]
        names: Vec<String>,
        /// Forget only what they committed for this topic.
        #[arg(short, long, value_name = "TOPIC")]
        topic: Option<String>,
    },
}

impl GroupCommand {
    pub(super) fn run(self, common: &Common) -> Result<(), Failure> {
        block_on(self.verb.run(common))
    }
}

impl GroupVerb {
    async fn run(self, common: &Common) -> Result<(), Failure> {
        let now = Clock::system().now_ms();
        // What makes no sense is told without asking anybody.
        let to = match &self {
            Self::Reset { to, .. } => Some(to.resolve(now).map_err(Failure::usage)?),
            _ => None,
        };
        let admin = common.connect().await?.admin();
        let json = common.output == Output::Json;
        match self {
            Self::List { prefix } => {
                let groups = admin.list_groups(&prefix).await?;
                if json {
                    print_json(&groups.iter().map(group_json).collect())
                } else {
                    print(&groups_table(&groups))
                }
            }
            Self::Describe { name } => {
                let description = admin.describe_group(&name).await?;
                if json {
                    print_json(&description_json(&description))
                } else {
                    print(&description_text(&description, now))
                }
            }
            Self::Reset {
                name,
                topic,
                partition,
                force,
                ..
            } => {
                let to = to.expect("it was resolved for this verb");
                let partitions = admin
                    .reset_group(&name, &topic, &partition, to, force)
                    .await;
                let hint = "--force resets it all the same: they begin again there";
                let partitions = partitions.map_err(|error| failure(error, hint))?;
                common.note(format_args!("reset group {name} in topic {topic}"));
                if json {
                    print_json(&partitions.iter().map(partition_json).collect())
                } else {
                    print(&reset_table(&partitions))
                }
            }
            Self::Delete { names, topic } => delete(common, &admin, &names, topic.as_deref()).await,
        }
    }
}

/// Tries all of them, and tells of each what became of it.
async fn delete(
    common: &Common,
    admin: &Admin,
    names: &[String],
    topic: Option<&str>,
) -> Result<(), Failure> {
    let mut deleted = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        let outcome = match topic {
            None => admin.delete_group(name).await,
            Some(topic) => admin.delete_group_offsets(name, topic).await,
        };
        match outcome {
            Ok(()) => {
                match topic {
                    None => common.note(format_args!("deleted group {name}")),
                    Some(topic) => common.note(format_args!("group {name} has left {topic}")),
                }
                deleted.push(name);
            }
            Err(error) => {
                let failure = failure(error, "stop them first");
                failures.push(failure.of(&format!("can't delete {name}")));
            }
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

/// With what to do about a group that has members.
fn failure(error: Error, hint: &str) -> Failure {
    let is_active = error.reason() == Some(Reason::GroupActive);
    let failure = Failure::from(error);
    match is_active {
        true => failure.with_hint(hint),
        false => failure,
    }
}

fn group_json(group: &Group) -> Value {
    json!({
        "name": group.name,
        "state": show_state(group.state),
        "members": group.members,
        "generation": group.generation,
    })
}

fn description_json(description: &GroupDescription) -> Value {
    let mut group = group_json(&description.group);
    let (lag, lag_time) = lag(&description.partitions);
    group["lag"] = json!(lag);
    group["lag_ms"] = millis_json(lag_time);
    group["member_states"] = description.members.iter().map(member_json).collect();
    group["partition_states"] = description.partitions.iter().map(partition_json).collect();
    group
}

fn member_json(member: &GroupMember) -> Value {
    json!({
        "id": member.id,
        "name": member.name,
        "client": member.client,
        "address": member.address,
        "topics": member.topics,
        "joined_ms": member.joined_ms,
        "stalled": member.stalled,
    })
}

fn partition_json(partition: &GroupPartition) -> Value {
    json!({
        "topic": partition.topic,
        "partition": partition.partition,
        "member": partition.member_id,
        "committed_offset": partition.committed_offset,
        "committed_ms": partition.committed_ms,
        "log_start_offset": partition.log_start_offset,
        "high_watermark": partition.high_watermark,
        "lag": partition.lag,
        "lag_ms": millis_json(partition.lag_time),
        "left_behind": partition.left_behind,
    })
}

fn millis_json(time: Duration) -> Value {
    json!(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn groups_table(groups: &[Group]) -> String {
    let mut table = new_table(&["NAME", "STATE", "MEMBERS", "GENERATION"]);
    for group in groups {
        table.add_row([
            group.name.clone(),
            show_state(group.state).to_owned(),
            group.members.to_string(),
            group.generation.to_string(),
        ]);
    }
    table_text(table)
}

/// With `now` in milliseconds since the Unix epoch.
fn description_text(description: &GroupDescription, now: i64) -> String {
    let group = &description.group;
    let (lag, lag_time) = lag(&description.partitions);
    let mut facts = new_table(&[]);
    facts.add_rows([
        ["name:", &group.name],
        ["state:", show_state(group.state)],
        ["generation:", &group.generation.to_string()],
        ["members:", &group.members.to_string()],
        ["partitions:", &description.partitions.len().to_string()],
        ["lag:", &show_lag(lag, lag_time)],
    ]);
    let mut text = table_text(facts);
    if !description.members.is_empty() {
        text.push('\n');
        text.push_str(&members_table(description, now));
    }
    if !description.partitions.is_empty() {
        text.push('\n');
        text.push_str(&partitions_table(description, now));
    }
    text
}

fn members_table(description: &GroupDescription, now: i64) -> String {
    let mut load: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for partition in &description.partitions {
        if let Some(member) = &partition.member_id {
            let (partitions, lag) = load.entry(member).or_default();
            *partitions += 1;
            *lag += partition.lag;
        }
    }
    let mut table = new_table(&[
        "MEMBER",
        "PARTITIONS",
        "LAG",
        "STATE",
        "JOINED",
        "ADDRESS",
        "CLIENT",
        "TOPICS",
    ]);
    for member in &description.members {
        let (partitions, lag) = load.get(&*member.id).copied().unwrap_or_default();
        let state = match (member.stalled, member.address.is_empty()) {
            (true, _) => "stalled",
            (false, true) => "away",
            (false, false) => "active",
        };
        table.add_row([
            member_name(member).to_owned(),
            partitions.to_string(),
            lag.to_string(),
            state.to_owned(),
            ago(member.joined_ms, now),
            or_dash(&member.address),
            or_dash(&member.client),
            member.topics.join(", "),
        ]);
    }
    table_text(table)
}

fn partitions_table(description: &GroupDescription, now: i64) -> String {
    let names: BTreeMap<&str, &str> = description
        .members
        .iter()
        .map(|member| (&*member.id, member_name(member)))
        .collect();
    let mut table = new_table(&[
        "TOPIC",
        "PARTITION",
        "COMMITTED",
        "END",
        "LAG",
        "BEHIND",
        "LAST COMMIT",
        "MEMBER",
    ]);
    for partition in &description.partitions {
        let member = partition.member_id.as_deref();
        let committed_ms = partition.committed_ms;
        table.add_row([
            partition.topic.clone(),
            partition.partition.to_string(),
            show_offset(partition.committed_offset),
            partition.high_watermark.to_string(),
            partition.lag.to_string(),
            show_behind(partition),
            committed_ms.map_or_else(|| "-".to_owned(), |ms| ago(ms, now)),
            match member {
                Some(id) => names.get(id).copied().unwrap_or(id).to_owned(),
                None if partition.left_behind => "- (left behind)".to_owned(),
                None => "-".to_owned(),
            },
        ]);
    }
    table_text(table)
}

fn reset_table(partitions: &[GroupPartition]) -> String {
    let mut table = new_table(&["TOPIC", "PARTITION", "COMMITTED", "END", "LAG"]);
    for partition in partitions {
        table.add_row([
            partition.topic.clone(),
            partition.partition.to_string(),
            show_offset(partition.committed_offset),
            partition.high_watermark.to_string(),
            partition.lag.to_string(),
        ]);
    }
    table_text(table)
}

/// As it named itself, or as the broker calls it.
fn member_name(member: &GroupMember) -> &str {
    member.name.as_deref().unwrap_or(&member.id)
}

/// Of all partitions but those that the group has left behind: the records, and the
/// age of the oldest.
fn lag(partitions: &[GroupPartition]) -> (u64, Duration) {
    let read = partitions.iter().filter(|partition| !partition.left_behind);
    let records = read.clone().map(|partition| partition.lag).sum();
    let oldest = read.map(|partition| partition.lag_time).max();
    (records, oldest.unwrap_or_default())
}

fn show_lag(records: u64, time: Duration) -> String {
    match records {
        0 => "none".to_owned(),
        records => format!("{records} records, {}", units::show_age(time)),
    }
}

fn show_behind(partition: &GroupPartition) -> String {
    match partition.lag {
        0 => "-".to_owned(),
        _ => units::show_age(partition.lag_time),
    }
}

fn show_offset(offset: Option<u64>) -> String {
    offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string())
}

fn or_dash(text: &str) -> String {
    match text {
        "" => "-".to_owned(),
        text => text.to_owned(),
    }
}

/// How long ago, or when for what isn't past.
fn ago(ms: i64, now: i64) -> String {
    match u64::try_from(now.saturating_sub(ms)) {
        Ok(ago) => format!("{} ago", units::show_age(Duration::from_millis(ago))),
        Err(_) => {
            Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |t| t.to_string())
        }
    }
}

fn show_state(state: GroupState) -> &'static str {
    match state {
        GroupState::Empty => "empty",
        GroupState::Rebalancing => "rebalancing",
        GroupState::Stable => "stable",
        // This binary holds the library of its own version.
        _ => "unknown",
    }
}
