//! The readers of what clients say: tables of hostile rows, every way to split, and libraries as oracles.

mod drive;
mod hello;
mod tls;
