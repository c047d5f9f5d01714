//! Random slices, answers and meshes against rules that are stated once more, as sets.

use std::collections::BTreeSet;

use super::*;

const RUNS: u64 = 200;
const STEPS: u32 = 400;
const PODS: u8 = 6;

/// Splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        let index = self.roll() % choices.len() as u64;
        choices[usize::try_from(index).unwrap()].clone()
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll() % 100 < percent
    }
}

/// What ought to be, in Knative's words: `healthyPods`, `podsAddressable`, `clusterIPHealthy`.
struct Model {
    mesh: Mesh,
    pods: Pods,
    healthy: BTreeSet<Endpoint>,
    addressable: bool,
    cluster_ip_healthy: bool,
    /// Asked in vain since ready, in a way that speaks for a mesh.
    in_vain: BTreeSet<Endpoint>,
    /// The last answer of each.
    last: BTreeMap<Endpoint, Outcome>,
}

impl Model {
    fn new() -> Self {
        Self {
            mesh: AUTO,
            pods: Pods::default(),
            healthy: BTreeSet::new(),
            addressable: true,
            cluster_ip_healthy: false,
            in_vain: BTreeSet::new(),
            last: BTreeMap::new(),
        }
    }

    fn all(&self) -> BTreeSet<Endpoint> {
        let all = self.pods.ready.iter().chain(&self.pods.not_ready);
        all.copied().collect()
    }

    fn direct(&self) -> bool {
        self.mesh.passthrough || (self.mesh.mode != MeshMode::Enabled && self.addressable)
    }

    fn set(&mut self, pods: Pods) {
        let before = std::mem::replace(&mut self.pods, pods);
        let all = self.all();
        let is_same = |endpoint: &Endpoint| {
            before.ready.contains(endpoint) == self.pods.ready.contains(endpoint)
        };
        let became_not_ready =
            |endpoint: &Endpoint| before.ready.contains(endpoint) && !is_same(endpoint);
        self.healthy
            .retain(|endpoint| all.contains(endpoint) && !became_not_ready(endpoint));
        self.in_vain
            .retain(|endpoint| all.contains(endpoint) && is_same(endpoint));
        self.last.retain(|endpoint, _| all.contains(endpoint));
        if before.service != self.pods.service || all.is_empty() {
            self.cluster_ip_healthy = false;
        }
        self.trust();
    }

    fn set_mesh(&mut self, mesh: Mesh) {
        if mesh == self.mesh {
            return;
        }
        if mesh.mode == MeshMode::Auto || mesh.passthrough != self.mesh.passthrough {
            self.healthy.clear();
        }
        self.mesh = mesh;
        self.addressable = true;
        self.cluster_ip_healthy = false;
        self.trust();
    }

    fn answer(&mut self, target: Target, outcome: Outcome) {
        match target {
            Target::Pod(endpoint) => {
                self.last.insert(endpoint, outcome);
                if outcome == Outcome::Ready {
                    self.healthy.insert(endpoint);
                } else if outcome.is_mesh_suspect() && self.pods.ready.contains(&endpoint) {
                    self.in_vain.insert(endpoint);
                }
            }
            Target::Service(_) if outcome == Outcome::Ready => {
                self.cluster_ip_healthy = true;
                self.addressable = false;
                self.trust();
            }
            Target::Service(_) => {}
        }
    }

    fn trust(&mut self) {
        if !self.direct() {
            self.healthy.clear();
        } else if self.mesh.mode != MeshMode::Auto {
            self.healthy.extend(&self.pods.ready);
        }
    }

    fn usable(&self) -> BTreeSet<Endpoint> {
        if self.direct() {
            let counts =
                |endpoint: &&Endpoint| self.pods.trusts_early || self.pods.ready.contains(endpoint);
            return self.healthy.iter().filter(counts).copied().collect();
        }
        let is_there = self.cluster_ip_healthy && !self.pods.ready.is_empty();
        self.pods.service.into_iter().filter(|_| is_there).collect()
    }

    fn asked(&self) -> BTreeSet<Target> {
        let mut asked = BTreeSet::new();
        if self.direct() {
            let counts = self.mesh.mode == MeshMode::Auto || self.pods.trusts_early;
            let sick = self.all();
            let sick = sick.difference(&self.healthy).filter(|_| counts);
            asked.extend(sick.copied().map(Target::Pod));
        }
        if !self.cluster_ip_healthy && self.falls_back() {
            asked.extend(self.pods.service.map(Target::Service));
        }
        asked
    }

