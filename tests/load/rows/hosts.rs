//! Ten thousand hosts: what they take, what finding one among them costs, and how soon a change of one is in effect.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::Bench;
use super::busy::{Entrant, Load, take_turns};
use super::idle::QUIET;
use crate::generator::percentile;
use crate::machine::{now_ns, pause};
use crate::peers::{Manifests, Program, Route, Start, get};
use crate::report::{Cell, Column, Line, Table};

const HOSTS: usize = 10_000;
/// What finding a host among many is compared with.
const FEW: usize = 64;
/// How many Services lie in a file: Parkway takes 50,000 documents in one, and 1,000 files.
const FILES: [usize; 2] = [10, 10_000];
/// How often a host is changed.
const CHANGES: usize = 11;
/// How long a change may take.
const PATIENCE_NS: u64 = 30_000_000_000;

const SERVICE: &str = include_str!("../peers/parkway-host.yaml");

pub(super) fn hosts(bench: &Bench) -> Result<Vec<Table>> {
    let hosts = bench.scaled(HOSTS);
    let mut lines = Vec::new();
    for in_a_file in FILES {
        let cells = measure(bench, in_a_file, hosts).unwrap_or_else(|error| {
            eprintln!("invalid: {error:#}");
            vec![Cell::one(Err(format!("{error:#}"))); 5]
        });
        lines.push(Line {
            label: format!("Parkway, {in_a_file} in a file"),
            is_peer: false,
            cells,
        });
    }
    for peer in [Program::Nginx, Program::Haproxy, Program::Envoy] {
        lines.push(Line::of(peer.name(), true, Cell::NotMeasured, 5));
    }
    Ok(vec![Table {
        title: format!("hosts: {hosts} Services with an endpoint each"),
        reach: "≤ 40 MiB, ≤ +2 µs over 64 hosts, a change in effect after ≤ 20 ms",
        columns: vec![
            Column::shown("MiB", 1),
            Column::shown("MiB after requests to all", 1),
            Column::shown("CPU µs over 64 hosts", 1),
            Column::shown("change p50, ms", 1),
            Column::shown("change longest, ms", 1),
        ],
        lines,
        notes: vec![
            "Look-up: CPU of a small request to a random host, less the same of a Parkway with 64 hosts, in turns. \
             Change: from replacing the file to the first answer from the new endpoint."
                .to_owned(),
        ],
    }])
}

/// Manifests of many hosts.
struct Hosts {
    folder: TempDir,
    in_a_file: usize,
    count: usize,
    endpoint: SocketAddr,
}

impl Hosts {
    fn new(in_a_file: usize, count: usize, endpoint: SocketAddr) -> Result<Self> {
        let folder = TempDir::new()?;
        let hosts = Self {
            folder,
            in_a_file,
            count,
            endpoint,
        };
        fs::create_dir(hosts.manifests())?;
        for first in (0..count).step_by(in_a_file) {
            fs::write(hosts.file(first), hosts.services(first, endpoint))?;
        }
        Ok(hosts)
    }

    fn manifests(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }

    /// The file that begins with this host.
    fn file(&self, first: usize) -> PathBuf {
        self.manifests().join(format!("{}.yaml", name(first)))
    }

    /// The Services of that file; its first one has this endpoint.
    fn services(&self, first: usize, endpoint: SocketAddr) -> String {
        let end = self.count.min(first + self.in_a_file);
        let endpoint_of = |number| {
            if number == first {
                endpoint
            } else {
                self.endpoint
            }
        };
        let services = (first..end).map(|number| service(number, endpoint_of(number)));
        services.collect::<Vec<_>>().join("---\n")
    }

    /// Gives the first host another endpoint; returns the moment before.
    fn change(&self, endpoint: SocketAddr) -> Result<u64> {
        let draft = self.folder.path().join("draft");
        fs::write(&draft, self.services(0, endpoint))?;
        let now = now_ns();
        fs::rename(draft, self.file(0))?;
        Ok(now)
    }
}

fn name(number: usize) -> String {
    format!("{}-{number:05}", super::busy::HOSTS)
}

