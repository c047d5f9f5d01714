use std::process::{Child, Command, Stdio};

use std::os::unix::process::CommandExt;

use super::*;

const GRACE: Duration = Duration::from_secs(5);

/// A process in a group of its own, killed and reaped with the test.
struct Sleeper(Child);

fn sleeper(script: &str) -> Sleeper {
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    Sleeper(command.spawn().unwrap())
}

impl Sleeper {
    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// Until the script has said something: it is set up.
    fn set_up(mut self) -> Self {
        use std::io::Read;
        self.0
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut [0])
            .unwrap();
        self
    }

    fn is_running(&self) -> bool {
        Identity::of(self.pid()).is_some()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        signal_group(self.pid(), Signal::KILL);
        self.0.wait().unwrap();
    }
}

/// An owner that has ended.
fn dead_owner() -> Identity {
    let mut child = sleeper("exit 0");
    let mut owner = Identity::of(child.pid()).unwrap_or(Identity {
        pid: child.pid(),
        start: 1,
        boot: String::new(),
    });
    child.0.wait().unwrap();
    owner.start += 1; // whoever gets the number next is someone else
    owner
}

fn write(directory: &Path, process: Identity, owner: Identity) -> PathBuf {
    let file = directory.join(format!("{}-{}.{EXTENSION}", process.pid, process.start));
    let entry = Entry {
        process,
        owner,
        revision: "default/shop".to_owned(),
    };
    fs::write(&file, serde_json::to_vec(&entry).unwrap()).unwrap();
    file
}

#[tokio::test]
async fn a_recorded_process_of_a_dead_parkway_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let left = sleeper("sleep 60");
    let file = write(
        directory.path(),
        Identity::of(left.pid()).unwrap(),
        dead_owner(),
    );

    let ended = end_leftovers(directory.path(), GRACE).await.unwrap();

    assert_eq!(
        ended,
        [Leftover {
            pid: left.pid(),
            revision: "default/shop".into(),
            was_killed: false
        }]
    );
    assert!(!left.is_running());
    assert!(!file.exists());
}

#[tokio::test]
async fn one_that_ignores_sigterm_is_killed_after_the_grace() {
    let directory = tempfile::tempdir().unwrap();
    let left = sleeper("trap '' TERM; echo; while :; do sleep 1; done").set_up();
    write(
        directory.path(),
        Identity::of(left.pid()).unwrap(),
        dead_owner(),
    );

    let ended = end_leftovers(directory.path(), Duration::from_millis(100))
        .await
        .unwrap();

    assert!(ended[0].was_killed);
    assert!(!left.is_running());
}

#[tokio::test]
async fn the_number_alone_is_not_enough() {
    let directory = tempfile::tempdir().unwrap();
    let innocent = sleeper("sleep 60");
    let mut earlier = Identity::of(innocent.pid()).unwrap();
    earlier.start -= 1;
    let file = write(directory.path(), earlier, dead_owner());

    assert_eq!(end_leftovers(directory.path(), GRACE).await.unwrap(), []);

    assert!(innocent.is_running());
    assert!(!file.exists(), "a record of nothing is removed");
}

#[tokio::test]
async fn a_record_of_an_earlier_boot_means_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let innocent = sleeper("sleep 60");
    let process = Identity {
        boot: "another".into(),
        ..Identity::of(innocent.pid()).unwrap()
    };
    write(directory.path(), process, dead_owner());

    assert_eq!(end_leftovers(directory.path(), GRACE).await.unwrap(), []);
    assert!(innocent.is_running());
}

#[tokio::test]
async fn what_a_running_parkway_owns_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let owned = sleeper("sleep 60");
    let record = Record::write(directory.path(), owned.pid(), "default/shop").unwrap();

    assert_eq!(end_leftovers(directory.path(), GRACE).await.unwrap(), []);

    assert!(owned.is_running());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    drop(record);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_removed_and_other_files_stay() {
    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join(format!("1-1.{EXTENSION}"));
    let other = directory.path().join("notes.txt");
    fs::write(&broken, "{").unwrap();
    fs::write(&other, "{").unwrap();

    assert_eq!(end_leftovers(directory.path(), GRACE).await.unwrap(), []);
    assert!(!broken.exists());
    assert!(other.exists());
}

#[tokio::test]
async fn a_directory_that_does_not_exist_holds_nothing() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(
        end_leftovers(&directory.path().join("none"), GRACE)
            .await
            .unwrap(),
        []
    );
}

#[test]
fn a_name_with_spaces_and_parentheses_hides_no_field() {
    let stat = "42 (a) b) S 1 42 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 987654 0 0";
    assert_eq!(start_time(stat), Some(987_654));
    assert_eq!(
        start_time("42 (a) Z 1 42 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 987654 0 0"),
        None
    );
    assert_eq!(start_time("nonsense"), None);
}

#[test]
fn groups_that_cannot_be_ours_are_never_signalled() {
    for leader in [i32::MIN, -1, 0, 1] {
        assert_eq!(group_led_by(leader), None);
    }
}
