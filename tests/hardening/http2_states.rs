//! What must not be said by HTTP/2 once a stream is over, and what a server has to do unasked: the other cases of the
//! `h2spec` suite, by section of RFC 9113.

use parkway_tests::frames::{
    self, Ended, Frames, INITIAL_WINDOW, begun, code, data, flag, frame, get, kind, reset,
    settings, whole, window,
};
use parkway_tests::upstream::Connection;
use parkway_tests::{Parkway, Upstream, revision_with_endpoints};

const HOST: &str = "shop.default.localhost";

/// Answers, but `/slow`.
async fn shop() -> (Upstream, Parkway) {
    let upstream = Upstream::start(async |mut connection: Connection| {
        while let Some((head, _body)) = connection.whole_request().await {
            match head.target.as_str() {
                "/slow" => std::future::pending().await,
                _ => connection.answer("hello").await,
            }
        }
    });
    let upstream = upstream.await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    (upstream, parkway)
}

/// How stream 1 came to its end before the mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// Its request has ended, its answer has not begun.
    Sent,
    /// Its client has reset it.
    Reset,
    /// It was answered.
    Answered,
}

/// What a frame for it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leads {
    /// The connection is ended with this code.
    Ended(u32),
    /// Stream 1 is reset with this code, others go on.
    Reset(u32),
    /// It is passed over.
    Nothing,
}

#[tokio::test]
async fn frames_of_a_stream_that_is_over_are_errors_and_reach_nobody() {
    use Leads::{Nothing, Reset};
    // Where the RFC says `STREAM_CLOSED`, the engine may end the whole connection, with this code.
    const PROTOCOL: Leads = Leads::Ended(code::PROTOCOL_ERROR);
    let (_upstream, parkway) = shop().await;
    let trailers = whole(1, &frames::block(&[("x", "1")]));
    let more = frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]);
    let mut wrong = Vec::new();
    for (section, over, mistake, expected) in [
        (
            "5.1 DATA, half-closed",
            Over::Sent,
            data(1, b"x", true),
            PROTOCOL,
        ),
        (
            "5.1 HEADERS, half-closed",
            Over::Sent,
            trailers.clone(),
            PROTOCOL,
        ),
        (
            "5.1 CONTINUATION, half-closed",
            Over::Sent,
            more.clone(),
            PROTOCOL,
        ),
        (
            "5.1 PRIORITY, half-closed",
            Over::Sent,
            frame(kind::PRIORITY, flag::NONE, 1, &[0, 0, 0, 0, 9]),
            Nothing,
        ),
        (
            "5.1 DATA, reset",
            Over::Reset,
            data(1, b"x", true),
            Reset(code::STREAM_CLOSED),
        ),
        (
            "5.1 HEADERS, reset",
            Over::Reset,
            trailers.clone(),
            PROTOCOL,
        ),
        (
            "5.1 CONTINUATION, reset",
            Over::Reset,
            more.clone(),
            PROTOCOL,
        ),
        (
            "5.1 RST_STREAM, reset",
            Over::Reset,
            reset(1, code::CANCEL),
            Nothing,
        ),
        (
            "5.1 DATA, closed",
            Over::Answered,
            data(1, b"x", true),
            Reset(code::STREAM_CLOSED),
        ),
        ("5.1 HEADERS, closed", Over::Answered, trailers, PROTOCOL),
        ("5.1 CONTINUATION, closed", Over::Answered, more, PROTOCOL),
        (
            "5.1 PRIORITY, closed",
            Over::Answered,
            frame(kind::PRIORITY, flag::NONE, 1, &[0, 0, 0, 0, 9]),
            Nothing,
        ),
        (
            "5.1 WINDOW_UPDATE, closed",
            Over::Answered,
            window(1, 1),
            Nothing,
        ),
        (
            "5.1 RST_STREAM, closed",
            Over::Answered,
            reset(1, code::CANCEL),
            Nothing,
        ),
        (
            "5.1.1 used again",
            Over::Answered,
            whole(1, &get(HOST, "/")),
            PROTOCOL,
        ),
    ] {
        let mut client = Frames::connect(parkway.external(), &[]).await;
        match over {
            Over::Sent => client.send(whole(1, &get(HOST, "/slow"))).await,
            Over::Reset => {
                let post = begun(1, &frames::request("POST", HOST, "/slow", &[]));
                client.send([post, reset(1, code::CANCEL)].concat()).await;
            }
            Over::Answered => {
                client.send(whole(1, &get(HOST, "/"))).await;
                assert_eq!(client.status(1).await, Some(200));
                while client.next_of(kind::DATA).await.unwrap().flags & flag::END_STREAM == 0 {}
            }
        }
        client
            .send([mistake, whole(3, &get(HOST, "/"))].concat())
            .await;
        let leads = leads(&mut client).await;
        if leads != Some(expected) {
            wrong.push(format!("{section}: {leads:?}, not {expected:?}"));
        }
        drop(client);
        parkway.in_flight(0).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    parkway.finish().await;
}

