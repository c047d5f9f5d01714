//! Replicas over real sockets, on loopback addresses of their own; tokens reviewed by the double of the API server.

use std::collections::HashSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http_body_util::BodyExt;
use kube::Client;
use parkway_tests::api::{ApiDouble, Which};
use parkway_tests::{Site, eventually, patiently};
use tempfile::NamedTempFile;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::super::applied::{News, Step};
use super::super::lease::Leadership;
use super::super::{Key, Replica};
use super::auth::{AUDIENCE, MAX_VERDICTS, TokenFile};
use super::confirm::{Changed, Confirmation, Confirmations, SILENT_AFTER, Settings};
use super::*;

const OURS: &str = "system:serviceaccount:knative-serving:parkway";

/// One that can be asked.
struct Served {
    replica: Replica,
    log: AppliedLog,
    serving: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Served {
    fn at(listener: TcpListener, pod: &str, auth: PeerAuth) -> Self {
        let log = AppliedLog::new();
        let address = listener.local_addr().unwrap().ip();
        Self {
            replica: replica(address, pod),
            serving: tokio::spawn(serve_peers(listener, log.clone(), auth)),
            log,
        }
    }

    fn apply(&self, name: &str, generation: i64) {
        let uid = Arc::from(name);
        self.log.applied(&Key::new("shop", name), &uid, generation);
    }
}

fn replica(address: IpAddr, pod: &str) -> Replica {
    Replica {
        address,
        pod: pod.into(),
    }
}

/// The same port on several loopback addresses, as Pods have it.
async fn listeners(count: u8) -> Vec<TcpListener> {
    loop {
        let first = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 1), 0))
            .await
            .unwrap();
        let port = first.local_addr().unwrap().port();
        let mut all = vec![first];
        for n in 2..=count {
            all.extend(TcpListener::bind((Ipv4Addr::new(127, 0, 0, n), port)).await);
        }
        if all.len() == usize::from(count) {
            return all;
        }
    }
}

fn port(listeners: &[TcpListener]) -> u16 {
    listeners[0].local_addr().unwrap().port()
}

fn settings(port: u16) -> Settings {
    Settings {
        own_pod: "own".to_owned(),
        port,
        token: None,
        silent_after: SILENT_AFTER,
    }
}

/// Three replicas that answer anybody, and one that leads and asks them; its own log is not among them.
async fn three() -> (Vec<Served>, Confirmations, JoinHandle<()>) {
    let listeners = listeners(3).await;
    let port = port(&listeners);
    let named = listeners.into_iter().zip(["a", "b", "c"]);
    let served: Vec<Served> = named
        .map(|(listener, pod)| Served::at(listener, pod, PeerAuth::Open))
        .collect();
    let (confirmations, run) =
        Confirmations::new(settings(port), AppliedLog::new(), Leadership::always());
    confirmations.set_replicas(served.iter().map(|one| one.replica.clone()));
    (served, confirmations, tokio::spawn(run))
}

async fn confirmed(confirmations: &Confirmations, uid: &str, generation: i64) {
    let is_confirmed =
        async || (confirmations.of(uid, generation) == Confirmation::ByAll).then_some(());
    eventually(format!("generation {generation} of {uid}"), is_confirmed).await;
}

async fn waits_for(confirmations: &Confirmations, uid: &str, behind: &[&str], silent: &[&str]) {
    let boxed = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect();
    let expected = Confirmation::Waits {
        behind: boxed(behind),
        silent: boxed(silent),
    };
    let is_so = async || (confirmations.of(uid, 1) == expected).then_some(());
    eventually(format!("{expected:?}"), is_so).await;
}

#[tokio::test]
async fn a_generation_is_confirmed_when_every_ready_replica_has_it() {
    let (served, confirmations, asking) = three().await;
    served[0].apply("x", 1);
    served[1].apply("x", 2);
    waits_for(&confirmations, "x", &["c"], &[]).await;
    served[2].apply("x", 1);
    confirmed(&confirmations, "x", 1).await;
    assert_ne!(confirmations.of("x", 2), Confirmation::ByAll);
    assert_ne!(confirmations.of("y", 1), Confirmation::ByAll);
    asking.abort();
}

#[tokio::test]
async fn our_own_log_is_read_without_asking() {
    let own = AppliedLog::new();
    let (confirmations, run) = Confirmations::new(settings(1), own.clone(), Leadership::always());
    let asking = tokio::spawn(run);
    assert_eq!(confirmations.of("x", 1), Confirmation::NoReplicas);
    confirmations.set_replicas([replica(Ipv4Addr::LOCALHOST.into(), "own")]);
    own.applied(&Key::new("shop", "x"), &Arc::from("x"), 1);
    confirmed(&confirmations, "x", 1).await;
    own.removed(&Key::new("shop", "x"));
    waits_for(&confirmations, "x", &["own"], &[]).await;
    asking.abort();
}

