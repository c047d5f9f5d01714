use std::time::Duration;

use parkway_activator::revision::RevisionId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::workload::Readiness;

fn workload(check: ReadinessCheck, protocol: Protocol) -> Workload {
    Workload {
        revision: RevisionId::new("default", "shop"),
        service: String::new(),
        configuration: String::new(),
        command: vec!["true".into()],
        args: Vec::new(),
        env: vec![("MARK".into(), "here".into())],
        working_dir: None,
        protocol,
        readiness: Readiness {
            check,
            ..Readiness::default()
        },
        progress_deadline: Duration::from_secs(10),
        termination_grace: Duration::from_secs(10),
    }
}

fn get(path: &str) -> ReadinessCheck {
    ReadinessCheck::Http {
        path: path.into(),
        headers: vec![("X-Custom".into(), "yes".into())],
    }
}

async fn one_attempt(
    check: ReadinessCheck,
    protocol: Protocol,
    address: SocketAddr,
) -> Result<(), ProbeFailure> {
    let workload = workload(check, protocol);
    let environment = Environment::new(&workload, address.port(), None);
    attempt(&workload, &environment, address).await
}

/// Answers one connection with `answer` and returns what was asked.
async fn answering(answer: &'static str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(asked).unwrap().to_ascii_lowercase()
    });
    (address, asked)
}

async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

#[tokio::test]
async fn tcp_passes_when_the_port_is_open_and_only_then() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = listener.local_addr().unwrap();
    assert_eq!(
        one_attempt(ReadinessCheck::Tcp, Protocol::Http1, open).await,
        Ok(())
    );
    let closed = closed_port().await;
    assert_eq!(
        one_attempt(ReadinessCheck::Tcp, Protocol::Http1, closed).await,
        Err(ProbeFailure::NoListener)
    );
}

#[tokio::test]
async fn http_asks_as_a_kubelet_does() {
    let (address, asked) = answering("HTTP/1.1 204 No Content\r\n\r\n").await;

    assert_eq!(
        one_attempt(get("/healthz?full=1"), Protocol::Http1, address).await,
        Ok(())
    );

    let asked = asked.await.unwrap();
    assert!(
        asked.starts_with("get /healthz?full=1 http/1.1\r\n"),
        "{asked}"
    );
    for header in [
        "user-agent: kube-probe/",
        "x-custom: yes\r\n",
        &format!("host: {address}\r\n"),
    ] {
        assert!(asked.contains(header), "{header} in {asked}");
    }
}

#[tokio::test]
async fn http_fails_with_the_status_it_got() {
    let (address, _asked) =
        answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(
        one_attempt(get("/healthz"), Protocol::Http1, address).await,
        Err(ProbeFailure::Status {
            path: "/healthz".into(),
            status: 503
        })
    );
}

#[tokio::test]
async fn http_fails_when_what_answers_is_no_http() {
    let (address, _asked) = answering("220 mail.example ready\r\n").await;
    let failure = one_attempt(get("/"), Protocol::Http1, address)
        .await
        .unwrap_err();
    assert!(
        matches!(failure, ProbeFailure::NoAnswer { .. }),
        "{failure:?}"
    );
}

#[tokio::test]
async fn http_asks_an_h2c_workload_by_prior_knowledge() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        respond
            .send_response(http::Response::new(()), true)
            .unwrap();
        let closed = connection.accept().await;
        drop(closed);
        request.uri().to_string()
    };
    let (passed, asked) = tokio::join!(one_attempt(get("/ready"), Protocol::H2c, address), server);
    assert_eq!(passed, Ok(()));
    assert_eq!(asked, format!("http://{address}/ready"));
}

fn shell(script: &str) -> ReadinessCheck {
    ReadinessCheck::Exec {
        command: vec!["sh".into(), "-c".into(), script.into()],
    }
}

#[tokio::test]
async fn exec_runs_in_the_environment_of_the_process() {
    let address = closed_port().await;
    let port = address.port();
    let script =
        format!(r#"[ "$PORT/$MARK/$(MARK)" = {port}/here/here ] && [ "$K_REVISION" = shop ]"#);
    assert_eq!(
        one_attempt(shell(&script), Protocol::Http1, address).await,
        Ok(())
    );
}

#[tokio::test]
async fn exec_fails_with_the_status_of_the_command() {
    let failure = one_attempt(shell("exit 4"), Protocol::Http1, closed_port().await).await;
    assert_eq!(
        failure,
        Err(ProbeFailure::Exec("exited with status 4".into()))
    );
}

#[tokio::test]
async fn as_many_passes_as_the_threshold_are_needed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut workload = workload(ReadinessCheck::Tcp, Protocol::Http1);
    workload.readiness.successes = 3;
    let environment = Environment::new(&workload, address.port(), None);
    let mut last = ProbeFailure::default();

    until_ready(&workload, &environment, address, || (), &mut last).await;

    assert_eq!(last, ProbeFailure::NotTried);
    for _ in 0..3 {
        listener.accept().await.unwrap();
    }
    let fourth = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
    assert!(fourth.is_err(), "no more attempts than needed");
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_given_up_and_named() {
    let mut workload = workload(shell("sleep 60"), Protocol::Http1);
    workload.readiness.timeout = Duration::from_millis(20);
    let environment = Environment::new(&workload, 1, None);
    let mut last = ProbeFailure::default();

    let probing = until_ready(
        &workload,
        &environment,
        closed_port().await,
        || (),
        &mut last,
    );
    let ready = tokio::time::timeout(Duration::from_millis(200), probing).await;

    assert!(ready.is_err());
    assert_eq!(last, ProbeFailure::TimedOut(Duration::from_millis(20)));
}

#[test]
fn a_port_that_nobody_listens_on_is_tried_often_and_a_workload_that_refuses_seldom() {
    let millis = Duration::from_millis;
    let refused = ProbeFailure::Status {
        path: "/".to_owned(),
        status: 503,
    };
    for elapsed in [1, 100, 1_000, 29_999] {
        assert!(pause(&ProbeFailure::NoListener, millis(elapsed)) <= NO_LISTENER_PAUSE);
    }
    assert_eq!(pause(&refused, millis(1_000)), millis(50));
    assert_eq!(pause(&ProbeFailure::NoListener, OFTEN_FOR), millis(50));
}
