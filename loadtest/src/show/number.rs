//! Numbers as people read them: a unit beside each, no more digits than matter.

/// What stands where there is no value.
pub(super) fn none() -> String {
    "–".to_owned()
}

/// A time in milliseconds, with the unit in which it reads best.
pub(super) fn milliseconds(value: f64) -> String {
    match value {
        value if !value.is_finite() => none(),
        value if value < 0.005 => "0 ms".to_owned(),
        value if value < 9.995 => format!("{value:.2} ms"),
        value if value < 99.95 => format!("{value:.1} ms"),
        value if value < 999.5 => format!("{value:.0} ms"),
        value => seconds(value / 1000.0),
    }
}

/// A time in seconds.
pub(super) fn seconds(value: f64) -> String {
    match value {
        value if !value.is_finite() => none(),
        value if value < 9.995 => format!("{value:.2} s"),
        value if value < 99.95 => format!("{value:.1} s"),
        value => format!("{} s", whole(value)),
    }
}

/// A number of things, or a rate: three digits, or all digits before the point.
pub(super) fn quantity(value: f64) -> String {
    match value {
        value if !value.is_finite() => none(),
        0.0 => "0".to_owned(),
        value if value.abs() < 0.0995 => format!("{value:.3}"),
        value if value.abs() < 9.995 => format!("{value:.2}"),
        value if value.abs() < 99.95 => format!("{value:.1}"),
        value => whole(value),
    }
}

/// A round number as it stands at an axis: no zeros behind the point.
pub(super) fn round(value: f64) -> String {
    match value {
        value if value.abs() < 10_000.0 => format!("{}", (value * 1000.0).round() / 1000.0),
        value if value.abs() < 1e6 => format!("{}k", value / 1e3),
        value => format!("{}M", value / 1e6),
    }
}

/// The same of a time in milliseconds.
pub(super) fn round_milliseconds(value: f64) -> String {
    if value < 1000.0 { format!("{} ms", round(value)) } else { format!("{} s", round(value / 1000.0)) }
}

/// A part of a whole in percent, rounded down so that "100 %" means all, and "0 %" none.
pub(super) fn percent(part: f64) -> String {
    match part {
        part if !part.is_finite() => none(),
        0.0 => "0 %".to_owned(),
        // What is computed, such as the end of an interval, may be a rounding short of 1.
        part if part > 1.0 - 1e-9 => "100 %".to_owned(),
        part if part > 0.0 && part < 0.001 => "< 0.1 %".to_owned(),
        // What is added undoes that 0.94 * 1000 is 939.9999...
        part => format!("{:.1} %", (part * 1000.0 + 1e-9).floor() / 10.0),
    }
}

/// `part / whole` in percent.
pub(super) fn share(part: u64, whole: u64) -> String {
    percent(if whole == 0 { f64::NAN } else { part as f64 / whole as f64 })
}

/// A count with its thousands apart.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 request`, `2 requests`.
pub(super) fn counted(value: u64, one: &str) -> String {
    format!("{} {one}{}", count(value), if value == 1 { "" } else { "s" })
}

/// A reason whose hint is on a line of its own, as one sentence.
pub(super) fn one_line(reason: &str) -> String {
    reason.replace("\nhint:", "; hint:").replace('\n', " ")
}

/// Text from outside on one line of a terminal: no control characters, so that a server cannot move the cursor, and at
/// most `width` characters.
pub(super) fn printable(text: &str, width: usize) -> String {
    let text = &one_line(text);
    let shown = |c: char| match c {
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    let mut line: String = text.chars().take(width).map(shown).collect();
    if text.chars().count() > width {
        line.pop();
        line.push('…');
    }
    line
}

fn whole(value: f64) -> String {
    let sign = if value < 0.0 { "-" } else { "" };
    format!("{sign}{}", count(value.abs().round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_in_which_they_read_best() {
        let cases = [
            (0.0, "0 ms"),
            (0.125, "0.12 ms"),
            (0.999, "1.00 ms"),
            (9.996, "10.0 ms"),
            (47.61, "47.6 ms"),
            (412.4, "412 ms"),
            (999.7, "1.00 s"),
            (9_994.0, "9.99 s"),
            (9_996.0, "10.0 s"),
            (123_456.0, "123 s"),
            (f64::NAN, "–"),
        ];
        for (value, text) in cases {
            assert_eq!(milliseconds(value), text, "{value}");
        }
    }

    #[test]
    fn all_is_said_only_of_all_and_none_only_of_none() {
        let cases = [
            (1.0, "100 %"),
            (1.0 - 1e-12, "100 %"),
            (0.9999, "99.9 %"),
            (0.94, "94.0 %"),
            (0.0001, "< 0.1 %"),
            (0.0, "0 %"),
        ];
        for (part, text) in cases {
            assert_eq!(percent(part), text);
        }
        assert_eq!(share(3, 0), "–");
    }

    #[test]
    fn quantities_have_three_digits_or_all_before_the_point() {
        let cases =
            [(0.0, "0"), (0.0123, "0.012"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,235"), (-250.0, "-250")];
        for (value, text) in cases {
            assert_eq!(quantity(value), text);
        }
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "request"), "1 request");
    }

    #[test]
    fn what_comes_from_outside_cannot_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\nc", 20), "a\u{fffd}[2Jb c");
        assert_eq!(printable("abcdef", 4), "abc…");
        assert_eq!(printable("abcd", 4), "abcd");
    }
}
