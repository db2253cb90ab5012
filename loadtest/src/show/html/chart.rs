//! Charts as inline SVG: lines over a common axis, and horizontal bars. Each says in words what it shows, has a legend
//! and, under the pointer, the values as text; none needs a script.

use std::fmt::Write;

use maud::{Markup, html};

use super::super::number::none;
use super::axis::Axis;
use super::colour;

/// The drawing, in units of its own; it is as wide as the page allows.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 250.0;
/// Room for what is written at the axes.
const LEFT: f64 = 72.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;
/// Beyond so many points there are none under the pointer: they would be thinner than it.
const MOST_HOVERED: usize = 400;

/// Lines over one axis.
pub(super) struct Lines {
    pub(super) title: String,
    /// What is to be seen, in a line.
    pub(super) note: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    /// The points on x: value, and its name under the pointer.
    pub(super) points: Vec<(f64, String)>,
    pub(super) lines: Vec<Line>,
    /// How a value on y is written.
    pub(super) unit: fn(f64) -> String,
    /// Points of interest on x.
    pub(super) marks: Vec<Mark>,
}

/// A point of interest.
pub(super) struct Mark {
    pub(super) at: f64,
    /// Between which values it lies.
    pub(super) interval: (f64, f64),
    pub(super) name: String,
}

/// A line of `Lines`.
pub(super) struct Line {
    pub(super) name: String,
    /// One for each point; none leaves a gap.
    pub(super) values: Vec<Option<f64>>,
    /// Where the true value lies, for each point; or empty.
    pub(super) intervals: Vec<(f64, f64)>,
    /// Whether the points are marked: where there are few and the line between them is but a guess.
    pub(super) dots: bool,
}

impl Line {
    pub(super) fn new(name: &str, values: Vec<Option<f64>>) -> Self {
        Self { name: name.to_owned(), values, intervals: Vec::new(), dots: false }
    }
}

impl Lines {
    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.at(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.at(value) * (HEIGHT - TOP - BOTTOM)
    }

    /// The chart with its title and legend.
    pub(super) fn figure(&self) -> Markup {
        let key = |(series, line): (usize, &Line)| (colour::line_key(series), line.name.clone());
        let legend = self.lines.iter().enumerate().map(key).collect();
        let label = format!("{}: {}", self.title, self.note);
        let drawing = html! {
            svg class="chart lines" viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(label) {
                (self.grid())
                @for mark in &self.marks { (self.mark(mark)) }
                @for (series, line) in self.lines.iter().enumerate() { (self.line(series, line)) }
                @if self.points.len() <= MOST_HOVERED { (self.hover()) }
            }
        };
        figure(&self.title, &self.note, legend, &drawing)
    }

    fn grid(&self) -> Markup {
        let (bottom, end) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let ticks_y = self.y.ticks.iter().map(|(at, label)| (bottom - at * (bottom - TOP), label));
        let ticks_x = self.x.ticks.iter().map(|(at, label)| (LEFT + at * (end - LEFT), label));
        html! {
            @for (y, label) in ticks_y {
                path class="rule" d={ "M" (LEFT) " " (pixel(y)) "H" (end) } {}
                text class="tick y" x=(LEFT - 8.0) y=(pixel(y)) { (label) }
            }
            @for (x, label) in ticks_x {
                path class="rule" d={ "M" (pixel(x)) " " (bottom) "v4" } {}
                text class="tick x" x=(pixel(x)) y=(HEIGHT - 10.0) { (label) }
            }
        }
    }

    fn mark(&self, mark: &Mark) -> Markup {
        let x = self.x(mark.at);
        let (from, to) = (self.x(mark.interval.0), self.x(mark.interval.1));
        // Written on the side where there is room.
        let (class, at) = if x > WIDTH * 0.6 { ("mark end", x - 6.0) } else { ("mark", x + 6.0) };
        html! {
            rect class="band" x=(pixel(from)) y=(TOP) width=(pixel(to - from)) height=(HEIGHT - TOP - BOTTOM) {}
            path class="mark" d={ "M" (pixel(x)) " " (TOP) "V" (HEIGHT - BOTTOM) } {}
            text class=(class) x=(pixel(at)) y=(TOP + 10.0) { (mark.name) }
        }
    }

