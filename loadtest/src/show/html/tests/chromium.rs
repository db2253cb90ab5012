//! A real headless Chromium, driven over its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/) by
//! the pipe that `--remote-debugging-pipe` opens: messages in JSON, each ended by a zero byte.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Far more than any answer takes; a browser that hangs fails the test instead of holding it up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A browser with one page.
pub(super) struct Chromium {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    last_id: u64,
    /// All events so far.
    pub(super) events: Vec<Value>,
    _profile: tempfile::TempDir,
}

/// `$CHROMIUM`, or `chromium` in the path.
fn binary() -> PathBuf {
    let in_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|folder| folder.join("chromium")).find(|file| file.is_file())
    });
    let binary = std::env::var_os("CHROMIUM").map(PathBuf::from).or(in_path);
    binary.expect("Chromium is missing. hint: apt-get install chromium, or set CHROMIUM to the binary of a Chromium")
}

impl Chromium {
    pub(super) async fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        // The pipe is at descriptors 3 and 4, which only a shell can set without unsafe code. All else goes nowhere: a
        // process of the browser that outlives it for a moment must not hold the test's own output.
        let mut process = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1"])
            .arg(binary())
            .args(["--remote-debugging-pipe", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
            .args(["--disable-quic", "--no-first-run", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            // What it makes elsewhere, too, goes with the profile, even when a test fails and it is killed.
            .env("TMPDIR", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (to, from) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let mut browser = Self { process, to, from, session: None, last_id: 0, events: Vec::new(), _profile: profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        browser.session = browser.call("Target.attachToTarget", attach).await["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Network", "Log", "Runtime"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Calls a method and gives its result.
    pub(super) async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let mut message = json!({"id": self.last_id, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).await.unwrap();
        loop {
            let message = self.message().await;
            if message["id"] == self.last_id {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    async fn message(&mut self) -> Value {
        let mut bytes = Vec::new();
        let read = timeout(PATIENCE, self.from.read_until(0, &mut bytes)).await.expect("Chromium does not answer");
        assert!(read.unwrap() > 0, "Chromium has ended");
        bytes.pop();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// Shows a page in a window of that width, `light` or `dark`, and waits until it is there.
    pub(super) async fn open(&mut self, url: &str, width: u32, scheme: &str) {
        let window = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", window).await;
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media).await;
        self.events.clear();
        self.call("Page.navigate", json!({"url": url})).await;
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let message = self.message().await;
            self.events.push(message);
        }
    }

    /// The value of an expression, waited for if it is a promise. The page's own policy does not hold for it.
    pub(super) async fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", parameters).await;
        assert!(result["exceptionDetails"].is_null(), "{}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// The whole page as a PNG.
    pub(super) async fn screenshot(&mut self) -> Vec<u8> {
        let result = self.call("Page.captureScreenshot", json!({"captureBeyondViewport": true})).await;
        base64::engine::general_purpose::STANDARD.decode(result["data"].as_str().unwrap()).unwrap()
    }

    /// Ends the browser and waits for it.
    pub(super) async fn close(mut self) {
        self.session = None;
        self.call("Browser.close", json!({})).await;
        timeout(PATIENCE, self.process.wait()).await.expect("Chromium does not end").unwrap();
    }
}
