//! What a killed Parkway leaves running, the next one ends; and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use parkway_tests::parkway::Killed;
use parkway_tests::{Parkway, hello_service};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

#[tokio::test]
async fn the_next_start_ends_the_processes_that_a_killed_parkway_left() {
    let parkway = Parkway::builder()
        .manifest("shop", hello_service("shop"))
        .manifest("cart", hello_service("cart").env("IGNORE_SIGTERM", "1"))
        .start()
        .await;
    parkway.service("shop").get("/").await.expect(200);
    parkway.service("cart").get("/").await.expect(200);
    let killed = parkway.kill().await;
    let left = killed.left_processes();
    assert_eq!(left.len(), 2);

    let parkway = killed.builder().start().await;

    assert_eq!(parkway.left_processes(), [0; 0]);
    let ended = parkway.logged("ended a process that a killed Parkway left");
    assert_eq!(ended.len(), 2, "{ended:?}");
    let answer = parkway.service("shop").get("/headers").await.expect(200);
    let pid = answer.json()["pid"].as_i64().unwrap();
    assert!(
        !left.contains(&i32::try_from(pid).unwrap()),
        "a new process"
    );
    parkway.finish().await;
}

#[tokio::test]
async fn a_process_that_has_got_the_number_of_a_left_one_is_left_alone() {
    for (field, other) in [("start", json!(1)), ("boot", json!("another boot"))] {
        let (killed, records, pid) = killed_with_a_process().await;
        let record = the_only_record(&records);
        let mut entry = read(&record);
        entry["process"][field] = other;
        fs::write(&record, entry.to_string()).unwrap();

        let parkway = killed.builder().start().await;

        assert_eq!(parkway.left_processes(), [pid], "another {field}");
        assert!(!record.exists(), "of no use any more");
        end(pid);
        parkway.finish().await;
    }
}

#[tokio::test]
async fn a_process_whose_parkway_still_runs_is_left_alone() {
    let (killed, records, pid) = killed_with_a_process().await;
    let owner = Parkway::with(hello_service("owner")).await;
    owner.service("owner").get("/").await.expect(200);
    let its_record = the_only_record(&owner.manifests().join("../state"));
    let record = the_only_record(&records);
    let mut entry = read(&record);
    entry["owner"] = read(&its_record)["owner"].take();
    fs::write(&record, entry.to_string()).unwrap();

    let parkway = killed.builder().start().await;

    assert_eq!(parkway.left_processes(), [pid]);
    assert!(record.exists(), "its owner's");
    end(pid);
    parkway.finish().await;
    owner.finish().await;
}

#[tokio::test]
async fn a_record_that_cannot_be_read_does_not_keep_parkway_from_starting() {
    let (killed, records, pid) = killed_with_a_process().await;
    fs::write(the_only_record(&records), "{ not a record").unwrap();

    let parkway = killed.builder().start().await;

    assert_eq!(parkway.left_processes(), [pid]);
    assert_eq!(
        parkway.logged("record of a process cannot be read").len(),
        1
    );
    end(pid);
    parkway.service("shop").get("/").await.expect(200);
    parkway.finish().await;
}

/// A killed Parkway, the folder of its records, and the process it left.
async fn killed_with_a_process() -> (Killed, PathBuf, i32) {
    let parkway = Parkway::with(hello_service("shop")).await;
    parkway.service("shop").get("/").await.expect(200);
    let records = parkway.manifests().join("../state");
    let killed = parkway.kill().await;
    let [pid] = killed.left_processes()[..] else {
        panic!("one process: {:?}", killed.left_processes());
    };
    (killed, records, pid)
}

fn the_only_record(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut records = files.filter(|file| file.to_string_lossy().ends_with(".process.json"));
    let record = records.next().unwrap();
    assert_eq!(records.next(), None);
    record
}

fn read(record: &Path) -> Value {
    serde_json::from_slice(&fs::read(record).unwrap()).unwrap()
}

fn end(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}
