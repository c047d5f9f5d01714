//! What the fuzz targets do with their bytes, as plain functions: `fuzz_targets/` runs them with what libFuzzer thinks of,
//! and `tests/corpora.rs` of the crate with what is kept in `corpus/`.
//!
//! Each panics when a promise is broken, not only when the code does.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use parkway_activator::revision::{
    ContainerConcurrency, Protocol, RevisionId, RevisionSpec, Timeouts,
};
use parkway_ingress::frontend::proxy_protocol::{self, Header};
use parkway_ingress::provider::document;
use parkway_ingress::provider::object::{self, Object};
use parkway_ingress::provider::translate::{Lookup, Translation, translate};
use parkway_ingress::routing::headers::{
    Arrival, EntranceKind, NOT_FROM_OUTSIDE, Present, Scheme, admit,
};
use parkway_ingress::routing::host::{Host, WrittenHost};
use parkway_ingress::routing::rules::Visibility;
use parkway_ingress::routing::table::RouteSnapshot;
use parkway_ingress::routing::validate::{self, validate};

/// A target's body.
pub type Body = fn(&[u8]);

/// Every target of this crate by its name.
pub const ALL: [(&str, Body); 6] = [
    ("host_and_path", host_and_path),
    ("header_edits", header_edits),
    ("forwarded", forwarded),
    ("kingress", kingress),
    ("manifests", manifests),
    ("proxy_protocol", proxy_protocol),
];

/// `host`, `path`, and fields, a line each: what is found for them.
pub fn host_and_path(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let host = lines.next().unwrap_or_default();
    let path = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let headers = fields(lines);
    let written = HeaderValue::from_bytes(host).ok();
    let written = written.and_then(|value| WrittenHost::parse(value).ok());
    let parsed = std::str::from_utf8(host).ok().map(Host::parse);
    let parsed = parsed.and_then(Result::ok);
    if let (Some(written), Some(parsed)) = (&written, &parsed) {
        assert_eq!(written.host(), *parsed, "both ways to read a host agree");
    }
    let Some(host) = parsed else {
        return;
    };
    let again = Host::parse(host.as_str()).expect("what is normal is a host");
    assert_eq!(again, host, "what is normal stays as it is");
    assert!(!host.as_str().bytes().any(|byte| byte.is_ascii_uppercase()));

    let routes = routes();
    for entrance in [Visibility::ExternalIp, Visibility::ClusterLocal] {
        let Ok(found) = routes.find(entrance, &host, &path, &headers) else {
            continue;
        };
        assert!(path.starts_with('/') || found.path.prefix.is_empty());
        if entrance == Visibility::ExternalIp {
            assert!(!host.as_str().ends_with("inside.example.com"), "{host}");
        }
        let present = Present::in_head(&headers);
        let mut fields = headers.clone();
        let first = |matched: parkway_ingress::routing::table::Match<'static>| {
            matched.path.splits.iter().next().expect("a share").1
        };
        if let Ok(resolved) = routes.resolve(entrance, &host, &path, &mut fields, present, first) {
            assert!((1..=2).contains(&resolved.passes), "{host}");
            assert!(
                !fields.contains_key("knative-serving-tag") || entrance != Visibility::ExternalIp
            );
        }
    }
}

/// A method, a target and a version, a line each, and fields: what is left of a head from outside.
pub fn header_edits(data: &[u8]) {
    let Some(mut parts) = head(data) else {
        return;
    };
    if validate(&parts, &validate::Limits::default()).is_err() {
        return;
    }
    let version = parts.version;
    let upgrade = admit(&mut parts, &outside(0));
    let headers = &parts.headers;
    for name in NOT_FROM_OUTSIDE {
        assert!(!headers.contains_key(&name), "{name} is left");
    }
    for name in headers.keys() {
        let kinds = Present::of(name);
        assert!(!kinds.has(Present::UNDERSCORED), "{name} is left");
        let is_for_an_upgrade = upgrade.is_some() && [CONNECTION, UPGRADE].contains(name);
        assert!(
            !kinds.has(Present::HOP_BY_HOP) || is_for_an_upgrade || name == TE,
            "{name} is left"
        );
    }
    assert!(upgrade.is_none() || version == Version::HTTP_11);
    let te: Vec<_> = headers.get_all(TE).iter().collect();
    assert!(te.is_empty() || te == ["trailers"], "{te:?}");
    let of: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    assert_eq!(of, ["192.0.2.1"], "an outsider is whom the connection says");
    assert!(headers.get_all(HOST).iter().count() <= 1);
    assert!(headers.get_all(CONTENT_LENGTH).iter().count() <= 1);
}