#[tokio::test]
async fn a_replica_that_starts_anew_counts_from_the_beginning() {
    let (mut served, confirmations, asking) = three().await;
    for one in &served {
        one.apply("x", 1);
        one.apply("y", 1);
    }
    confirmed(&confirmations, "x", 1).await;
    let before = served.remove(1);
    let address = SocketAddr::new(before.replica.address, confirmations_port(&confirmations));
    before.serving.abort();
    drop(before);
    let listener = eventually("the port", async || TcpListener::bind(address).await.ok()).await;
    let after = Served::at(listener, "b", PeerAuth::Open);
    after.apply("y", 1);
    waits_for(&confirmations, "x", &["b"], &[]).await;
    confirmed(&confirmations, "y", 1).await;
    after.apply("x", 1);
    confirmed(&confirmations, "x", 1).await;
    asking.abort();
}

fn confirmations_port(confirmations: &Confirmations) -> u16 {
    confirmations.settings().port
}

#[tokio::test]
async fn a_replica_that_leaves_the_ready_ones_is_not_waited_for() {
    let (served, confirmations, asking) = three().await;
    served[0].apply("x", 1);
    served[1].apply("x", 1);
    waits_for(&confirmations, "x", &["c"], &[]).await;
    confirmations.set_replicas(served[..2].iter().map(|one| one.replica.clone()));
    assert_eq!(confirmations.of("x", 1), Confirmation::ByAll);
    // Back in the same moment, it is asked from the beginning: what was known of it before does not count.
    served[2].apply("x", 1);
    confirmations.set_replicas(served.iter().map(|one| one.replica.clone()));
    confirmations.set_replicas([]);
    confirmations.set_replicas(served.iter().map(|one| one.replica.clone()));
    assert_ne!(confirmations.of("x", 1), Confirmation::ByAll);
    confirmed(&confirmations, "x", 1).await;
    asking.abort();
}

#[tokio::test]
async fn a_replica_that_does_not_answer_is_named_as_silent_until_it_does() {
    let mut listeners = listeners(2).await;
    let port = port(&listeners);
    let mute = listeners.pop().unwrap(); // accepts, and says nothing
    let mute_at = replica(mute.local_addr().unwrap().ip(), "mute");
    let heard = Served::at(listeners.pop().unwrap(), "a", PeerAuth::Open);
    let settings = Settings {
        silent_after: Duration::from_millis(50),
        ..settings(port)
    };
    let (confirmations, run) =
        Confirmations::new(settings, AppliedLog::new(), Leadership::always());
    let asking = tokio::spawn(run);
    confirmations.set_replicas([heard.replica.clone(), mute_at]);
    heard.apply("x", 1);
    waits_for(&confirmations, "x", &[], &["mute"]).await;

    let address = mute.local_addr().unwrap();
    drop(mute);
    let listener = eventually("the port", async || TcpListener::bind(address).await.ok()).await;
    let speaks = Served::at(listener, "mute", PeerAuth::Open);
    speaks.apply("x", 1);
    confirmed(&confirmations, "x", 1).await;
    asking.abort();
}

#[tokio::test]
async fn only_who_leads_asks_and_only_what_is_followed_counts() {
    let (lead, leadership) = Leadership::by_hand();
    let own = AppliedLog::new();
    own.applied(&Key::new("shop", "x"), &Arc::from("x"), 1);
    let (confirmations, run) = Confirmations::new(settings(1), own, leadership);
    let asking = tokio::spawn(run);
    confirmations.set_replicas([replica(Ipv4Addr::LOCALHOST.into(), "own")]);
    waits_for(&confirmations, "x", &["own"], &[]).await;
    lead(true);
    confirmed(&confirmations, "x", 1).await;
    lead(false);
    waits_for(&confirmations, "x", &["own"], &[]).await;
    asking.abort();
}

#[tokio::test]
async fn what_changed_is_told_by_uid_and_all_at_once() {
    let own = AppliedLog::new();
    let (confirmations, run) = Confirmations::new(settings(1), own.clone(), Leadership::always());
    let asking = tokio::spawn(run);
    confirmations.set_replicas([replica(Ipv4Addr::LOCALHOST.into(), "own")]);
    confirmed_empty(&confirmations).await;
    own.record((0..1000).map(|n| Step::Applied {
        key: Key::new("shop", n.to_string()),
        uid: Arc::from(n.to_string()),
        generation: 1,
    }));
    let nothing = Changed::Some(HashSet::new());
    let mut taken = nothing.clone();
    while taken == nothing {
        patiently("news", confirmations.changed()).await;
        taken = confirmations.take_changed();
    }
    let expected: HashSet<Box<str>> = (0..1000).map(|n| n.to_string().into()).collect();
    assert_eq!(taken, Changed::Some(expected));
    asking.abort();
}

