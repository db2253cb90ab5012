//! A collector of traces that reads them with OpenTelemetry's own message classes (`tests/clients/otlp_receiver.py`).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::engine::variable;
use super::process::{mortal, spawn};
use super::{eventually, eventually_true};

/// A running collector.
pub(crate) struct Collector {
    child: Child,
    orders: ChildStdin,
    port: u16,
    lines: Arc<Mutex<Vec<String>>>,
}

/// One span, as the collector read it.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) trace_id: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) state: String,
    pub(crate) is_error: bool,
    /// Nanoseconds since 1970.
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) attributes: BTreeMap<String, Value>,
}

impl Span {
    fn of(span: &Value) -> Self {
        let text = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
        let attributes = span["attributes"].as_array().into_iter().flatten();
        let value = |attribute: &Value| attribute["value"].as_object().unwrap().values().next().unwrap().clone();
        Self {
            trace_id: text("traceId"),
            id: text("spanId"),
            parent: text("parentSpanId"),
            name: text("name"),
            kind: text("kind"),
            state: text("traceState"),
            is_error: span["status"]["code"] == "STATUS_CODE_ERROR",
            from: text("startTimeUnixNano").parse().unwrap(),
            to: text("endTimeUnixNano").parse().unwrap(),
            attributes: attributes
                .map(|attribute| (attribute["key"].as_str().unwrap().to_owned(), value(attribute)))
                .collect(),
        }
    }

    /// An attribute as text: whole numbers are text in protobuf's JSON, too.
    pub(crate) fn text(&self, attribute: &str) -> &str {
        self.attributes.get(attribute).and_then(Value::as_str).unwrap_or_default()
    }
}

impl Collector {
    pub(crate) fn start() -> Self {
        let mut command = mortal(variable("CLIENT_PYTHON"));
        command.arg(format!("{}/tests/clients/otlp_receiver.py", env!("CARGO_MANIFEST_DIR")));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(command);
        let orders = child.stdin.take().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = said.next().expect("the collector says its port; hint: scripts/test installs what it needs");
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let kept = lines.clone();
        std::thread::spawn(move || said.for_each(|line| kept.lock().unwrap().push(line)));
        Self { child, orders, port: port.parse().unwrap(), lines }
    }

    /// Configuration of a gateway that tells this collector of every request.
    pub(crate) fn config(&self) -> String {
        format!("[traces]\nurl = \"http://127.0.0.1:{}\"\n", self.port)
    }

    /// What it answers from now on; see the program.
    pub(crate) fn set(&mut self, mood: &str) {
        writeln!(self.orders, "{mood}").unwrap();
        eventually_true("the collector has changed its mind", || self.text().contains(&format!("mood {mood}")));
    }

    /// All that it said.
    pub(crate) fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.lines.lock().unwrap().iter().filter(|line| line.starts_with('{')).count()
    }

    /// All spans that it took.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let lines = self.lines.lock().unwrap();
        let requests = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut spans = Vec::new();
        for request in requests {
            for resource in request["resourceSpans"].as_array().into_iter().flatten() {
                for scope in resource["scopeSpans"].as_array().unwrap() {
                    spans.extend(scope["spans"].as_array().unwrap().iter().map(Span::of));
                }
            }
        }
        spans
    }

    /// The trace of a request, the span of the whole first, once it is there.
    pub(crate) fn trace(&self, request_id: &str) -> Vec<Span> {
        eventually("the request has a trace", || {
            let spans = self.spans();
            let root = spans.iter().find(|span| span.text("llama_gateway.request_id") == request_id)?;
            let mut trace: Vec<_> = spans.iter().filter(|span| span.trace_id == root.trace_id).cloned().collect();
            trace.sort_by_key(|span| (span.id != root.id, span.from));
            Some(trace)
        })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
