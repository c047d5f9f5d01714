//! The reference says what the code does: every key, flag and metric is in it.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use parkway_autoscaler_client::embedded;
use parkway_ingress::cli::Cli;
use parkway_ingress::provider::annotations;
use parkway_ingress::provider::settings::{
    CONFIG_DEFAULTS_ACTING_KEYS, CONFIG_NETWORK_ACTING_KEYS,
};

fn reference() -> String {
    read("standalone.md")
}

fn read(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/docs");
    fs::read_to_string(folder.join(name)).unwrap_or_default()
}

#[test]
fn every_config_map_key_that_acts_is_in_the_reference() {
    let reference = reference();
    let keys = [
        embedded::ACTING_KEYS,
        &CONFIG_NETWORK_ACTING_KEYS,
        &CONFIG_DEFAULTS_ACTING_KEYS,
    ];
    let missing: Vec<_> = keys
        .concat()
        .into_iter()
        .filter(|key| !reference.contains(&format!("`{key}`")))
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
}

#[test]
fn every_flag_that_the_references_name_exists() {
    let command = Cli::command();
    let flags: Vec<_> = command
        .get_subcommands()
        .flat_map(clap::Command::get_arguments)
        .filter_map(clap::Arg::get_long)
        .map(|flag| format!("--{flag}"))
        .collect();
    let reference = ["standalone.md", "limits.md", "cluster.md", "install.md"]
        .map(read)
        .concat();
    let named = reference
        .split(['`', ' ', '|', '(', ')', ','])
        .filter(|word| word.starts_with("--"));
    let unknown: Vec<_> = named
        .filter(|word| {
            !word.starts_with("---") && *word != "--help" && !flags.contains(&(*word).to_owned())
        })
        .collect();
    assert_eq!(unknown, Vec::<&str>::new());
}

#[test]
fn every_annotation_is_in_the_table_and_the_table_has_no_other() {
    let table = read("annotations.md");
    let rows = table.lines().filter_map(|line| {
        let (name, _) = line.strip_prefix("| `parkway.dev/")?.split_once('`')?;
        Some(format!("{}{name}", annotations::GROUP))
    });
    assert_eq!(
        rows.collect::<Vec<_>>(),
        annotations::names().collect::<Vec<_>>()
    );
}
