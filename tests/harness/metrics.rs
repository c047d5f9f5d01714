//! `/metrics` as Prometheus reads it.

use std::collections::{BTreeMap, BTreeSet};

/// What was scraped.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Families by name, with what they are: `gauge`, `counter`, `histogram`.
    pub kinds: BTreeMap<String, String>,
    /// Every sample.
    pub samples: Vec<Sample>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The name of the series, its ending included.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Metrics {
    /// Reads the text format.
    pub fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                metrics.kinds.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') && !line.is_empty() {
                metrics.samples.push(Sample::parse(line));
            }
        }
        metrics
    }

    /// The samples of this name that have these labels.
    pub fn of(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        let fits = |sample: &&Sample| {
            let has = |(label, value): &(&str, &str)| {
                sample
                    .labels
                    .get(*label)
                    .is_some_and(|found| found == value)
            };
            sample.name == name && labels.iter().all(has)
        };
        self.samples.iter().filter(fits).collect()
    }

    /// The values of those added up; none if there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let found = self.of(name, labels);
        (!found.is_empty()).then(|| found.iter().map(|sample| sample.value).sum())
    }

    /// The names of all series.
    pub fn names(&self) -> BTreeSet<&str> {
        { self.samples.iter() }
            .map(|sample| sample.name.as_str())
            .collect()
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let mut rest = labels.strip_suffix('}').unwrap();
        let mut found = BTreeMap::new();
        while let Some((label, after)) = rest.split_once("=\"") {
            let end = end_of_text(after);
            let (text, after) = after.split_at(end);
            let value = text
                .replace("\\\"", "\"")
                .replace("\\n", "\n")
                .replace("\\\\", "\\");
            found.insert(label.to_owned(), value);
            let after = after.strip_prefix('"').unwrap();
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        Self {
            name: name.to_owned(),
            labels: found,
            value: value.parse().unwrap(),
        }
    }

    /// The names of its labels.
    pub fn label_names(&self) -> BTreeSet<&str> {
        self.labels.keys().map(String::as_str).collect()
    }
}

/// Where a text in quotes ends.
fn end_of_text(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            '"' if !is_escaped => return at,
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    panic!("no end of {text:?}");
}