/// Ready when stream 3 is answered, or nothing will be any more.
async fn leads(client: &mut Frames) -> Option<Leads> {
    let mut leads = Leads::Nothing;
    loop {
        let frame = client.next().await?;
        if let Some(code) = frame.goaway_code() {
            return Some(Leads::Ended(code));
        }
        match (frame.stream, frame.reset_code()) {
            (1, Some(code)) => leads = Leads::Reset(code),
            (3, None) if frame.status() == Some(200) => return Some(leads),
            _ => {}
        }
    }
}

#[tokio::test]
async fn settings_and_pings_are_agreed_to_and_what_agrees_is_not_answered() {
    let (_upstream, parkway) = shop().await;
    let mut client = Frames::connect(parkway.external(), &[]).await;
    // 6.5.3: those of the preface are agreed to.
    loop {
        let agreed = client.next_of(kind::SETTINGS).await.unwrap();
        if agreed.flags & flag::ACK != 0 {
            assert!(agreed.payload.is_empty(), "{agreed:?}");
            break;
        }
    }
    // 6.7: with the same bytes, and what is an answer itself is not answered.
    let ping = |flags, text: &[u8; 8]| frame(kind::PING, flags, 0, text);
    let pings = [ping(flag::ACK, b"notasked"), ping(flag::NONE, b"isasked!")];
    client.send(pings.concat()).await;
    let answer = client.next_of(kind::PING).await.unwrap();
    assert_eq!(
        (answer.flags, &answer.payload[..]),
        (flag::ACK, &b"isasked!"[..])
    );
    // 7: codes that nobody knows are no reason for anything.
    let unknown = [
        begun(1, &frames::request("POST", HOST, "/", &[])),
        reset(1, 0xff),
        whole(3, &get(HOST, "/")),
    ];
    client.send(unknown.concat()).await;
    assert_eq!(client.status(3).await, Some(200));
    let goodbye = [&[0, 0, 0, 0], &0xff_u32.to_be_bytes()[..]].concat();
    client
        .send(frame(kind::GOAWAY, flag::NONE, 0, &goodbye))
        .await;
    let ended = client.ended().await;
    assert!(
        matches!(ended.goaway, None | Some(code::NO_ERROR)),
        "{ended:?}"
    );
    parkway.finish().await;
}

/// 6.9.1, 6.9.2: as much is sent as there is window for, also when it grows later, or shrinks to less than nothing.
#[tokio::test]
async fn an_answer_comes_in_pieces_as_large_as_the_window_whatever_becomes_of_it() {
    let (_upstream, parkway) = shop().await;
    let mut client = Frames::connect(parkway.external(), &[(INITIAL_WINDOW, 1)]).await;
    client.send(whole(1, &get(HOST, "/"))).await;
    assert_eq!(client.next_of(kind::DATA).await.unwrap().payload, "h");
    // The last of several values counts.
    let both = settings(&[(INITIAL_WINDOW, 100), (INITIAL_WINDOW, 3)]);
    client.send(both).await;
    assert_eq!(client.next_of(kind::DATA).await.unwrap().payload, "el");
    // Three less than nothing, then one more than nothing.
    client.send(settings(&[(INITIAL_WINDOW, 0)])).await;
    client.send([window(1, 3), window(1, 1)].concat()).await;
    assert_eq!(client.next_of(kind::DATA).await.unwrap().payload, "l");
    client.send(window(1, 100)).await;
    let last = client.next_of(kind::DATA).await.unwrap();
    assert_eq!(last.payload, "o");
    assert_eq!(last.flags & flag::END_STREAM, flag::END_STREAM);
    client.half_close().await;
    assert_eq!(client.ended().await, Ended::default());
    parkway.finish().await;
}
