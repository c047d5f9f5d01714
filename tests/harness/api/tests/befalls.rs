//! What a test does to the double's answers, and recordings.

use super::*;

#[tokio::test]
async fn running_watches_are_cut_and_expired() {
    let api = ApiDouble::start();
    let mut cut = Lines::of(&api, &format!("{ALL_INGRESSES}?watch=1&resourceVersion=1")).await;
    api.cut_watches();
    assert!(cut.next().await.is_err());
    let mut expired = Lines::of(&api, &format!("{ALL_INGRESSES}?watch=1&resourceVersion=1")).await;
    api.expire_watches("services");
    api.put(ingress("a"));
    assert_eq!(expired.told().await, told("ADDED", "a"));
    api.expire_watches("ingresses");
    assert_eq!(expired.told().await, told("ERROR", ""));
    assert_eq!(expired.next().await.unwrap(), None);
}

#[tokio::test]
async fn events_are_lost_and_doubled() {
    let api = ApiDouble::start();
    let mut lines = Lines::of(&api, &format!("{ALL_INGRESSES}?watch=1&resourceVersion=1")).await;
    api.lose_events("ingresses", 1);
    api.double_events("ingresses", 1);
    api.put(ingress("a"));
    api.put(ingress("b"));
    api.put(ingress("c"));
    for name in ["b", "b", "c"] {
        assert_eq!(lines.told().await, told("ADDED", name));
    }
}

#[tokio::test(start_paused = true)]
async fn delayed_and_ignored_requests_are_late_and_unanswered() {
    let api = ApiDouble::in_memory();
    let started = tokio::time::Instant::now();
    api.delay(Which::lists("ingresses"), 1, Duration::from_secs(7));
    in_memory(&api, ALL_INGRESSES).await;
    assert_eq!(started.elapsed(), Duration::from_secs(7));
    api.ignore(Which::lists("ingresses"), 1);
    let waited = timeout(Duration::from_secs(3600), in_memory(&api, ALL_INGRESSES)).await;
    assert!(waited.is_err());
    in_memory(&api, ALL_INGRESSES).await;
}

#[tokio::test]
async fn a_refused_port_is_the_same_when_it_opens_again() {
    let api = ApiDouble::start();
    let mut lines = Lines::of(&api, &format!("{ALL_INGRESSES}?watch=1&resourceVersion=1")).await;
    let address = api.address();
    api.refuse_connections();
    assert!(lines.next().await.is_err());
    let refused = async || tokio::net::TcpStream::connect(address).await.err();
    eventually("a refused connection", refused).await;
    api.accept_connections();
    get(&api, ALL_INGRESSES).await.expect(200);
    assert_eq!(api.address(), address);
}

#[tokio::test]
async fn silent_connections_stay_open_and_new_ones_work() {
    let api = ApiDouble::start();
    let mut watching = Lines::of(&api, &format!("{ALL_INGRESSES}?watch=1&resourceVersion=1")).await;
    let mut kept = site(&api).http1().await;
    let request = || Request::get(ALL_INGRESSES).body(Bytes::new()).unwrap();
    kept.send(request()).await.expect(200);
    api.fall_silent();
    api.put(ingress("a"));
    get(&api, ALL_INGRESSES).await.expect(200);

    // What must not come has no moment to wait for: it had as long as the new connection's whole answer.
    let moment = Duration::from_millis(50);
    assert!(timeout(moment, watching.next()).await.is_err());
    assert!(timeout(moment, kept.try_send(request())).await.is_err());
    assert!(!kept.is_closed());
}

#[tokio::test]
async fn an_overtaken_write_meets_a_real_conflict() {
    let api = ApiDouble::start();
    let stored = api.put(ingress("a"));
    api.overtake(Which::any().verb("update"), 1);
    let path = format!("{INGRESSES}/a/status");
    ask(&api, Method::PUT, &path, &stored).await.expect(409);
    let newer = get(&api, &format!("{INGRESSES}/a"))
        .await
        .expect(200)
        .json();
    assert_eq!(newer["metadata"]["generation"], 1);
    ask(&api, Method::PUT, &path, &newer).await.expect(200);
    assert_eq!(
        api.requests()
            .iter()
            .map(|request| request.status)
            .collect::<Vec<_>>(),
        [409, 200, 200]
    );
}

#[tokio::test]
async fn a_replayed_recording_comes_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("things.watch.http");
    let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    std::fs::write(&file, text).unwrap();
    let rows = format!("0\t20\t0.001\n20\t{}\t0.050\n", text.len() - 20);
    std::fs::write(folder.path().join("things.watch.timing.tsv"), rows).unwrap();
    let recording = Recording::read(&file);
    assert_eq!(recording.duration(), Duration::from_millis(50));

    let replay = Replay::start().await;
    let replay = replay
        .once("things?watch", &recording, Pace::Faster(5.0))
        .always("things", &recording, Pace::Immediate);
    let address = replay.url().trim_start_matches("http://").parse().unwrap();
    for _ in 0..2 {
        let mut raw = crate::Raw::connect(address).await;
        raw.send(b"GET /things?watch=1 HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        let read = timeout(PATIENCE, raw.rest()).await.unwrap();
        assert_eq!(read, text);
    }
    assert_eq!(replay.lines().len(), 2);
    let missing = Site::new(address, "a").get("/other").await;
    assert_eq!(missing.status, 404);
}