    fn line(&self, series: usize, line: &Line) -> Markup {
        let placed = self.points.iter().zip(&line.values);
        let placed = placed.map(|((x, _), value)| value.map(|value| (self.x(*x), self.y(value))));
        let placed: Vec<Option<(f64, f64)>> = placed.collect();
        html! {
            @for ((x, _), (least, most)) in self.points.iter().zip(&line.intervals) {
                path class={ "interval s" (series) } d=(self.interval(*x, *least, *most)) {}
            }
            path class=(colour::line(series)) d=(path(&placed)) {}
            @if line.dots {
                @for (x, y) in placed.iter().flatten() {
                    circle class={ "dot s" (series) } cx=(pixel(*x)) cy=(pixel(*y)) r="3.5" {}
                }
            }
        }
    }

    fn interval(&self, x: f64, least: f64, most: f64) -> String {
        let (x, least, most) = (self.x(x), pixel(self.y(least)), pixel(self.y(most)));
        let (left, middle) = (pixel(x - 4.0), pixel(x));
        format!("M{left} {least}h8M{left} {most}h8M{middle} {least}V{most}")
    }

    /// Stripes that light up under the pointer and say what is there.
    fn hover(&self) -> Markup {
        let xs: Vec<f64> = self.points.iter().map(|(x, _)| self.x(*x)).collect();
        let between = |left: usize| xs.get(left).zip(xs.get(left + 1)).map(|(a, b)| f64::midpoint(*a, *b));
        let stripe = |index: usize| {
            let from = if index == 0 { LEFT } else { between(index - 1).unwrap_or(LEFT) };
            (from, (between(index).unwrap_or(WIDTH - RIGHT) - from).max(0.0))
        };
        html! {
            @for (index, (_, name)) in self.points.iter().enumerate() {
                @let (from, wide) = stripe(index);
                rect class="hover" x=(pixel(from)) y=(TOP) width=(pixel(wide)) height=(HEIGHT - TOP - BOTTOM) {
                    title { (name) @for line in &self.lines { "\n" (line.name) ": " (self.value(line, index)) } }
                }
            }
        }
    }

    fn value(&self, line: &Line, index: usize) -> String {
        line.values.get(index).copied().flatten().map_or_else(none, self.unit)
    }
}

/// A path through the points, with a gap where there is none.
fn path(points: &[Option<(f64, f64)>]) -> String {
    let mut path = String::new();
    let mut drawing = false;
    for (index, point) in points.iter().enumerate() {
        let Some((x, y)) = point else {
            drawing = false;
            continue;
        };
        // Writing to a String does not fail.
        let _written = write!(path, "{}{} {}", if drawing { 'L' } else { 'M' }, pixel(*x), pixel(*y));
        if !drawing && points.get(index + 1).is_none_or(Option::is_none) {
            path.push_str("h0.1"); // a point alone has no length, and would not be seen
        }
        drawing = true;
    }
    path
}

