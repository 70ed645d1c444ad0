//! `statecast demo`: what Statecast is for, to look at.

mod board;
mod embedded;
mod history;
mod scene;
mod screen;
mod services;

use std::time::Duration;

use clap::Args;
use serde_json::json;
use statecast_client::{Client, StateView};
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use self::board::Board;
use self::embedded::{Directory, Embedded};
use self::history::{Commit, commits};
use self::scene::{Line, Paint, Setting, hint, millis, scene};
use self::screen::Screen;
use self::services::Owner;
use super::common::{Common, Output};
use super::failure::Failure;
use super::session::{block_on, print, print_json};
use super::signals::stop_requested;
use crate::clock;

/// How long the demo takes, unless it is told how fast to go.
const LENGTH: Duration = Duration::from_secs(18);
/// Between two pictures.
const FRAME: Duration = Duration::from_millis(80);
/// Lines of the screen around the directories.
const FRAME_LINES: usize = 11;
/// Directories on the screen, at most, and at least when there is more to be said.
const MOST_DIRECTORIES: usize = 12;
const FEWEST_DIRECTORIES: usize = 3;
/// Parts in which progress is told where there is no terminal.
const PARTS: u64 = 8;

/// Show what Statecast is for, in twenty seconds.
///
/// Starts a broker in a temporary directory, replays the history of a real
/// repository into a compacted topic, and shows how another service's view of it
/// follows. Nothing of it stays.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Changes a second [default: so many that it takes some twenty seconds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
}

/// How it went.
struct Outcome {
    changes: u64,
    commits: usize,
    files: usize,
    views_equal_fold: bool,
    median_lag: Duration,
    p99_lag: Duration,
}

impl Demo {
    pub(super) fn run(self, common: &Common) -> Result<(), Failure> {
        block_on(self.show(common))
    }

    async fn show(self, common: &Common) -> Result<(), Failure> {
        let stop = stop_requested()?;
        let directory = Directory::create()?;
        let embedded = Embedded::start(directory.path()).await?;
        let outcome = tokio::select! {
            outcome = self.play(common, &embedded) => outcome,
            () = stop => Err(Failure::failed("interrupted before the end")),
        };
        let stopped = embedded.stop().await;
        let removed = directory.remove();
        let outcome = outcome?;
        stopped.and(removed)?;
        match outcome.views_equal_fold {
            true => Ok(()),
            false => Err(Failure::failed("a view is not what the log says")),
        }
    }

    async fn play(&self, common: &Common, embedded: &Embedded) -> Result<Outcome, Failure> {
        let address = embedded.address().to_string();
        // Each service has a connection of its own, as if it were another process.
        let connect = || Client::connect(format!("http://{address}"));
        let (owner, viewer, late) = (connect().await?, connect().await?, connect().await?);
        services::create_topic(&owner).await?;
        let board = Board::new();
        let view = services::view(&viewer, &board).await?;
        let commits = commits();
        let setting = Setting {
            address: address.clone(),
            changes: changes(&commits),
        };
        let rate = self
            .rate
            .map_or_else(|| setting.changes as f64 / LENGTH.as_secs_f64(), f64::from);
        let (halfway, reached) = oneshot::channel();
        let latecomer = tokio::spawn(services::latecomer(late, board.clone(), reached));
        let latecomer = AbortOnDropHandle::new(latecomer);
        let replay = Owner::new(owner.clone(), board.clone()).replay(commits, rate, halfway);
        let mut show = Show::new(common, setting, board.clone());
        let last = show.during(replay, &view).await?;

        let latecomer = latecomer.await.map_err(Failure::failed)??;
        let fold = services::fold(&owner).await?;
        let mut views_equal_fold = true;
        for view in [&view, &latecomer] {
            views_equal_fold &= services::map_of(view, &last).await? == fold;
        }
        let outcome = {
            let notes = board.notes();
            Outcome {
                changes: notes.told,
                commits: notes.commits,
                files: fold.len(),
                views_equal_fold,
                median_lag: notes.lag(0.5),
                p99_lag: notes.lag(0.99),
            }
        };
        show.end(&outcome, &view)?;
        Ok(outcome)
    }
}

fn changes(commits: &[Commit]) -> u64 {
    commits.iter().map(|commit| commit.files.len() as u64).sum()
}

/// Whoever looks: at a terminal, at lines, or at nothing but the end.
struct Show<'a> {
    common: &'a Common,
    setting: Setting,
    board: Board,
    screen: Option<Screen>,
    /// Parts that were told.
    told: u64,
    late_told: bool,
}

