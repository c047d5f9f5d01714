//! Where traces go and which are kept: OpenTelemetry's variables, and Knative's `config-observability` before them.
//!
//! Sources: opentelemetry-specification `specification/configuration/sdk-environment-variables.md` and
//! `specification/protocol/exporter.md`; knative/pkg `observability/tracing/config.go`. Headers, timeout and resource
//! are read from their variables where they are needed.

use std::time::Duration;

use super::Sampler;
use super::queue::RECORDINGS;

/// Where traces go and which are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where they go; nowhere: tracing is off.
    pub collector: Option<Collector>,
    /// Which are kept, besides those of cold starts.
    pub sampler: Sampler,
    /// How many recordings may wait.
    pub(super) room: usize,
    /// How long one waits at most.
    pub(super) delay: Duration,
    /// How many spans are sent at once, about.
    pub(super) batch: usize,
    /// How long sending them may take.
    pub(super) timeout: Duration,
}

/// An OTLP receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Where it is; none: where the variables say.
    pub endpoint: Option<String>,
}

/// A protocol of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// Protobuf over HTTP.
    Http,
}

/// A value that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {value:?} is not {expected}")]
pub struct InvalidSettings {
    name: String,
    value: String,
    expected: &'static str,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            collector: None,
            sampler: Sampler::parent_based(1.0),
            room: RECORDINGS,
            delay: DELAY,
            batch: BATCH,
            timeout: TIMEOUT,
        }
    }
}

/// As the specification has it.
const DELAY: Duration = Duration::from_secs(5);
const BATCH: usize = 512;
const TIMEOUT: Duration = Duration::from_secs(10);

impl Settings {
    /// What the variables of the environment say. Tracing is on when one of them names an endpoint, or when
    /// `OTEL_TRACES_EXPORTER` is `otlp`.
    ///
    /// # Errors
    ///
    /// When a value cannot be used.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidSettings> {
        let value = |name: &str| {
            let value = variable(name)?;
            let value = value.trim();
            (!value.is_empty()).then(|| value.to_owned())
        };
        let millis = |name: &str, default: Duration| match value(name) {
            None => Ok(default),
            Some(text) => number(name, &text).map(Duration::from_millis),
        };
        let count = |name: &str, default: usize| match value(name) {
            None => Ok(default),
            Some(text) => number(name, &text)
                .map(|number| usize::try_from(number).unwrap_or(usize::MAX).max(1)),
        };
        let own_timeout = millis("OTEL_EXPORTER_OTLP_TIMEOUT", TIMEOUT)?;
        let mut settings = Self {
            collector: None,
            sampler: sampler(&value)?,
            room: count("OTEL_BSP_MAX_QUEUE_SIZE", RECORDINGS)?,
            delay: millis("OTEL_BSP_SCHEDULE_DELAY", DELAY)?.max(SHORTEST_DELAY),
            batch: count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH)?,
            timeout: millis("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", own_timeout)?,
        };
        let is_disabled = value("OTEL_SDK_DISABLED");
        if is_disabled.is_some_and(|said| said.eq_ignore_ascii_case("true")) {
            return Ok(settings);
        }
        let is_on = match value("OTEL_TRACES_EXPORTER").as_deref() {
            Some("otlp") => true,
            Some("none") => false,
            Some(other) => {
                return Err(invalid("OTEL_TRACES_EXPORTER", other, "otlp or none"));
            }
            None => ENDPOINTS.iter().any(|name| value(name).is_some()),
        };
        if is_on {
            let said = PROTOCOLS
                .iter()
                .find_map(|name| Some((*name, value(name)?)));
            let protocol = match said {
                None => Protocol::Http,
                Some((name, said)) => protocol(name, &said)?,
            };
            settings.collector = Some(Collector {
                protocol,
                endpoint: None,
            });
        }
        Ok(settings)
    }

    /// What `config-observability` says, where it says something; else what these say.
    ///
    /// # Errors
    ///
    /// When a value cannot be used.
    pub fn with_config<'a>(
        mut self,
        value: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Self, InvalidSettings> {
        let value = |name| value(name).map(str::trim).filter(|value| !value.is_empty());
        let (endpoint, rate) = (value(ENDPOINT), value(RATE));
        match value(PROTOCOL) {
            None => {}
            Some("none") => self.collector = None,
            Some(said) => {
                let endpoint = endpoint.ok_or_else(|| invalid(ENDPOINT, "", "an address"))?;
                self.collector = Some(Collector {
                    protocol: protocol(PROTOCOL, said)?,
                    endpoint: Some(endpoint.to_owned()),
                });
                // Knative's default.
                self.sampler = Sampler::parent_based(0.0);
            }
        }
        if let Some(rate) = rate {
            self.sampler = Sampler::parent_based(ratio(RATE, rate)?);
        }
        Ok(self)
    }
}

const PROTOCOL: &str = "tracing-protocol";
const ENDPOINT: &str = "tracing-endpoint";
const RATE: &str = "tracing-sampling-rate";

/// Those of a signal come before the general ones.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
const PROTOCOLS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];

