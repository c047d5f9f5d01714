//! What routing costs a request, in nanoseconds: `cargo bench -p parkway-ingress`.
//!
//! Each figure is the best of several rounds over a prepared batch, so that making the input is not counted and what the
//! machine does besides is seen least. Nothing is asserted. Started by `cargo test --benches`, it runs one short round.
//!
//! Where time is too noisy, `tests/load/bench-instructions.sh` prints the instructions of each row: it runs this program
//! under callgrind with `--row NAME --times N` for two N, without a clock, and divides the difference. `--list` prints the
//! names of the rows.
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]
#![expect(clippy::unwrap_used, reason = "the input is fixed")]

use std::hint::black_box;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::RevisionId;
use parkway_ingress::routing::headers::{
    self, Arrival, EntranceKind, Entry, HostMode, Present, Scheme,
};
use parkway_ingress::routing::host::Host;
use parkway_ingress::routing::rules::{
    Backend, IngressName, IngressRules, PathRule, Rule, Target, Visibility,
};
use parkway_ingress::routing::split::{Dealer, PathKey, Splits};
use parkway_ingress::routing::table::RouteSnapshot;
use parkway_ingress::routing::validate::{Checked, Limits, validate};
use tokio::time::Instant;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let rounds = match arguments[..] {
        ["--list", ..] => Rounds::List,
        ["--row", row, "--times", times, ..] => Rounds::Counted {
            row,
            times: times.parse().expect("--times takes a number"),
        },
        _ if arguments.contains(&"--bench") => Rounds::Timed {
            count: 200,
            batch: 256,
        },
        _ => Rounds::Timed {
            count: 1,
            batch: 64,
        },
    };
    for hosts in [1, 64, 10_000] {
        look_up(rounds, hosts);
    }
    head(rounds, "curl", &CURL);
    head(rounds, "browser", &BROWSER);
    response(rounds);
    draw(rounds);
}

/// What is done with each row.
#[derive(Clone, Copy)]
enum Rounds<'a> {
    /// So many batches of that size; printed are the nanoseconds of one step in the best of them.
    Timed { count: usize, batch: usize },
    /// One row's step so many times, at most [`COUNTED`], for somebody who counts instructions.
    Counted { row: &'a str, times: usize },
    /// Its name.
    List,
}

/// How many inputs are made when instructions are counted, however many are used: the difference of two runs is that of
/// the steps alone.
const COUNTED: usize = 4_096;

impl Rounds<'_> {
    /// Does with this row what is to be done.
    fn row<T>(self, what: &str, make: impl Fn(usize) -> T, mut step: impl FnMut(&mut T)) {
        match self {
            Self::Timed { count, batch } => {
                let nanoseconds = time(count, batch, make, step);
                println!("{what:<58} {nanoseconds:>8.1} ns");
            }
            Self::Counted { row, times } if row == what => {
                let mut batch: Vec<T> = (0..COUNTED).map(make).collect();
                for input in batch.iter_mut().take(times) {
                    step(black_box(input));
                }
            }
            Self::Counted { .. } => {}
            Self::List => println!("{what}"),
        }
    }
}

/// The nanoseconds of one `step`, best of all rounds.
fn time<T>(
    count: usize,
    batch: usize,
    make: impl Fn(usize) -> T,
    mut step: impl FnMut(&mut T),
) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..count {
        let mut inputs: Vec<T> = (0..batch).map(&make).collect();
        let begin = Instant::now();
        for input in &mut inputs {
            step(black_box(input));
        }
        let each = begin.elapsed().as_secs_f64() / f64::from(u32::try_from(batch).unwrap());
        best = best.min(each * 1e9);
    }
    best
}

/// A host is read from its field and its path found; the requests name 64 hosts of all, in no order.
fn look_up(rounds: Rounds<'_>, hosts: usize) {
    let snapshot = snapshot(hosts);
    let mut random = 0x9e37_79b9_u64;
    let asked: Vec<String> = (0..64).map(|_| name(next(&mut random) % hosts)).collect();
    let no_fields = HeaderMap::new();
    rounds.row(
        &format!("look-up: 64 hosts of {hosts}"),
        |index| asked[index * 37 % asked.len()].clone(),
        |written| {
            let host = Host::parse(written).unwrap();
            let found = snapshot.find(Visibility::ExternalIp, &host, "/cart?item=1", &no_fields);
            black_box(found.unwrap().key);
        },
    );
}

const CURL: [(&str, &str); 3] = [
    ("host", "app-7.team-7.example.com"),
    ("user-agent", "curl/8.14.1"),
    ("accept", "*/*"),
];

