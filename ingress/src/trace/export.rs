//! The thread that makes spans of what has ended, and sends them.
//!
//! Nobody waits for it: what it cannot send in time is dropped and counted. A collector that is away is asked again with
//! whatever has ended since.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{
    ExporterBuildError, Protocol as OtlpProtocol, SpanExporter, WithExportConfig as _,
    WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use parkway_activator::cold_start::{ColdStart, Milestone, Outcome};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::http_client::OtlpClient;
use super::queue::{StartToTell, Tracer};
use super::recording::Recording;
use super::settings::{Collector, Protocol, Settings};
use super::spans::Scribe;
use crate::telemetry::Clock;

/// How long what waits may still take to be sent when the process ends.
const LAST: Duration = Duration::from_secs(3);

/// How long a start is waited for after an endpoint was ready, if none of its responses ends: then it is told as far as
/// it has come.
const SETTLES: Duration = Duration::from_secs(15);

/// No start is waited for longer than this.
const LONGEST_START: Duration = Duration::from_secs(900);

/// Sends traces while it is there.
#[derive(Debug)]
pub struct Exporting {
    tracer: Tracer,
    resource: Vec<KeyValue>,
    settings: watch::Sender<Settings>,
    stop: CancellationToken,
    /// Started when there is somewhere to send to.
    thread: Option<JoinHandle<()>>,
}

impl Exporting {
    /// For so many workers. `resource` names this process besides what the variables say.
    pub fn new(workers: usize, settings: &Settings, resource: &[(&'static str, &str)]) -> Self {
        let resource = resource.iter().filter(|(_, value)| !value.is_empty());
        let resource = resource.map(|(name, value)| KeyValue::new(*name, (*value).to_owned()));
        let (sender, _) = watch::channel(Settings {
            collector: None,
            ..settings.clone()
        });
        let mut exporting = Self {
            tracer: Tracer::new(workers, settings.room),
            resource: resource.collect(),
            settings: sender,
            stop: CancellationToken::new(),
            thread: None,
        };
        exporting.configure(settings.clone());
        exporting
    }

    /// What workers put their traces into.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// From now on traces are kept and sent like this.
    pub fn configure(&mut self, settings: Settings) {
        if *self.settings.borrow() == settings {
            return;
        }
        let is_on = settings.collector.is_some();
        let sampler = is_on.then_some(settings.sampler);
        self.settings.send_replace(settings);
        if is_on && self.thread.is_none() {
            match self.start() {
                Ok(thread) => self.thread = Some(thread),
                Err(error) => return warn!(%error, "traces are off: no thread can be had for them"),
            }
        }
        self.tracer.set(sampler);
    }

    fn start(&self) -> std::io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let sender = Sender {
            tracer: self.tracer.clone(),
            scribe: Scribe::new(),
            resource: resource(&self.resource),
            exporter: None,
            pending: Vec::new(),
        };
        let (settings, stop) = (self.settings.subscribe(), self.stop.clone());
        std::thread::Builder::new()
            .name("traces".to_owned())
            .spawn(move || {
                runtime.block_on(sender.run(settings, stop));
                // Whoever looks a name up for it is not waited for.
                runtime.shutdown_background();
            })
    }

    /// Sends what waits, as far as that goes quickly.
    pub async fn finish(self) {
        self.stop.cancel();
        let Some(thread) = self.thread else { return };
        let joined = tokio::task::spawn_blocking(move || thread.join().is_ok());
        if !matches!(
            tokio::time::timeout(LAST + Duration::from_secs(1), joined).await,
            Ok(Ok(true))
        ) {
            warn!("the last traces may not have been sent");
        }
    }
}

/// This process, as traces name it. The variables come first.
fn resource(own: &[KeyValue]) -> Resource {
    let said = Resource::builder().build();
    let is_said = |key: &KeyValue| said.get_ref(&key.key).is_some();
    let name = said.get(&SERVICE_NAME.into());
    let is_named = name.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let mut builder = Resource::builder();
    if !is_named {
        builder = builder.with_service_name("parkway");
    }
    let own = own.iter().filter(|key| !is_said(key)).cloned();
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let version = Some(version).filter(|version| !is_said(version));
    builder.with_attributes(own.chain(version)).build()
}

const SERVICE_NAME: &str = "service.name";

/// What the thread has.
struct Sender {
    tracer: Tracer,
    scribe: Scribe,
    resource: Resource,
    exporter: Option<SpanExporter>,
    /// Starts that are not over.
    pending: Vec<StartToTell>,
}

impl Sender {
    async fn run(mut self, mut settings: watch::Receiver<Settings>, stop: CancellationToken) {
        let mut current = settings.borrow_and_update().clone();
        self.connect(&current);
        loop {
            tokio::select! {
                () = tokio::time::sleep(current.delay) => {}
                () = self.tracer.filling() => {}
                Ok(()) = settings.changed() => {
                    current = settings.borrow_and_update().clone();
                    self.connect(&current);
                }
                () = stop.cancelled() => break,
            }
            self.turn(&current, false).await;
        }
        let last = tokio::time::timeout(LAST, self.turn(&current, true)).await;
        if last.is_err() {
            warn!("the last traces were not sent in time");
        }
    }

