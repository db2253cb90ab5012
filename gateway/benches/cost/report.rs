//! The table.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;

use crate::process::Cores;
use crate::proxies::Kind;

/// Memory before the first request.
pub(crate) const IDLE: &str = "Memory idle, MiB";
/// Memory that each open stream adds.
pub(crate) const PER_STREAM: &str = "Memory per open stream, KiB";

/// All figures of a run.
pub(crate) struct Report {
    kinds: Vec<Kind>,
    /// In the order of their first figure.
    rows: Vec<String>,
    /// One figure a round, by row and column.
    figures: BTreeMap<(String, String), Vec<f64>>,
    notes: Vec<String>,
}

impl Report {
    /// An empty report that knows the machine.
    pub(crate) fn begin(kinds: &[Kind], cores: &Cores, quick: bool) -> anyhow::Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let parallelism = std::thread::available_parallelism()?;
        let mut notes = vec![
            format!("{}, {parallelism} cores, Linux {}", model.trim_start_matches([' ', '\t', ':']), kernel.trim()),
            format!("load average before the run: {}", load()),
        ];
        if quick || cfg!(debug_assertions) {
            notes.push("Windows too short or a build without optimisation: not figures, a sign that all works.".into());
        }
        if !cores.apart() {
            notes
                .push("One core for everything: a starved proxy does more work at a wake-up and looks cheaper.".into());
        }
        if !kinds.iter().any(|kind| matches!(kind, Kind::Envoy(_))) {
            notes.push("Envoy is not installed: not measured. Put `envoy` into PATH or name it in $ENVOY.".into());
        }
        Ok(Self { kinds: kinds.to_vec(), rows: Vec::new(), figures: BTreeMap::new(), notes })
    }

    /// Takes one figure.
    pub(crate) fn add(&mut self, kind: &Kind, row: &str, figure: f64) {
        if !self.rows.iter().any(|known| known == row) {
            self.rows.push(row.to_owned());
        }
        self.figures.entry((row.to_owned(), kind.name())).or_default().push(figure);
    }

    /// Writes the table, as Markdown.
    pub(crate) fn print(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let names: Vec<_> = self.kinds.iter().map(Kind::name).collect();
        writeln!(out, "\n| median of rounds (least to most) | {} | gateway ÷ nginx |", names.join(" | "))?;
        writeln!(out, "|---|{}---:|", "---:|".repeat(names.len()))?;
        for row in &self.rows {
            let cells: Vec<_> = names.iter().map(|name| cell(self.of(row, name))).collect();
            writeln!(out, "| {row} | {} | {} |", cells.join(" | "), self.ratio(row))?;
        }
        writeln!(out)?;
        for note in &self.notes {
            writeln!(out, "- {note}")?;
        }
        writeln!(out, "- load average after the run: {}", load())?;
        Ok(())
    }

    fn of(&self, row: &str, name: &str) -> &[f64] {
        self.figures.get(&(row.to_owned(), name.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// Round by round: what else the machine does weighs on both of a round.
    fn ratio(&self, row: &str) -> String {
        let of = |wanted: fn(&Kind) -> bool| {
            self.kinds.iter().find(|kind| wanted(kind)).map_or(&[][..], |kind| self.of(row, &kind.name()))
        };
        let (ours, theirs) = (of(|kind| matches!(kind, Kind::Gateway)), of(|kind| matches!(kind, Kind::Nginx(_))));
        let ratios: Vec<_> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        format!("{:.2}", median(&ratios))
    }
}

fn cell(figures: &[f64]) -> String {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(0.0, f64::max);
    match figures.len() {
        0 => "–".to_owned(),
        1 => format!("{least:.1}"),
        _ => format!("{:.1} ({least:.1}–{most:.1})", median(figures)),
    }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The load average of the last minute.
fn load() -> String {
    let averages = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    averages.split(' ').next().unwrap_or_default().to_owned()
}
