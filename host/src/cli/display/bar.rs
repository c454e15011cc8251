//! The bars on a terminal.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::status::Status;

/// How often a bar is drawn anew though nothing happened, so that one sees that the program lives.
const TICK: Duration = Duration::from_millis(250);
const FILLED: &str = "━╸─";

/// The bar of a run and, above it, of what takes long at the moment.
pub struct Bars {
    bars: MultiProgress,
    run: Option<ProgressBar>,
    task: Option<(String, ProgressBar)>,
}

impl Bars {
    /// No bars yet.
    pub fn new(bars: MultiProgress) -> Bars {
        Bars { bars, run: None, task: None }
    }

    /// Shows where the run is, on a terminal of so many columns.
    pub fn show(&mut self, status: &Status, columns: usize) {
        self.end_task();
        let run = self.run.get_or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new(0));
            let style = match status.steps {
                Some(_) => style("{prefix} {wide_bar:.cyan/dim} {msg}"),
                None => style("{spinner:.cyan} {prefix} {wide_msg}"),
            };
            bar.set_style(style);
            bar.enable_steady_tick(TICK);
            bar
        });
        if let Some(steps) = status.steps {
            run.set_length(steps);
        }
        run.set_position(status.step);
        run.set_prefix(status.position());
        // Last: a new position alone is not always drawn at once.
        run.set_message(status.text(status.room(columns)));
    }

    /// Shows how far something long is.
    pub fn task(&mut self, what: &str, done: u64, total: u64) {
        if self.task.as_ref().is_some_and(|(shown, _)| shown != what) {
            self.end_task();
        }
        let (_, bar) = self.task.get_or_insert_with(|| {
            let bar = self.bars.insert(0, ProgressBar::new(total));
            bar.set_style(style("{msg} {wide_bar:.dim/dim} {percent:>3}%"));
            bar.set_message(what.to_owned());
            (what.to_owned(), bar)
        });
        bar.set_length(total);
        bar.set_position(done);
        if done >= total {
            self.end_task();
        }
    }

    /// Takes all bars away.
    pub fn clear(&mut self) {
        self.end_task();
        if let Some(run) = self.run.take() {
            run.finish_and_clear();
            self.bars.remove(&run);
        }
    }

    fn end_task(&mut self) {
        if let Some((_, bar)) = self.task.take() {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template that could not be read would be a mistake in this file, which the test below finds.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars(FILLED)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::super::status::Step;
    use super::*;

    /// A terminal that remembers its lines.
    #[derive(Clone, Debug)]
    struct Paper {
        columns: u16,
        lines: Arc<Mutex<(Vec<String>, usize)>>,
    }

    impl Paper {
        fn shown(&self) -> String {
            self.lines.lock().expect("lines").0.join("\n").trim_end().to_owned()
        }

        fn at(&self, change: impl FnOnce(&mut Vec<String>, &mut usize)) -> io::Result<()> {
            let (lines, row) = &mut *self.lines.lock().expect("lines");
            change(lines, row);
            lines.resize(lines.len().max(*row + 1), String::new());
            Ok(())
        }
    }

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            self.columns
        }
        fn move_cursor_up(&self, n: usize) -> io::Result<()> {
            self.at(|_, row| *row = row.saturating_sub(n))
        }
        fn move_cursor_down(&self, n: usize) -> io::Result<()> {
            self.at(|_, row| *row += n)
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)?;
            self.move_cursor_down(1)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.at(|lines, row| lines[*row].push_str(text))
        }
        fn clear_line(&self) -> io::Result<()> {
            self.at(|lines, row| lines[*row].clear())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn terminal(columns: u16) -> (Paper, Bars) {
        let paper = Paper { columns, lines: Arc::new(Mutex::new((vec![String::new()], 0))) };
        let target = ProgressDrawTarget::term_like(Box::new(paper.clone()));
        (paper, Bars::new(MultiProgress::with_draw_target(target)))
    }

    fn plain(text: &str) -> String {
        console::strip_ansi_codes(text).trim_end().to_owned()
    }

    fn halfway(columns: usize, bars: &mut Bars) {
        let mut status = Status::new(0, Some(10));
        status.add(&Step { step: 5, loss: 2.0, lr: 1e-3, tokens: 100, step_s: 1.0, memory_bytes: 1 << 20 });
        bars.show(&status, columns);
    }

    #[test]
    fn a_bar_fills_its_line_and_no_more() {
        for columns in [120, 80, 50, 30, 20] {
            let (paper, mut bars) = terminal(columns);
            halfway(columns.into(), &mut bars);
            let shown = plain(&paper.shown());
            assert!(!shown.contains('\n') && shown.starts_with(" 5/10 ━━"), "{columns}: {shown}");
            assert!(console::measure_text_width(&shown) <= columns.into(), "{columns}: {shown}");
        }
        let (paper, mut bars) = terminal(80);
        halfway(80, &mut bars);
        assert!(
            plain(&paper.shown()).ends_with("── loss 2.0000  lr 1e-3  100 tokens/s  1.0 MiB  0:05 left"),
            "{}",
            paper.shown()
        );
    }

    #[test]
    fn a_task_has_a_bar_until_it_is_done() {
        let (paper, mut bars) = terminal(40);
        bars.task("loading the model", 1, 2);
        let shown = plain(&paper.shown());
        assert!(shown.starts_with("loading the model ━━━") && shown.ends_with(" 50%"), "{shown}");
        bars.task("loading the model", 2, 2);
        assert_eq!(plain(&paper.shown()), "");
        halfway(40, &mut bars);
        bars.clear();
        assert_eq!(plain(&paper.shown()), "");
    }
}
