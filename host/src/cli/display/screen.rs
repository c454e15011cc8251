//! The one place that writes for people: standard error, with or without a progress bar on it.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use console::{Style, Term};
use indicatif::MultiProgress;
use tracing_subscriber::fmt::MakeWriter;

/// Columns of the names at the lines' left.
const NAMES: usize = 9;

/// Where lines for people go. Clones are one screen; lines stand above a bar, never in it.
#[derive(Clone)]
pub struct Screen(Arc<Inner>);

struct Inner {
    /// The bars, on a terminal.
    bars: Option<MultiProgress>,
    out: Mutex<Box<dyn Write + Send>>,
    color: bool,
}

impl Screen {
    /// Standard error.
    pub fn stderr() -> Screen {
        let bars = io::stderr().is_terminal().then(MultiProgress::new);
        let color = bars.is_some() && console::colors_enabled_stderr();
        Screen(Arc::new(Inner { bars, out: Mutex::new(Box::new(io::stderr())), color }))
    }

    /// Anything that is no terminal.
    pub fn plain(out: impl Write + Send + 'static) -> Screen {
        Screen(Arc::new(Inner { bars: None, out: Mutex::new(Box::new(out)), color: false }))
    }

    /// What passes lines on to one who shows them, with colors or without.
    pub fn relayed(out: impl Write + Send + 'static, color: bool) -> Screen {
        Screen(Arc::new(Inner { bars: None, out: Mutex::new(Box::new(out)), color }))
    }

    /// The bars, if this is a terminal.
    pub fn bars(&self) -> Option<&MultiProgress> {
        self.0.bars.as_ref()
    }

    /// Whether lines may have colors: on a terminal, unless `NO_COLOR` forbids it.
    pub fn color(&self) -> bool {
        self.0.color
    }

    /// Columns of the terminal; wide enough for anything if this is none.
    pub fn width(&self) -> usize {
        if self.0.bars.is_some() { usize::from(Term::stderr().size().1) } else { usize::MAX }
    }

    /// Writes a line.
    pub fn line(&self, text: &str) {
        // A reader that has gone away must not end a run that goes on.
        _ = self.write_all(format!("{text}\n").as_bytes());
    }

    /// Writes a line with a name at its left.
    pub fn named(&self, name: &str, text: &str) {
        self.line(&format!("{} {text}", self.dim(&format!("{name:NAMES$}"))));
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let write = || {
            let mut out = self.0.out.lock().unwrap_or_else(PoisonError::into_inner);
            out.write_all(bytes)?;
            out.flush()
        };
        match &self.0.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// `text` in bold, if there are colors.
    pub fn bold(&self, text: &str) -> String {
        self.styled(Style::new().bold(), text)
    }

    /// `text` in a weaker color, if there are colors.
    pub fn dim(&self, text: &str) -> String {
        self.styled(Style::new().dim(), text)
    }

    /// `text` as a warning, if there are colors.
    pub fn warn(&self, text: &str) -> String {
        self.styled(Style::new().yellow(), text)
    }

    /// `text` as an error, if there are colors.
    pub fn error(&self, text: &str) -> String {
        self.styled(Style::new().red().bold(), text)
    }

    fn styled(&self, style: Style, text: &str) -> String {
        style.force_styling(self.0.color).apply_to(text).to_string()
    }
}

/// A line of the log, whole, so that it stands above a bar too.
pub struct LogLine<'a> {
    screen: &'a Screen,
    text: Vec<u8>,
}

impl Write for LogLine<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine<'_> {
    fn drop(&mut self) {
        _ = self.screen.write_all(&self.text);
    }
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = LogLine<'a>;

    fn make_writer(&'a self) -> LogLine<'a> {
        LogLine { screen: self, text: Vec::new() }
    }
}
