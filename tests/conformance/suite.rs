//! A Parkway that serves recorded objects, with backends of this process behind them.
//!
//! The objects stay as they were recorded but for addresses: an EndpointSlice gets the loopback address and port of a
//! backend, an `ExternalName` leads to Parkway's own inner entrance. Where they come from is the test's choice: every
//! case runs with each [`Source`].

use std::collections::BTreeMap;
use std::net::SocketAddr;

use parkway_tests::{Parkway, Site};
use serde_json::{Value, json};

use crate::images::{Backend, Image};
use crate::recording;
use crate::source::{Place, Source};

/// The tests of these cases: each once with `parkway run` and manifests, once with `parkway serve` and an API server.
macro_rules! from_both_sources {
    ($($case:ident),+ $(,)?) => {
        mod from_files {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case($crate::source::Source::Files).await;
                }
            )+
        }
        mod from_an_api_server {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case($crate::source::Source::ApiServer).await;
                }
            )+
        }
    };
}
pub(crate) use from_both_sources;

/// By kind and name.
pub(crate) type Objects = BTreeMap<(String, String), Value>;

/// What would be in the cluster.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    objects: Objects,
    /// By the Service or Revision in front of them.
    backends: BTreeMap<String, Backend>,
}

impl Cluster {
    /// Adds an object, or replaces one.
    pub(crate) fn put(&mut self, object: Value) {
        let field = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap()
                .to_owned()
        };
        let key = (field("/kind"), field("/metadata/name"));
        self.objects.insert(key, object);
    }

    /// Adds a Service of the suite, its EndpointSlice, and the backend behind them; those that are there stay.
    pub(crate) async fn serve(&mut self, service: &str, image: Image) {
        if self.backends.contains_key(service) {
            return;
        }
        let backend = Backend::start(service, image).await;
        self.put(recording::service(service));
        self.put(at(recording::slice(service).unwrap(), backend.address));
        self.backends.insert(service.to_owned(), backend);
    }

    /// Adds a backend to which EndpointSlices are going to lead.
    pub(crate) async fn backend(&mut self, name: &str, image: Image) -> SocketAddr {
        let backend = Backend::start(name, image).await;
        let address = backend.address;
        self.backends.insert(name.to_owned(), backend);
        address
    }

    /// Takes away a Service and its EndpointSlice; the backend is the caller's to end.
    pub(crate) fn remove(&mut self, service: &str) -> Backend {
        let slice = recording::slice(service).unwrap();
        let slice = slice["metadata"]["name"].as_str().unwrap().to_owned();
        self.objects
            .remove(&("EndpointSlice".to_owned(), slice))
            .unwrap();
        self.objects
            .remove(&("Service".to_owned(), service.to_owned()))
            .unwrap();
        self.backends.remove(service).unwrap()
    }
}

/// A slice whose Pods are all this endpoint; of its ports, the one for requests.
pub(crate) fn at(mut slice: Value, endpoint: SocketAddr) -> Value {
    for pod in slice["endpoints"].as_array_mut().unwrap() {
        pod["addresses"] = json!([endpoint.ip().to_string()]);
    }
    for port in slice["ports"].as_array_mut().unwrap() {
        if matches!(port["name"].as_str(), None | Some("" | "http" | "http2")) {
            port["port"] = endpoint.port().into();
        }
    }
    slice
}

/// A KIngress of the suite.
#[derive(Debug)]
pub(crate) struct Row(Value);

impl Row {
    /// The hosts of all rules, in their order.
    pub(crate) fn hosts(&self) -> Vec<String> {
        let hosts = self
            .rules()
            .iter()
            .flat_map(|rule| rule["hosts"].as_array().unwrap());
        hosts
            .map(|host| host.as_str().unwrap().to_owned())
            .collect()
    }

    /// The first host.
    pub(crate) fn host(&self) -> &str {
        self.0["spec"]["rules"][0]["hosts"][0].as_str().unwrap()
    }

    /// The paths of all rules, in their order.
    pub(crate) fn paths(&self) -> Vec<Value> {
        self.rules()
            .iter()
            .flat_map(|rule| rule["http"]["paths"].as_array().unwrap().clone())
            .collect()
    }

    /// The splits of all paths, in their order.
    pub(crate) fn splits(&self) -> Vec<Value> {
        self.paths()
            .iter()
            .flat_map(|path| path["splits"].as_array().unwrap().clone())
            .collect()
    }

