//! What a row came to: its lines, its goals, its plots; and how it is printed.

use crate::fault::Fault;
use crate::plot::Plot;
use crate::roles::say;

/// What one row came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) title: String,
    pub(crate) columns: Vec<String>,
    pub(crate) lines: Vec<Vec<String>>,
    pub(crate) goals: Vec<Goal>,
    pub(crate) notes: Vec<String>,
    pub(crate) plots: Vec<Plot>,
}

impl Section {
    /// What stands in place of a row that could not be measured.
    pub(crate) fn failed(name: &'static str, fault: &Fault) -> Self {
        let title = "not measured".to_owned();
        Self { name, title, notes: vec![format!("✗ failed: {fault}")], ..Self::default() }
    }
}

/// A figure that is to be reached.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    what: String,
    value: f64,
    limit: f64,
    is_least: bool,
    unit: &'static str,
    /// Whether a busy machine can't be why it is missed.
    is_noise_proof: bool,
}

impl Goal {
    pub(crate) fn at_most(what: impl Into<String>, value: f64, limit: f64) -> Self {
        Self { what: what.into(), value, limit, is_least: false, unit: "×", is_noise_proof: false }
    }

    pub(crate) fn at_least(what: impl Into<String>, value: f64, limit: f64) -> Self {
        Self { is_least: true, ..Self::at_most(what, value, limit) }
    }

    /// In this unit, where it is no ratio.
    pub(crate) fn unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    /// A figure that a busy machine does not change.
    pub(crate) fn noise_proof(self) -> Self {
        self.noise_proof_if(true)
    }

    pub(crate) fn noise_proof_if(self, is_noise_proof: bool) -> Self {
        Self { is_noise_proof, ..self }
    }

    fn is_reached(&self) -> bool {
        if self.is_least { self.value >= self.limit } else { self.value <= self.limit }
    }

    /// What was to be reached, and what was.
    pub(crate) fn text(&self) -> String {
        let (mark, sign) = (if self.is_reached() { "✓" } else { "✗" }, if self.is_least { "≥" } else { "≤" });
        let (what, unit) = (&self.what, self.unit);
        let number = |value: f64| match value.abs() {
            0.0..10.0 => format!("{value:.3}"),
            10.0..1000.0 => format!("{value:.1}"),
            _ => format!("{value:.0}"),
        };
        format!("{mark} {what}: {} {unit} (goal {sign} {} {unit})", number(self.value), self.limit)
    }
}

/// Whether a goal was missed that a busy machine can't be the reason for.
pub(crate) fn missed_without_noise(sections: &[Section]) -> bool {
    sections.iter().flat_map(|section| &section.goals).any(|goal| goal.is_noise_proof && !goal.is_reached())
}

/// Prints a row's lines, aligned.
pub(crate) fn print(section: &Section) -> Result<(), Fault> {
    say(&format!("\n{}: {}", section.name, section.title))?;
    let lines: Vec<_> = std::iter::once(&section.columns).chain(&section.lines).collect();
    let width = |column: usize| {
        lines
            .iter()
            .filter_map(|line| line.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    for line in &lines {
        let cells = line.iter().enumerate().map(|(column, cell)| {
            let width = width(column);
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        say(format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end())?;
    }
    for goal in &section.goals {
        say(&format!("  {}", goal.text()))?;
    }
    for note in &section.notes {
        say(&format!("  {note}"))?;
    }
    Ok(())
}
