//! One conversation over an in-memory pipe, on a paused clock, compared with the recorded one.

use parkway_activator::revision::RevisionId;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_test::{assert_pending, task};
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

const RECORDING: &str = include_str!("../../tests/fixtures/frames.jsonl");
const PONG: [u8; 2] = [0x8a, 0];

/// A frame as it came over the wire.
#[derive(Debug, PartialEq)]
struct RawFrame {
    head: [u8; 2],
    length: usize,
    payload: Vec<u8>,
}

/// Reads one frame of a client, and unmasks it.
async fn frame(from: &mut DuplexStream) -> RawFrame {
    let mut head = [0; 2];
    from.read_exact(&mut head).await.unwrap();
    let (length, extra) = match head[1] & 0x7f {
        126 => (usize::from(from.read_u16().await.unwrap()), 2),
        127 => (usize::try_from(from.read_u64().await.unwrap()).unwrap(), 8),
        short => (usize::from(short), 0),
    };
    assert!(head[1] & 0x80 != 0, "a client masks its frames");
    let mut mask = [0; 4];
    from.read_exact(&mut mask).await.unwrap();
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await.unwrap();
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    RawFrame {
        head,
        length: 2 + extra + 4 + length,
        payload,
    }
}

/// A driver in conversation with `peer`.
struct Talk {
    sink: RemoteSink,
    driver: Driver,
    socket: WebSocketStream<DuplexStream>,
    peer: DuplexStream,
}

async fn talk(pipe_bytes: usize) -> Talk {
    let timing = Timing::default();
    let (connection, driver) = Connection::new("autoscaler:8080".into(), timing);
    let (new_drivers, _nobody) = mpsc::channel(1);
    let sink = RemoteSink {
        shared: Arc::new(Shared {
            connections: [connection].into(),
            owners: RwLock::default(),
            timing,
            new_drivers,
        }),
    };
    let (ours, peer) = duplex(pipe_bytes);
    let socket = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
    Talk {
        sink,
        driver,
        socket,
        peer,
    }
}

fn recorded(opcode: &str) -> Vec<Value> {
    let frames = RECORDING
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    frames.filter(|frame| frame["opcode"] == opcode).collect()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .as_str()
        .unwrap()
        .chars()
        .map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] * 16 + pair[1])
        .collect()
}

fn message(name: &str) -> StatMessage {
    StatMessage::first_request(RevisionId::new("default", name), &"pod".into())
}

