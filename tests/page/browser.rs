//! Chromium, steered by its driver over `WebDriver` (<https://www.w3.org/TR/webdriver2/>).

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use parkway_tests::http1::Http1;
use parkway_tests::{eventually, patiently};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The browser is not asked to do anything but to show our page.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-prefers-reduced-motion=false",
];

/// What screens a picture is taken of.
pub(crate) const DESK: (u32, u32) = (1280, 1500);
pub(crate) const PHONE: (u32, u32) = (500, 1400);
/// The one that is looked through already.
pub(crate) const AS_IT_IS: (u32, u32) = (0, 0);

/// A browser with one window and a profile of its own.
pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: TempDir,
}

/// Whether there is a browser; says so if not.
#[expect(clippy::print_stderr, reason = "part of the report of a test")]
pub(crate) fn is_there() -> bool {
    let has = |program: &str| {
        let asked = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        asked.is_ok_and(|status| status.success())
    };
    let is_there = has("chromium") && has("chromedriver");
    assert!(
        is_there || env::var_os("REQUIRE_CHROMIUM").is_none(),
        "chromium or chromedriver is absent, and REQUIRE_CHROMIUM is set"
    );
    if !is_there {
        eprintln!(
            "ABSENT: chromium or chromedriver; this test proves nothing (apt-get install chromium chromium-driver)"
        );
    }
    is_there
}

fn profile() -> TempDir {
    tempfile::Builder::new()
        .prefix("parkway-browser-")
        .tempdir()
        .unwrap()
}