impl<'a> Show<'a> {
    fn new(common: &'a Common, setting: Setting, board: Board) -> Self {
        let is_shown = !common.quiet && common.output == Output::Table;
        let show = Self {
            screen: is_shown.then(Screen::open).flatten(),
            common,
            setting,
            board,
            told: 0,
            late_told: false,
        };
        if show.screen.is_none() {
            show.common.note(format_args!(
                "a broker serves on {}; {} changes come",
                show.setting.address, show.setting.changes
            ));
        }
        show
    }

    /// Shows what happens while something goes on.
    async fn during<T, E: Into<Failure>>(
        &mut self,
        replay: impl Future<Output = Result<T, E>>,
        view: &StateView,
    ) -> Result<T, Failure> {
        let mut frames = tokio::time::interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(replay);
        loop {
            tokio::select! {
                done = &mut replay => return done.map_err(Into::into),
                _ = frames.tick() => self.picture(view),
            }
        }
    }

    fn picture(&mut self, view: &StateView) {
        let notes = self.board.notes();
        if let Some(screen) = &mut self.screen {
            let rows = (screen.rows() - FRAME_LINES).min(MOST_DIRECTORIES);
            let offsets = view.next_offsets();
            let mut lines = scene(&self.setting, &notes, &offsets, clock::instant(), rows);
            drop(notes);
            lines.extend([Line::new(), hint(&self.setting)]);
            screen.draw(&lines);
            return;
        }
        if let Some(late) = notes.latecomer.filter(|_| !self.late_told) {
            self.late_told = true;
            self.common.note(format_args!(
                "another view began at change {}: {} files in {}, and each change since",
                late.at,
                late.keys,
                millis(late.took)
            ));
        }
        let part = notes.told * PARTS / self.setting.changes.max(1);
        if part > self.told {
            self.told = part;
            self.common.note(format_args!(
                "{} of {} changes: {} files in the view, median lag {}",
                notes.told,
                self.setting.changes,
                notes.files(),
                millis(notes.lag(0.5))
            ));
        }
    }

    fn end(&mut self, outcome: &Outcome, view: &StateView) -> Result<(), Failure> {
        self.picture(view);
        if self.common.output == Output::Json {
            return print_json(&json!({
                "view_equals_fold": outcome.views_equal_fold,
                "commits": outcome.commits,
                "changes": outcome.changes,
                "files": outcome.files,
                "median_lag_us": micros(outcome.median_lag),
                "p99_lag_us": micros(outcome.p99_lag),
            }));
        }
        let summary = summary(outcome);
        let Some(screen) = &mut self.screen else {
            let text: Vec<_> = summary
                .iter()
                .map(|line| line.render(usize::MAX, false) + "\n")
                .collect();
            return print(&text.concat());
        };
        // The last picture makes room for what stays below it.
        let rows = screen.rows().saturating_sub(FRAME_LINES + summary.len());
        let rows = rows.clamp(FEWEST_DIRECTORIES, MOST_DIRECTORIES);
        let (notes, offsets) = (self.board.notes(), view.next_offsets());
        let mut lines = scene(&self.setting, &notes, &offsets, clock::instant(), rows);
        lines.extend(summary);
        screen.draw(&lines);
        Ok(())
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn summary(outcome: &Outcome) -> Vec<Line> {
    let (paint, answer) = match outcome.views_equal_fold {
        true => (Paint::Good, "yes"),
        false => (Paint::Bad, "NO"),
    };
    let lag = format!(
        "{} median, {} p99",
        millis(outcome.median_lag),
        millis(outcome.p99_lag)
    );
    let fact = |name: &str, paint: Paint, value: String| {
        Line::new()
            .add(Paint::Plain, format!("{name:<28}"))
            .add(paint, value)
    };
    let hint = |text: &str| Line::new().add(Paint::Accent, format!("  {text}"));
    vec![
        Line::new(),
        fact("views equal the log's fold:", paint, answer.to_owned()),
        fact(
            "changes:",
            Paint::Bold,
            format!(
                "{} in {} commits, {} files in the end",
                outcome.changes, outcome.commits, outcome.files
            ),
        ),
        fact("lag, disk flush included:", Paint::Good, lag),
        Line::new(),
        Line::new().add(Paint::Plain, "Your own, in two terminals:"),
        hint("statecast serve"),
        hint("statecast topic create lamps --cleanup compact"),
        hint("statecast state watch lamps"),
        hint("statecast state put lamps hall on"),
    ]
}
