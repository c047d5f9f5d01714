//! WebSocket messages, and their echo: RFC 6455, as much of it as small messages need.
//!
//! The handshake is the RFC's own example (section 1.3), so that nothing needs SHA-1.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The bytes of a message.
const MESSAGE: usize = 64;
/// The bytes of a frame's head without and with a mask: RFC 6455 section 5.2, lengths below 126.
const HEAD: usize = 2;
const MASKED_HEAD: usize = 6;
/// A final binary frame.
const BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [1, 2, 3, 4];

/// How an endpoint accepts the handshake.
pub(crate) const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A client with one message under way.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    message: Vec<u8>,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(to: SocketAddr, host: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(to).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let handshake = format!(
            "GET /socket HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(handshake.as_bytes()).await?;
        let mut buffer = vec![0; 4096];
        let mut filled = 0;
        while !buffer[..filled].ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer[filled..]).await? {
                0 => bail!("closed during the handshake"),
                read => filled += read,
            }
        }
        ensure!(
            buffer.starts_with(b"HTTP/1.1 101 "),
            "the upgrade was refused"
        );
        Ok(Self {
            stream,
            message: masked(&[b'm'; MESSAGE]),
            buffer,
        })
    }

    /// Sends a message, and checks what comes back.
    pub(crate) async fn exchange(&mut self) -> Result<()> {
        self.stream
            .write_all(&self.message)
            .await
            .context("sending")?;
        let expected = HEAD + MESSAGE;
        let mut filled = 0;
        while filled < expected {
            match self
                .stream
                .read(&mut self.buffer[filled..])
                .await
                .context("receiving")?
            {
                0 => bail!("closed before the message came back"),
                read => filled += read,
            }
        }
        ensure!(filled == expected, "bytes behind the message");
        ensure!(
            self.buffer[HEAD..filled].iter().all(|byte| *byte == b'm'),
            "another message"
        );
        Ok(())
    }
}

/// The endpoint's side: sends each message back, beginning with `early`, which came with the handshake.
pub(crate) async fn echo(mut stream: TcpStream, early: &[u8]) -> Result<()> {
    let mut buffer = early.to_vec();
    buffer.resize(4096.max(early.len()), 0);
    let mut filled = early.len();
    loop {
        while let Some(length) = frame(&buffer[..filled])? {
            let echo = unmasked(&buffer[..length]);
            stream.write_all(&echo).await?;
            buffer.copy_within(length..filled, 0);
            filled -= length;
        }
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Ok(()),
            read => filled += read,
        }
    }
}

/// The length of the masked frame at the front, if it is whole.
fn frame(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(second) = bytes.get(1) else {
        return Ok(None);
    };
    let payload = usize::from(second & !MASKED);
    ensure!(
        second & MASKED != 0 && payload < 126,
        "a frame nobody sends here"
    );
    let length = MASKED_HEAD + payload;
    Ok((bytes.len() >= length).then_some(length))
}

fn masked(payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or_default();
    let mut frame = vec![BINARY, MASKED | length];
    frame.extend(MASK);
    frame.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

fn unmasked(frame: &[u8]) -> Vec<u8> {
    let (head, payload) = frame.split_at(MASKED_HEAD);
    let mask = head[HEAD..].iter().cycle();
    let mut echo = vec![head[0], head[1] & !MASKED];
    echo.extend(payload.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    echo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_the_message_without_its_mask() {
        let message = masked(b"hello");
        assert_eq!(frame(&message).unwrap(), Some(message.len()));
        assert_eq!(frame(&message[..7]).unwrap(), None);
        assert_eq!(unmasked(&message), b"\x82\x05hello");
    }

    #[test]
    fn a_frame_without_a_mask_is_an_error() {
        assert!(frame(b"\x82\x05hello").is_err());
    }
}
