use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::sleep;

use super::*;

/// Knative's activator and queue-proxies, recorded.
const RECORDING: &str =
    include_str!("../../../../tests/fixtures/probes/activator-to-queue-proxy.json");

const MS: Duration = Duration::from_millis(1);

fn recorded() -> Vec<Value> {
    serde_json::from_str(RECORDING).unwrap()
}

fn text<'v>(exchange: &'v Value, field: &str) -> &'v str {
    exchange[field].as_str().unwrap()
}

fn shop() -> RevisionId {
    RevisionId::new("default", "shop-00001")
}

fn pod() -> Endpoint {
    Endpoint::new(SocketAddr::from(([10, 244, 0, 17], 8012)))
}

/// Connects in memory, after `delay`; each connection's other end is kept.
struct InMemory<F> {
    answer: F,
    dialled: AtomicUsize,
    ends: Mutex<Vec<DuplexStream>>,
}

impl<F, A> InMemory<F>
where
    F: Fn(usize) -> A + Send + Sync,
    A: Future<Output = io::Result<()>> + Send,
{
    /// `answer` says how long the dial of this number takes, and whether it succeeds.
    fn new(answer: F) -> Arc<Self> {
        Arc::new(Self {
            answer,
            dialled: AtomicUsize::new(0),
            ends: Mutex::default(),
        })
    }
}

impl<F, A> Dial for Arc<InMemory<F>>
where
    F: Fn(usize) -> A + Send + Sync,
    A: Future<Output = io::Result<()>> + Send,
{
    type Stream = DuplexStream;

    async fn dial(&self, _endpoint: Endpoint) -> io::Result<DuplexStream> {
        let number = self.dialled.fetch_add(1, Ordering::Relaxed);
        (self.answer)(number).await?;
        let (ours, theirs) = tokio::io::duplex(1024);
        self.ends.lock().push(theirs);
        Ok(ours)
    }
}

#[test]
fn the_question_is_knatives_byte_for_byte() {
    for exchange in recorded() {
        let asked = text(&exchange, "request_text");
        let address: SocketAddr = text(&exchange, "to_address").parse().unwrap();

        assert_eq!(question(Endpoint::new(address), None), asked);
    }
}

#[test]
fn with_passthrough_the_host_is_the_private_service() {
    let asked = question(pod(), Some("shop-00001-private.default"));

    assert_eq!(
        asked,
        "GET /healthz HTTP/1.1\r\nHost: shop-00001-private.default\r\nUser-Agent: Knative-Activator-Probe\r\n\
         K-Network-Probe: queue\r\nK-Passthrough-Lb: true\r\n\r\n"
    );
}

#[test]
fn recorded_answers_mean_what_they_meant_however_they_arrive() {
    let mut kinds = [0, 0];
    for exchange in recorded() {
        let answer = text(&exchange, "response_text").as_bytes();
        let is_yes = answer.starts_with(b"HTTP/1.1 200");
        kinds[usize::from(is_yes)] += 1;
        let expected = if is_yes {
            Outcome::Ready
        } else {
            Outcome::NotReady(503)
        };

        let ends = answer.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
        for length in 0..=answer.len() {
            let judged = judge(&answer[..length], false);
            let is_complete = length == answer.len() || (!is_yes && length >= ends);
            assert_eq!(judged, is_complete.then_some(expected), "{length} bytes");
        }
    }
    assert!(kinds.iter().all(|count| *count > 0));
}

