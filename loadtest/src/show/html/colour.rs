//! How series are told apart: by colour, and by dashes or patterns for whoever does not see or print colours.
//!
//! The colours themselves are in `page.css`, once for light and once for dark.

use maud::{Markup, html};

/// The most series in one chart.
pub(super) const SERIES: usize = 5;

/// The class of a line.
pub(super) fn line(series: usize) -> String {
    format!("line s{}", series % SERIES)
}

/// The class of a bar.
pub(super) fn bar(series: usize) -> String {
    format!("bar s{}", series % SERIES)
}

/// What a line looks like, for a legend.
pub(super) fn line_key(series: usize) -> Markup {
    html! {
        svg class="key" viewBox="0 0 28 10" aria-hidden="true" { path class=(line(series)) d="M1 5H27" {} }
    }
}

/// What a bar looks like, for a legend.
pub(super) fn bar_key(series: usize) -> Markup {
    html! {
        svg class="key" viewBox="0 0 28 10" aria-hidden="true" { rect class=(bar(series)) width="28" height="10" rx="2" {} }
    }
}

/// The patterns of bars, once a page.
pub(super) fn patterns() -> Markup {
    html! {
        svg class="defs" width="0" height="0" aria-hidden="true" {
            defs {
                pattern id="stripes" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                    rect class="ground s1" width="6" height="6" {}
                    rect class="figure s1" width="3" height="6" {}
                }
                pattern id="dots" width="6" height="6" patternUnits="userSpaceOnUse" {
                    rect class="ground s2" width="6" height="6" {}
                    circle class="figure s2" cx="3" cy="3" r="1.6" {}
                }
            }
        }
    }
}
