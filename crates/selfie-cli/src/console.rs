//! What the program prints to stderr while it works.

use std::fmt::Display;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use selfie::{LateNotes, Note, Observer};

/// Shows how a model loads: notes as lines, progress as a bar.
pub(crate) struct Console {
    quiet: bool,
    bar: ProgressBar,
}

impl Console {
    pub(crate) fn new(quiet: bool) -> Self {
        let style = style("loading {bar:30} {bytes}/{total_bytes} {eta}");
        Self {
            quiet,
            bar: bar(0, quiet).with_style(style),
        }
    }
}

impl Observer for Console {
    fn note(&mut self, note: Note) {
        print_note(self.quiet, note);
    }

    fn later(&self) -> Option<LateNotes> {
        let quiet = self.quiet;
        Some(Box::new(move |note| print_note(quiet, note)))
    }

    fn loaded(&mut self, bytes: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(bytes);
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Prints a note on stderr, unless the user asked for quiet.
pub(crate) fn print_note(quiet: bool, note: impl Display) {
    if !quiet {
        eprintln!("note: {note}");
    }
}

/// A progress bar on stderr; hidden if stderr is not a terminal.
pub(crate) fn bar(total: u64, quiet: bool) -> ProgressBar {
    let target = if quiet {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    ProgressBar::with_draw_target(Some(total), target)
}

pub(crate) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