#[test]
fn only_200_with_the_right_body_is_a_yes() {
    let ok = "HTTP/1.1 200 OK\r\n";
    for (answer, expected) in [
        ("Content-Length: 5\r\n\r\nqueue", Some(Outcome::Ready)),
        (
            "Transfer-Encoding: chunked\r\n\r\n2\r\nqu\r\n3\r\neue\r\n0\r\n\r\n",
            Some(Outcome::Ready),
        ),
        (
            "Content-Length: 6\r\n\r\nqueue\n",
            Some(Outcome::NotReady(200)),
        ),
        (
            "Content-Length: 9\r\n\r\nactivator",
            Some(Outcome::NotReady(200)),
        ),
        ("Content-Length: 0\r\n\r\n", Some(Outcome::NotReady(200))),
        (
            "Content-Length: 4\r\n\r\nqueu",
            Some(Outcome::NotReady(200)),
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n6\r\nqueues",
            Some(Outcome::NotReady(200)),
        ),
        ("Content-Length: 5\r\n\r\nque", None),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nqueue\r\n", None),
        ("\r\nqueue", None),
        (
            "Transfer-Encoding: chunked\r\n\r\nx\r\n",
            Some(Outcome::Broken),
        ),
        ("Content-Length: five\r\n\r\nqueue", Some(Outcome::Broken)),
    ] {
        assert_eq!(
            judge(format!("{ok}{answer}").as_bytes(), false),
            expected,
            "{answer:?}"
        );
    }
}

#[test]
fn an_answer_may_end_with_its_connection_only_where_nothing_else_ends_it() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\n\r\nqueue", Some(Outcome::Ready)),
        ("HTTP/1.0 200 OK\r\n\r\nqueue", Some(Outcome::Ready)),
        ("HTTP/1.1 200 OK\r\n\r\nque", Some(Outcome::NotReady(200))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nque", None),
        ("HTTP/1.1 200 OK\r\nContent-", None),
        ("", None),
    ] {
        assert_eq!(judge(answer.as_bytes(), true), expected, "{answer:?}");
    }
}

#[test]
fn other_statuses_are_told_and_informational_ones_passed_over() {
    for (answer, expected) in [
        ("HTTP/1.1 503 \r\n\r\n", Some(Outcome::NotReady(503))),
        (
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 99\r\n\r\n",
            Some(Outcome::NotReady(400)),
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            Some(Outcome::NotReady(101)),
        ),
        ("HTTP/1.1 103 Early Hints\r\n\r\n", None),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nqueue",
            Some(Outcome::Ready),
        ),
        ("SSH-2.0-OpenSSH_9.9\r\n", Some(Outcome::Broken)),
        ("\x15\x03\x03\x00\x02\x02\x28", Some(Outcome::Broken)),
    ] {
        assert_eq!(judge(answer.as_bytes(), false), expected, "{answer:?}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_given_up() {
    for endless in ["X: y\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let mut flood = b"HTTP/1.1 102 Processing\r\n".to_vec();
        flood.extend(endless.repeat(1_000).bytes());
        theirs.write_all(&flood).await.unwrap();

        assert_eq!(exchange(ours, b"").await, Outcome::Broken);
    }
}

#[tokio::test]
async fn a_connection_that_ends_without_an_answer_is_broken() {
    for said in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nque"] {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(said).await.unwrap();
        drop(theirs);

        assert_eq!(exchange(ours, b"").await, Outcome::Broken);
    }
}

#[tokio::test(start_paused = true)]
async fn who_holds_the_probe_is_waited_for_and_not_for_ever() {
    let dial = InMemory::new(async |_| Ok(()));
    let started = Instant::now();

    let outcome = ask(&dial, pod(), &shop(), None).await;

    assert_eq!(outcome, Outcome::TimedOut);
    assert_eq!(started.elapsed(), ANSWER_DEADLINE);
    assert_eq!(dial.dialled.load(Ordering::Relaxed), 1, "one connection");
}

#[tokio::test(start_paused = true)]
async fn a_slow_connection_is_not_given_up_for_another_one() {
    for delay in [10 * MS, 60 * MS, 150 * MS, 300 * MS, 350 * MS] {
        let dial = InMemory::new(async |_| {
            sleep(delay).await;
            Ok(())
        });
        let started = Instant::now();

        connect(&dial, pod()).await.unwrap();

        assert_eq!(started.elapsed(), delay);
    }
}

