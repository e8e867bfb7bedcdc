//! The lock and the start-up checks on a real bpffs. Needs root.
#![expect(clippy::unwrap_used, reason = "a failed set-up fails the test")]

use std::{fs, path::Path};

use ebfw_agent::{
    config::{Flags, load_detach},
    datapath,
    detach::detach,
    host::{lock::PinLock, netns::Netns, privileges},
};
use ebfw_test_need::root;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

/// Runs `work` where no mount that it makes is seen by anybody else.
fn with_own_mounts(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            work();
        });
        thread.join().unwrap();
    });
}

/// Runs `work` with a bpffs at a place of its own, which nobody else sees.
fn with_bpffs(work: impl FnOnce(&Path) + Send) {
    let place = tempfile::tempdir().unwrap();
    with_own_mounts(|| {
        let (kind, none) = (Some("bpf"), None::<&str>);
        mount(kind, place.path(), kind, MsFlags::empty(), none).unwrap();
        work(place.path());
        umount2(place.path(), MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn a_pin_directory_on_bpffs_has_one_agent() {
    if !root() {
        return;
    }
    with_bpffs(|bpffs| {
        let pins = bpffs.join("ebfw");
        let first = PinLock::take(&pins).unwrap();
        let refusal = PinLock::take(&pins).unwrap_err().to_string();
        assert!(refusal.contains(pins.to_str().unwrap()), "{refusal}");
        assert!(
            refusal.contains(&format!("(process {})", std::process::id())),
            "{refusal}"
        );
        PinLock::take(&bpffs.join("other")).expect("another pin directory is another agent's");
        drop(first);
        PinLock::take(&pins).expect("the lock went with its holder");
    });
}

#[test]
fn a_name_that_bpffs_cannot_have_is_explained() {
    if !root() {
        return;
    }
    with_bpffs(|bpffs| {
        let pins = bpffs.join("eb.fw");
        let refusal = PinLock::take(&pins).unwrap_err().to_string();
        assert!(refusal.contains("no dot"), "{refusal}");
        assert!(refusal.contains(pins.to_str().unwrap()), "{refusal}");
    });
}

#[test]
fn what_is_taken_off_may_stand_at_the_root_of_a_bpffs() {
    if !root() {
        return;
    }
    with_bpffs(|bpffs| {
        for folder in ["links", "maps-3", "somebody-elses"] {
            fs::create_dir(bpffs.join(folder)).unwrap();
        }
        datapath::detach(bpffs).unwrap();
        assert!(!bpffs.join("links").exists());
        assert!(!bpffs.join("maps-3").exists());
        assert!(bpffs.join("somebody-elses").exists());
    });
}

#[test]
fn enforcement_is_not_taken_off_under_an_agent_that_runs() {
    if !root() {
        return;
    }
    with_bpffs(|bpffs| {
        let pins = bpffs.join("ebfw");
        let agent = PinLock::take(&pins).unwrap();
        let variables = vec![("EBFW_PIN_DIR".into(), pins.clone().into())];
        let config = load_detach(&Flags::default(), &variables).unwrap().value;
        let refusal = detach(&config).unwrap_err().to_string();
        assert!(refusal.contains("stop it first"), "{refusal}");
        assert!(
            refusal.contains(&format!("(process {})", std::process::id())),
            "{refusal}"
        );
        drop(agent);
    });
}

#[test]
fn this_host_is_accepted_with_its_gaps_named() {
    if !root() {
        return;
    }
    with_bpffs(|bpffs| {
        let able = privileges::check(Some(&bpffs.join("ebfw"))).unwrap();
        assert!(able.kernel.major >= 5);
        assert!(
            able.gaps.iter().any(|gap| gap.contains("AF_PACKET")),
            "{:?}",
            able.gaps
        );
        assert!(
            !able
                .gaps
                .iter()
                .any(|gap| gap.contains("cannot be destroyed")),
            "{:?}",
            able.gaps
        );
    });
}

#[test]
fn a_bpffs_that_is_missing_where_it_belongs_is_mounted() {
    if !root() {
        return;
    }
    with_own_mounts(|| {
        let bpffs = Path::new("/sys/fs/bpf");
        while umount2(bpffs, MntFlags::MNT_DETACH).is_ok() {}
        privileges::check(Some(&bpffs.join("ebfw"))).unwrap();
        PinLock::take(&bpffs.join("ebfw")).expect("it is mounted and can be written to");
        umount2(bpffs, MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn pins_outside_of_a_bpffs_are_refused() {
    if !root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let unable = privileges::check(Some(&place.path().join("deep/ebfw"))).unwrap_err();
    assert_eq!(unable.lines.len(), 1, "{unable}");
    assert!(
        unable.lines[0].contains("is on no bpf file system"),
        "{unable}"
    );
    assert!(
        !place.path().join("deep").exists(),
        "looking leaves nothing behind"
    );
}

#[test]
fn a_fresh_namespace_is_another_and_entering_it_stays_on_its_thread() {
    if !root() {
        return;
    }
    let (own, fresh) = (Netns::own().unwrap(), Netns::fresh().unwrap());
    assert_ne!(own.id(), fresh.id());
    let inside = fresh.enter(|| Netns::own().unwrap().id()).unwrap();
    assert_eq!(inside, fresh.id());
    assert_eq!(Netns::own().unwrap().id(), own.id());
}
