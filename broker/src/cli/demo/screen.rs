//! The terminal that the demo is shown on: drawn in place, several times a second.

use std::io::{self, IsTerminal, Write};

use super::scene::Line;

/// What fits on fewer lines or columns isn't worth looking at.
const SMALLEST: (usize, usize) = (18, 60);

/// A terminal whose cursor is hidden until this is dropped.
pub(super) struct Screen {
    rows: usize,
    columns: usize,
    has_colours: bool,
    /// Lines that were drawn last.
    drawn: usize,
}

impl Screen {
    /// Standard output, if it is a terminal that can be drawn on.
    pub(super) fn open() -> Option<Screen> {
        let stdout = io::stdout();
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if !stdout.is_terminal() || is_dumb {
            return None;
        }
        let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
        let (rows, columns) = (usize::from(size.ws_row), usize::from(size.ws_col));
        if rows < SMALLEST.0 || columns < SMALLEST.1 {
            return None;
        }
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        // Without the cursor, and lines that are too long are cut.
        write(b"\x1b[?25l\x1b[?7l");
        Some(Screen {
            rows,
            columns,
            has_colours: !no_colour,
            drawn: 0,
        })
    }

    /// Lines that there is room for.
    pub(super) fn rows(&self) -> usize {
        self.rows - 1
    }

    /// Draws lines over those that were drawn before.
    pub(super) fn draw(&mut self, lines: &[Line]) {
        let mut frame = match self.drawn {
            0 => String::new(),
            drawn => format!("\x1b[{drawn}A"),
        };
        for line in lines {
            frame += &line.render(self.columns, self.has_colours);
            // What was there before behind it is erased.
            frame += "\x1b[K\r\n";
        }
        frame += "\x1b[J";
        self.drawn = lines.len();
        write(frame.as_bytes());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        write(b"\x1b[?7h\x1b[?25h");
    }
}

/// Nothing depends on whether it is seen.
fn write(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}
