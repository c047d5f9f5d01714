//! What was there before Parkway took its place, kept in the cluster.
//!
//! A ConfigMap holds each object as it was, and the former ingress class. It is written before anything is replaced, so
//! that a kill at any moment leaves it complete, and removed when all is back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::{ApiError, Cluster, Mode};
use super::object::{Name, Object, PROVIDER, PROVIDER_LABEL};

/// The ConfigMap. It has none of the labels by which Knative's webhook picks ConfigMaps to validate.
pub const CONFIG_MAP: &str = "parkway-former";

/// The key of the ingress class; objects have `Kind.name`.
const CLASS_KEY: &str = "ingress-class";

/// The ingress class of the cluster, then and now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// What config-network said before; none: nothing.
    pub former: Option<String>,
    /// What Parkway made of it.
    pub set: String,
}

/// What is kept.
#[derive(Debug)]
pub struct Former {
    name: Name,
    data: BTreeMap<String, String>,
    /// As it is in the cluster.
    stored: Option<Object>,
}

impl Former {
    /// Reads what is kept, if anything.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub async fn read(cluster: &Cluster, namespace: &str) -> Result<Self, ApiError> {
        let name = Name::new("v1", "ConfigMap", namespace, CONFIG_MAP);
        let stored = cluster.get(&name).await?;
        let data = stored.as_ref().and_then(|stored| stored.0.get("data"));
        let entries = data.and_then(Value::as_object).into_iter().flatten();
        let data = entries
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect();
        Ok(Self { name, data, stored })
    }

    /// Whether anything is kept.
    pub fn is_empty(&self) -> bool {
        self.stored.is_none()
    }

    /// The object that was there under this name.
    pub fn object(&self, name: &Name) -> Option<Object> {
        let text = self.data.get(&key(name))?;
        serde_json::from_str(text).ok().map(Object)
    }

    /// The class that was there.
    pub fn class(&self) -> Option<Class> {
        let text = self.data.get(CLASS_KEY)?;
        serde_json::from_str(text).ok()
    }

    /// Keeps an object that is about to be replaced.
    ///
    /// Its `managedFields` are kept too: with them whoever manages it later finds it as it was.
    pub fn keep_object(&mut self, object: &Object) {
        let mut kept = object.written();
        if let Some(fields) = object.0.pointer("/metadata/managedFields") {
            kept.set_metadata("managedFields", fields.clone());
        }
        self.data.insert(key(&object.id()), kept.0.to_string());
    }

    /// Keeps the class that is about to be replaced by this one.
    pub fn keep_class(&mut self, current: Option<&str>, set: &str) {
        let known = self.class();
        // What is there now may be what we have made of it.
        let former = match known {
            Some(known) if current == Some(known.set.as_str()) => known.former,
            _ if current == Some(set) => return,
            _ => current.map(str::to_owned),
        };
        let class = Class {
            former,
            set: set.to_owned(),
        };
        self.data
            .insert(CLASS_KEY.to_owned(), json!(class).to_string());
    }

    /// Writes what has changed.
    ///
    /// # Errors
    ///
    /// When it cannot be written; a conflict if another install is under way.
    pub async fn write(&mut self, cluster: &Cluster) -> Result<(), ApiError> {
        let data = json!(self.data);
        let stored = match &self.stored {
            None if self.data.is_empty() => return Ok(()),
            None => {
                cluster
                    .create(&self.config_map(&data), Mode::Change)
                    .await?
            }
            Some(stored) if stored.0.get("data") == Some(&data) => return Ok(()),
            Some(stored) => {
                let mut changed = stored.clone();
                changed.0["data"] = data;
                cluster.replace(&changed, Mode::Change).await?
            }
        };
        self.stored = Some(stored);
        Ok(())
    }

    /// Removes it from the cluster.
    ///
    /// # Errors
    ///
    /// When it cannot be removed.
    pub async fn remove(self, cluster: &Cluster) -> Result<(), ApiError> {
        cluster.delete(&self.name, Mode::Change).await?;
        Ok(())
    }

    fn config_map(&self, data: &Value) -> Object {
        Object(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": self.name.name,
                "namespace": self.name.namespace,
                "labels": {PROVIDER_LABEL: PROVIDER},
                "annotations": {
                    "description": "what was here before Parkway; `parkway uninstall` puts it back",
                },
            },
            "data": data,
        }))
    }
}

fn key(name: &Name) -> String {
    format!("{}.{}", name.kind, name.name)
}