/// Waits until everything so far has been taken.
async fn confirmed_empty(confirmations: &Confirmations) {
    let is_quiet = async || {
        let taken = confirmations.take_changed();
        (taken == Changed::Some(HashSet::new())).then_some(())
    };
    eventually("quiet", is_quiet).await;
    eventually("quiet again", is_quiet).await;
}

#[tokio::test]
async fn a_thousand_changes_come_in_a_few_answers() {
    let listener = listeners(1).await.remove(0);
    let address = listener.local_addr().unwrap();
    let served = Served::at(listener, "a", PeerAuth::Open);
    let site = Site::new(address, "a");
    let mut connection = site.http1().await;
    let (mut news, mut answers) = (News::default(), 0);
    let mut heard = HashSet::new();
    for n in 0..1000 {
        served.apply(&n.to_string(), 1);
    }
    while heard.len() < 1000 {
        let path = format!("{PATH}?after={}&instance={}", news.next, news.instance);
        let request = axum::http::Request::get(path).body(Bytes::new()).unwrap();
        let answer = connection.send(request).await.expect(200);
        news = serde_json::from_slice(&answer.body).unwrap();
        heard.extend(news.applied.iter().map(|(uid, _)| uid.clone()));
        answers += 1;
    }
    assert!(answers < 10, "{answers} answers");
}

#[tokio::test(start_paused = true)]
async fn a_question_is_held_until_there_is_something_to_tell() {
    let log = AppliedLog::new();
    let instance = log.since("", 0).instance;
    let ask = async |after: u64| {
        let uri = format!("{PATH}?after={after}&instance={instance}");
        let request = Request::get(uri).body(()).unwrap();
        let response = answer(&log, &PeerAuth::Open, &request).await;
        let body = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice::<News>(&body).unwrap()
    };
    let begun = Instant::now();
    assert_eq!(ask(0).await.applied, []);
    assert_eq!(begun.elapsed(), HOLD);

    let begun = Instant::now();
    let change = async {
        sleep(Duration::from_secs(2)).await;
        log.applied(&Key::new("shop", "x"), &Arc::from("x"), 1);
    };
    let (news, ()) = tokio::join!(ask(0), change);
    assert_eq!(news.applied, [("x".to_owned(), 1)]);
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
}

#[tokio::test]
async fn other_questions_are_refused() {
    let listener = listeners(1).await.remove(0);
    let site = Site::new(listener.local_addr().unwrap(), "a");
    let _served = Served::at(listener, "a", PeerAuth::Open);
    site.get("/").await.expect(404);
    site.post(PATH, "").await.expect(405);
    site.get("/applied?after=x").await.expect(400);
    site.get("/applied").await.expect(200);
}

/// A token in a file.
fn token(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    writeln!(file, "{text}").unwrap();
    file
}

/// A replica that verifies tokens; its own is in the returned file.
async fn guarded(api: &ApiDouble) -> (Served, NamedTempFile, Site) {
    let own = token("own-token");
    api.issue("own-token", OURS, &[AUDIENCE]);
    let listener = listeners(1).await.remove(0);
    let site = Site::new(listener.local_addr().unwrap(), "a");
    let client = Client::new(api.router(), "default");
    let auth = PeerAuth::tokens(client, TokenFile::new(own.path()));
    (Served::at(listener, "a", auth), own, site)
}

async fn status_for(site: &Site, token: Option<&str>) -> u16 {
    let mut request = axum::http::Request::get(PATH);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    site.send(request.body(Bytes::new()).unwrap())
        .await
        .status
        .as_u16()
}

fn reviews() -> Which {
    Which::any().plural("tokenreviews")
}

#[tokio::test]
async fn only_tokens_of_our_own_account_for_this_purpose_may_ask() {
    let api = ApiDouble::in_memory();
    let (_served, _own, site) = guarded(&api).await;
    api.issue("sibling", OURS, &[AUDIENCE]);
    api.issue(
        "stranger",
        "system:serviceaccount:knative-serving:default",
        &[AUDIENCE],
    );
    api.issue(
        "elsewhere",
        "system:serviceaccount:other:parkway",
        &[AUDIENCE],
    );
    api.issue("other-purpose", OURS, &["https://kubernetes.default.svc"]);
    assert_eq!(status_for(&site, Some("sibling")).await, 200);
    assert_eq!(status_for(&site, Some("stranger")).await, 403);
    assert_eq!(status_for(&site, Some("elsewhere")).await, 403);
    assert_eq!(status_for(&site, Some("other-purpose")).await, 401);
    assert_eq!(status_for(&site, Some("made-up")).await, 401);
    assert_eq!(status_for(&site, Some(&"x".repeat(20_000))).await, 401);
    assert_eq!(status_for(&site, None).await, 401);
}