    /// The Services of all splits, in their order.
    pub(crate) fn services(&self) -> Vec<String> {
        self.splits()
            .iter()
            .map(|split| split["serviceName"].as_str().unwrap().to_owned())
            .collect()
    }

    fn rules(&self) -> &Vec<Value> {
        self.0["spec"]["rules"].as_array().unwrap()
    }
}

/// A Parkway with what it serves.
#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) parkway: Parkway,
    pub(crate) cluster: Cluster,
    pub(crate) place: Place,
    rows: BTreeMap<String, Row>,
}

impl Suite {
    /// Starts with these rows, all backends of one image.
    pub(crate) async fn start(source: Source, rows: &[&str], image: Image) -> Self {
        Self::start_with(source, rows, |_service| image.clone()).await
    }

    /// Starts with these rows; each Service's backend has its own image.
    pub(crate) async fn start_with(
        source: Source,
        rows: &[&str],
        image: impl Fn(&str) -> Image,
    ) -> Self {
        let mut suite = Self::of(source, Cluster::default()).await;
        suite.add_with(rows, image).await;
        suite
    }

    /// Starts with objects that are no rows of the suite.
    pub(crate) async fn of(source: Source, cluster: Cluster) -> Self {
        let (place, parkway) = Place::start(source, &cluster.objects).await;
        Self {
            parkway,
            cluster,
            place,
            rows: BTreeMap::new(),
        }
    }

    /// Adds a KIngress that was not recorded, with a backend for each of its Services that was.
    pub(crate) async fn add_row(&mut self, name: &str, ingress: Value, image: Image) {
        self.place_row(name, ingress, |_service| image.clone())
            .await;
        self.apply().await;
    }

    /// Adds rows, all backends of one image.
    pub(crate) async fn add(&mut self, rows: &[&str], image: Image) {
        self.add_with(rows, |_service| image.clone()).await;
    }

    async fn add_with(&mut self, rows: &[&str], image: impl Fn(&str) -> Image) {
        for name in rows {
            self.place_row(name, recording::ingress(name), &image).await;
        }
        self.apply().await;
    }

    async fn place_row(&mut self, name: &str, ingress: Value, image: impl Fn(&str) -> Image) {
        let row = Row(ingress);
        for service in row.services() {
            self.cluster.serve(&service, image(&service)).await;
        }
        self.cluster.put(row.0.clone());
        self.rows.insert(name.to_owned(), row);
    }

    /// Adds a row whose Service is an `ExternalName`, which leads to the inner entrance here as it did there.
    pub(crate) async fn add_with_inner_entrance(&mut self, name: &str) {
        let inner = self.parkway.local();
        let mut ingress = recording::ingress(name);
        let split = &mut ingress["spec"]["rules"][0]["http"]["paths"][0]["splits"][0];
        let service = recording::service(split["serviceName"].as_str().unwrap());
        split["servicePort"] = inner.port().into();
        self.cluster.put(leading_to(service, inner));
        self.cluster.put(ingress.clone());
        self.rows.insert(name.to_owned(), Row(ingress));
        self.apply().await;
        self.endpoints_known().await;
    }

    /// A row that was added.
    pub(crate) fn row(&self, name: &str) -> &Row {
        &self.rows[name]
    }

    /// A host at the external entrance.
    pub(crate) fn outside(&self, host: &str) -> Site {
        self.parkway.at(host)
    }

    /// A host at the cluster-local entrance.
    pub(crate) fn inside(&self, host: &str) -> Site {
        self.parkway.at_local(host)
    }

    /// Writes what has changed, and waits until requests are served by it.
    pub(crate) async fn apply(&mut self) {
        self.place.write(&self.parkway, &self.cluster.objects).await;
    }

    /// Waits until the names of external Services are resolved.
    pub(crate) async fn endpoints_known(&self) {
        let all = |state: &parkway_tests::State| {
            state
                .revisions()
                .iter()
                .all(|revision| revision.ready_endpoints() > 0)
        };
        self.parkway.state_when("endpoints everywhere", all).await;
    }

    /// Proves that nothing is left, and ends it.
    pub(crate) async fn finish(self) {
        self.parkway.finish().await;
    }
}

/// An `ExternalName` Service that stands for this address.
pub(crate) fn leading_to(mut service: Value, address: SocketAddr) -> Value {
    service["spec"]["externalName"] = address.ip().to_string().into();
    service["spec"]["ports"][0]["port"] = address.port().into();
    service
}