const BROWSER: [(&str, &str); 14] = [
    ("host", "app-7.team-7.example.com"),
    ("connection", "keep-alive"),
    (
        "sec-ch-ua",
        "\"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"",
    ),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", "\"Linux\""),
    ("upgrade-insecure-requests", "1"),
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    ),
    (
        "accept",
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    ),
    ("sec-fetch-site", "none"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-dest", "document"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "en-GB,en;q=0.9"),
    (
        "cookie",
        "session=0123456789abcdef0123456789abcdef; theme=dark",
    ),
];

/// All that is done to a head between the two engines, and its parts.
fn head(rounds: Rounds<'_>, client: &str, fields: &[(&str, &str)]) {
    let snapshot = snapshot(64);
    let entry = Entry::new(Arrival {
        entrance: EntranceKind::Gateway(Visibility::ExternalIp),
        peer: [192, 0, 2, 7].into(),
        scheme: Scheme::Http,
        trusted_hops: 0,
    });
    let endpoint = Endpoint::new(([127, 0, 0, 1], 8080).into());
    let dealer = std::cell::RefCell::new(Dealer::new(0));
    let limits = Limits::default();
    let resolve = |parts: &mut Parts, host: &Host<'_>| {
        let chosen = snapshot.resolve(
            Visibility::ExternalIp,
            host,
            parts.uri.path(),
            &mut parts.headers,
            Present::default(),
            |found| dealer.borrow_mut().choose(found.key, &found.path.splits),
        );
        chosen.unwrap().backend
    };
    let fresh = |_| parts(fields);
    rounds.row(&format!("{client}: validate"), fresh, |parts| {
        validate(parts, &limits).unwrap();
    });
    let host = HeaderValue::from_str(fields[0].1).unwrap();
    rounds.row(&format!("{client}: admit"), fresh, |parts| {
        let present = Present::in_head(&parts.headers);
        black_box(entry.admit(parts, present, Some(&host)));
    });
    rounds.row(&format!("{client}: resolve"), fresh, |parts| {
        let host = Host::parse(fields[0].1).unwrap();
        black_box(resolve(parts, &host));
    });
    rounds.row(
        &format!("{client}: validate, admit, resolve, address"),
        fresh,
        |parts| {
            let Checked { host, present } = validate(parts, &limits).unwrap();
            let host = host.unwrap();
            entry.admit(parts, present, Some(host.written()));
            let backend = resolve(parts, &host.host());
            headers::address(
                &mut parts.headers,
                &backend.target,
                HostMode::Process,
                endpoint,
            );
        },
    );
}

/// What is done to the head of a response.
fn response(rounds: Rounds<'_>) {
    let edit = |fields: &mut HeaderMap| headers::edit_response(fields, StatusCode::OK);
    rounds.row("response: nothing to remove", |_| answered(&[]), edit);
    let hop_by_hop = [("connection", "keep-alive"), ("keep-alive", "timeout=5")];
    rounds.row("response: two to remove", |_| answered(&hop_by_hop), edit);
}

fn answered(more: &[(&'static str, &'static str)]) -> HeaderMap {
    let fields = [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", "1024"),
        ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("server", "app"),
    ];
    let fields = fields.iter().chain(more);
    fields
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect()
}

fn draw(rounds: Rounds<'_>) {
    let splits = Splits::try_new(vec![(90, 'a'), (10, 'b')]).unwrap();
    let mut dealer = Dealer::new(0);
    rounds.row(
        "draw: 90 to 10, 64 paths",
        |index| PathKey::of(&(index % 64)),
        |path| {
            black_box(dealer.choose(*path, &splits));
        },
    );
}

fn snapshot(hosts: usize) -> RouteSnapshot {
    RouteSnapshot::build(1, (0..hosts).map(ingress).collect()).0
}

fn ingress(index: usize) -> IngressRules {
    let revision = format!("app-{index}-00001");
    let told = |name: &'static str, value: &str| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_str(value).unwrap(),
        )
    };
    let backend = Backend {
        set_headers: vec![
            told("knative-serving-namespace", "team"),
            told("knative-serving-revision", &revision),
        ],
        target: Target::Revision {
            id: RevisionId::new("team", revision.as_str()),
            spec: Arc::default(),
        },
    };
    IngressRules {
        name: IngressName {
            namespace: "team".into(),
            name: format!("app-{index}").into(),
        },
        hash: "0123456789abcdef".into(),
        policy: None,
        rules: vec![Rule {
            hosts: vec![name(index).into()],
            visibility: Visibility::ExternalIp,
            paths: vec![Arc::new(PathRule {
                prefix: String::new(),
                headers: Vec::new(),
                rewrite_host: None,
                set_headers: Vec::new(),
                splits: Splits::all_to(backend),
            })],
        }],
    }
}

fn name(index: usize) -> String {
    format!("app-{index}.team-{}.example.com", index % 100)
}

fn parts(fields: &[(&str, &str)]) -> Parts {
    let mut builder = Request::builder().uri("/cart?item=1");
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

/// The next number of a xorshift generator: the same order in every run.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 33).unwrap()
}