/// How many hops are trusted, then fields: what is believed of them.
pub fn forwarded(data: &[u8]) {
    let Some((hops, rest)) = data.split_first() else {
        return;
    };
    let hops = usize::from(hops % 4);
    let mut head = Request::new(()).into_parts().0;
    head.headers = fields(rest.split(|byte| *byte == b'\n'));
    head.headers.insert(HOST, HeaderValue::from_static("shop"));
    admit(&mut head, &outside(hops));
    for (name, ours) in [
        ("x-forwarded-for", "192.0.2.1"),
        ("forwarded", "for=192.0.2.1;host=shop;proto=http"),
    ] {
        let mut lines = head.headers.get_all(name).iter();
        let line = lines.next().expect("it is always said");
        assert!(lines.next().is_none(), "in one line");
        let line = line.to_str().expect("text");
        assert!(line.ends_with(ours), "{line:?}");
        let before = line.strip_suffix(ours).unwrap_or_default();
        assert!(before.is_empty() || before.ends_with(", "), "{line:?}");
        if name == "x-forwarded-for" && !before.contains('"') {
            assert!(before.matches(',').count() <= hops, "{line:?}");
        }
    }
    for name in ["x-forwarded-proto", "x-forwarded-host"] {
        assert_eq!(head.headers.get_all(name).iter().count(), 1, "{name}");
    }
}

/// Objects as YAML or JSON: KIngresses are translated, and routes made of them.
pub fn kingress(data: &[u8]) {
    let translation = translated(data);
    let (routes, _conflicts) = RouteSnapshot::build(1, translation.ingresses);
    for entrance in [Visibility::ExternalIp, Visibility::ClusterLocal] {
        for (host, _) in routes.hosts(entrance) {
            let parsed = Host::parse(host).expect("only hosts are listed");
            assert_eq!(parsed.as_str(), host, "and normal ones");
            assert!(routes.lists_host(entrance, &parsed));
            for found in routes.paths(entrance, host) {
                let shares = found.path.splits.iter().map(|(share, _)| u32::from(share));
                assert_eq!(shares.sum::<u32>(), 100);
            }
        }
    }
}

/// A file of manifests: documents, and objects where they are some.
pub fn manifests(data: &[u8]) {
    let (documents, problems) = document::read("fuzzed.yaml", data);
    let mut found = (Vec::new(), problems);
    for document in &documents {
        object::read(document, &mut found.0, &mut found.1);
    }
    for problem in &found.1 {
        assert!(!problem.to_string().is_empty());
    }
}

/// The first bytes of a connection: the header is the same wherever reads are cut.
pub fn proxy_protocol(data: &[u8]) {
    const LONGEST: usize = 512;
    let read = proxy_protocol::header(data, LONGEST);
    if let Ok(Header::Whole { length, .. }) = read {
        assert!(length <= data.len() && length <= LONGEST);
        let (header, _) = data.split_at(length);
        assert_eq!(proxy_protocol::header(header, LONGEST), read);
    }
    let known = match read {
        Ok(Header::Whole { length, .. }) => length,
        Ok(Header::Begun) => data.len(),
        Err(_) => return,
    };
    assert!(known <= LONGEST);
    for cut in 0..known {
        let (before, _) = data.split_at(cut);
        assert_eq!(
            proxy_protocol::header(before, LONGEST),
            Ok(Header::Begun),
            "{cut}"
        );
    }
}

fn outside(trusted_hops: usize) -> Arrival {
    Arrival {
        entrance: EntranceKind::Gateway(Visibility::ExternalIp),
        peer: [192, 0, 2, 1].into(),
        scheme: Scheme::Http,
        trusted_hops,
    }
}

/// `name: value` lines, as far as they are fields.
fn fields<'a>(lines: impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    headers
}

fn head(data: &[u8]) -> Option<Parts> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let method = Method::from_bytes(lines.next()?).ok()?;
    let uri = Uri::try_from(lines.next()?).ok()?;
    let version = match lines.next()? {
        b"1.0" => Version::HTTP_10,
        b"2" => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    let mut parts = Request::new(()).into_parts().0;
    (parts.method, parts.uri, parts.version) = (method, uri, version);
    parts.headers = fields(lines);
    Some(parts)
}

/// Routes with what there is to find: hosts outside and inside, prefixes, headers, tags, another host.
fn routes() -> &'static RouteSnapshot {
    static ROUTES: OnceLock<RouteSnapshot> = OnceLock::new();
    ROUTES.get_or_init(|| {
        let translation = translated(include_bytes!("routes.yaml"));
        let problems: Vec<_> = translation
            .problems
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(problems.is_empty(), "{problems:?}");
        let (routes, conflicts) = RouteSnapshot::build(1, translation.ingresses);
        assert!(conflicts.is_empty());
        routes
    })
}

fn spec() -> RevisionSpec {
    RevisionSpec {
        concurrency: ContainerConcurrency::default(),
        protocol: Protocol::default(),
        timeouts: Timeouts::default(),
        service: "shop".into(),
        configuration: "shop".into(),
    }
}

fn translated(text: &[u8]) -> Translation {
    let (documents, mut problems) = document::read("fuzzed.yaml", text);
    let mut objects = Vec::new();
    for document in &documents {
        object::read(document, &mut objects, &mut problems);
    }
    let services = objects.iter().filter_map(|object| match object {
        Object::CoreService(service) => Some(&**service),
        _ => None,
    });
    let slices = objects.iter().filter_map(|object| match object {
        Object::EndpointSlice(slice) => Some(&**slice),
        _ => None,
    });
    let ingresses = objects.iter().filter_map(|object| match object {
        Object::Ingress(ingress) => Some(&**ingress),
        _ => None,
    });
    let id = RevisionId::new("default", "shop-00001");
    let revisions = BTreeMap::from([(id, Arc::new(spec()))]);
    translate(
        ingresses.collect(),
        &Lookup::new(services, slices, revisions),
    )
}
