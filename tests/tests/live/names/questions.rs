//! Questions while they are open: none is lost to another that is asked at the same moment, and none stays for good.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use ebfw_common::{
    abi::Counter,
    dns::{ANSWER_NS, QUESTION_WAYS, set_of},
};
use ebfw_tests::{
    lab::{
        Lab,
        net::{v4, v6},
        resolver::{A, AAAA, ask, asking, question, wire},
    },
    path,
};

use super::{
    GOOD_NAMES, RESOLVER, at,
    clients::{PAIRS, address, fresh, is_wrong, name},
    code, honest, tcp,
};

/// Questions that share sets of places: two threads ask at the same moment, each from a socket of its own, as resolvers do that ask for both
/// families at once. How many verdicts were wrong, with 32 questions of either a round.
fn colliding(rounds: u16) -> io::Result<u64> {
    const QUESTIONS: u16 = 32;
    let (ready, failed) = (AtomicU32::new(0), AtomicBool::new(false));
    let asker = |own: u16| -> io::Result<u64> {
        let socket = asking(v6(RESOLVER))?;
        let cookie = path::get(&socket, libc::SOL_SOCKET, libc::SO_COOKIE)?;
        let port = socket.local_addr()?.port();
        let place = |id: u16| set_of(u64::from_ne_bytes(cookie), id.to_be(), port.into());
        let mut wrong = 0;
        let mut id = 0u16;
        for round in 0..rounds {
            let numbers: Vec<_> = (0..QUESTIONS)
                .map(|at| ((round * QUESTIONS + at) * 2 + own) % PAIRS)
                .collect();
            let mut asked = Vec::new();
            for (at, number) in (0u32..).zip(&numbers) {
                id = id.wrapping_add(1);
                while place(id) != at * QUESTION_WAYS {
                    id = id.wrapping_add(1);
                }
                asked.push(wire(&question(id, &name(*number), AAAA)));
            }
            // Spins: a barrier that sleeps would not wake both at once.
            ready.fetch_add(1, Ordering::AcqRel);
            while ready.load(Ordering::Acquire) < u32::from(round + 1) * 2 {
                if failed.load(Ordering::Relaxed) {
                    return Ok(wrong);
                }
            }
            asked
                .iter()
                .try_for_each(|one| socket.send(one).map(drop))?;
            asked
                .iter()
                .try_for_each(|_| socket.recv(&mut [0; 4096]).map(drop))?;
            wrong += numbers
                .iter()
                .map(|number| is_wrong(address(*number).into(), *number))
                .sum::<u64>();
        }
        Ok(wrong)
    };
    let asker = |own| asker(own).inspect_err(|_| failed.store(true, Ordering::Relaxed));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| asker(1));
        let own = asker(0);
        let other = other
            .join()
            .map_err(|_| io::Error::other("the other thread panicked"))?;
        Ok(own? + other?)
    })
}

#[test]
fn questions_asked_at_the_same_moment_are_all_noted() {
    let Some(mut lab) = Lab::open() else { return };
    lab.resolver(fresh);
    lab.policy(GOOD_NAMES);
    let lost = |lab: &Lab| [Counter::NameUnasked, Counter::NameFull].map(|why| lab.count(why));
    let before = lost(&lab);
    let wrong = lab.inside(|| colliding(400)).unwrap();
    assert_eq!((wrong, lost(&lab)), (0, before), "of 25,600 pairs");
}

/// Asks what is never answered, from ever new sockets.
fn ask_in_vain(questions: u16) -> io::Result<()> {
    for round in 0..questions / 100 {
        let socket = asking(v4(RESOLVER))?;
        for id in 0..100 {
            socket.send(&wire(&question(round * 100 + id, "silent.good.example", A)))?;
        }
    }
    Ok(())
}

#[test]
fn questions_that_nobody_answers_do_not_fill_the_room_of_others_for_good() {
    let Some(mut lab) = Lab::open() else { return };
    lab.resolver(|asked| {
        let name = asked.queries[0].name().to_ascii();
        if name.starts_with("silent") {
            vec![]
        } else {
            honest(asked)
        }
    });
    let workloads: Vec<_> = (0..60)
        .map(|number| lab.nested(&format!("w{number}")))
        .collect();
    // A rule of its own makes each a workload of its own.
    let own = |number| {
        format!(
            "- {{name: own, action: Deny, match: {{cgroups: ['{}/w{number}'], ports: [9]}}}}\n",
            lab.path()
        )
    };
    let rules: String = (0..60).map(own).collect();
    lab.policy(&format!("{GOOD_NAMES}{rules}"));
    let look_up = || {
        ask(v4(RESOLVER), "2.good.example", A)?;
        tcp(at(v4(2)))
    };
    let full = |lab: &Lab| lab.count(Counter::NameFull);
    let before = full(&lab);
    for workload in &workloads {
        if full(&lab) == before {
            let questions = lab.start_in(Some(workload), |_| ask_in_vain(3_000));
            questions.finish().unwrap();
        }
    }
    assert!(full(&lab) > before, "nothing is lost silently");
    assert_eq!(
        code(&lab.inside(look_up)),
        Some(libc::EPERM),
        "no room for the question"
    );
    lab.forget_names(Duration::from_nanos(ANSWER_NS) * 13);
    lab.inside(look_up).unwrap();
}
