//! `parkway why` and `parkway top`, as somebody at a terminal meets them.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use parkway_tests::{Gate, Parkway, command, eventually, hello_service, service};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::process::{Child, Command};

/// As much of a terminal as it takes to read what it shows: letters, where they go, and nothing else.
struct Screen {
    lines: Vec<Vec<char>>,
    at: (usize, usize),
    rest: Vec<u8>,
    /// The screen from before is shown again.
    is_left: bool,
}

impl Screen {
    fn new() -> Self {
        Self {
            lines: vec![vec![' '; 110]; 30],
            at: (0, 0),
            rest: Vec::new(),
            is_left: false,
        }
    }

    fn shows(&self, words: &str) -> bool {
        let mut lines = self
            .lines
            .iter()
            .map(|line| line.iter().collect::<String>());
        lines.any(|line| line.contains(words))
    }

    /// Takes what was written; the end may be in the middle of something.
    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let written = match std::str::from_utf8(&self.rest) {
            Ok(text) => text.to_owned(),
            Err(error) => String::from_utf8_lossy(&self.rest[..error.valid_up_to()]).into_owned(),
        };
        let mut rest = written.as_str();
        let mut letters = written.chars();
        while let Some(letter) = letters.next() {
            let after = letters.as_str();
            if letter != '\u{1b}' {
                self.put(letter);
                rest = after;
            } else if let Some(end) = after.find(|letter: char| letter.is_ascii_alphabetic()) {
                let (order, after) = after.split_at(end + 1);
                self.obey(order);
                rest = after;
                letters = after.chars();
            } else {
                break;
            }
        }
        let taken = written.len() - rest.len();
        self.rest.drain(..taken);
    }

    fn put(&mut self, letter: char) {
        let (row, column) = self.at;
        if let Some(cell) = self
            .lines
            .get_mut(row)
            .and_then(|line| line.get_mut(column))
        {
            *cell = letter;
        }
        self.at.1 += 1;
    }

    /// `[row;columnH` moves; all else is colour.
    fn obey(&mut self, order: &str) {
        if order == "[?1049l" {
            self.is_left = true;
        }
        let Some(place) = order
            .strip_prefix('[')
            .and_then(|order| order.strip_suffix('H'))
        else {
            return;
        };
        let (row, column) = place.split_once(';').unwrap_or(("1", "1"));
        let from_zero = |number: &str| number.parse::<usize>().unwrap_or(1) - 1;
        self.at = (from_zero(row), from_zero(column));
    }
}

fn said(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    format!("{}{error}", String::from_utf8_lossy(&output.stdout))
}

#[track_caller]
fn assert_says(output: &Output, status: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for words in words {
        assert!(said.contains(words), "{words:?} in {said}");
    }
}

#[tokio::test]
async fn why_says_whether_the_next_request_would_wait_and_where_the_last_start_spent_its_time() {
    let gate = Gate::closed();
    let broken = service("broken", &["no-such-command-anywhere"]);
    let parkway = Parkway::with(format!(
        "{}---\n{broken}",
        gate.holds(hello_service("shop"))
    ))
    .await;
    let shop = parkway.service("shop");
    let why = |host: &str| parkway.asked_by("why", &[host]);

    let at_zero = why(shop.host());
    assert_says(
        &at_zero,
        0,
        &[
            "goes to default/shop-00001. It would make it wait, because no endpoint is ready: the Revision is at zero",
            "nobody waits before it, and how long a start takes is not known yet",
            "No cold start of it is remembered.",
        ],
    );
    let (answer, ()) = tokio::join!(shop.get("/"), async {
        parkway.parked(1).await;
        assert_says(
            &why(shop.host()),
            0,
            &[
                "is being started since",
                "1 request waits before it",
                "Under way for",
            ],
        );
        gate.open();
    });
    answer.expect(200);
    parkway
        .state_when("the response's end", |state| {
            state.0["coldStarts"][0]["milestones"]
                .to_string()
                .contains("finished")
        })
        .await;
    assert_says(
        &why(&format!("http://{}/cart", shop.host())),
        0,
        &[
            "would serve it at once: 1 endpoint ready, 0 requests in flight.",
            "Its last cold start, ",
            "1 request waited for it. Most of it was ",
            "What took longest: ",
        ],
    );

    parkway.service("broken").get("/").await.expect(503);
    assert_says(
        &why("broken.default.localhost"),
        0,
        &[
            "answered 503",
            "no-such-command-anywhere",
            "came to nothing after",
        ],
    );
    assert_says(
        &why("nobody.example.com"),
        1,
        &["would not wait, for it would be answered 404"],
    );
    let json = parkway.asked_by("why", &[shop.host(), "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["targets"][0]["waits"], false);
    assert_eq!(json["targets"][0]["lastColdStart"]["outcome"], "ready");
    parkway.finish().await;
}

#[tokio::test]
async fn each_command_that_asks_takes_the_token_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "s3cret\n").unwrap();
    let token = token.to_str().unwrap();
    let parkway = Parkway::builder()
        .manifest("main", hello_service("shop"))
        .flag("--admin-token-file", token)
        .start()
        .await;
    let host = "shop.default.localhost";
    let url = format!("http://{host}/");
    for (name, arguments) in [
        ("why", vec![host]),
        ("explain", vec!["GET", &url]),
        ("top", vec!["--once"]),
    ] {
        let without = parkway.asked_by(name, &arguments);
        assert_says(
            &without,
            1,
            &["asks for a token: give the file with it by --admin-token-file"],
        );
        let with = [&arguments[..], &["--admin-token-file", token]].concat();
        assert_says(&parkway.asked_by(name, &with), 0, &["shop-00001"]);
    }
    parkway.stop().await;
}

