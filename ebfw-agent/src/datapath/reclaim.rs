//! Deletes, beside the agent's work, what no slot leads to any more: neither the wait for programs that still read it nor the kernel's own wait
//! with each change of a map of maps (10 ms and more) holds up a policy.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, JoinHandle},
};

use super::{grace::GracePeriods, syscall};

/// Numbers of instances and of automata that no slot leads to.
#[derive(Debug, Default)]
pub(super) struct Unused {
    pub(super) instances: Vec<u32>,
    pub(super) automata: Vec<u32>,
}

/// The maps of maps from which is deleted.
pub(super) struct Outer {
    pub(super) blocks: OwnedFd,
    pub(super) prefixes: [OwnedFd; 2],
    pub(super) automata: OwnedFd,
}

/// What became of that which it was given.
pub(super) struct Answer {
    pub(super) unused: Unused,
    pub(super) result: io::Result<()>,
    /// How often it was given some of it.
    times: usize,
}

/// The thread that deletes. When the value is dropped, all that it was given is gone.
pub(super) struct Reclaimer {
    unused: Option<Sender<Unused>>,
    answers: Receiver<Answer>,
    /// How often it was given something that it has not answered for.
    pending: usize,
    thread: Option<JoinHandle<()>>,
}

impl Reclaimer {
    /// # Errors
    ///
    /// Where there can be no thread, or no maps of grace periods.
    pub(super) fn start(outer: Outer) -> io::Result<Self> {
        let grace = GracePeriods::prepare()?;
        let (unused, given) = channel::<Unused>();
        let (answer, answers) = channel();
        let work = move || {
            while let Ok(mut unused) = given.recv() {
                let mut times = 1;
                for more in given.try_iter() {
                    unused.instances.extend(more.instances);
                    unused.automata.extend(more.automata);
                    times += 1;
                }
                let result = grace.wait().and_then(|()| delete(&outer, &unused));
                let done = Answer {
                    unused,
                    result,
                    times,
                };
                if answer.send(done).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new()
            .name("reclaimer".into())
            .spawn(work)?;
        Ok(Self {
            unused: Some(unused),
            answers,
            pending: 0,
            thread: Some(thread),
        })
    }

    /// Has it delete what the slots, as they are stored now, do not lead to.
    pub(super) fn give(&mut self, unused: Unused) {
        let sender = self.unused.as_ref().expect("it is there until the drop");
        if sender.send(unused).is_ok() {
            self.pending += 1;
        }
    }

    /// How often it was given something that it has not answered for.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    /// Its next answer. Waits for one only where more than `most` are pending.
    pub(super) fn answer(&mut self, most: usize) -> Option<Answer> {
        let answer = if self.pending > most {
            self.answers.recv().ok()?
        } else {
            self.answers.try_recv().ok()?
        };
        self.pending -= answer.times;
        Some(answer)
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        self.unused = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Deletes from several maps at once: what waits at the same time waits for the same grace period. The blocks go last: by them the next
/// agent knows that a number is taken.
fn delete(outer: &Outer, unused: &Unused) -> io::Result<()> {
    let [first, second] = &outer.prefixes;
    thread::scope(|scope| {
        let all = [
            (first, &unused.instances),
            (second, &unused.instances),
            (&outer.automata, &unused.automata),
        ];
        let all = all.map(|(map, numbers)| scope.spawn(move || delete_entries(map, numbers)));
        all.into_iter()
            .try_for_each(|deleted| deleted.join().expect("a system call does not panic"))
    })?;
    delete_entries(&outer.blocks, &unused.instances)
}

fn delete_entries(map: &OwnedFd, numbers: &[u32]) -> io::Result<()> {
    (numbers.iter()).try_for_each(|number| syscall::delete_entry(map.as_fd(), *number))
}
