//! The settings of `serve`. Flags beat the environment, which beats the file,
//! which beats the defaults. Flag `--data-dir`, variable `STATECAST_DATA_DIR`
//! and key `data_dir` are the same setting.

use std::net::SocketAddr;
use std::num::NonZero;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use clap::{Args, Command, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::cli::failure::Failure;
use crate::limits;

/// The settings as flags, with the file that completes them.
#[derive(Debug, Args)]
pub(in crate::cli) struct SettingsArgs {
    /// A TOML file with settings; its keys are the flags' names with `_` for `-`.
    #[arg(long, env = "STATECAST_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    given: Given,
}

/// The settings that a source gives: flags and environment (clap), or a file.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    /// Where the data lies; created when it doesn't exist [default: ./statecast-data]
    #[arg(long, env = "STATECAST_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where gRPC is served [default: 127.0.0.1:7420]
    #[arg(long, env = "STATECAST_LISTEN", value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where health and metrics are served over HTTP; `off` for nowhere [default: 127.0.0.1:7421]
    #[arg(long, env = "STATECAST_HTTP_LISTEN", value_name = "ADDR")]
    http_listen: Option<HttpListen>,
    /// HTTP/2 receive window of a stream in bytes: more for long paths [default: 2097152]
    #[arg(long, env = "STATECAST_STREAM_WINDOW", value_name = "BYTES")]
    stream_window: Option<u32>,
    /// HTTP/2 receive window of a connection in bytes, at least twice that of a
    /// stream; the first 32 connections get it, others narrower ones [default: 8388608]
    #[arg(long, env = "STATECAST_CONNECTION_WINDOW", value_name = "BYTES")]
    connection_window: Option<u32>,
    /// Connections for gRPC at a time; fewer if the bound of open files is lower
    /// [default: 2048]
    #[arg(long, env = "STATECAST_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<usize>,
    /// Threads that serve requests [default: as many as the machine has cores]
    #[arg(long, env = "STATECAST_THREADS", value_name = "N")]
    threads: Option<usize>,
    /// The least severe log lines that are written [default: info]
    #[arg(long, env = "STATECAST_LOG_LEVEL", value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// The form of log lines on standard error [default: text]
    #[arg(long, env = "STATECAST_LOG_FORMAT", value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

/// The settings in effect.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Settings {
    /// Where the data lies.
    pub(in crate::cli) data_dir: PathBuf,
    /// Where gRPC is served.
    pub(in crate::cli) listen: SocketAddr,
    /// Where health and metrics are served.
    pub(in crate::cli) http_listen: HttpListen,
    /// HTTP/2 receive window of a stream: bytes.
    pub(in crate::cli) stream_window: u32,
    /// HTTP/2 receive window of a connection: bytes.
    pub(in crate::cli) connection_window: u32,
    /// Connections for gRPC at a time.
    pub(in crate::cli) max_connections: usize,
    /// Threads that serve requests.
    pub(in crate::cli) threads: usize,
    /// The least severe log lines that are written.
    pub(in crate::cli) log_level: LogLevel,
    /// The form of log lines.
    pub(in crate::cli) log_format: LogFormat,
}

/// The HTTP listener's address, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(in crate::cli) struct HttpListen(pub(in crate::cli) Option<SocketAddr>);

/// How severe a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::cli) enum LogLevel {
    /// Something failed.
    Error,
    /// Something to look at.
    Warn,
    /// What an operator wants to know.
    Info,
    /// For those who work on the broker.
    Debug,
    /// Everything.
    Trace,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::cli) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl SettingsArgs {
    /// Reads the file, if one is named, and fills in the defaults.
    pub(in crate::cli) fn resolve(self) -> Result<Settings, Failure> {
        let file = match &self.config {
            Some(path) => read_file(path)?,
            None => Given::default(),
        };
        self.given
            .or(file)
            .with_defaults()
            .checked()
            .map_err(Failure::Usage)
    }
}

impl Given {
    fn or(self, other: Given) -> Given {
        Given {
            data_dir: self.data_dir.or(other.data_dir),
            listen: self.listen.or(other.listen),
            http_listen: self.http_listen.or(other.http_listen),
            stream_window: self.stream_window.or(other.stream_window),
            connection_window: self.connection_window.or(other.connection_window),
            max_connections: self.max_connections.or(other.max_connections),
            threads: self.threads.or(other.threads),
            log_level: self.log_level.or(other.log_level),
            log_format: self.log_format.or(other.log_format),
        }
    }

    fn with_defaults(self) -> Settings {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Settings {
            data_dir: self.data_dir.unwrap_or_else(|| "statecast-data".into()),
            listen: self.listen.unwrap_or_else(|| loopback(7420)),
            http_listen: self.http_listen.unwrap_or(HttpListen(Some(loopback(7421)))),
            stream_window: self.stream_window.unwrap_or(limits::HTTP2_STREAM_WINDOW),
            connection_window: self
                .connection_window
                .unwrap_or(limits::HTTP2_CONNECTION_WINDOW),
            max_connections: self
                .max_connections
                .unwrap_or(limits::DEFAULT_MAX_CONNECTIONS),
            threads: self.threads.unwrap_or_else(default_threads),
            log_level: self.log_level.unwrap_or(LogLevel::Info),
            log_format: self.log_format.unwrap_or(LogFormat::Text),
        }
    }
}

