//! What the kernel decided and saw, told to people and programs: decode, annotate, attribute, filter, sink.
//! Each stage is a function over values; [`pipeline`] puts them in a row. See `docs/events.md` for the output.

pub mod annotate;
pub mod attribute;
mod claim;
mod clock;
mod decode;
pub mod event;
mod filter;
mod https;
mod json;
mod lookup;
mod mode;
pub mod pipeline;
mod printable;
mod question;
#[cfg(test)]
pub(crate) mod samples;
pub mod sink;
pub(crate) mod text;

#[cfg(test)]
pub(crate) mod golden;

pub use claim::Inspection;
pub use clock::BootClock;
pub(crate) use clock::boot_ns;
pub use decode::{Cause, Connect, DecodeError, Hook, Verdict, decode};
pub use event::Event;
pub use filter::Filter;
pub use printable::Printable;
pub use text::{Colour, Text};
