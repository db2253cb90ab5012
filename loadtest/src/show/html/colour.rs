//! How series are told apart: by colour, and by dashes or patterns for whoever does not see or print colours.
//!
//! The colours themselves are in `page.css`, once for light and once for dark.

use maud::{Markup, html};

/// The most lines in one chart. Bars come one or two in a group.
pub(super) const SERIES: usize = 5;

/// The class of a line.
pub(super) fn line(series: usize) -> String {
    format!("line s{}", series % SERIES)
}

/// The class of a bar.
pub(super) fn bar(series: usize) -> String {
    format!("bar s{}", series % 2)
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

/// The pattern of a second bar, once a page.
pub(super) fn pattern() -> Markup {
    html! {
        svg class="defs" width="0" height="0" aria-hidden="true" {
            defs {
                pattern id="stripes" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                    rect class="ground" width="6" height="6" {}
                    rect class="stripe" width="3" height="6" {}
                }
            }
        }
    }
}
