//! The table.

use std::fs;
use std::time::Duration;

use crate::namespace::Namespace;

/// What one thing took, each time.
pub(crate) struct Series {
    name: String,
    samples: Vec<Duration>,
    is_base: bool,
}

impl Series {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            samples: Vec::new(),
            is_base: false,
        }
    }

    /// Marked as what the lines after it are compared with.
    pub(crate) fn base(mut self) -> Self {
        self.is_base = true;
        self
    }

    pub(crate) fn add(&mut self, sample: Duration) {
        self.samples.push(sample);
    }

    pub(crate) fn figures(&mut self) -> Figures {
        self.samples.sort_unstable();
        let [p10, median, p99] = [10, 50, 99].map(|percent| self.percentile(percent));
        Figures { p10, median, p99 }
    }

    /// The sample that `percent` of all do not exceed, in microseconds.
    fn percentile(&self, percent: usize) -> f64 {
        let last = self.samples.len().saturating_sub(1);
        let place = last.saturating_mul(percent).div_ceil(100);
        let sample = self.samples.get(place).copied().unwrap_or_default();
        sample.as_secs_f64() * 1e6
    }
}

/// What ran, and where.
pub(crate) fn head(namespace: Namespace, full: bool) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?");
    let who = match namespace {
        Namespace::Root => "root",
        Namespace::User => "a user in a user namespace",
    };
    println!(
        "\n{cores} cores, Linux {}, load {load}, as {who}",
        kernel.trim()
    );
    if !full {
        println!("a few rounds only, which measure nothing: `cargo bench` runs all of them");
    }
}

pub(crate) fn section(name: &str) {
    println!("\n{name}");
}

pub(crate) fn columns() {
    println!(
        "  {:<40} {:>6} {:>9} {:>9} {:>9} {:>6}",
        "us", "count", "p10", "median", "p99", "ratio"
    );
}

/// What a line says, in microseconds.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    /// What it takes while nobody else uses the machine.
    pub(crate) p10: f64,
    pub(crate) median: f64,
    pub(crate) p99: f64,
}

/// Prints a line, compared with the medians of another.
pub(crate) fn series(mut series: Series, base: Option<Figures>) -> Figures {
    let figures = series.figures();
    let Figures { p10, median, p99 } = figures;
    let mark = if series.is_base { "*" } else { " " };
    let ratio = base.map_or_else(String::new, |base| format!("{:.2}", median / base.median));
    println!(
        "{mark} {:<40} {:>6} {p10:>9.1} {median:>9.1} {p99:>9.1} {ratio:>6}",
        series.name,
        series.samples.len()
    );
    figures
}

/// Prints whether a target was met. It fails nothing: a machine that others use
/// misses any of them now and then.
pub(crate) fn target(name: &str, value: f64, limit: f64) {
    let verdict = if value <= limit { "within" } else { "MISSED" };
    println!("  target: {name:<40} {value:.2} (at most {limit}) {verdict}");
}