#[tokio::test]
async fn top_prints_once_what_there_is_for_scripts() {
    let parkway = Parkway::with(format!(
        "{}---\n{}",
        hello_service("shop"),
        hello_service("bank")
    ))
    .await;
    parkway.service("shop").get("/").await.expect(200);

    assert_says(
        &parkway.asked_by("top", &["--once"]),
        0,
        &[
            "ready · 2 workers",
            "autoscaler embedded",
            "default/shop-00001  ready",
            "default/bank-00001  at zero",
            "OUTCOME",
        ],
    );
    let filtered = parkway.asked_by("top", &["--once", "BANK"]);
    assert!(!said(&filtered).contains("shop"), "{}", said(&filtered));
    let nowhere = command(&["top", "--once", "--admin", "127.0.0.1:1"])
        .output()
        .unwrap();
    assert_says(&nowhere, 1, &["no Parkway answers at 127.0.0.1:1"]);
    let pipe = parkway.asked_by("top", &[]);
    assert_says(&pipe, 1, &["standard output is no terminal: use --once"]);
    parkway.finish().await;
}

/// A terminal, and `parkway top` that has it for its own.
fn top_at_a_terminal(parkway: &Parkway) -> (OwnedFd, Child) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let size = Winsize {
        ws_row: 30,
        ws_col: 110,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&ours, size).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
    let theirs = || Stdio::from(File::options().read(true).write(true).open(&name).unwrap());
    let admin = parkway.admin().to_string();
    let top = Command::from(command(&["top", "--interval", "100", "--admin", &admin]))
        .env("TERM", "xterm")
        .kill_on_drop(true)
        .stdin(theirs())
        .stdout(theirs())
        .stderr(theirs())
        .spawn()
        .unwrap();
    (ours, top)
}

#[tokio::test]
async fn top_ends_when_its_terminal_has_gone() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let (ours, mut top) = top_at_a_terminal(&parkway);
    let mut ours = File::from(ours);
    ours.read_exact(&mut [0; 100]).unwrap();

    drop(ours);

    eventually("its end", async || top.try_wait().unwrap()).await;
    parkway.finish().await;
}

#[tokio::test]
async fn top_shows_a_cold_start_live_in_a_terminal_and_ends_at_q() {
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(hello_service("shop"))).await;
    let (ours, mut top) = top_at_a_terminal(&parkway);
    let mut ours = File::from(ours);
    let screen = Arc::new(Mutex::new(Screen::new()));
    let reader = thread::spawn({
        let (mut from, screen) = (ours.try_clone().unwrap(), Arc::clone(&screen));
        move || {
            let mut bytes = [0; 4_096];
            // The system's error is the end: nobody has the other side open any more.
            while let Ok(read @ 1..) = from.read(&mut bytes) {
                screen.lock().take(&bytes[..read]);
            }
        }
    });
    let shows = async |words: &str| {
        eventually(format!("{words:?} on the screen"), async || {
            screen.lock().shows(words).then_some(())
        })
        .await;
    };
    shows("default/shop-00001").await;
    let shop = parkway.service("shop");
    let (answer, ()) = tokio::join!(shop.get("/"), async {
        shows("starting").await;
        gate.open();
    });
    answer.expect(200);
    shows("  ready  ").await;
    shows("readiness").await;

    ours.write_all(b"q").unwrap();

    let status = eventually("its end", async || top.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
    reader.join().unwrap();
    assert!(screen.lock().is_left, "the screen is as it was");
    parkway.finish().await;
}