    fn falls_back(&self) -> bool {
        if self.mesh.passthrough || self.mesh.mode == MeshMode::Disabled {
            return false;
        }
        let mut ready = self.pods.ready.iter();
        if ready.len() == 0 || !self.direct() {
            return ready.len() > 0;
        }
        let is_proof = |outcome: &Outcome| !outcome.is_mesh_suspect();
        self.usable().is_empty()
            && ready.all(|endpoint| self.in_vain.contains(endpoint))
            && !self.last.values().any(is_proof)
    }
}

fn random_pods(dice: &mut Dice) -> Pods {
    let mut pods = Pods {
        trusts_early: dice.chance(80),
        service: dice.chance(90).then(cluster_ip),
        ..Pods::default()
    };
    let presence = dice.one_of(&[0, 30, 90]);
    for last in 1..=PODS {
        if dice.chance(presence) {
            if dice.chance(50) {
                pods.ready.push(pod(last));
            } else {
                pods.not_ready.push(pod(last));
            }
        }
    }
    pods
}

/// A change of one Pod, as a slice's next version mostly is.
fn edited(mut pods: Pods, dice: &mut Dice) -> Pods {
    let one = pod(dice.one_of(&[1, 2, 3, 4, 5, 6]));
    pods.ready.retain(|endpoint| *endpoint != one);
    pods.not_ready.retain(|endpoint| *endpoint != one);
    match dice.roll() % 5 {
        0 | 1 => pods.ready.push(one),
        2 | 3 => pods.not_ready.push(one),
        _ => {}
    }
    pods
}

fn run(seed: u64) {
    const OUTCOMES: [Outcome; 9] = [
        Outcome::Ready,
        Outcome::Ready,
        Outcome::NotReady(503),
        Outcome::NotReady(400),
        Outcome::Refused,
        Outcome::Unreachable,
        Outcome::TimedOut,
        Outcome::Broken,
        Outcome::Untrusted,
    ];
    let mut dice = Dice(seed);
    let mut stage = Stage::auto();
    let mut model = Model::new();
    let meshed = dice.chance(30); // then most of what is asked is suspect
    for step in 0..STEPS {
        stage.now += MS * dice.one_of(&[0, 1, 10, 300, 3_000]);
        let asking: Vec<_> = stage.asking.keys().copied().collect();
        match dice.roll() % 100 {
            0..2 => {
                let mesh = Mesh {
                    mode: dice.one_of(&[MeshMode::Auto, MeshMode::Enabled, MeshMode::Disabled]),
                    passthrough: dice.chance(20),
                };
                stage.set_mesh(mesh);
                model.set_mesh(mesh);
            }
            2..8 => {
                let pods = random_pods(&mut dice);
                stage.set(pods.clone());
                model.set(pods);
            }
            8..40 => {
                let pods = edited(model.pods.clone(), &mut dice);
                stage.set(pods.clone());
                model.set(pods);
            }
            _ if !asking.is_empty() => {
                let target = dice.one_of(&asking);
                let is_pod = matches!(target, Target::Pod(_));
                let outcome = if meshed && is_pod && dice.chance(95) {
                    dice.one_of(&[Outcome::Broken, Outcome::NotReady(503)])
                } else {
                    dice.one_of(&OUTCOMES)
                };
                stage.answer(target, outcome);
                model.answer(target, outcome);
            }
            _ => {}
        }
        let context = format!("seed {seed}, step {step}");
        let usable: BTreeSet<_> = stage.usable().into_iter().collect();
        assert_eq!(usable, model.usable(), "{context}");
        let asked: BTreeSet<_> = stage.asking.keys().copied().collect();
        assert_eq!(asked, model.asked(), "{context}");
        for at in stage.asking.values() {
            assert!(
                *at <= stage.now + SECOND / 4,
                "{context}: a pause is bounded"
            );
        }
    }
}

/// One run is repeated with `PARKWAY_SIM_SEED=7`.
#[test]
fn random_slices_and_answers_follow_the_rules() {
    match std::env::var("PARKWAY_SIM_SEED") {
        Ok(seed) => run(seed.parse().expect("PARKWAY_SIM_SEED is a number")),
        Err(_) => (0..RUNS).for_each(run),
    }
}
