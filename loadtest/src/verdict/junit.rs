//! A verdict as JUnit XML, which CI systems show: a test case for each objective, and one that says whether the run was
//! a measurement. There is no standard; what is written here is the part that Jenkins, GitLab and GitHub's reporters
//! have in common.

use crate::report::Report;

/// The name of the test case that has an error where nothing was measured.
const VALID: &str = "the run is a measurement";

/// The report's verdict as an XML document.
pub fn xml(report: &Report) -> String {
    let verdict = &report.verdict;
    let suite = escaped(&format!("loadtest {}", report.workload.name));
    let missed = verdict.objectives.iter().filter(|objective| !objective.met).count();
    let counts = format!(
        "tests=\"{}\" failures=\"{missed}\" errors=\"{}\" time=\"{:.3}\"",
        verdict.objectives.len() + 1,
        u8::from(!verdict.invalid.is_empty()),
        report.measured_seconds,
    );
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    out += &format!("<testsuites name=\"loadtest\" {counts}>\n");
    out += &format!("  <testsuite name=\"{suite}\" timestamp=\"{}\" {counts}>\n", escaped(&report.started_at));
    out += &format!("    <testcase classname=\"{suite}\" name=\"{VALID}\" time=\"0\"");
    match verdict.invalid.first() {
        None => out += "/>\n",
        Some(first) => {
            let all = escaped(&verdict.invalid.join("\n"));
            out += &format!(">\n      <error message=\"{}\" type=\"invalid\">{all}</error>\n", escaped(first));
            out += "    </testcase>\n";
        }
    }
    for objective in &verdict.objectives {
        out += &format!("    <testcase classname=\"{suite}\" name=\"{}\" time=\"0\"", escaped(&objective.name));
        let text = escaped(&format!("wanted: {}\nmeasured: {}", objective.wanted, objective.measured));
        if objective.met {
            out += &format!(">\n      <system-out>{text}</system-out>\n    </testcase>\n");
        } else {
            let message = escaped(&format!("wanted {}, measured {}", objective.wanted, objective.measured));
            out +=
                &format!(">\n      <failure message=\"{message}\" type=\"missed\">{text}</failure>\n    </testcase>\n");
        }
    }
    out += "  </testsuite>\n</testsuites>\n";
    out
}

/// Text for an attribute or an element. Line ends and tabs are written as references, as a parser would make blanks of
/// them in attributes; what XML 1.0 cannot say at all (section 2.2, `Char`) becomes the replacement character.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\t' => out.push_str("&#9;"),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}
