//! Answers of resolvers that the kernel programs cannot read alone: put together, read, learned from.
//!
//! The programs hold such packets back until this is done, so it runs in a task of its own, beside whatever else the agent does.

mod assemble;
mod read;

use std::sync::Arc;

use aya::maps::MapError;
use ebfw_common::{
    abi::{AnswerPiece, NameEvent, name_outcome},
    dns::HEADER,
    packet::protocol,
};
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

use self::{
    assemble::{Assembler, Known},
    read::{Says, read, same_question},
};
use crate::{
    datapath::{Asker, Learner, Ring, Tally},
    metrics::{Metrics, Reading},
};

/// Reads what the programs hand over.
pub struct Reader {
    assembler: Assembler,
    learner: Learner,
    metrics: Arc<Metrics>,
}

impl Reader {
    /// One that has read nothing.
    #[must_use]
    pub fn new(learner: Learner, metrics: Arc<Metrics>) -> Self {
        Self {
            assembler: Assembler::default(),
            learner,
            metrics,
        }
    }

    /// Reads what comes through `ring`, and gives what became of each answer to `tell` as an event of the programs. Never ends by itself.
    ///
    /// # Errors
    ///
    /// Where the ring cannot be heard any more.
    pub async fn run(mut self, mut ring: Ring, tell: impl Fn(&[u8])) -> anyhow::Result<()> {
        loop {
            ring.drain(|bytes| self.take(bytes, &tell)).await?;
        }
    }

    /// Reads one entry of the ring.
    pub fn take(&mut self, bytes: &[u8], tell: impl Fn(&[u8])) {
        let Ok(piece) = AnswerPiece::ref_from_bytes(bytes) else {
            return self.metrics.answer_read(Reading::Unreadable);
        };
        let Some(completed) = self.assembler.add(piece) else {
            return self.metrics.answer_read(Reading::Unreadable);
        };
        for message in &completed.messages {
            match self.message(piece, message) {
                Ok(Some(event)) => tell(event.as_bytes()),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "failed to learn from an answer");
                    self.metrics.answer_read(Reading::Failed);
                }
            }
        }
        // Only now: what was learned stands in the map before anybody reads of it.
        if let Some(Known { to, message_end }) = completed.known
            && let Err(error) = self.learner.let_pass_to(&asker(piece), to, message_end)
        {
            tracing::warn!(%error, "failed to let an answer pass");
        }
    }

    /// Learns from a message; what the programs would tell of it.
    fn message(
        &mut self,
        piece: &AnswerPiece,
        message: &[u8],
    ) -> Result<Option<NameEvent>, MapError> {
        let config = self.learner.config()?;
        let asker = asker(piece);
        let mut event = event(piece, message);
        let mut told = |reading, outcome, learned| {
            self.metrics.answer_read(reading);
            event.outcome = outcome;
            event.learned = learned;
            Ok(Some(event))
        };
        let Some(answer) = read(message, config.seed) else {
            return told(Reading::Unreadable, name_outcome::UNREADABLE, 0);
        };
        let is_stream = piece.protocol == u16::from(protocol::TCP);
        // The programs have found the question of a datagram before they handed it over.
        let asked = !is_stream
            || self
                .learner
                .take_question(&asker, answer.id, piece.boot_ns, |text| {
                    same_question(text, answer.question)
                })?;
        if !asked {
            return told(Reading::Unasked, name_outcome::UNASKED, 0);
        }
        let addresses = match &answer.says {
            Says::Addresses(addresses) => addresses.as_slice(),
            Says::Nothing | Says::Unreadable => &[],
        };
        let tally = self
            .learner
            .learn(&asker, &answer.name, addresses, &config, piece.boot_ns)?;
        if !is_stream && let [.., high, low, _, _] = *answer.question {
            self.learner
                .let_pass(&asker, &answer.name, [high, low], piece.boot_ns)?;
        }
        let Tally {
            learned,
            full,
            special,
        } = tally;
        if answer.says == Says::Unreadable {
            told(Reading::Unreadable, name_outcome::UNREADABLE, learned)
        } else if full > 0 {
            told(Reading::Full, name_outcome::FULL, learned)
        } else if special > 0 {
            told(Reading::Special, name_outcome::SPECIAL, learned)
        } else {
            told(Reading::Learned, name_outcome::LEARNED, learned)
        }
    }
}

fn asker(piece: &AnswerPiece) -> Asker {
    Asker {
        slot: piece.slot,
        owner: piece.owner,
        netns: piece.netns,
        cookie: piece.cookie,
        port: piece.port,
        resolver: piece.resolver,
    }
}

/// The event without what became of the message.
fn event(piece: &AnswerPiece, message: &[u8]) -> NameEvent {
    let mut event = NameEvent::new_zeroed();
    event.boot_ns = piece.boot_ns;
    event.cgroup_id = piece.cgroup_id;
    event.slot = piece.slot;
    event.source = piece.source;
    event.resolver = piece.resolver;
    event.protocol = u8::try_from(piece.protocol).unwrap_or_default();
    let text = message.get(HEADER as usize..).unwrap_or_default();
    let length = text.len().min(event.question.len());
    event.question[..length].copy_from_slice(&text[..length]);
    event.length = u16::try_from(length).unwrap_or_default();
    event
}
