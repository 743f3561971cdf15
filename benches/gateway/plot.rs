//! Plots as SVG: lines over a linear or a logarithmic axis, legible on light and on dark pages. By hand, as it is little,
//! and as no plotting crate draws for both.

use std::fmt::Write as _;
use std::ops::Range;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
/// Where the lines are drawn.
const LEFT: f64 = 72.0;
const RIGHT: f64 = WIDTH - 28.0;
const TOP: f64 = 86.0;
const BOTTOM: f64 = HEIGHT - 58.0;
/// About so many steps of a linear axis.
const STEPS: f64 = 6.0;

/// A page of its own colour, as viewers differ in whether a picture learns of theirs. The colours of lines keep a contrast
/// of at least 4.5 to it in both.
const STYLE: &str = "\
svg{--page:#ffffff;--ink:#1f2937;--faint:#6b7280;--grid:#e5e7eb;--a:#1d4ed8;--b:#b45309}\
@media(prefers-color-scheme:dark){svg{--page:#0d1117;--ink:#e6edf3;--faint:#9198a1;--grid:#2a313c;--a:#79a8ff;--b:#f0a04b}}\
text{font:13px system-ui,sans-serif;fill:var(--faint)}\
.title{font-size:17px;font-weight:600;fill:var(--ink)}.name{fill:var(--ink)}.page{fill:var(--page)}\
.grid{stroke:var(--grid)}.line{fill:none;stroke-width:2.5;stroke-linejoin:round}.dashed{stroke-width:2;stroke-dasharray:6 5}\
.a{stroke:var(--a);fill:var(--a)}.b{stroke:var(--b);fill:var(--b)}.open{fill:var(--page);stroke-width:2}.line.a,.line.b{fill:none}";

/// What an axis tells, and how it is divided.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    label: String,
    is_logarithmic: bool,
}

impl Axis {
    /// From nothing up, in equal steps.
    pub(crate) fn linear(label: &str) -> Self {
        Self { label: label.to_owned(), is_logarithmic: false }
    }

    /// In powers of ten.
    pub(crate) fn logarithmic(label: &str) -> Self {
        Self { label: label.to_owned(), is_logarithmic: true }
    }

    /// The marks that are drawn, the first and last of which bound the axis.
    fn marks(&self, values: &[f64]) -> Vec<f64> {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        if self.is_logarithmic {
            let exponents =
                least.max(1e-3).log10().floor() as i32..=(most.max(1e-3).log10() - 1e-9).ceil() as i32;
            return exponents.map(|exponent| 10_f64.powi(exponent)).collect();
        }
        let rough = most / STEPS;
        let power = 10_f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let count = (most / step - 1e-9).ceil() as u32;
        (0..=count).map(|number| f64::from(number) * step).collect()
    }

    fn place(&self, value: f64, marks: &[f64], to: Range<f64>) -> f64 {
        let (Some(first), Some(last)) = (marks.first(), marks.last()) else { return to.start };
        let share = if self.is_logarithmic {
            (value.max(*first) / first).log10() / (last / first).log10().max(f64::MIN_POSITIVE)
        } else {
            (value - first) / (last - first).max(f64::MIN_POSITIVE)
        };
        to.start + share * (to.end - to.start)
    }
}

/// A line.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    /// Dashed, in the colour of the line before: what that is compared with.
    is_reference: bool,
}

impl Series {
    pub(crate) fn new(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.to_owned(), points, is_reference: false }
    }

    pub(crate) fn reference(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self { is_reference: true, ..Self::new(name, points) }
    }
}

/// A picture.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    pub(crate) file: &'static str,
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
}

impl Plot {
    /// What it shows, for those who can't see it.
    pub(crate) fn description(&self) -> String {
        let names: Vec<_> = self.series.iter().map(|series| &*series.name).collect();
        format!("{}: {}", self.title, names.join(", "))
    }

    /// The picture's text.
    pub(crate) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let xs = self.x.marks(&points().map(|point| point.0).collect::<Vec<_>>());
        let ys = self.y.marks(&points().map(|point| point.1).collect::<Vec<_>>());
        let x_of = |value| self.x.place(value, &xs, LEFT..RIGHT);
        let y_of = |value| self.y.place(value, &ys, BOTTOM..TOP);
        let mut parts = vec![
            format!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">"#
            ),
            format!("<title>{}</title><style>{STYLE}</style>", self.description()),
            format!(r#"<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="8"/>"#),
            text(LEFT, 30.0, "start", "title", &self.title),
        ];
        for mark in &ys {
            let y = y_of(*mark);
            parts.push(format!(r#"<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1}" y2="{y:.1}"/>"#));
            parts.push(text(LEFT - 10.0, y + 4.5, "end", "", &short(*mark)));
        }
        for mark in &xs {
            let x = x_of(*mark);
            parts.push(format!(r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{BOTTOM}"/>"#));
            parts.push(text(x, BOTTOM + 20.0, "middle", "", &short(*mark)));
        }
        parts.push(text((LEFT + RIGHT) / 2.0, HEIGHT - 14.0, "middle", "", &self.x.label));
        let middle = (TOP + BOTTOM) / 2.0;
        parts.push(format!(
            r#"<text x="18" y="{middle}" text-anchor="middle" transform="rotate(-90 18 {middle})">{}</text>"#,
            self.y.label
        ));
        let (mut colour, mut name_at) = ("b", LEFT);
        for series in &self.series {
            if !series.is_reference {
                colour = if colour == "a" { "b" } else { "a" };
            }
            let (dashed, open) = if series.is_reference { (" dashed", " open") } else { ("", "") };
            let mut line = String::new();
            let mut dots = String::new();
            for (x, y) in series.points.iter().map(|(x, y)| (x_of(*x), y_of(*y))) {
                // Writing to a string can't fail.
                let _ = write!(line, "{x:.1},{y:.1} ");
                let _ = write!(dots, r#"<circle class="{colour}{open}" cx="{x:.1}" cy="{y:.1}" r="4"/>"#);
            }
            parts.push(format!(
                r#"<polyline class="line {colour}{dashed}" points="{}"/>{dots}"#,
                line.trim_end()
            ));
            let (from, to) = (name_at, name_at + 30.0);
            parts.push(format!(
                r#"<line class="line {colour}{dashed}" x1="{from:.1}" x2="{to:.1}" y1="56" y2="56"/>"#
            ));
            parts.push(text(to + 8.0, 60.5, "start", "name", &series.name));
            // A letter of this size is about so wide.
            name_at = to + 34.0 + series.name.chars().count() as f64 * 7.0;
        }
        parts.push("</svg>\n".to_owned());
        parts.join("\n")
    }
}

fn text(x: f64, y: f64, anchor: &str, class: &str, text: &str) -> String {
    format!(r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#)
}

fn short(value: f64) -> String {
    if value >= 1e6 {
        format!("{} M", value / 1e6)
    } else if value >= 10_000.0 {
        format!("{} k", value / 1e3)
    } else {
        format!("{}", (value * 1e6).round() / 1e6)
    }
}