#[tokio::test(start_paused = true)]
async fn pings_are_empty_and_come_at_the_recorded_cadence() {
    let times: Vec<f64> = recorded("ping")
        .iter()
        .map(|ping| ping["seconds_since_connect"].as_f64().unwrap())
        .collect();
    let (first, rest) = times.split_first().unwrap();
    let mean = (rest.last().unwrap() - first) / f64::from(u32::try_from(rest.len()).unwrap());
    let Talk {
        sink: _sink,
        mut driver,
        socket,
        mut peer,
    } = talk(1024).await;
    let started = Instant::now();

    let pings = async {
        let mut last = started;
        for _ in 0..rest.len() {
            let ping = frame(&mut peer).await;
            assert_eq!(ping.head, [0x89, 0x80]);
            assert_eq!(ping.length, 6);
            let interval = last.elapsed().as_secs_f64();
            assert!(
                (interval - mean).abs() < 0.02,
                "{interval} s instead of {mean} s"
            );
            last = Instant::now();
            peer.write_all(&PONG).await.unwrap();
        }
    };
    tokio::select! {
        () = pings => {}
        end = driver.converse(socket) => panic!("{end:?}"),
    }
    assert!(started.elapsed() > Duration::from_secs(200));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_no_pong_for_ten_seconds_is_dead() {
    let Talk {
        sink,
        mut driver,
        socket,
        peer,
    } = talk(1024).await;
    let started = Instant::now();

    let end = driver.converse(socket).await;

    assert!(matches!(end, End::Silent), "{end:?}");
    assert_eq!(started.elapsed().as_secs(), 10);
    assert!(!sink.is_connected());
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn each_pong_renews_the_deadline() {
    let Talk {
        sink: _sink,
        mut driver,
        socket,
        mut peer,
    } = talk(1024).await;
    let started = Instant::now();
    let pongs = async {
        frame(&mut peer).await;
        frame(&mut peer).await;
        peer.write_all(&PONG).await.unwrap();
        std::future::pending::<()>().await;
    };

    let end = tokio::select! {
        () = pongs => unreachable!(),
        end = driver.converse(socket) => end,
    };

    // The only pong came with the second ping, at two thirds of the first deadline.
    assert!(matches!(end, End::Silent), "{end:?}");
    assert_eq!(started.elapsed().as_secs(), 16);
}

#[tokio::test(start_paused = true)]
async fn recorded_lists_leave_in_frames_with_the_recorded_heads() {
    let Talk {
        sink,
        mut driver,
        socket,
        mut peer,
    } = talk(1024).await;
    let comparison = async {
        for recorded in recorded("binary") {
            let (whole, payload) = (
                bytes(&recorded["frame_hex"]),
                bytes(&recorded["payload_hex"]),
            );
            sink.send(wire::decode(&payload).unwrap());
            let sent = frame(&mut peer).await;
            let expected = RawFrame {
                head: [whole[0], whole[1]],
                length: whole.len(),
                payload,
            };
            assert_eq!(sent, expected);
        }
    };
    tokio::select! {
        biased; // the conversation begins before anything is sent
        end = driver.converse(socket) => panic!("{end:?}"),
        () = comparison => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_list_is_one_frame_with_a_two_byte_length() {
    let Talk {
        sink,
        mut driver,
        socket,
        mut peer,
    } = talk(64 * 1024).await;
    let list: Vec<StatMessage> = (0..100)
        .map(|n| message(&format!("revision-{n}")))
        .collect();
    let comparison = async {
        sink.send(list.clone());
        let sent = frame(&mut peer).await;
        assert_eq!(sent.head, [0x82, 0xfe]);
        assert_eq!(wire::decode(&sent.payload).unwrap(), list);
    };
    tokio::select! {
        biased; // the conversation begins before anything is sent
        end = driver.converse(socket) => panic!("{end:?}"),
        () = comparison => {}
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_sent_before_the_close_frame_when_the_sink_is_dropped() {
    let Talk {
        sink,
        mut driver,
        socket,
        mut peer,
    } = talk(1024).await;
    let mut conversation = task::spawn(driver.converse(socket));
    assert_pending!(conversation.poll());
    sink.send(vec![message("last")]);
    drop(sink);

    let (end, ()) = tokio::join!(conversation, async {
        assert_eq!(
            wire::decode(&frame(&mut peer).await.payload).unwrap(),
            [message("last")]
        );
        assert_eq!(frame(&mut peer).await.head[0], 0x88);
    });

    assert!(matches!(end, End::SinkDropped), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn lists_from_before_the_connection_are_not_sent() {
    let Talk {
        sink,
        mut driver,
        socket,
        mut peer,
    } = talk(1024).await;
    sink.shared.connections[0]
        .waiting
        .try_send(vec![message("old")])
        .unwrap();
    let mut conversation = task::spawn(driver.converse(socket));
    assert_pending!(conversation.poll());
    sink.send(vec![message("new")]);
    assert_pending!(conversation.poll());

    assert_eq!(
        wire::decode(&frame(&mut peer).await.payload).unwrap(),
        [message("new")]
    );
    assert_eq!(sink.connections()[0].dropped, 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_reading_makes_lists_wait_up_to_the_bound_and_then_drop() {
    let Talk {
        sink,
        mut driver,
        socket,
        peer,
    } = talk(16).await;
    let mut conversation = task::spawn(driver.converse(socket));
    assert_pending!(conversation.poll());
    sink.send(vec![message("stuck")]);
    assert_pending!(conversation.poll());

    for _ in 0..WAITING_LISTS + 3 {
        sink.send(vec![message("waiting")]);
        assert_pending!(conversation.poll());
    }

    assert_eq!(sink.connections()[0].dropped, 3);
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn a_stuck_write_does_not_keep_a_dead_peer_alive() {
    let Talk {
        sink,
        mut driver,
        socket,
        peer,
    } = talk(16).await;
    let mut conversation = task::spawn(driver.converse(socket));
    assert_pending!(conversation.poll());
    sink.send(vec![message("stuck")]);
    let started = Instant::now();

    let end = conversation.await;

    assert!(matches!(end, End::Silent), "{end:?}");
    assert_eq!(started.elapsed().as_secs(), 10);
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn a_ping_of_the_peer_is_answered() {
    let Talk {
        sink: _sink,
        mut driver,
        socket,
        mut peer,
    } = talk(1024).await;
    peer.write_all(&[0x89, 2, b'h', b'i']).await.unwrap();
    tokio::select! {
        end = driver.converse(socket) => panic!("{end:?}"),
        pong = frame(&mut peer) => {
            assert_eq!(pong.head[0], 0x8a);
            assert_eq!(pong.payload, b"hi");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn messages_of_the_peer_are_ignored() {
    let Talk {
        sink: _sink,
        mut driver,
        socket,
        mut peer,
    } = talk(1024).await;
    peer.write_all(&[0x81, 2, b'h', b'i', 0x82, 1, 0xff])
        .await
        .unwrap();
    let mut conversation = task::spawn(driver.converse(socket));

    assert_pending!(conversation.poll());
    assert_eq!(conversation.await.code(), None); // ten silent seconds later
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn nonsense_of_the_peer_ends_the_conversation() {
    for nonsense in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        &[0xff; 32],
        &[0x82, 0xff, 0, 0, 0, 0],
        &[0x8a, 0x7f],
    ] {
        let Talk {
            sink: _sink,
            mut driver,
            socket,
            mut peer,
        } = talk(1024).await;
        peer.write_all(nonsense).await.unwrap();
        drop(peer);
        let end = driver.converse(socket).await;
        assert!(matches!(end, End::Broken(_)), "{end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_beyond_the_bound_ends_the_conversation() {
    let Talk {
        sink: _sink,
        mut driver,
        socket,
        mut peer,
    } = talk(1024).await;
    // 2⁶³ - 1 bytes are announced.
    let head = [0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    peer.write_all(&head).await.unwrap();

    let end = driver.converse(socket).await;

    assert!(matches!(end, End::Broken(WsError::Capacity(_))), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn the_close_code_of_the_peer_is_told() {
    let Talk {
        sink: _sink,
        mut driver,
        socket,
        mut peer,
    } = talk(1024).await;
    // 1012 is 0x03f4.
    peer.write_all(b"\x88\x0c\x03\xf4Restarting").await.unwrap();

    assert_eq!(driver.converse(socket).await.code(), Some(1012));
}

impl End {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Closed(code) => *code,
            _ => None,
        }
    }
}

#[test]
fn waits_grow_by_the_factor_and_begin_again_after_twenty_attempts() {
    let backoff = Backoff::default();
    let ms = |attempt| backoff.wait(attempt, 0.0).as_millis();
    // 100 · 1.3ⁿ: 100, 130, 169, 219.7, … and 100 · 1.3¹⁸ = 11245.5 after the 19th attempt.
    assert_eq!([ms(0), ms(1), ms(2), ms(3)], [100, 130, 169, 219]);
    assert_eq!(ms(18), 11_245);
    assert_eq!([ms(19), ms(20), ms(21)], [0, 100, 130]);
}

#[test]
fn chance_adds_up_to_half_of_a_wait() {
    let backoff = Backoff::default();
    assert_eq!(backoff.wait(0, 0.5), Duration::from_millis(125));
    assert!(backoff.wait(0, 0.999_999) < Duration::from_millis(150));
}

#[test]
fn draws_lie_between_zero_and_one_and_differ() {
    let draws: Vec<f64> = (0..100).map(|_| draw()).collect();
    assert!(
        draws.iter().all(|draw| (0.0..1.0).contains(draw)),
        "{draws:?}"
    );
    assert!(
        draws.iter().any(|draw| *draw < 0.5) && draws.iter().any(|draw| *draw >= 0.5),
        "{draws:?}"
    );
}

#[test]
fn an_address_without_a_scheme_is_a_web_socket() {
    assert_eq!(url("autoscaler:8080"), "ws://autoscaler:8080");
    assert_eq!(url("ws://127.0.0.1:8080"), "ws://127.0.0.1:8080");
}
