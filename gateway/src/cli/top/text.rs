//! Text for a terminal: what others have named is made harmless, cut to its place, and given a style.

use std::fmt;

/// How a piece of text looks. Colours only add to what the words say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Style {
    #[default]
    Plain,
    /// Titles, and what is to be seen first.
    Bold,
    /// Column heads.
    Underlined,
    /// The first and the last line of the screen.
    Bar,
    Good,
    Warning,
    Bad,
}

/// A piece of one line. It is made of harmless characters only, each of which takes one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    text: String,
    pub(super) style: Style,
}

impl Span {
    pub(super) fn new(style: Style, text: impl AsRef<str>) -> Self {
        Self { text: harmless(text.as_ref()), style }
    }

    pub(super) fn plain(text: impl AsRef<str>) -> Self {
        Self::new(Style::Plain, text)
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn width(&self) -> usize {
        self.text.chars().count()
    }

    /// Makes it exactly so wide: what is too long ends with an ellipsis, what is too short is filled with blanks.
    pub(super) fn fit(&mut self, width: usize, flush_right: bool) {
        let missing = width.saturating_sub(self.width());
        if flush_right {
            self.text.insert_str(0, &" ".repeat(missing));
        } else {
            self.text.push_str(&" ".repeat(missing));
        }
        self.cut(width);
    }

    fn cut(&mut self, width: usize) {
        if self.width() > width {
            self.text = self.text.chars().take(width.saturating_sub(1)).collect();
            self.text.extend((width > 0).then_some('…'));
        }
    }
}

/// One line of the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line(pub(super) Vec<Span>);

impl Line {
    pub(super) fn of(style: Style, text: impl AsRef<str>) -> Self {
        Self(vec![Span::new(style, text)])
    }

    pub(super) fn width(&self) -> usize {
        self.0.iter().map(Span::width).sum()
    }

    /// The line, cut to so many columns.
    pub(super) fn cut(mut self, width: usize) -> Self {
        let mut left = width;
        for span in &mut self.0 {
            span.cut(left);
            left -= span.width();
        }
        self
    }
}

/// The words alone.
impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|span| out.write_str(span.text()))
    }
}

/// `text` with a question mark for each character that could do something to a terminal (controls, escapes), to the
/// order of the characters beside it (marks and letters that are written from right to left), or takes more or less
/// than one column, so that the table would be no table any more.
pub(super) fn harmless(text: &str) -> String {
    let is_harmless = |c: char| {
        // Latin, Greek and Cyrillic letters and what stands between them, without the soft hyphen and combining marks.
        matches!(c, ' '..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{2ff}' | '\u{370}'..='\u{482}' | '\u{48a}'..='\u{52f}')
            || c == '…'
    };
    text.chars().map(|c| if is_harmless(c) { c } else { '?' }).collect()
}

/// A time span in at most six characters.
pub(super) fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{:.1}s", seconds.max(0.0)),
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// A count of tokens in at most six characters, rounded where it is long.
pub(super) fn count(number: u64) -> String {
    let rounded = number as f64;
    match number {
        0..100_000 => number.to_string(),
        100_000..999_500 => format!("{:.0}k", rounded / 1e3),
        999_500..99_950_000 => format!("{:.1}M", rounded / 1e6),
        99_950_000..999_500_000 => format!("{:.0}M", rounded / 1e6),
        _ => format!("{:.1}G", rounded / 1e9),
    }
}

/// What is not known is a dash.
pub(super) fn or_dash<T>(value: Option<T>, format: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), format)
}
