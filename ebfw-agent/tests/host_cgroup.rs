//! Cgroups as the kernel makes them: ids, processes, starting programs inside, watching the tree. Needs root.
#![expect(clippy::unwrap_used, reason = "a failed set-up fails the test")]

mod host_support;

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use ebfw_agent::host::{
    cgroup::{CgroupId, CgroupPath, Hierarchy, OwnedCgroup},
    tree::{Cgroups, Tree},
};
use ebfw_test_need::root;
use host_support::cgroup;
use nix::sys::{
    signal::{Signal, kill},
    stat::stat,
};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn ids_and_paths_name_each_other() {
    if !root() {
        return;
    }
    let (hierarchy, owned) = cgroup("ids");
    assert_eq!(hierarchy.id(owned.path()).unwrap(), owned.id());
    assert_eq!(
        owned.id(),
        CgroupId(stat(owned.directory()).unwrap().st_ino)
    );
    assert_eq!(hierarchy.path(owned.id()), Some(owned.path().clone()));
    assert_eq!(hierarchy.path(CgroupId(u64::MAX)), None);
    assert_eq!(
        hierarchy.resolve(Some(&owned.path().text())).unwrap(),
        *owned.path()
    );
    assert_eq!(
        hierarchy
            .resolve(Some(owned.directory().to_str().unwrap()))
            .unwrap(),
        *owned.path()
    );
}

