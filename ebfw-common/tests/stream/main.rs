//! The readers of what clients say: tables of hostile rows, every way to split, and libraries as oracles.

mod cuts;
mod drive;
mod frames;
mod heads;
mod hello;
mod http;
mod http2;
mod path;
mod tls;
