//! Calls that a signal cuts short.

use std::io;

/// How often such a call is made anew: a verification may take seconds, and whoever is stopped all the time shall hear of it.
const ATTEMPTS: usize = 20;

/// Whether a signal has cut a verification short: the verifier gives up where one is pending, even one that only stops the process for a moment, as
/// a debugger or the freezer of cgroups does (EAGAIN; kernel/bpf/verifier.c, `do_check`).
pub(crate) fn is_cut_short(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAGAIN)
}

/// Makes a call again that was cut short.
pub(crate) fn again<T, E>(
    is_cut_short: impl Fn(&E) -> bool,
    mut call: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    for _ in 1..ATTEMPTS {
        match call() {
            Err(error) if is_cut_short(&error) => {}
            done => return done,
        }
    }
    call()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_short_is_done_again_for_a_while() {
        let mut calls = 0;
        let mut cut_short = |times: usize, end: Result<(), u8>| {
            calls = 0;
            let done = again(
                |error| *error == 11,
                || {
                    calls += 1;
                    if calls > times { end } else { Err(11) }
                },
            );
            (calls, done)
        };
        assert_eq!(cut_short(0, Err(1)), (1, Err(1)));
        assert_eq!(cut_short(3, Ok(())), (4, Ok(())));
        assert_eq!(cut_short(3, Err(1)), (4, Err(1)));
        assert_eq!(cut_short(usize::MAX, Ok(())), (ATTEMPTS, Err(11)));
    }
}