fn service(number: usize, endpoint: SocketAddr) -> String {
    SERVICE
        .replace("@name@", &name(number))
        .replace("@port@", &endpoint.port().to_string())
}

fn measure(bench: &Bench, in_a_file: usize, count: usize) -> Result<Vec<Cell>> {
    let (_endpoint, address) = bench.endpoint()?;
    let many = Hosts::new(in_a_file, count, address)?;
    let few = Hosts::new(in_a_file, FEW, address)?;
    let mut entrants = Vec::new();
    for hosts in [&many, &few] {
        let manifests = hosts.manifests();
        let how = Start {
            manifests: Manifests::At(&manifests),
            ..bench.ready(address)
        };
        let load = Load {
            hosts: Some(hosts.count),
            ..Load::of("http1")
        };
        let label = format!("Parkway with {} hosts", hosts.count);
        entrants.push(Entrant::start(
            bench,
            &how,
            Program::Parkway,
            &label,
            &load,
        )?);
    }
    pause(QUIET);
    let running = entrants[0].running()?;
    let fresh_kib = running.process.pss_kib();
    let target = running.target(Route::Plain).address;
    ask_all(target, count)?;
    pause(QUIET);
    let used_kib = running.process.pss_kib();
    take_turns(bench, &mut entrants);
    let changes_ns = changes(bench, &many, target)?;
    let pairs = entrants[0]
        .samples
        .iter()
        .cloned()
        .zip(entrants[1].samples.iter().cloned());
    let look_ups = pairs.map(|(many, few)| Ok(many?.cpu_us - few?.cpu_us));
    let after_ms = |percent| {
        let time_ns = percentile(&changes_ns, percent).ok_or("no change was measured")?;
        Ok(time_ns as f64 / 1e6)
    };
    Ok(vec![
        Cell::one(Ok(fresh_kib as f64 / 1024.0)),
        Cell::one(Ok(used_kib as f64 / 1024.0)),
        Cell::of(look_ups.collect()),
        Cell::one(after_ms(50)),
        Cell::one(after_ms(100)),
    ])
}

fn ask_all(target: SocketAddr, count: usize) -> Result<()> {
    for number in 0..count {
        let (status, answer) = get(target, &host(number), "/bytes/1")?;
        ensure!(status == 200, "{} answered {answer:?}", host(number));
    }
    Ok(())
}

fn host(number: usize) -> String {
    format!("{}.default.localhost", name(number))
}

/// The first host's endpoint changes back and forth; sorted times.
fn changes(bench: &Bench, hosts: &Hosts, target: SocketAddr) -> Result<Vec<u64>> {
    let mut other = bench.own(&["endpoint", "--listen", "127.0.0.1:0", "--answers-with-age"])?;
    let port = other.hear()?["listening"]
        .as_u64()
        .context("the endpoint's port")?;
    let other_address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port)?));
    let mut times_ns = Vec::new();
    for change in 0..CHANGES {
        let to_other = change % 2 == 0;
        let began_ns = hosts.change(if to_other {
            other_address
        } else {
            hosts.endpoint
        })?;
        loop {
            let (status, answer) = get(target, &host(0), "/bytes/1")?;
            let now = now_ns();
            ensure!(status == 200, "answered {answer:?} during a change");
            ensure!(now - began_ns < PATIENCE_NS, "no effect after 30 s");
            let is_other = !answer.ends_with("\r\n\r\na");
            if is_other == to_other {
                times_ns.push(now - began_ns);
                break;
            }
        }
        pause(Duration::from_millis(300)); // the next change must not be part of this one
    }
    times_ns.sort_unstable();
    Ok(times_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_a_service_of_its_own() {
        let hosts = Hosts::new(2, 3, "127.0.0.1:81".parse().unwrap()).unwrap();
        assert_eq!(fs::read_dir(hosts.manifests()).unwrap().count(), 2);
        hosts.change("127.0.0.1:82".parse().unwrap()).unwrap();
        let text = fs::read_to_string(hosts.file(0)).unwrap();
        assert_eq!(text.matches("kind: Service\n").count(), 2);
        assert_eq!(text.matches("port: 81,").count(), 1);
        assert_eq!(text.matches("port: 82,").count(), 1);
    }
}