#[tokio::test]
async fn a_verdict_is_remembered() {
    let api = ApiDouble::in_memory();
    let (_served, _own, site) = guarded(&api).await;
    api.issue("sibling", OURS, &[AUDIENCE]);
    for _ in 0..5 {
        assert_eq!(status_for(&site, Some("sibling")).await, 200);
        assert_eq!(status_for(&site, Some("made-up")).await, 401);
    }
    assert_eq!(api.count(&reviews()), 3); // both, and our own
}

#[tokio::test(start_paused = true)]
async fn a_verdict_is_forgotten_after_its_time() {
    let api = ApiDouble::in_memory();
    let own = token("own-token");
    api.issue("own-token", OURS, &[AUDIENCE]);
    let auth = PeerAuth::tokens(
        Client::new(api.router(), "default"),
        TokenFile::new(own.path()),
    );
    assert_eq!(auth.check(Some("t")).await, Verdict::Nobody);
    api.issue("t", OURS, &[AUDIENCE]);
    assert_eq!(auth.check(Some("t")).await, Verdict::Nobody);
    sleep(auth::STRANGE_FOR).await;
    assert_eq!(auth.check(Some("t")).await, Verdict::Ours);
    api.revoke("t");
    assert_eq!(auth.check(Some("t")).await, Verdict::Ours);
    sleep(auth::OURS_FOR).await;
    assert_eq!(auth.check(Some("t")).await, Verdict::Nobody);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_verified_is_neither_accepted_nor_refused() {
    let api = ApiDouble::in_memory();
    let own = token("own-token");
    api.issue("own-token", OURS, &[AUDIENCE]);
    api.issue("t", OURS, &[AUDIENCE]);
    let auth = PeerAuth::tokens(
        Client::new(api.router(), "default"),
        TokenFile::new(own.path()),
    );
    api.refuse(reviews(), 1, 500);
    assert_eq!(auth.check(Some("t")).await, Verdict::Unknown);
    api.ignore(reviews(), 1);
    let begun = Instant::now();
    assert_eq!(auth.check(Some("t")).await, Verdict::Unknown);
    assert_eq!(begun.elapsed(), auth::REVIEW_TIMEOUT);
    assert_eq!(auth.check(Some("t")).await, Verdict::Ours);
    let missing = PeerAuth::tokens(
        Client::new(api.router(), "default"),
        TokenFile::new("/does/not/exist"),
    );
    assert_eq!(missing.check(Some("t")).await, Verdict::Unknown);
}

#[tokio::test(start_paused = true)]
async fn no_more_verdicts_are_remembered_than_the_bound() {
    let api = ApiDouble::in_memory();
    let own = token("own-token");
    api.issue("own-token", OURS, &[AUDIENCE]);
    let auth = PeerAuth::tokens(
        Client::new(api.router(), "default"),
        TokenFile::new(own.path()),
    );
    api.issue("t", OURS, &[AUDIENCE]);
    assert_eq!(auth.check(Some("t")).await, Verdict::Ours);
    for n in 0..MAX_VERDICTS * 2 {
        assert_eq!(auth.check(Some(&n.to_string())).await, Verdict::Nobody);
    }
    let PeerAuth::Tokens(reviews) = &auth else {
        panic!("it verifies");
    };
    assert_eq!(reviews.remembers(), MAX_VERDICTS);
    // Those that are ours end last, so a flood of others does not push them out.
    api.revoke("t");
    assert_eq!(auth.check(Some("t")).await, Verdict::Ours);
}

#[tokio::test]
async fn a_token_that_is_replaced_is_read_anew() {
    let api = ApiDouble::in_memory();
    let (served, _own, site) = guarded(&api).await;
    let mut shown = token("expired");
    let settings = Settings {
        token: Some(TokenFile::new(shown.path())),
        ..settings(site.address().port())
    };
    let (confirmations, run) =
        Confirmations::new(settings, AppliedLog::new(), Leadership::always());
    let asking = tokio::spawn(run);
    confirmations.set_replicas([served.replica.clone()]);
    served.apply("x", 1);
    let is_reviewed = async || (api.count(&reviews()) > 0).then_some(());
    eventually("a review", is_reviewed).await;
    assert_ne!(confirmations.of("x", 1), Confirmation::ByAll);
    api.issue("fresh", OURS, &[AUDIENCE]);
    shown.as_file_mut().set_len(0).unwrap();
    std::fs::write(shown.path(), "fresh\n").unwrap();
    confirmed(&confirmations, "x", 1).await;
    asking.abort();
}