impl Browser {
    /// Starts one.
    pub(crate) async fn start(more: &[&str]) -> Self {
        let profile = profile();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines
            .find_map(|line| {
                let line = line.unwrap();
                let (_, port) = line.split_once("successfully on port ")?;
                port.trim_end_matches('.').parse::<u16>().ok()
            })
            .expect("the driver says its port");
        let mut browser = Self {
            driver,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
            _profile: profile,
        };
        let data = format!("--user-data-dir={}", browser._profile.path().display());
        let args: Vec<&str> = FLAGS
            .iter()
            .chain(more)
            .copied()
            .chain([data.as_str()])
            .collect();
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "binary": "/usr/bin/chromium", "args": args },
        } } });
        let session = browser
            .command(Method::POST, "/session", &capabilities)
            .await;
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        browser
    }

    async fn command(&self, method: Method, path: &str, body: &Value) -> Value {
        let done = self.try_command(method, path, body).await;
        done.unwrap_or_else(|error| panic!("{path}: {error:#}"))
    }

    async fn try_command(&self, method: Method, path: &str, body: &Value) -> Result<Value, Value> {
        let body = match method {
            Method::GET => Bytes::new(),
            _ => Bytes::from(body.to_string()),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(body)
            .unwrap();
        let mut driver = Http1::connect(self.address, &self.address.to_string()).await;
        let answer = patiently("the browser", driver.send(request)).await;
        let value = answer.json()["value"].clone();
        match answer.status.as_u16() {
            200 => Ok(value),
            _ => Err(value),
        }
    }

    async fn in_session(&self, path: &str, body: &Value) -> Value {
        let path = format!("/session/{}/{path}", self.session);
        self.command(Method::POST, &path, body).await
    }

    async fn devtools(&self, command: &str, parameters: &Value) -> Result<Value, Value> {
        let asked = json!({ "cmd": command, "params": parameters });
        let path = format!("/session/{}/goog/cdp/execute", self.session);
        self.try_command(Method::POST, &path, &asked).await
    }

    /// The document as it is now, without the help of a script; fails when it is replaced meanwhile.
    pub(crate) async fn document(&self) -> Result<String, Value> {
        let document = self.devtools("DOM.getDocument", &json!({})).await?;
        let node = json!({ "nodeId": document["root"]["nodeId"] });
        let html = self.devtools("DOM.getOuterHTML", &node).await?;
        Ok(html["outerHTML"].as_str().unwrap().to_owned())
    }

    /// Goes to a page.
    pub(crate) async fn open(&self, url: &str) {
        self.in_session("url", &json!({ "url": url })).await;
    }

    /// What a script's body returns, with these `arguments`.
    pub(crate) async fn run(&self, script: &str, arguments: &[&str]) -> Value {
        let asked = json!({ "script": script, "args": arguments });
        self.in_session("execute/sync", &asked).await
    }

    /// The text of all elements that fit, as it is shown.
    pub(crate) async fn texts(&self, selector: &str) -> Vec<String> {
        let script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText.trim())";
        let texts = self.run(script, &[selector]).await;
        let texts = texts.as_array().unwrap().iter();
        texts
            .map(|text| text.as_str().unwrap().to_owned())
            .collect()
    }

    /// How many elements fit.
    pub(crate) async fn count(&self, selector: &str) -> u64 {
        let script = "return document.querySelectorAll(arguments[0]).length";
        self.run(script, &[selector]).await.as_u64().unwrap()
    }

    /// Waits until this many elements fit.
    pub(crate) async fn shows(&self, count: u64, selector: &str) {
        let what = format!("{count} of {selector}");
        eventually(what, async || {
            (self.count(selector).await == count).then_some(())
        })
        .await;
    }

    /// Waits for an element that fits and has this text.
    pub(crate) async fn says(&self, selector: &str, text: &str) {
        eventually(format!("{text:?} in {selector}"), async || {
            let texts = self.texts(selector).await;
            texts.iter().any(|one| one.contains(text)).then_some(())
        })
        .await;
    }

    /// Presses keys, as a person does, wherever the focus is.
    pub(crate) async fn press(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| {
                ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() }))
            })
            .collect();
        let keyboard =
            json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.in_session("actions", &keyboard).await;
    }

    /// Moves the focus by the tabulator, as often as it takes, to an element that fits.
    pub(crate) async fn tab_to(&self, selector: &str) {
        const STEPS: u32 = 100;
        let script = "return document.activeElement.matches(arguments[0])";
        for _ in 0..STEPS {
            // The tabulator, as WebDriver writes it.
            self.press("\u{e004}").await;
            if self.run(script, &[selector]).await == true {
                return;
            }
        }
        panic!("{selector} cannot be reached by keys");
    }

    /// A screen so wide, of somebody who prefers this colour scheme.
    pub(crate) async fn looks_through(&self, width: u32, scheme: &str) {
        let screen =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", &screen)
            .await
            .unwrap();
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", &media)
            .await
            .unwrap();
    }

    /// What cannot be seen or read well: what is wider than the screen, and text that stands out too little from what is
    /// behind it (WCAG 2.2, success criterion 1.4.3).
    pub(crate) async fn unreadable(&self) -> Value {
        self.run(include_str!("unreadable.js"), &[]).await
    }

    /// Errors and warnings that the page has caused, what the browser found wrong with it included.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self
            .in_session("se/log", &json!({ "type": "browser" }))
            .await;
        let entries = log.as_array().unwrap().iter();
        let bad = entries.filter(|entry| entry["level"] != "INFO" && entry["level"] != "DEBUG");
        bad.map(ToString::to_string).collect()
    }

    /// Keeps a picture as `NAME.png` in the folder of `PAGE_PICTURES`, if that is set.
    pub(crate) async fn picture(&self, name: &str, (width, height): (u32, u32)) {
        let Some(folder) = env::var_os("PAGE_PICTURES") else {
            return;
        };
        if width > 0 {
            let size = json!({ "width": width, "height": height });
            self.in_session("window/rect", &size).await;
        }
        let whole = json!({ "captureBeyondViewport": true });
        let taken = self.devtools("Page.captureScreenshot", &whole).await;
        let taken = taken.unwrap()["data"].clone();
        let folder = std::path::PathBuf::from(folder);
        fs::create_dir_all(&folder).unwrap();
        // As the driver gives it; `base64 --decode` makes it a picture.
        fs::write(
            folder.join(format!("{name}.png.base64")),
            taken.as_str().unwrap(),
        )
        .unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser when its session ends; a browser whose driver is killed would stay.
        let end = || -> std::io::Result<()> {
            let mut driver = TcpStream::connect(self.address)?;
            driver.set_read_timeout(Some(Duration::from_secs(10)))?;
            let (session, address) = (&self.session, self.address);
            write!(
                driver,
                "DELETE /session/{session} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
            )?;
            driver.read_exact(&mut [0; 12])
        };
        drop(end());
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}
