//! The agent's own log: human-readable lines on standard error, never mixed with events.

use std::io;

use anstream::{AutoStream, ColorChoice};

use crate::config::LogFilter;

/// Starts logging, in colours on a terminal that wants them. Does nothing if the process logs already.
pub fn start(filter: &LogFilter) {
    let colours = AutoStream::choice(&io::stderr()) != ColorChoice::Never;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter.to_env_filter())
        .with_writer(io::stderr)
        .with_ansi(colours)
        // It would say on standard error that nobody reads standard error, and panic over that.
        .log_internal_errors(false)
        .finish();
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::debug!("the process logs already");
    }
}
