//! Random arrivals, hang-ups and endpoint churn against a model that keeps a list and a few sums.
//!
//! The throttler is driven through its public API only, on one thread, so that a seed repeats exactly. The model does
//! not predict which endpoint is chosen; it knows who is parked in what order, who holds what, and checks after each
//! step that the throttler's grants fit: in order, only into free slots, and never fewer than there are.
//!
//! `PARKWAY_SIM_SEED=7 cargo test -p parkway-activator --test simulation` repeats one run.

mod model;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use model::Simulation;

const RUNS: u64 = 100;
const STEPS: u32 = 1_200;

#[test]
fn every_request_ends_once_and_no_slot_is_used_twice() {
    match std::env::var("PARKWAY_SIM_SEED") {
        Ok(seed) => run(seed.parse().expect("PARKWAY_SIM_SEED is a number")),
        Err(_) => (0..RUNS).for_each(run_or_say_how_to_repeat),
    }
}

fn run_or_say_how_to_repeat(seed: u64) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
        #[expect(
            clippy::print_stderr,
            reason = "a failed simulation says how to repeat it"
        )]
        {
            eprintln!(
                "repeat with: PARKWAY_SIM_SEED={seed} cargo test -p parkway-activator --test simulation"
            );
        }
        resume_unwind(panic);
    }
}

fn run(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O");
    let clock = runtime.enter();
    let mut simulation = Simulation::new(seed, &runtime);
    for _ in 0..STEPS {
        simulation.step();
    }
    simulation.finish();
    drop(clock);
}