#[test]
fn a_program_starts_inside_and_the_cgroup_goes_when_it_is_empty() {
    if !root() {
        return;
    }
    let (hierarchy, owned) = cgroup("spawn");
    // Prints where it is, then waits for its input to end.
    let mut command = Command::new("cat");
    command
        .args(["/proc/self/cgroup", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    owned.confine(&mut command).unwrap();
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let line = lines.find(|line| line.starts_with("0::")).unwrap();
    assert_eq!(
        line,
        format!("0::{}", owned.path()),
        "the first thing that it does is inside"
    );
    assert_eq!(hierarchy.processes(owned.path(), 10), [child.id()]);
    assert_eq!(
        hierarchy.processes(&CgroupPath::top(), 1).len(),
        1,
        "no more than asked for"
    );

    let directory = owned.directory().to_owned();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    fs::create_dir(directory.join("nested")).unwrap();
    owned.remove().unwrap();
    assert!(
        !directory.exists(),
        "with the empty cgroup that the program left below"
    );
}

#[test]
fn removal_kills_nothing_and_says_that_someone_is_left() {
    if !root() {
        return;
    }
    let (_, owned) = cgroup("busy");
    let mut command = Command::new("sleep");
    command.arg("1000");
    owned.confine(&mut command).unwrap();
    let mut child = command.spawn().unwrap();
    let directory = owned.directory().to_owned();
    let error = owned.remove().unwrap_err().to_string();
    assert!(
        error.contains("failed to remove cgroup") && error.contains(directory.to_str().unwrap()),
        "{error}"
    );
    assert_eq!(child.try_wait().unwrap(), None, "it still runs");
    child.kill().unwrap();
    child.wait().unwrap();
    fs::remove_dir(directory).unwrap();
}

#[test]
fn a_threaded_cgroup_has_no_processes_and_is_no_error() {
    if !root() {
        return;
    }
    let (hierarchy, owned) = cgroup("threaded");
    let below = hierarchy.create(owned.path(), "threads").unwrap();
    fs::write(below.directory().join("cgroup.type"), "threaded").unwrap();
    let mut command = Command::new("sleep");
    command.arg("1000");
    owned.confine(&mut command).unwrap();
    let mut child = command.spawn().unwrap();
    assert_eq!(hierarchy.processes(owned.path(), 10), [child.id()]);
    kill(
        nix::unistd::Pid::from_raw(child.id() as i32),
        Signal::SIGKILL,
    )
    .unwrap();
    child.wait().unwrap();
    let refused = hierarchy.create(below.path(), "inside").unwrap_err();
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert!(why.contains("threaded cgroup"), "{why}");
    assert!(!below.directory().join("inside").exists());
    drop(below);
}

#[test]
fn names_that_are_no_names_are_refused() {
    if !root() {
        return;
    }
    let (hierarchy, owned) = cgroup("names");
    for name in ["", "..", "a/b", "a\nb"] {
        assert!(hierarchy.create(owned.path(), name).is_err(), "{name:?}");
    }
    let _first = hierarchy.create(owned.path(), "twice").unwrap();
    assert!(
        hierarchy.create(owned.path(), "twice").is_err(),
        "somebody else's cgroup is not taken over"
    );
}

/// Waits for a snapshot that satisfies `wanted`.
async fn eventually(tree: &Tree, wanted: impl FnMut(&std::sync::Arc<Cgroups>) -> bool) {
    timeout(PATIENCE, tree.changes().wait_for(wanted))
        .await
        .expect("the tree never gets there")
        .unwrap();
}

#[tokio::test]
async fn the_tree_follows_cgroups_as_they_come_and_go() {
    if !root() {
        return;
    }
    let (hierarchy, owned) = cgroup("tree");
    let tree = Tree::start(hierarchy.clone(), owned.path().clone()).unwrap();
    assert_eq!(tree.snapshot().values().collect::<Vec<_>>(), [owned.path()]);

    // The deepest first: everything below `a` is made before anybody can watch it.
    fs::create_dir_all(owned.directory().join("a/b/c/d")).unwrap();
    eventually(&tree, |cgroups| cgroups.len() == 5).await;
    let deepest = owned.path().join("a/b/c/d".as_ref());
    let id = hierarchy.id(&deepest).unwrap();
    assert_eq!(tree.lookup(id), Some(deepest.clone()));

    fs::remove_dir(owned.directory().join("a/b/c/d")).unwrap();
    eventually(&tree, |cgroups| cgroups.len() == 4).await;
    assert_eq!(tree.lookup(id), Some(deepest), "late events still find it");
    assert!(!tree.is_blind());
    drop(tree);
}

#[tokio::test]
async fn an_unknown_id_is_found_by_looking_again() {
    if !root() {
        return;
    }
    let (hierarchy, owned) = cgroup("find");
    let tree = Tree::start(hierarchy.clone(), owned.path().clone()).unwrap();
    let child = hierarchy.create(owned.path(), "child").unwrap();
    assert_eq!(tree.find(child.id()).await, Some(child.path().clone()));
    assert_eq!(tree.find(CgroupId(u64::MAX)).await, None);
    let outside = hierarchy.id(&CgroupPath::top()).unwrap();
    assert_eq!(
        tree.find(outside).await,
        None,
        "not below the root that is watched"
    );
}

#[test]
fn what_was_made_a_moment_ago_is_found_at_once() {
    if !root() {
        return;
    }
    let (hierarchy, owned) = cgroup("look");
    let tree = Tree::start(hierarchy.clone(), owned.path().clone()).unwrap();
    for number in 0..200 {
        let child = hierarchy.create(owned.path(), &number.to_string()).unwrap();
        let found = tree.look(child.id());
        assert_eq!(found.as_ref(), Some(child.path()), "{number}");
    }
    assert_eq!(tree.look(CgroupId(u64::MAX)), None);
    let begun = Instant::now();
    for _ in 0..1000 {
        assert_eq!(tree.look(CgroupId(u64::MAX)), None);
    }
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(1),
        "what is nowhere is not looked for each time: {took:?}"
    );
}

#[tokio::test]
async fn nothing_is_lost_while_thousands_come_and_go() {
    if !root() {
        return;
    }
    let (hierarchy, owned) = cgroup("many");
    let tree = Tree::start(hierarchy.clone(), owned.path().clone()).unwrap();
    let makers: Vec<_> = (0..4)
        .map(|maker| {
            let directory = owned.directory().to_owned();
            std::thread::spawn(move || {
                for number in 0..500 {
                    let cgroup = directory.join(format!("m{maker}-{number}"));
                    fs::create_dir_all(cgroup.join("inner")).unwrap();
                    // Every other one goes at once, under the eyes of the watcher.
                    if number % 2 == 0 {
                        fs::remove_dir(cgroup.join("inner")).unwrap();
                        fs::remove_dir(cgroup).unwrap();
                    }
                }
            })
        })
        .collect();
    makers.into_iter().for_each(|maker| maker.join().unwrap());
    let left = 1 + 4 * 250 * 2;
    eventually(&tree, |cgroups| cgroups.len() == left).await;
    for (id, path) in tree.snapshot().iter() {
        assert_eq!(hierarchy.id(path).unwrap(), *id, "{path}");
    }
    assert_eq!(tree.rescan().await.len(), left);
    drop(tree);
    owned.remove().unwrap();
}

/// The agent in this test is this program, started again.
#[test]
fn the_agent_gets_a_cgroup_that_nobody_shares() {
    if !root() {
        return;
    }
    let (hierarchy, owned) = cgroup("seclude");
    let leftover = owned.directory().join("ebfw-agent-4194303");
    for (company, alone) in [(true, false), (false, true)] {
        fs::create_dir(&leftover).unwrap();
        let mut other = Command::new("sleep");
        other.arg("1000");
        owned.confine(&mut other).unwrap();
        let mut other = company.then(|| other.spawn().unwrap());
        let mut agent = Command::new(std::env::current_exe().unwrap());
        agent
            .args(["--exact", "secluded_agent", "--ignored", "--nocapture"])
            .stdout(Stdio::piped());
        owned.confine(&mut agent).unwrap();
        let output = agent.spawn().unwrap().wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let stayed = text.contains(&format!("secluded in {}\n", owned.path()));
        let moved = text.contains(&format!("secluded in {}/ebfw-agent-", owned.path()));
        assert_eq!(
            (stayed, moved),
            (alone, !alone),
            "company: {company}; {text}"
        );
        if let Some(other) = &mut other {
            other.kill().unwrap();
            other.wait().unwrap();
        }
        assert!(
            hierarchy.children(owned.path()).unwrap().is_empty(),
            "its own and what a killed agent left are gone"
        );
    }
}

#[test]
#[ignore = "the other side of the_agent_gets_a_cgroup_that_nobody_shares"]
fn secluded_agent() {
    let hierarchy = Hierarchy::find().unwrap();
    let seclusion = hierarchy.seclude().unwrap();
    assert_eq!(hierarchy.own().unwrap(), *seclusion.path());
    println!("secluded in {}", seclusion.path());
}

/// What the agent says of its place when it is started by `unshare` with `arguments` from inside of `owned`.
fn place_of_agent(owned: &OwnedCgroup, arguments: &[&str]) -> String {
    let mut agent = Command::new("unshare");
    agent
        .args(arguments)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "placed_agent", "--ignored", "--nocapture"])
        .stdout(Stdio::piped());
    owned.confine(&mut agent).unwrap();
    let output = agent.spawn().unwrap().wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn inside_a_cgroup_namespace_the_agent_finds_itself_by_its_process() {
    if !root() {
        return;
    }
    let (_, owned) = cgroup("namespace");
    let text = place_of_agent(&owned, &["--cgroup"]);
    let expected = format!("own {} whole true\n", owned.path());
    assert!(
        text.contains(&expected),
        "the host's mount, seen from inside: {text}"
    );

    // As in a container: the only mount shows the namespace, whose top looks like the host's.
    let script = "for at in $(grep cgroup2 /proc/self/mountinfo | cut -d' ' -f5); do umount $at; done; \
                  mount -t tmpfs none /mnt && mount -t cgroup2 none /mnt && exec \"$@\"";
    let text = place_of_agent(&owned, &["--cgroup", "--mount", "sh", "-c", script, "sh"]);
    assert!(text.contains("own / whole false\n"), "{text}");
    assert!(text.contains("shows only the cgroups below"), "{text}");
}

#[test]
#[ignore = "the other side of inside_a_cgroup_namespace_the_agent_finds_itself_by_its_process"]
fn placed_agent() {
    let hierarchy = Hierarchy::find().unwrap();
    println!(
        "own {} whole {}",
        hierarchy.own().unwrap(),
        hierarchy.is_whole()
    );
    println!("gap {:?}", hierarchy.gap());
}
