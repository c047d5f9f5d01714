//! The process's own limits: every bound of the data path with its name, unit and default.
//!
//! A leaf: anyone may use it. Nothing here is re-read while running; a limit that is reached answers as its line says.

use std::num::NonZeroU32;
use std::time::Duration;

/// The bounds of the front end and the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Request head in bytes; above it 431. Default 64 KiB.
    pub header_bytes: usize,
    /// Fields of a request head; cookie crumbs count. Above it 431. Default 128.
    pub header_fields: usize,
    /// Fields of a response head from an endpoint; above it 502. Default 100: as many as the HTTP/1 engine reads without
    /// allocating.
    pub response_fields: usize,
    /// Request target in bytes; above it 414. Default 16 KiB.
    pub uri_bytes: usize,
    /// From accept to the first byte; then the connection is closed. Default 30 s.
    pub first_byte: Duration,
    /// From accept, or the end of a PROXY header, to the end of the TLS handshake; then the connection is closed.
    /// Default 10 s.
    pub tls_handshake: Duration,
    /// From the first byte of a request head to its last; then 408. Default 30 s.
    pub header_read: Duration,
    /// How long a connection without a request is kept; then it is closed. Default 60 s.
    pub idle: Duration,
    /// How long a client may take nothing of an answer that is there for it; then its connection is closed, by HTTP/2 only
    /// the stream if the client still reads others. Default 60 s.
    pub stall: Duration,
    /// How long an idle HTTP/1 connection keeps its buffers; then only the socket stays. Default 1 s.
    pub linger: Duration,
    /// Client connections over all entrances and workers; one more is answered 503 and closed, or only closed where a
    /// handshake or a PROXY header comes first. Default 16,384.
    pub connections: usize,
    /// Connections of one client at the external entrances: of one IPv4 address, or of 64 bits of an IPv6 address; one more
    /// is answered 429 and closed, by TLS only closed. From [`Self::connections`] on they are not counted. Default 16,384:
    /// behind a load balancer all clients may have its address.
    pub client_connections: usize,
    /// From accept to the end of a PROXY header, where one is expected; then the connection is closed. Default 5 s.
    pub proxy_header: Duration,
    /// PROXY header in bytes; a longer one closes the connection. Default 4 KiB.
    pub proxy_header_bytes: usize,
    /// How long a connection that is closed before its client has sent all of a request is read from, so that the answer
    /// arrives. Default 2 s.
    pub lingering: Duration,
    /// Bytes per second that a client has to send of a request's body, on average, while its endpoint waits for them and
    /// has not answered; for each second's worth a second is added to [`Self::body_patience`]. Slower: 408. `None`: no
    /// such bound. Default 240.
    pub body_rate: Option<NonZeroU32>,
    /// How long an endpoint waits for a client's body at first, and at most at a stretch. Default 30 s.
    pub body_patience: Duration,
    /// Connections by HTTP/1 to one endpoint over all workers, shared out evenly; one more request waits for one of its
    /// worker's, in order of arrival. Default 1,024.
    pub endpoint_connections: usize,
    /// The smallest share of one worker in them, however many workers there are. Default 64.
    pub endpoint_connections_per_worker: usize,
    /// Connections by HTTP/2 to one endpoint from one worker. Default 4.
    pub endpoint_h2_connections: usize,
    /// Requests at once on one HTTP/2 connection, both sides. Default 250, as Go's server has it.
    pub h2_streams: u32,
    /// Receive window of one HTTP/2 stream in bytes, both sides. Default 64 KiB. The connection's follows from it:
    /// [`Self::h2_connection_window`].
    pub h2_stream_window: u32,
    /// Streams of one HTTP/2 connection that its client may reset before they are answered, within
    /// [`Self::RESET_WINDOW`]; more, and more than half of the streams begun in that time, end the connection with
    /// `ENHANCE_YOUR_CALM`. Default 200.
    pub h2_resets: u32,
    /// Streams of one HTTP/2 connection that its client may make us reset by errors, in all; one more ends the connection
    /// with `ENHANCE_YOUR_CALM`. Default 100.
    pub h2_stream_errors: usize,
    /// Bytes of answers that wait in memory for one HTTP/2 stream whose client has opened its window but does not read.
    /// Default 64 KiB.
    pub h2_send_buffer: usize,
    /// From connecting to connected; then the attempt failed. Default 5 s, as Kourier has it.
    pub connect: Duration,
    /// How long an unused connection to an endpoint is kept. Default 90 s, as the activator has it.
    pub upstream_idle: Duration,
    /// Request body bytes kept so that a request can be sent again. Default 64 KiB; a longer body is not replayed.
    pub replay_bytes: usize,
    /// Input of one request read ahead while it is parked, so that a departed client is noticed. Default 256 KiB,
    /// within what the queue may hold; a client that sends more is watched without reading.
    pub read_ahead: usize,
    /// How long to hold a request body back that waits for `100 Continue`. Default 1 s, as Go's transport has it.
    pub expect_continue: Duration,
    /// How long parked and running requests may take to end after a signal. Default 30 s.
    pub drain: Duration,
}

impl Limits {
    /// The time in which [`Self::h2_resets`] are counted.
    pub const RESET_WINDOW: Duration = Duration::from_secs(10);

    /// Connections by HTTP/1 to one endpoint from one of `workers` workers.
    pub fn endpoint_share(&self, workers: usize) -> usize {
        (self.endpoint_connections / workers.max(1))
            .max(self.endpoint_connections_per_worker)
            .max(1)
    }

    /// Receive window of one HTTP/2 connection in bytes: room for every stream's window, 16,000 KiB by default.
    ///
    /// A window is given back as its reader takes what came. Were the connection's smaller than those of its streams
    /// together, a few slow readers or parked uploads would fill it, and all other streams would wait for them. What is
    /// held in memory is bounded by the streams' windows all the same.
    pub fn h2_connection_window(&self) -> u32 {
        /// RFC 9113 section 6.9.1.
        const LARGEST: u32 = (1 << 31) - 1;
        self.h2_streams
            .saturating_mul(self.h2_stream_window)
            .min(LARGEST)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 64 * 1024,
            header_fields: 128,
            response_fields: 100,
            uri_bytes: 16 * 1024,
            first_byte: Duration::from_secs(30),
            tls_handshake: Duration::from_secs(10),
            header_read: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            stall: Duration::from_secs(60),
            linger: Duration::from_secs(1),
            connections: 16_384,
            client_connections: 16_384,
            proxy_header: Duration::from_secs(5),
            proxy_header_bytes: 4 * 1024,
            lingering: Duration::from_secs(2),
            body_rate: NonZeroU32::new(240),
            body_patience: Duration::from_secs(30),
            endpoint_connections: 1_024,
            endpoint_connections_per_worker: 64,
            endpoint_h2_connections: 4,
            h2_streams: 250,
            h2_stream_window: 64 * 1024,
            h2_resets: 200,
            h2_stream_errors: 100,
            h2_send_buffer: 64 * 1024,
            connect: Duration::from_secs(5),
            upstream_idle: Duration::from_secs(90),
            replay_bytes: 64 * 1024,
            read_ahead: 256 * 1024,
            expect_continue: Duration::from_secs(1),
            drain: Duration::from_secs(30),
        }
    }
}
