//! What the end-to-end tests share: packets in every disguise, labs with a judge on the wire, ways to send.

pub mod http;
pub mod lab;
pub mod packet;
pub mod path;
pub mod tls;