#[tokio::test(start_paused = true)]
async fn a_very_slow_connection_is_made_all_the_same() {
    let dial = InMemory::new(async |_| {
        sleep(900 * MS).await;
        Ok(())
    });
    let started = Instant::now();

    connect(&dial, pod()).await.unwrap();

    assert!(started.elapsed() < 2_000 * MS, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn where_what_is_sent_is_lost_attempts_follow_each_other_soon() {
    for network_is_up in [30 * MS, 100 * MS, 500 * MS, 2_000 * MS] {
        let up = Instant::now() + network_is_up;
        let dial = InMemory::new(async |_| {
            if Instant::now() < up {
                std::future::pending::<()>().await;
            }
            Ok(())
        });

        connect(&dial, pod()).await.unwrap();

        assert!(up.elapsed() <= PATIENCE_MAX, "{:?} late", up.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_is_given_up_in_time_with_few_attempts_at_once() {
    struct Counted<'a>(&'a AtomicUsize);
    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let under_way = AtomicUsize::new(0);
    let most = AtomicUsize::new(0);
    let dial = InMemory::new(async |_| {
        most.fetch_max(
            1 + under_way.fetch_add(1, Ordering::Relaxed),
            Ordering::Relaxed,
        );
        let _counted = Counted(&under_way);
        std::future::pending::<io::Result<()>>().await
    });
    let started = Instant::now();

    let outcome = ask(&dial, pod(), &shop(), None).await;

    assert_eq!(outcome, Outcome::TimedOut);
    assert_eq!(started.elapsed(), CONNECT_DEADLINE);
    assert_eq!(most.load(Ordering::Relaxed), DIALS_AT_ONCE);
    assert_eq!(under_way.load(Ordering::Relaxed), 0);
    let attempts = dial.dialled.load(Ordering::Relaxed);
    assert!((10..20).contains(&attempts), "{attempts}");
}

#[tokio::test(start_paused = true)]
async fn the_first_attempt_that_fails_tells_how() {
    for (kind, expected) in [
        (io::ErrorKind::ConnectionRefused, Outcome::Refused),
        (io::ErrorKind::HostUnreachable, Outcome::Unreachable),
        (io::ErrorKind::NetworkUnreachable, Outcome::Unreachable),
        (io::ErrorKind::AddrNotAvailable, Outcome::Unreachable),
        (io::ErrorKind::ConnectionReset, Outcome::Broken),
        (io::ErrorKind::TimedOut, Outcome::TimedOut),
    ] {
        let dial = InMemory::new(async |number| match number {
            0 => std::future::pending().await,
            _ => Err(kind.into()),
        });
        let started = Instant::now();

        assert_eq!(ask(&dial, pod(), &shop(), None).await, expected);
        assert_eq!(started.elapsed(), FIRST_PATIENCE);
    }
}

#[tokio::test]
async fn a_queue_proxy_that_holds_the_probe_and_says_yes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::new(listener.local_addr().unwrap());
    let queue_proxy = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(stream.read_u8().await.unwrap());
        }
        let yes = recorded()
            .into_iter()
            .map(|it| text(&it, "response_text").to_owned());
        let yes = yes.into_iter().find(|it| it.ends_with("queue")).unwrap();
        stream.write_all(yes.as_bytes()).await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "then it is closed");
        asked
    };

    let (tcp, id) = (Tcp::default(), shop());
    let (outcome, asked) = tokio::join!(ask(&tcp, endpoint, &id, None), queue_proxy);

    assert_eq!(outcome, Outcome::Ready);
    assert_eq!(asked, question(endpoint, None).as_bytes());
}

#[tokio::test]
async fn a_port_nobody_listens_on_is_refused() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = Endpoint::new(socket.local_addr().unwrap());

    assert_eq!(
        ask(&Tcp::default(), endpoint, &shop(), None).await,
        Outcome::Refused
    );
}
