//! Chromium without a window, driven by chromedriver.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::elements::Element;
use fantoccini::error::CmdError;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Map, Value, json};
use tokio::sync::{Mutex, MutexGuard};

pub(super) const TAB: char = '\u{e004}';
pub(super) const ENTER: char = '\u{e007}';
pub(super) const SHIFT: char = '\u{e008}';
pub(super) const CONTROL: char = '\u{e009}';
pub(super) const ESCAPE: char = '\u{e00c}';

/// How long a condition may take to come true before a test gives up on it.
const DEADLINE: Duration = Duration::from_mins(1);

/// One browser at a time: several would only make each other slow.
static TURN: Mutex<()> = Mutex::const_new(());

pub(super) struct Browser {
    client: Client,
    driver: Driver,
    _turn: MutexGuard<'static, ()>,
}

impl Browser {
    pub(super) async fn start() -> Self {
        let turn = TURN.lock().await;
        let mut driver = Driver::start();
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities(&driver))
            .connect(&driver.url())
            .await
            .expect("chromedriver starts Chromium");
        driver.session = client.session_id().await.unwrap().unwrap();
        Self {
            client,
            driver,
            _turn: turn,
        }
    }

    pub(super) async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    pub(super) async fn back(&self) {
        self.client.back().await.unwrap();
    }

    pub(super) async fn url(&self) -> String {
        self.client.current_url().await.unwrap().to_string()
    }

    /// Signs in, and waits for what the address names: the list or a key.
    pub(super) async fn sign_in(&self, secret: &str) {
        self.fill("#admin-key", secret).await;
        self.click("#sign-in button").await;
        self.until("document.querySelector('.keys, #key-title')?.checkVisibility()")
            .await;
    }

    /// Clicks what a selector finds, once it can be clicked.
    pub(super) async fn click(&self, css: &str) {
        self.on(css, async |element| element.click().await).await;
    }

    /// Replaces what a field holds.
    pub(super) async fn fill(&self, css: &str, text: &str) {
        self.on(css, async |element| {
            element.clear().await?;
            element.send_keys(text).await
        })
        .await;
    }

    pub(super) async fn choose(&self, css: &str, value: &str) {
        self.on(css, async |element| element.select_by_value(value).await)
            .await;
    }

    /// Does something to what a selector finds, once it is there to be seen. Where the page draws
    /// it anew in between, to the new one.
    async fn on(&self, css: &str, act: impl AsyncFn(&Element) -> Result<(), CmdError>) {
        let started = Instant::now();
        loop {
            self.until(&visible(css)).await;
            let element = self.client.find(Locator::Css(css)).await;
            let done = match element {
                Ok(element) => act(&element).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => return,
                Err(error)
                    if started.elapsed() < DEADLINE
                        && (error.is_stale_element_reference() || error.is_no_such_element()) => {}
                Err(error) => panic!("{css}: {error}"),
            }
        }
    }

    /// Presses keys one after the other, wherever the focus is.
    pub(super) async fn press(&self, keys: impl IntoIterator<Item = char>) {
        let mut actions = KeyActions::new("keyboard".to_owned());
        for value in keys {
            actions = actions
                .then(KeyAction::Down { value })
                .then(KeyAction::Up { value });
        }
        self.client.perform_actions(actions).await.unwrap();
    }

    /// Presses a key while another one is held.
    pub(super) async fn press_with(&self, held: char, value: char) {
        let actions = KeyActions::new("keyboard".to_owned())
            .then(KeyAction::Down { value: held })
            .then(KeyAction::Down { value })
            .then(KeyAction::Up { value })
            .then(KeyAction::Up { value: held });
        self.client.perform_actions(actions).await.unwrap();
    }

    /// What an expression gives in the page.
    pub(super) async fn eval(&self, expression: &str) -> Value {
        let script = format!("return ({expression})");
        self.client
            .execute(&script, vec![])
            .await
            .expect(expression)
    }

    /// Waits until an expression is true of the page.
    pub(super) async fn until(&self, expression: &str) {
        let started = Instant::now();
        while self.eval(&format!("Boolean({expression})")).await != json!(true) {
            if started.elapsed() > DEADLINE {
                let text = self.eval("document.body.innerText").await;
                panic!(
                    "it never came true: {expression}\n{}",
                    text.as_str().unwrap()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until what a selector finds has this in its text.
    pub(super) async fn sees(&self, css: &str, text: &str) {
        let (css, text) = (json!(css), json!(text));
        let shown = "(element) => element.checkVisibility() && element.innerText.includes";
        self.until(&format!(
            "[...document.querySelectorAll({css})].some({shown}({text}))"
        ))
        .await;
    }

    pub(super) async fn text(&self, css: &str) -> String {
        self.until(&visible(css)).await;
        let text = self
            .eval(&format!("document.querySelector({}).innerText", json!(css)))
            .await;
        text.as_str().unwrap().to_owned()
    }

    /// Makes the page as narrow as on a phone: Chromium's window is at least 500 pixels wide.
    pub(super) fn set_width(&self, width: u32) {
        let metrics =
            json!({"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": true});
        let body = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics});
        self.driver.call("POST", "/goog/cdp/execute", &body);
    }

    /// Cuts the page off from every server, or connects it again.
    pub(super) fn set_offline(&self, offline: bool) {
        let conditions = json!({"offline": offline, "latency": 0, "throughput": -1});
        let body = json!({"network_conditions": conditions});
        self.driver
            .call("POST", "/chromium/network_conditions", &body);
    }

    /// The addresses of all requests that pages have made so far. Those of the empty tab that
    /// Chromium starts with are its own.
    pub(super) fn requests(&self) -> Vec<String> {
        let messages = self.log("performance").into_iter().map(|entry| {
            let message = entry["message"].as_str().unwrap();
            serde_json::from_str::<Value>(message).unwrap()["message"].take()
        });
        let sent = messages.filter(|message| message["method"] == "Network.requestWillBeSent");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        sent.map(|mut message| message["params"].take())
            .filter(|request| !text(&request["documentURL"]).starts_with("chrome:"))
            .map(|request| text(&request["request"]["url"]))
            .collect()
    }

    /// Errors of scripts and violations of the policy. That a request was refused is none.
    #[track_caller]
    pub(super) fn assert_no_errors(&self) {
        let mut entries = self.log("browser");
        entries.retain(|entry| entry["source"] != "network");
        assert_eq!(entries, [] as [Value; 0]);
    }

    fn log(&self, kind: &str) -> Vec<Value> {
        let mut answer = self.driver.call("POST", "/se/log", &json!({"type": kind}));
        serde_json::from_value(answer["value"].take()).expect("a log")
    }
}

fn visible(css: &str) -> String {
    format!("document.querySelector({})?.checkVisibility()", json!(css))
}

fn capabilities(driver: &Driver) -> Map<String, Value> {
    let profile = format!("--user-data-dir={}", driver.profile.path().display());
    let arguments = [
        "--headless",
        // Its sandbox does not work for root. Nothing but this test's own pages is opened.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--disable-sync",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        // No host but this one exists.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--window-size=1280,900",
        &profile,
    ];
    let options = json!({"args": arguments, "binary": chromium()});
    let logs = json!({"browser": "ALL", "performance": "ALL"});
    Map::from_iter([
        ("goog:chromeOptions".to_owned(), options),
        ("goog:loggingPrefs".to_owned(), logs),
    ])
}

fn chromium() -> PathBuf {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|directory| names.map(|name| directory.join(name)))
        .find(|program| program.is_file());
    found.expect("Chromium is missing: install the packages chromium and chromium-driver")
}

