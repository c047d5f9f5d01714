//! A network in memory: queue-proxies that listen and become ready at their times, some of them far away.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use parkway_activator::endpoint::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep, sleep_until};

use crate::proxy::probe::Dial;

/// How long queue-proxy holds a probe. Source: knative/serving `pkg/queue/readiness/probe.go`, `PollTimeout`.
pub(super) const HOLD: Duration = Duration::from_secs(10);

/// What stands at an address.
#[derive(Clone, Copy, Debug)]
pub(super) enum Host {
    /// A queue-proxy.
    QueueProxy {
        /// Connections are refused before.
        listens: Instant,
        /// Its container serves from here on; what asks earlier is held.
        ready: Instant,
    },
    /// Says 503 at once until then, as queue-proxy does while it looks at its container only now and then.
    Impatient(Instant),
    /// Always this answer.
    Says(&'static str),
    /// Takes a connection and breaks it off.
    Breaks,
    /// What is sent there is lost.
    BlackHole,
}

/// Everything there is. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Network(Arc<Mutex<Hosts>>);

#[derive(Debug, Default)]
struct Hosts {
    /// One way.
    delay: Duration,
    hosts: HashMap<Endpoint, Host>,
    log: HashMap<Endpoint, Log>,
    under_way: usize,
    most_under_way: usize,
}

/// What happened at an address.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    pub(super) dialled: usize,
    pub(super) asked: Vec<String>,
}

impl Network {
    pub(super) fn far(delay: Duration) -> Self {
        let network = Self::default();
        network.0.lock().delay = delay;
        network
    }

    pub(super) fn put(&self, endpoint: Endpoint, host: Host) {
        self.0.lock().hosts.insert(endpoint, host);
    }

    /// A queue-proxy that has been ready for long.
    pub(super) fn ready(&self, endpoint: Endpoint) {
        let ready = Instant::now();
        let listens = ready;
        self.put(endpoint, Host::QueueProxy { listens, ready });
    }

    pub(super) fn log(&self, endpoint: Endpoint) -> Log {
        self.0
            .lock()
            .log
            .get(&endpoint)
            .cloned()
            .unwrap_or_default()
    }

    pub(super) fn dialled(&self) -> usize {
        self.0.lock().log.values().map(|log| log.dialled).sum()
    }

    /// The most connections without an answer there were at once.
    pub(super) fn most_under_way(&self) -> usize {
        self.0.lock().most_under_way
    }

    fn dialling(&self, endpoint: Endpoint) -> (Host, Duration, UnderWay) {
        let mut hosts = self.0.lock();
        hosts.log.entry(endpoint).or_default().dialled += 1;
        hosts.under_way += 1;
        hosts.most_under_way = hosts.most_under_way.max(hosts.under_way);
        let host = hosts.hosts.get(&endpoint).copied();
        (
            host.unwrap_or(Host::BlackHole),
            hosts.delay,
            UnderWay(self.clone()),
        )
    }
}

struct UnderWay(Network);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.lock().under_way -= 1;
    }
}

impl Dial for Network {
    type Stream = DuplexStream;

    async fn dial(&self, endpoint: Endpoint) -> io::Result<DuplexStream> {
        let (host, delay, under_way) = self.dialling(endpoint);
        sleep(delay).await;
        match host {
            Host::BlackHole => std::future::pending().await,
            Host::QueueProxy { listens, .. } if Instant::now() < listens => {
                sleep(delay).await;
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Host::QueueProxy { .. } | Host::Impatient(_) | Host::Says(_) | Host::Breaks => {}
        }
        sleep(delay).await;
        let (ours, theirs) = tokio::io::duplex(1024);
        let network = self.clone();
        tokio::spawn(async move {
            network
                .serve(theirs, endpoint, host, delay, under_way)
                .await;
        });
        Ok(ours)
    }
}

impl Network {
    /// Ends when the connection is closed. It counts as under way until it is answered.
    async fn serve(
        self,
        mut stream: DuplexStream,
        endpoint: Endpoint,
        host: Host,
        delay: Duration,
        under_way: UnderWay,
    ) {
        if matches!(host, Host::Breaks) {
            return;
        }
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => asked.push(byte),
                Err(_closed) => return,
            }
        }
        sleep(delay).await;
        let asked = String::from_utf8(asked).unwrap();
        let log = |hosts: &mut Hosts| hosts.log.get_mut(&endpoint).unwrap().asked.push(asked);
        log(&mut self.0.lock());
        // A probe that is given up is held no longer.
        tokio::select! {
            _closed = stream.read_u8() => return,
            answer = answer(host) => {
                sleep(delay).await;
                drop(under_way);
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
        drop(stream.read_u8().await);
    }
}

async fn answer(host: Host) -> String {
    let yes = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nqueue";
    let no = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    let answer = match host {
        Host::QueueProxy { ready, .. } => {
            let given_up = Instant::now() + HOLD;
            sleep_until(ready.min(given_up)).await;
            if ready <= given_up { yes } else { no }
        }
        Host::Impatient(ready) if Instant::now() < ready => no,
        Host::Impatient(_) => yes,
        Host::Says(answer) => answer,
        Host::Breaks | Host::BlackHole => unreachable!("answers nobody"),
    };
    answer.to_owned()
}

pub(super) fn pod(last: u8) -> Endpoint {
    Endpoint::new(SocketAddr::from(([10, 0, 0, last], 8012)))
}

pub(super) fn cluster_ip() -> Endpoint {
    Endpoint::new(SocketAddr::from(([10, 96, 0, 1], 80)))
}