/// However little is asked for, a turn of the exporting thread costs something.
const SHORTEST_DELAY: Duration = Duration::from_millis(10);

fn sampler(value: &impl Fn(&str) -> Option<String>) -> Result<Sampler, InvalidSettings> {
    const NAME: &str = "OTEL_TRACES_SAMPLER";
    const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
    let name = value(NAME);
    let name = name.as_deref().unwrap_or("parentbased_always_on");
    let (follows_caller, own) = match name.strip_prefix("parentbased_") {
        Some(own) => (true, own),
        None => (false, name),
    };
    let ratio = match own {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => match value(ARGUMENT) {
            None => 1.0,
            Some(text) => ratio(ARGUMENT, &text)?,
        },
        _ => {
            let expected =
                "[parentbased_]always_on, [parentbased_]always_off or [parentbased_]traceidratio";
            return Err(invalid(NAME, name, expected));
        }
    };
    Ok(Sampler {
        follows_caller,
        ratio,
    })
}

fn protocol(name: &str, said: &str) -> Result<Protocol, InvalidSettings> {
    match said {
        "grpc" => Ok(Protocol::Grpc),
        "http/protobuf" => Ok(Protocol::Http),
        _ => Err(invalid(name, said, "grpc or http/protobuf")),
    }
}

fn ratio(name: &str, text: &str) -> Result<f64, InvalidSettings> {
    let ratio = text
        .parse()
        .ok()
        .filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| invalid(name, text, "a number from 0 to 1"))
}

fn number(name: &str, text: &str) -> Result<u64, InvalidSettings> {
    text.parse()
        .map_err(|_error| invalid(name, text, "a whole number"))
}

fn invalid(name: &str, value: &str, expected: &'static str) -> InvalidSettings {
    InvalidSettings {
        name: name.to_owned(),
        value: value.to_owned(),
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(values: &[(&str, &str)]) -> Result<Settings, InvalidSettings> {
        Settings::from_env(|name| {
            let found = values.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        })
    }

    fn config(of: Settings, values: &[(&str, &'static str)]) -> Result<Settings, InvalidSettings> {
        of.with_config(|name| Some(values.iter().find(|(known, _)| *known == name)?.1))
    }

    #[test]
    fn tracing_is_off_until_somebody_says_where_traces_go() {
        assert_eq!(env(&[]), Ok(Settings::default()));
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        let http = Some(Collector {
            protocol: Protocol::Http,
            endpoint: None,
        });
        assert_eq!(env(&[endpoint]).unwrap().collector, http);
        assert_eq!(
            env(&[("OTEL_TRACES_EXPORTER", "otlp")]).unwrap().collector,
            http
        );
        for off in [
            ("OTEL_SDK_DISABLED", "true"),
            ("OTEL_TRACES_EXPORTER", "none"),
        ] {
            assert_eq!(env(&[endpoint, off]).unwrap().collector, None);
        }
        let grpc = env(&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap();
        assert_eq!(grpc.collector.unwrap().protocol, Protocol::Grpc);
    }

    #[test]
    fn samplers_are_those_of_the_specification() {
        for (name, argument, follows_caller, ratio) in [
            ("always_on", "", false, 1.0),
            ("always_off", "", false, 0.0),
            ("traceidratio", "0.25", false, 0.25),
            ("parentbased_always_on", "", true, 1.0),
            ("parentbased_always_off", "", true, 0.0),
            ("parentbased_traceidratio", "0.25", true, 0.25),
            ("parentbased_traceidratio", "", true, 1.0),
        ] {
            let of = env(&[
                ("OTEL_TRACES_SAMPLER", name),
                ("OTEL_TRACES_SAMPLER_ARG", argument),
            ]);
            let expected = Sampler {
                follows_caller,
                ratio,
            };
            assert_eq!(of.unwrap().sampler, expected, "{name}");
        }
        let wrong = env(&[
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ]);
        assert_eq!(
            wrong.unwrap_err().to_string(),
            "OTEL_TRACES_SAMPLER_ARG: \"2\" is not a number from 0 to 1"
        );
    }

    #[test]
    fn config_observability_comes_before_the_environment() {
        let base = env(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
            ("OTEL_TRACES_SAMPLER", "always_on"),
        ]);
        let base = base.unwrap();
        assert_eq!(config(base.clone(), &[]), Ok(base.clone()));

        let set = config(
            base.clone(),
            &[
                ("tracing-protocol", "grpc"),
                ("tracing-endpoint", "http://jaeger:4317"),
                ("tracing-sampling-rate", "0.1"),
            ],
        );
        let set = set.unwrap();
        assert_eq!(
            set.collector,
            Some(Collector {
                protocol: Protocol::Grpc,
                endpoint: Some("http://jaeger:4317".to_owned()),
            })
        );
        assert_eq!(set.sampler, Sampler::parent_based(0.1));

        let off = config(base.clone(), &[("tracing-protocol", "none")]);
        assert_eq!(off.unwrap().collector, None);
        assert!(config(base.clone(), &[("tracing-protocol", "grpc")]).is_err());
        assert!(config(base, &[("tracing-sampling-rate", "often")]).is_err());
    }
}
