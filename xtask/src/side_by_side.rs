//! Several pieces of work at once, each on a thread that mostly waits for another program.

use std::{
    iter,
    num::NonZeroUsize,
    panic,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// How many programs can be kept busy.
pub(crate) fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Does the pieces `0..count`, at most `workers` at once and in this order, and returns what came of each.
pub(crate) fn run<T: Send>(
    workers: usize,
    count: usize,
    piece: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let take = || -> Vec<(usize, T)> {
        iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)))
            .take_while(|at| *at < count)
            .map(|at| (at, piece(at)))
            .collect()
    };
    let mut done: Vec<(usize, T)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(take)).collect();
        let ended = workers.into_iter().map(thread::ScopedJoinHandle::join);
        ended
            .flat_map(|end| end.unwrap_or_else(|panic| panic::resume_unwind(panic)))
            .collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_are_in_order_and_pieces_run_at_once() {
        // Both have to be there for either to end.
        let both = Barrier::new(2);
        let results = run(2, 4, |at| {
            both.wait();
            at * 10
        });
        assert_eq!(results, [0, 10, 20, 30]);
        assert!(run(3, 0, |at| at).is_empty());
    }
}