/// A chromedriver of this test's own. It ends, and its browser with it, also when the test fails.
struct Driver {
    process: Child,
    port: u16,
    session: String,
    profile: tempfile::TempDir,
}

impl Driver {
    fn start() -> Self {
        let mut process = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("chromedriver is missing ({error}): install the package chromium-driver")
            });
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        Self {
            process,
            port: port.expect("chromedriver tells its port"),
            session: String::new(),
            profile: tempfile::tempdir().unwrap(),
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A command of Chromium's own, which the client library does not know.
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, body) = self.request(method, path, &body.to_string()).unwrap();
        assert!(status.contains(" 200 "), "{status}{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The status line and the body of the answer. The driver leaves the connection open.
    fn request(&self, method: &str, path: &str, body: &str) -> io::Result<(String, String)> {
        let (port, session, length) = (self.port, &self.session, body.len());
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        write!(
            stream,
            "{method} /session/{session}{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut lines = BufReader::new(stream);
        let mut status = String::new();
        lines.read_line(&mut status)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            lines.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        lines.read_exact(&mut body)?;
        Ok((status, String::from_utf8(body).map_err(io::Error::other)?))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The end of the session is the end of the browser; the driver alone would leave it behind.
        if !self.session.is_empty() {
            let _ = self.request("DELETE", "", "");
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
