//! What is on the screen, as lines of pieces with a colour each. Pure: a board goes
//! in, lines come out, and how wide they may be is known only when they are drawn.

use std::time::{Duration, Instant};

use super::board::{Mark, Notes};

/// For so long a directory that has changed stays bright.
const BRIGHT: Duration = Duration::from_millis(700);
/// Columns of a name of a directory, and of its bar.
const NAME: usize = 14;
const BAR: usize = 24;
/// Columns of the bar that says how far it is, and before it.
const PROGRESS: usize = 20;
const TITLE: usize = 54;
/// So many changes are news.
const NEWS: usize = 4;
/// The eighths of a block.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// How a piece looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Plain,
    Dim,
    Bold,
    Good,
    Changed,
    Bad,
    Accent,
}

/// A line of pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<(Paint, String)>);

impl Line {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn add(mut self, paint: Paint, text: impl Into<String>) -> Self {
        self.0.push((paint, text.into()));
        self
    }

    /// Fills up with blanks to a width.
    fn pad(self, width: usize) -> Self {
        self.pad_with(' ', width)
    }

    fn pad_with(self, filler: char, width: usize) -> Self {
        let missing = width.saturating_sub(self.width());
        self.add(Paint::Dim, filler.to_string().repeat(missing))
    }

    /// Columns; each character takes one.
    fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// As text for a terminal that is so wide.
    pub(super) fn render(&self, width: usize, has_colours: bool) -> String {
        let mut left = width;
        let mut rendered = String::new();
        for (paint, text) in &self.0 {
            let text: String = text.chars().take(left).collect();
            left -= text.chars().count();
            match paint.code().filter(|_| has_colours) {
                Some(code) => rendered.extend(["\x1b[", code, "m", &text, "\x1b[0m"]),
                None => rendered += &text,
            }
        }
        rendered
    }
}

impl Paint {
    fn code(self) -> Option<&'static str> {
        Some(match self {
            Self::Plain => return None,
            Self::Dim => "2",
            Self::Bold => "1",
            Self::Good => "32",
            Self::Changed => "33",
            Self::Bad => "31",
            Self::Accent => "36;1",
        })
    }
}

/// What doesn't change while the demo runs.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) address: String,
    pub(super) changes: u64,
}

/// The screen at one moment: `rows` directories and changes, and what is around them.
pub(super) fn scene(
    setting: &Setting,
    notes: &Notes,
    next_offsets: &[u64],
    now: Instant,
    rows: usize,
) -> Vec<Line> {
    let mut lines = vec![title(setting, notes), Line::new()];
    lines.extend(owner(notes));
    lines.extend(view(notes, next_offsets));
    lines.push(latecomer(notes));
    lines.push(Line::new());
    let recent = notes.recent.iter().enumerate().map(Some);
    let recent = recent.chain(std::iter::repeat(None));
    let directories = directories(notes, now, rows);
    lines.extend(directories.into_iter().zip(recent).map(|(line, recent)| {
        let line = line.pad(NAME + BAR + 10);
        match recent {
            Some((age, (mark, path))) => {
                let paint = if age < NEWS { Paint::Plain } else { Paint::Dim };
                change(line, *mark, paint, path)
            }
            None => line,
        }
    }));
    lines
}

/// What whoever looks may do meanwhile.
pub(super) fn hint(setting: &Setting) -> Line {
    let (address, topic) = (&setting.address, super::services::TOPIC);
    Line::new().add(
        Paint::Dim,
        format!(" look yourself:  statecast state watch {topic} --endpoint http://{address}"),
    )
}

fn title(setting: &Setting, notes: &Notes) -> Line {
    let percent = notes.written * 100 / setting.changes.max(1);
    Line::new()
        .add(Paint::Accent, " statecast demo ")
        .add(Paint::Plain, " four years of a repository, as state  ")
        .add(Paint::Accent, bar(notes.written, setting.changes, PROGRESS))
        .pad_with('·', TITLE + PROGRESS)
        .add(Paint::Bold, format!("{percent:>4}%"))
}

fn owner(notes: &Notes) -> Vec<Line> {
    let last = notes.last_commit.map_or_else(String::new, |(name, time)| {
        let day = jiff::Timestamp::from_second(time).map(|time| time.strftime("%F").to_string());
        format!("   now at {name} of {}", day.unwrap_or_default())
    });
    vec![
        head(
            "owner",
            "puts each commit: all of its files or none, if nobody else was faster",
        ),
        Line::new()
            .add(Paint::Plain, "         ")
            .add(Paint::Bold, notes.commits.to_string())
            .add(Paint::Plain, " commits   ")
            .add(Paint::Bold, notes.written.to_string())
            .add(Paint::Plain, " changes")
            .add(Paint::Dim, last),
    ]
}

