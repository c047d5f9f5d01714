//! Labels and annotations: mostly none, and if some then few.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Labels or annotations, sorted. Two words when there are none; cheap to clone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Labels(Option<Arc<[Label]>>);

type Label = (Box<str>, Box<str>);

impl Labels {
    /// The value of this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let labels = self.labels();
        let place = labels.binary_search_by(|(known, _)| (**known).cmp(key));
        Some(&labels.get(place.ok()?)?.1)
    }

    /// Keys and values in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels().iter().map(|(key, value)| (&**key, &**value))
    }

    /// The keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(key, _)| key)
    }

    /// As a map of its own.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        self.iter().map(owned).collect()
    }

    fn labels(&self) -> &[Label] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(map: BTreeMap<String, String>) -> Self {
        let labels = map.into_iter();
        let labels = labels.map(|(key, value)| (key.into_boxed_str(), value.into_boxed_str()));
        let labels: Vec<Label> = labels.collect();
        Self((!labels.is_empty()).then(|| labels.into()))
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_by_their_keys() {
        let map: BTreeMap<String, String> = ["b", "a", "c"]
            .map(|key| (key.to_owned(), key.to_uppercase()))
            .into();
        let labels = Labels::from(map.clone());
        assert_eq!(labels.get("b"), Some("B"));
        assert_eq!(labels.get("d"), None);
        assert_eq!(labels.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(labels.to_map(), map);
        assert_eq!(Labels::from(BTreeMap::new()), Labels::default());
    }
}