/// A tenth of a unit is finer than a screen.
fn pixel(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Horizontal bars in groups.
pub(super) struct Bars {
    pub(super) title: String,
    pub(super) note: String,
    /// What the bars of a group are, in order; with one there is no legend.
    pub(super) series: Vec<String>,
    pub(super) groups: Vec<Group>,
    /// The name of the marks, if groups have them.
    pub(super) mark: Option<String>,
    /// The value of a bar of full length, if not the largest of all.
    pub(super) full: Option<f64>,
}

/// Bars of one thing.
pub(super) struct Group {
    pub(super) name: String,
    /// Value and what is written behind it.
    pub(super) bars: Vec<(f64, String)>,
    /// A value to compare with.
    pub(super) mark: Option<f64>,
}

/// Heights of a group's name and of a bar, and the room behind the longest bar.
const NAME: f64 = 24.0;
const BAR: f64 = 18.0;
const BEHIND: f64 = 150.0;

impl Bars {
    /// The chart with its title and legend.
    pub(super) fn figure(&self) -> Markup {
        let mut legend: Vec<_> =
            self.series.iter().enumerate().map(|(n, name)| (colour::bar_key(n), name.clone())).collect();
        if let Some(mark) = &self.mark {
            let key =
                html! { svg class="key" viewBox="0 0 28 10" aria-hidden="true" { path class="bound" d="M14 0V10" {} } };
            legend.push((key, mark.clone()));
        }
        if legend.len() == 1 {
            legend.clear();
        }
        let heights: Vec<f64> = self.groups.iter().map(|group| NAME + BAR * group.bars.len() as f64 + 8.0).collect();
        let height: f64 = heights.iter().sum();
        let tops = heights.iter().scan(0.0, |top, height| Some(std::mem::replace(top, *top + height)));
        let label = format!("{}: {}", self.title, self.note);
        let drawing = html! {
            svg class="chart bars" viewBox={ "0 0 " (WIDTH) " " (height.max(1.0)) } role="img" aria-label=(label) {
                @for (group, top) in self.groups.iter().zip(tops) { (self.group(group, top)) }
            }
        };
        figure(&self.title, &self.note, legend, &drawing)
    }

    fn length(&self, value: f64) -> f64 {
        let values = self.groups.iter().flat_map(|group| group.bars.iter().map(|(value, _)| *value).chain(group.mark));
        let full = self.full.unwrap_or_else(|| values.fold(0.0, f64::max));
        if full > 0.0 { pixel(value / full * (WIDTH - BEHIND)).max(1.0) } else { 1.0 }
    }

    fn group(&self, group: &Group, top: f64) -> Markup {
        let rows = || group.bars.iter().enumerate().map(|(n, bar)| (n, top + NAME + BAR * n as f64, bar));
        let bottom = top + NAME + BAR * group.bars.len() as f64;
        html! {
            text class="name" x="0" y=(top + 18.0) { (group.name) }
            @for (series, y, (value, written)) in rows() {
                rect class=(colour::bar(series)) x="0" y=(y) width=(self.length(*value)) height=(BAR - 4.0) rx="2" {}
                text class="value" x=(self.length(*value).max(group.mark.map_or(0.0, |mark| self.length(mark))) + 8.0)
                    y=(y + 11.0) { (written) }
            }
            @if let Some(mark) = group.mark {
                path class="bound" d={ "M" (self.length(mark)) " " (top + NAME - 4.0) "V" (bottom) } {}
            }
        }
    }
}

fn figure(title: &str, note: &str, legend: Vec<(Markup, String)>, drawing: &Markup) -> Markup {
    html! {
        figure {
            figcaption { strong { (title) } @if !note.is_empty() { span { (note) } } }
            @if !legend.is_empty() {
                ul class="legend" { @for (key, name) in &legend { li { (key) (name) } } }
            }
            (drawing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_gap_where_there_is_no_value_and_a_point_alone_is_seen() {
        let points = [Some((0.0, 1.0)), Some((1.0, 2.04)), None, Some((3.0, 4.0)), None, None];
        assert_eq!(path(&points), "M0 1L1 2M3 4h0.1");
    }

    #[test]
    fn a_chart_of_nothing_is_drawn_nevertheless() {
        let lines = Lines {
            title: "t".to_owned(),
            note: String::new(),
            x: Axis::up_to(0.0, |_| String::new()),
            y: Axis::linear(0.0, |_| String::new()),
            points: Vec::new(),
            lines: vec![Line::new("none", Vec::new())],
            unit: |_| String::new(),
            marks: Vec::new(),
        };
        let html = lines.figure().into_string();
        assert!(html.contains("<svg") && !html.contains("NaN") && !html.contains("inf"), "{html}");
    }
}