    fn connect(&mut self, settings: &Settings) {
        self.exporter = None;
        self.tracer.fails(None);
        let Some(collector) = &settings.collector else {
            return;
        };
        match exporter(collector, settings) {
            Ok(mut exporter) => {
                exporter.set_resource(&self.resource);
                info!(?collector, sampler = ?settings.sampler, "traces are sent");
                self.exporter = Some(exporter);
            }
            Err(error) => {
                self.tracer.fails(Some(&error.to_string()));
                warn!(%error, "traces cannot be sent");
            }
        }
    }

    /// Sends what there is.
    async fn turn(&mut self, settings: &Settings, is_last: bool) {
        let recordings = self.tracer.take();
        self.pending.extend(self.tracer.take_starts());
        let clock = Clock::now();
        let mut spans = Vec::new();
        let now = clock.instant();
        let (over, pending) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|start| is_last || is_over(&start.start, now));
        self.pending = pending;
        let over: Vec<StartToTell> = over;
        for start in over {
            self.scribe.start(&start, &clock, &mut spans);
        }
        for recording in recordings {
            self.write(*recording, &clock, &mut spans);
            if spans.len() >= settings.batch {
                self.send(std::mem::take(&mut spans), settings).await;
            }
        }
        if !spans.is_empty() {
            self.send(spans, settings).await;
        }
    }

    fn write(&self, recording: Recording, clock: &Clock, spans: &mut Vec<SpanData>) {
        self.scribe.request(recording, clock, spans);
    }

    async fn send(&mut self, spans: Vec<SpanData>, settings: &Settings) {
        let count = spans.len();
        let Some(exporter) = &self.exporter else {
            return self.tracer.failed(count);
        };
        let sent = tokio::time::timeout(settings.timeout, exporter.export(spans)).await;
        let failure = match sent {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_elapsed) => Some(format!("no answer within {:?}", settings.timeout)),
        };
        match failure {
            None => {
                self.tracer.exported(count);
                if self.tracer.fails(None) {
                    info!("traces are sent again");
                }
            }
            Some(error) => {
                self.tracer.failed(count);
                if self.tracer.fails(Some(&error)) {
                    warn!(%error, "traces are lost: the collector does not take them; it is asked again with the next ones");
                }
            }
        }
    }
}

/// Whether there is nothing more to be seen of a start, or nothing that is worth waiting for.
fn is_over(start: &Arc<ColdStart>, now: Instant) -> bool {
    if start.has_seen(Milestone::Finished) {
        return true;
    }
    let state = start.state(now);
    match state.outcome {
        Outcome::Failed(_) | Outcome::Abandoned => true,
        Outcome::Starting => now.saturating_duration_since(state.arrived) > LONGEST_START,
        Outcome::Ready => {
            let ready = { state.seen.iter() }.find(|seen| seen.milestone == Milestone::Ready);
            ready.is_none_or(|ready| now.saturating_duration_since(ready.at) > SETTLES)
        }
    }
}

fn exporter(
    collector: &Collector,
    settings: &Settings,
) -> Result<SpanExporter, Box<dyn std::error::Error>> {
    let built: Result<_, ExporterBuildError> = match collector.protocol {
        Protocol::Grpc => {
            let mut builder = SpanExporter::builder()
                .with_tonic()
                .with_timeout(settings.timeout);
            if let Some(endpoint) = &collector.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            builder.build()
        }
        Protocol::Http => {
            let mut builder = SpanExporter::builder()
                .with_http()
                .with_http_client(OtlpClient::try_new(settings.timeout)?)
                .with_protocol(OtlpProtocol::HttpBinary)
                .with_timeout(settings.timeout);
            if let Some(endpoint) = &collector.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            builder.build()
        }
    };
    Ok(built?)
}