impl Settings {
    /// The settings themselves, if each number lies within its bounds.
    fn checked(self) -> Result<Settings, String> {
        let within = |name: &str, given: usize, bounds: RangeInclusive<usize>| {
            if bounds.contains(&given) {
                return Ok(());
            }
            let (low, high) = bounds.into_inner();
            Err(format!(
                "{name} is {given}; it must lie within {low} to {high}"
            ))
        };
        let windows = limits::HTTP2_WINDOWS;
        within(
            "stream_window",
            self.stream_window as usize,
            windows.clone(),
        )?;
        within(
            "connection_window",
            self.connection_window as usize,
            windows,
        )?;
        let connections = limits::MAX_CONNECTIONS;
        within("max_connections", self.max_connections, connections)?;
        within("threads", self.threads, limits::THREADS)?;
        Ok(self)
    }
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(2, NonZero::get)
}

impl TryFrom<String> for HttpListen {
    type Error = String;

    fn try_from(text: String) -> Result<HttpListen, String> {
        text.parse()
    }
}

impl std::str::FromStr for HttpListen {
    type Err = String;

    fn from_str(text: &str) -> Result<HttpListen, String> {
        if text.is_empty() || text == "off" {
            return Ok(HttpListen(None));
        }
        let address = text.parse().map_err(|_| {
            format!("`{text}` is neither an address such as 127.0.0.1:7421 nor `off`")
        })?;
        Ok(HttpListen(Some(address)))
    }
}

impl From<HttpListen> for String {
    fn from(listen: HttpListen) -> String {
        listen
            .0
            .map_or_else(|| "off".to_owned(), |address| address.to_string())
    }
}

fn read_file(path: &Path) -> Result<Given, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format_args!("can't read {}: {error}", path.display())))?;
    parse_file(&text)
        .map_err(|error| Failure::usage(format_args!("in {}: {error}", path.display())))
}

fn parse_file(text: &str) -> Result<Given, String> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| trimmed(&e))?;
    for key in table.keys() {
        check_key(key)?;
    }
    // From the text rather than the table: errors name line and column.
    toml::from_str(text).map_err(|e| trimmed(&e))
}

fn trimmed(error: &toml::de::Error) -> String {
    error.to_string().trim_end().to_owned()
}

/// Refuses a key that is no setting; suggests the nearest one.
fn check_key(key: &str) -> Result<(), String> {
    let command = Given::augment_args(Command::new("serve"));
    let known: Vec<&str> = command
        .get_arguments()
        .map(|argument| argument.get_id().as_str())
        .collect();
    if known.contains(&key) {
        return Ok(());
    }
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(name, key), name))
        .min();
    match nearest {
        Some((distance, name)) if distance <= 3 => {
            Err(format!("unknown setting `{key}`; did you mean `{name}`?"))
        }
        _ => Err(format!(
            "unknown setting `{key}`; the settings are {}",
            known.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        settings: SettingsArgs,
    }

    #[test]
    fn flags_beat_the_file_which_beats_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("statecast.toml");
        std::fs::write(
            &path,
            "data_dir = '/f'\nlisten = '[::1]:1'\nhttp_listen = 'off'\n",
        )
        .unwrap();
        let path = path.to_str().unwrap();
        let cli = Cli::parse_from(["serve", "--config", path, "--data-dir", "/g"]);
        let settings = cli.settings.resolve().unwrap();
        assert_eq!(settings.data_dir, Path::new("/g"));
        assert_eq!(settings.listen.to_string(), "[::1]:1");
        assert_eq!(settings.http_listen, HttpListen(None));
        assert_eq!(settings.log_level, LogLevel::Info);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        let error = parse_file("data-dri = 'x'").unwrap_err();
        assert_eq!(
            error,
            "unknown setting `data-dri`; did you mean `data_dir`?"
        );
        let error = parse_file("compression = 1").unwrap_err();
        assert!(
            error.contains("the settings are data_dir, listen"),
            "{error}"
        );
    }

    #[test]
    fn a_bad_value_in_the_file_names_its_line() {
        let error = parse_file("\nlisten = 'nowhere'").unwrap_err();
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_number_out_of_bounds_is_named() {
        let settings = parse_file("threads = 0").unwrap().with_defaults();
        let error = settings.checked().unwrap_err();
        assert_eq!(error, "threads is 0; it must lie within 1 to 1024");
    }

    #[test]
    fn shown_settings_can_be_read_again() {
        let shown = toml::to_string(&Given::default().with_defaults()).unwrap();
        let again = parse_file(&shown).unwrap().with_defaults();
        assert_eq!(again, Given::default().with_defaults());
    }
}
