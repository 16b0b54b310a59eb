//! How far the download is, on stderr.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

use super::job::Progress;

/// A bar for a terminal, lines for anything else.
pub(super) fn choose(is_terminal: bool) -> Box<dyn Progress> {
    if is_terminal { Box::new(Bar { bar: ProgressBar::hidden() }) } else { Box::new(Lines::default()) }
}

struct Bar {
    bar: ProgressBar,
}

impl Progress for Bar {
    fn start(&self, bytes: u64) {
        let template = "{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_length(bytes);
        self.bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// One line each tenth.
#[derive(Default)]
struct Lines {
    total: AtomicU64,
    done: AtomicU64,
}

impl Lines {
    fn print(text: &str) {
        // Who does not listen does not want to know.
        drop(writeln!(std::io::stderr(), "{text}"));
    }
}

impl Progress for Lines {
    fn start(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
        Self::print(&format!("downloading {} MB", bytes >> 20));
    }

    fn advance(&self, bytes: u64) {
        let total = self.total.load(Ordering::Relaxed).max(1);
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        let tenth = |done: u64| done.saturating_mul(10) / total;
        if tenth(before) != tenth(before + bytes) {
            Self::print(&format!("downloaded {} % of {} MB", tenth(before + bytes) * 10, total >> 20));
        }
    }

    fn finish(&self) {
        Self::print("downloaded, every record's CRC is right");
    }
}
