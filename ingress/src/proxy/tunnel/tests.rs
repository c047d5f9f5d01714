use std::task::{Context, Waker};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

/// One direction between two pipes: what is sent, what has come out, and how it went.
struct Pipes {
    way: Way,
    sender: DuplexStream,
    from: DuplexStream,
    to: DuplexStream,
    receiver: DuplexStream,
}

impl Pipes {
    /// The receiver's pipe takes no more than `room` bytes.
    fn new(early: &'static [u8], room: usize) -> Self {
        let ((sender, from), (to, receiver)) = (duplex(1 << 20), duplex(room));
        Self {
            way: Way::with(Bytes::from_static(early)),
            sender,
            from,
            to,
            receiver,
        }
    }

    fn poll(&mut self) -> Poll<io::Result<()>> {
        let cx = &mut Context::from_waker(Waker::noop());
        self.way.poll(cx, &mut self.from, &mut self.to)
    }
}

#[tokio::test]
async fn what_came_early_goes_first_and_the_end_last() {
    let mut pipes = Pipes::new(b"early ", 1024);
    pipes.sender.write_all(b"bird").await.unwrap();
    pipes.sender.shutdown().await.unwrap();
    assert!(pipes.poll().is_ready());
    let mut text = String::new();
    pipes.receiver.read_to_string(&mut text).await.unwrap();
    assert_eq!((text.as_str(), pipes.way.bytes), ("early bird", 10));
}

#[tokio::test]
async fn a_silent_direction_keeps_no_memory() {
    let mut pipes = Pipes::new(b"early", 1024);
    pipes.sender.write_all(b"more").await.unwrap();
    assert!(pipes.poll().is_pending());
    assert!(pipes.way.rest.is_empty());
    assert_eq!(pipes.way.rest.as_ptr(), Bytes::new().as_ptr());
}

#[tokio::test]
async fn what_is_not_taken_is_kept_and_nothing_more_is_read_until_it_is() {
    let mut pipes = Pipes::new(b"", 10);
    let sent: Vec<u8> = (0..=255).cycle().take(3 * PIECE).collect();
    pipes.sender.write_all(&sent).await.unwrap();
    pipes.sender.shutdown().await.unwrap();
    assert!(pipes.poll().is_pending());
    assert_eq!(pipes.way.rest.len(), PIECE - 10);
    let Pipes {
        way,
        from,
        to,
        receiver,
        ..
    } = &mut pipes;
    let mut got = Vec::new();
    let passing = poll_fn(|cx| {
        assert!(way.rest.len() <= PIECE);
        way.poll(cx, from, to)
    });
    let reading = async {
        let mut some = [0; 10];
        while got.len() < sent.len() {
            let count = receiver.read(&mut some).await.unwrap();
            got.extend_from_slice(&some[..count]);
        }
    };
    let (passed, ()) = tokio::join!(passing, reading);
    passed.unwrap();
    assert!(got == sent);
    assert_eq!(way.state, State::Ended);
}

#[tokio::test]
async fn a_receiver_that_is_gone_breaks_it() {
    let mut pipes = Pipes::new(b"", 10);
    drop(std::mem::replace(&mut pipes.receiver, duplex(1).0));
    pipes.sender.write_all(b"x").await.unwrap();
    assert!(matches!(pipes.poll(), Poll::Ready(Err(_))));
}
