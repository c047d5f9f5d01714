//! `deploy/docs/limits.md` says what the code does: every bound that a flag or a caller can set is in it, and every default
//! is the code's.

#![expect(clippy::unwrap_used, reason = "a test: what cannot be read fails it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::CommandFactory;
use parkway_activator::throttler::QueueLimits;
use parkway_ingress::cli::Cli;
use parkway_ingress::config::Limits;

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A line of the tables.
#[derive(Debug)]
struct Row {
    default: String,
    flag: Option<String>,
    name: Option<String>,
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(package().join("../deploy/docs/limits.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let rows = rows.filter_map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [_, default, flag, name, _] = cells[..] else {
            return None;
        };
        let code = |cell: &str| Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_owned());
        Some(Row {
            default: default.to_owned(),
            flag: code(flag),
            name: code(name),
        })
    });
    rows.filter(|row| row.default != "default").collect()
}

/// The number that a default is: milliseconds or bytes where it has such a unit. `None`: there is none.
fn number(default: &str) -> Option<u64> {
    let (digits, unit) = default.split_once(' ').unwrap_or((default, ""));
    let digits: u64 = digits.replace(',', "").parse().ok()?;
    Some(match unit {
        "" | "ms" | "bytes" => digits,
        "s" => digits * 1_000,
        "KiB" => digits << 10,
        "MiB" => digits << 20,
        other => panic!("{other:?} is no unit"),
    })
}

/// The fields of a struct and their values as numbers, read from how it is shown: `Name { field: 1, other: 30s }`.
fn fields(shown: &str) -> BTreeMap<String, Option<u64>> {
    let (_, inner) = shown.split_once('{').unwrap();
    let fields = inner.trim_end_matches(['}', ' ']).split(", ");
    let fields = fields.map(|field| {
        let (name, value) = field.trim().split_once(": ").unwrap();
        let value = value.trim_start_matches("Some(").trim_end_matches(')');
        let number = match value.strip_suffix("ms").or(value.strip_suffix('s')) {
            _ if value == "None" => None,
            None => Some(value.parse().unwrap()),
            Some(ms) if value.ends_with("ms") => Some(ms.parse().unwrap()),
            Some(seconds) => Some(seconds.parse::<u64>().unwrap() * 1_000),
        };
        (name.to_owned(), number)
    });
    fields.collect()
}

/// What a constant of a file is.
fn constant(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(package().join("src").join(file)).unwrap();
    let begin = format!("const {name}: ");
    let expression = text.lines().find_map(|line| {
        let (_, rest) = line.split_once(&begin)?;
        let (_type, expression) = rest.split_once(" = ")?;
        expression.strip_suffix(';')
    });
    let expression = expression.unwrap_or_else(|| panic!("no {name} in {file}"));
    let (expression, unit) = match expression.strip_prefix("Duration::from_") {
        None => (expression, 1),
        Some(duration) => {
            let (unit, rest) = duration.split_once('(').unwrap();
            let unit = if unit == "secs" { 1_000 } else { 1 };
            (rest.trim_end_matches(')'), unit)
        }
    };
    let plain = |text: &str| text.trim().replace('_', "").parse::<u64>().unwrap();
    let value = match expression.split_once("<<") {
        Some((value, bits)) => plain(value) << plain(bits),
        None => expression.split('*').map(plain).product(),
    };
    value * unit
}

#[test]
fn every_bound_is_in_the_table_with_its_default() {
    let rows = rows();
    let limits = fields(&format!("{:?}", Limits::default()));
    let queues = fields(&format!("{:?}", QueueLimits::default()));
    let mut wrong = Vec::new();
    for (of, fields) in [("Limits", &limits), ("QueueLimits", &queues)] {
        for (field, value) in fields {
            let name = format!("{of}::{field}");
            let row = rows.iter().find(|row| row.name.as_deref() == Some(&name));
            match row {
                None => wrong.push(format!("{name} is missing")),
                Some(row) if number(&row.default) != *value => {
                    wrong.push(format!("{name} is {value:?}, not {}", row.default));
                }
                Some(_) => {}
            }
        }
    }
    for row in &rows {
        let Some(name) = &row.name else { continue };
        if let Some((of, field)) = name.split_once("::") {
            let fields = if of == "Limits" { &limits } else { &queues };
            assert!(fields.contains_key(field), "there is no {name}");
        } else {
            let (file, constant_name) = name.split_once(": ").unwrap();
            let value = constant(file, constant_name);
            if number(&row.default) != Some(value) {
                wrong.push(format!("{name} is {value}, not {}", row.default));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(rows.len() > 50, "{}", rows.len());
}

#[test]
fn every_flag_with_a_number_is_in_the_table_with_its_default() {
    let rows = rows();
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    for argument in run.get_arguments() {
        let Some(flag) = argument.get_long() else {
            continue;
        };
        let default = argument.get_default_values().first();
        let default = default.and_then(|value| value.to_str()?.parse::<u64>().ok());
        let Some(default) = default.filter(|_| flag != "trusted-hops") else {
            continue;
        };
        let unit = match flag {
            _ if flag.ends_with("-mib") => 1 << 20,
            _ if flag.ends_with("-seconds") => 1_000,
            _ => 1,
        };
        let named = format!("--{flag}");
        let row = rows.iter().find(|row| row.flag.as_deref() == Some(&named));
        let row = row.unwrap_or_else(|| panic!("{named} is missing"));
        assert_eq!(number(&row.default), Some(default * unit), "{named}");
    }
    for row in rows {
        let Some(flag) = &row.flag else { continue };
        let is_there = run
            .get_arguments()
            .any(|argument| argument.get_long() == flag.strip_prefix("--"));
        assert!(is_there, "there is no {flag}");
    }
}
