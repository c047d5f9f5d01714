//! Statuses and replicas over sockets, in real time.

use super::*;

/// A replica: its log, and who answers for it.
struct Served {
    replica: Replica,
    log: AppliedLog,
    serving: JoinHandle<()>,
}

/// The same port on several loopback addresses, as Pods have it.
async fn listeners(count: u8) -> Vec<TcpListener> {
    loop {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let mut all = vec![first];
        for last in 2..=count {
            all.extend(TcpListener::bind((IpAddr::from([127, 0, 0, last]), port)).await);
        }
        // Else another test has that port on one of them.
        if all.len() == usize::from(count) {
            return all;
        }
    }
}

/// Replicas that answer, and their port.
async fn replicas(count: u8) -> (Vec<Served>, u16) {
    let listeners = listeners(count).await;
    let port = listeners[0].local_addr().unwrap().port();
    let served = (1..).zip(listeners).map(|(last, listener)| {
        let log = AppliedLog::new();
        let serving = serve_peers(listener, log.clone(), PeerAuth::Open);
        Served {
            replica: replica(last),
            log,
            serving: tokio::spawn(serving),
        }
    });
    (served.collect(), port)
}

/// A client over sockets.
fn client(api: &ApiDouble) -> Client {
    // Whoever is first installs it.
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::try_from(Config::new(api.url().parse().unwrap())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_at_once_are_ready_at_three_replicas() {
    const COUNT: usize = 1000;
    let api = Arc::new(ApiDouble::start());
    let (served, port) = replicas(3).await;
    let asking = confirm::Settings {
        own_pod: "gateway-1".to_owned(),
        port,
        token: None,
        silent_after: SILENT_AFTER,
    };
    let (confirmations, ask) =
        Confirmations::new(asking, served[0].log.clone(), Leadership::always());
    confirmations.set_replicas(served.iter().map(|one| one.replica.clone()));
    let board = StatusBoard::new(settings());
    let write = board.write(client(&api), Leadership::always(), confirmations);
    let tasks = [tokio::spawn(ask), tokio::spawn(write)];

    let begun = Instant::now();
    let created: Vec<Value> = (0..COUNT)
        .map(|n| api.put(ingress(&n.to_string())))
        .collect();
    let none = HashMap::new();
    for one in &created {
        board.seen(object(one, &none));
        let step = |name: &str| Step::Applied {
            key: key(name),
            uid: name.into(),
            generation: 1,
        };
        for replica in &served {
            replica
                .log
                .record([step(one["metadata"]["name"].as_str().unwrap())]);
        }
    }
    eventually("a thousand to be Ready", async || {
        (board.counts().unsettled == 0).then_some(())
    })
    .await;
    let took = begun.elapsed();
    let entrances = settings().entrances;
    let ready = api
        .list("ingresses")
        .into_iter()
        .filter(|one| IngressStatus::read(one["status"].clone()).is_ready_at(1, &entrances));
    assert_eq!(ready.count(), COUNT);
    let writes = api.count(&status_writes());
    println!("{COUNT} KIngresses Ready at 3 replicas after {took:?}, {writes} writes");
    assert!(writes <= 2 * COUNT, "{writes} writes");
    for task in tasks
        .into_iter()
        .chain(served.into_iter().map(|one| one.serving))
    {
        task.abort();
    }
}

#[tokio::test]
async fn an_api_server_that_goes_away_and_comes_back_is_caught_up_with() {
    let api = Arc::new(ApiDouble::start());
    let board = StatusBoard::new(settings());
    let confirmations = Confirmations::by_hand(&[replica(1)]);
    let write = board.write(client(&api), Leadership::always(), confirmations.clone());
    let writing = tokio::spawn(write);
    let none = HashMap::new();
    let first = api.put(ingress("first"));
    let second = api.put(ingress("second"));
    confirmations.tell(&replica(1), &[("first", 1), ("second", 1)]);
    board.seen(object(&first, &none));
    eventually("the first to be written", async || {
        (board.counts().writes == 1).then_some(())
    })
    .await;

    api.refuse_connections();
    board.seen(object(&second, &none));
    eventually("a failure", async || {
        (board.counts().errors > 0).then_some(())
    })
    .await;
    api.accept_connections();
    patiently("the second to be written", async {
        while board.counts().writes < 2 {
            sleep(LAG).await;
        }
    })
    .await;
    writing.abort();
}