fn view(notes: &Notes, next_offsets: &[u64]) -> Vec<Line> {
    let offsets: Vec<_> = next_offsets.iter().map(u64::to_string).collect();
    vec![
        head(
            "view",
            "keeps a map in its own memory: reading it asks nobody",
        ),
        Line::new()
            .add(Paint::Plain, "         ")
            .add(Paint::Bold, notes.files().to_string())
            .add(Paint::Plain, " files   lag ")
            .add(Paint::Good, millis(notes.lag(0.5)))
            .add(Paint::Plain, " median ")
            .add(Paint::Good, millis(notes.lag(0.99)))
            .add(Paint::Plain, " p99   at offsets ")
            .add(Paint::Dim, offsets.join(" ")),
    ]
}

fn latecomer(notes: &Notes) -> Line {
    match notes.latecomer {
        None => head(
            "late",
            "another view, which will begin in the middle of it all",
        ),
        Some(late) => head("late", "began at change ")
            .add(Paint::Bold, late.at.to_string())
            .add(Paint::Plain, ": the ")
            .add(Paint::Bold, late.keys.to_string())
            .add(Paint::Plain, " files there were in ")
            .add(Paint::Good, millis(late.took))
            .add(Paint::Plain, ", and each change since"),
    }
}

fn head(name: &str, what: &str) -> Line {
    Line::new()
        .add(Paint::Accent, format!("  {name:<6} "))
        .add(Paint::Plain, what)
}

/// The largest directories, and how many files are in each.
fn directories(notes: &Notes, now: Instant, rows: usize) -> Vec<Line> {
    let mut found: Vec<_> = notes
        .directories
        .iter()
        .filter(|(_, d)| d.files > 0)
        .collect();
    found.sort_by_key(|(name, directory)| (std::cmp::Reverse(directory.files), *name));
    let most = found.first().map_or(1, |(_, directory)| directory.files);
    let line = |(name, directory): &(&String, &super::board::Directory)| {
        let since = directory
            .changed_at
            .map(|at| now.saturating_duration_since(at));
        let (paint, text) = match since.is_some_and(|since| since < BRIGHT) {
            true => (Paint::Accent, Paint::Bold),
            false => (Paint::Dim, Paint::Plain),
        };
        let name: String = name.chars().take(NAME).collect();
        Line::new()
            .add(text, format!("  {name:<NAME$} "))
            .add(paint, bar(directory.files as u64, most as u64, BAR))
            .add(text, format!(" {}", directory.files))
    };
    let mut lines: Vec<_> = found.iter().take(rows).map(line).collect();
    lines.resize_with(rows, Line::new);
    lines
}

fn change(line: Line, mark: Mark, news: Paint, path: &str) -> Line {
    let (paint, mark) = match mark {
        Mark::Added => (Paint::Good, "+"),
        Mark::Changed => (Paint::Changed, "~"),
        Mark::Removed => (Paint::Bad, "-"),
    };
    line.add(paint, format!("{mark} ")).add(news, path)
}

/// A bar that is as long as the part of the whole, in eighths of a column.
fn bar(part: u64, whole: u64, columns: usize) -> String {
    let eighths = part.min(whole) * columns as u64 * 8 / whole.max(1);
    let eighths = usize::try_from(eighths).unwrap_or(usize::MAX);
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

/// As `1.2 ms`.
pub(super) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::super::board::Board;
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_part() {
        assert_eq!(bar(0, 10, 4), "");
        assert_eq!(bar(10, 10, 4), "████");
        assert_eq!(bar(5, 10, 1), "▌");
        assert_eq!(bar(99, 10, 2), "██");
        assert_eq!(bar(1, 0, 2), "");
    }

    #[test]
    fn picture_has_as_many_lines_whatever_has_happened() {
        let setting = Setting {
            address: "127.0.0.1:1".to_owned(),
            changes: 10,
        };
        let board = Board::new();
        let now = crate::clock::instant();
        let empty = scene(&setting, &board.notes(), &[], now, 5).len();
        {
            let mut notes = board.notes();
            let directory = super::super::board::Directory {
                files: 3,
                changed_at: Some(now),
            };
            notes.directories.insert("src/".to_owned(), directory);
            notes
                .recent
                .push_front((Mark::Added, "src/main.rs".to_owned()));
        }
        let lines = scene(&setting, &board.notes(), &[1, 2], now, 5);
        assert_eq!((lines.len(), empty), (13, 13));
        let line = lines[8].render(200, false);
        assert!(line.starts_with("  src/  ") && line.ends_with("+ src/main.rs"));
    }

    #[test]
    fn lines_are_cut_where_the_terminal_ends() {
        let line = Line::new()
            .add(Paint::Bold, "abc")
            .add(Paint::Plain, "█def");
        assert_eq!(line.render(5, false), "abc█d");
        assert_eq!(line.render(2, true), "\x1b[1mab\x1b[0m");
        assert_eq!(line.pad(10).render(20, false), "abc█def   ");
    }
}
