//! The report as a table for a terminal.

use std::io::{self, Write};

use crate::report::beside::{Beside, Figure};

/// Writes the table, and below it what to know of it.
///
/// # Errors
/// The output cannot be written.
pub fn show(out: &mut impl Write, beside: &Beside) -> io::Result<()> {
    let head = ["median (least to most)", "direct", "nginx adds", "gateway adds", "gateway / nginx"];
    let mut lines = vec![head.map(str::to_owned)];
    for row in &beside.rows {
        let [direct, nginx, gateway, ratio] = [row.direct, row.nginx_adds, row.gateway_adds, row.ratio].map(cell);
        lines.push([row.title.clone(), direct, nginx, gateway, ratio]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    for line in &lines {
        let mut text = format!("{:1$}", line[0], widths[0]);
        for (cell, width) in line.iter().zip(&widths).skip(1) {
            text += &format!("  {cell:>width$}");
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    let Beside { upstream, rounds, workload, nginx, gateway, .. } = beside;
    writeln!(out, "\n{upstream}, workload {}, {rounds} rounds, nginx {nginx}, llama-gateway {gateway}", workload.name)?;
    for note in &beside.notes {
        writeln!(out, "- {note}")?;
    }
    if let Some(why) = &beside.broken_off {
        writeln!(out, "- it ended before its time: {why}")?;
    }
    Ok(())
}

fn cell(figure: Option<Figure>) -> String {
    let Some(Figure { median, least, most }) = figure else { return String::new() };
    if least == most {
        return short(median);
    }
    format!("{} ({} to {})", short(median), short(least), short(most))
}

/// Three digits or so.
fn short(number: f64) -> String {
    match number.abs() {
        100.0.. => format!("{number:.0}"),
        10.0.. => format!("{number:.1}"),
        1.0.. => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::beside::Row;
    use crate::workload::Workload;

    #[test]
    fn the_table_has_a_line_a_row_and_the_notes_below() {
        let figure = |median| Some(Figure { median, least: median - 1.0, most: median + 1.0 });
        let row = Row {
            name: "ttft_p50".to_owned(),
            title: "time to first token, p50, ms".to_owned(),
            direct: figure(120.4),
            nginx: figure(121.0),
            gateway: figure(125.0),
            nginx_adds: figure(0.61),
            gateway_adds: figure(4.612),
            ratio: None,
        };
        let beside = Beside {
            format: 1,
            harness: "0.1.0".to_owned(),
            started_at: String::new(),
            workload: Workload::default(),
            upstream: "http://127.0.0.1:8001".to_owned(),
            nginx: "1.22.1".to_owned(),
            gateway: "0.1.0".to_owned(),
            rounds: 3,
            rows: vec![row],
            notes: vec!["nginx: 1 of 9 requests failed".to_owned()],
            broken_off: None,
        };
        let mut out = Vec::new();
        show(&mut out, &beside).unwrap();
        let text = String::from_utf8(out).unwrap();
        let wanted = "time to first token, p50, ms  120 (119 to 121)  0.610 (-0.390 to 1.61)  4.61 (3.61 to 5.61)";
        let lines: Vec<_> = text.lines().take(2).collect();
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), wanted.split_whitespace().collect::<Vec<_>>());
        let end = |line: &str, of: &str| line.find(of).unwrap() + of.len();
        assert_eq!(end(lines[0], "gateway adds"), end(lines[1], "4.61 (3.61 to 5.61)"), "{text}");
        assert!(text.ends_with("\n- nginx: 1 of 9 requests failed\n"), "{text}");
    }
}
