//! The pages in a real browser: light and dark, on a desk and on a phone. The screenshots stay in `target/pages/` for
//! whoever wants to look.

use std::collections::BTreeSet;
use std::path::PathBuf;

use base64::Engine;
use serde_json::Value;

use super::super::super::sample;
use super::super::{report, sweep};
use super::chromium::Chromium;
use super::hostile;

/// Windows of a desk and of a phone.
const WIDTHS: [u32; 2] = [1200, 375];

/// Writes a page where the browser can read it.
fn written(name: &str, page: &str) -> (PathBuf, String) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/pages");
    std::fs::create_dir_all(&folder).unwrap();
    let folder = folder.canonicalize().unwrap();
    let file = folder.join(format!("{name}.html"));
    std::fs::write(&file, page).unwrap();
    (folder, format!("file://{}", file.display()))
}

/// URLs that the page asked for since it was opened.
fn requested(browser: &Chromium) -> BTreeSet<&str> {
    let asked = browser.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
    asked.filter_map(|event| event["params"]["request"]["url"].as_str()).collect()
}

/// What the browser had to complain of: the console's log, exceptions, breaches of the page's policy.
fn complaints(browser: &Chromium) -> Vec<&Value> {
    let complaint = ["Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"];
    browser.events.iter().filter(|event| complaint.iter().any(|name| event["method"] == *name)).collect()
}

/// How many pixels of each chart differ from its corner, in parts of all, as the browser itself decodes the screenshot.
async fn ink(browser: &mut Chromium, screenshot: &[u8], charts: &[Value]) -> Vec<f64> {
    let data = base64::engine::general_purpose::STANDARD.encode(screenshot);
    let charts = serde_json::to_string(charts).unwrap();
    browser.open("about:blank", 1200, "light").await; // where no policy forbids images
    let script = format!(
        "(async () => {{
            const image = new Image();
            image.src = 'data:image/png;base64,{data}';
            await image.decode();
            const canvas = new OffscreenCanvas(image.width, image.height).getContext('2d');
            canvas.drawImage(image, 0, 0);
            return {charts}.map(chart => {{
                const {{ data }} = canvas.getImageData(chart.left, chart.top, chart.width, chart.height);
                let different = 0;
                for (let i = 0; i < data.length; i += 4) {{
                    different += [0, 1, 2].some(c => Math.abs(data[i + c] - data[c]) > 40);
                }}
                return different / (data.length / 4);
            }});
        }})()"
    );
    serde_json::from_value(browser.evaluate(&script).await).unwrap()
}

/// Looks at a page in each window and scheme.
async fn look_at(name: &str, page: &str, charts: usize) {
    let (folder, url) = written(name, page);
    let mut browser = Chromium::start().await;
    for width in WIDTHS {
        for scheme in ["light", "dark"] {
            browser.open(&url, width, scheme).await;
            let seen = browser.evaluate(include_str!("look.js")).await;
            let screenshot = browser.screenshot().await;
            std::fs::write(folder.join(format!("{name}-{width}-{scheme}.png")), &screenshot).unwrap();
            let at = format!("{name}, {scheme}, {width} px wide");

            assert_eq!(requested(&browser), BTreeSet::from([url.as_str()]), "{at}: asked for more than the page");
            assert_eq!(complaints(&browser), [] as [&Value; 0], "{at}");
            assert_eq!(seen["faults"], Value::Array(Vec::new()), "{at}");
            assert_eq!(seen["ground"].as_f64().unwrap() > 0.5, scheme == "light", "{at}: {}", seen["ground"]);
            let shown = seen["charts"].as_array().unwrap();
            assert_eq!(shown.len(), charts, "{at}");
            for chart in shown {
                let size = ["width", "height"].map(|side| chart[side].as_f64().unwrap());
                assert!(size[0] > 250.0 && size[1] > 80.0, "{at}: {chart}");
                let drawn: Vec<f64> = serde_json::from_value(chart["drawn"].clone()).unwrap();
                assert!(drawn.iter().any(|length| *length > 100.0), "{at}: {chart}");
            }
            for (chart, ink) in shown.iter().zip(ink(&mut browser, &screenshot, shown).await) {
                assert!(ink > 0.01 && ink < 0.5, "{at}: {ink} of the pixels are drawn on: {chart}");
            }
        }
    }
    browser.close().await;
}

#[tokio::test]
async fn the_page_of_a_run_is_legible_everywhere_and_asks_for_nothing() {
    look_at("run", &report(&sample::report()), 14).await;
}

#[tokio::test]
async fn the_page_of_a_sweep_is_legible_everywhere_and_asks_for_nothing() {
    look_at("sweep", &sweep(&sample::sweep()), 4).await;
}

#[tokio::test]
async fn hostile_names_are_text_in_a_browser_too() {
    let (_, url) = written("hostile", &report(&hostile()));
    let mut browser = Chromium::start().await;
    browser.open(&url, WIDTHS[0], "light").await;
    assert_eq!(browser.evaluate("document.querySelectorAll('script, b').length").await, 0);
    assert_eq!(browser.evaluate("document.querySelector('h1').textContent").await, "<script>alert(1)</script>\"><b>");
    assert_eq!(complaints(&browser), [] as [&Value; 0]);
    browser.close().await;
}

#[tokio::test]
async fn the_policy_of_the_page_keeps_out_what_it_should_not_hold() {
    let page = report(&sample::report());
    let page =
        page.replace("<main>", "<main><img src=\"http://127.0.0.1:9/pixel\"><script>document.title = 'ran'</script>");
    let (_, url) = written("smuggled", &page);
    let mut browser = Chromium::start().await;
    browser.open(&url, WIDTHS[0], "light").await;
    assert_ne!(browser.evaluate("document.title").await, "ran");
    assert!(complaints(&browser).len() >= 2, "the browser must have refused both: {:?}", complaints(&browser));
    browser.close().await;
}
