//! From pieces of packets to messages.
//!
//! Pure. Whatever comes, no more than [`MAX_BYTES`] are kept: the workload that keeps the most gives way, and its messages stay unread.

use std::collections::{BTreeMap, HashMap};

use ebfw_common::{
    abi::{AnswerPiece, PIECE, SlotRef},
    packet::protocol,
};

/// Bytes that wait for the rest of their messages, of all workloads together.
const MAX_BYTES: usize = 4 << 20;
/// Packets and streams that are known, of all workloads together.
const MAX_WAITING: usize = 1024;
/// How far ahead of what is missing a segment may be: the longest message and the longest packet.
const WINDOW: u32 = 2 * (1 << 17);
/// Payload of the longest packet that the programs hand over.
const MAX_PACKET: usize = 17 * PIECE;

/// What a piece completes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Completed {
    /// Whole messages, in their order.
    pub(super) messages: Vec<Vec<u8>>,
    /// TCP: how far the stream is known.
    pub(super) known: Option<Known>,
}

/// How far a stream is known, in sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// The first byte that is not known yet.
    pub(super) to: u32,
    /// The first byte behind the message that has begun, or its own first where that is not known.
    pub(super) message_end: u32,
}

/// A socket of a network namespace, and for UDP which of its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Source {
    cookie: u64,
    netns: u64,
    /// When the packet came; 0 for a stream.
    packet: u64,
}

/// What waits for its rest.
#[derive(Debug)]
enum Waiting {
    Packet(Packet),
    Stream(Stream),
}

impl Waiting {
    fn bytes(&self) -> usize {
        match self {
            Self::Packet(packet) => packet.bytes.len(),
            Self::Stream(stream) => stream.bytes(),
        }
    }
}

/// Something that waits.
#[derive(Debug)]
struct Entry {
    /// When its last piece came.
    since: u64,
    slot: SlotRef,
    waiting: Waiting,
}

/// Pieces that wait for others, and where streams have got to: what TCP sends again was read before.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    entries: HashMap<Source, Entry>,
    bytes: usize,
}

impl Assembler {
    /// Adds a piece. `None`: it makes no sense.
    pub(super) fn add(&mut self, piece: &AnswerPiece) -> Option<Completed> {
        let data = piece.bytes.get(..usize::try_from(piece.length).ok()?)?;
        let end = piece.offset.checked_add(piece.length)?;
        if data.is_empty() || end > piece.total || piece.total as usize > MAX_PACKET {
            return None;
        }
        let is_stream = piece.protocol == u16::from(protocol::TCP);
        let source = Source {
            cookie: piece.cookie,
            netns: piece.netns,
            packet: if is_stream { 0 } else { piece.boot_ns },
        };
        let known = self.entries.remove(&source).map(|entry| entry.waiting);
        self.bytes -= known.as_ref().map_or(0, Waiting::bytes);
        let (completed, rest) = if is_stream {
            let mut stream = match known {
                Some(Waiting::Stream(stream)) => stream,
                Some(Waiting::Packet(_)) | None => Stream::at(piece.next),
            };
            let completed = stream.add(piece.sequence.wrapping_add(piece.offset), piece.next, data);
            (completed, Some(Waiting::Stream(stream)))
        } else {
            let mut packet = match known {
                Some(Waiting::Packet(packet)) => packet,
                Some(Waiting::Stream(_)) | None => Packet::default(),
            };
            match packet.add(piece, data) {
                Some(message) => {
                    let completed = Completed {
                        messages: vec![message],
                        known: None,
                    };
                    (completed, None)
                }
                None => (Completed::default(), Some(Waiting::Packet(packet))),
            }
        };
        if let Some(rest) = rest {
            self.bytes += rest.bytes();
            let entry = Entry {
                since: piece.boot_ns,
                slot: piece.slot,
                waiting: rest,
            };
            self.entries.insert(source, entry);
            self.make_room();
        }
        Some(completed)
    }

    /// The workload that keeps the most gives way with what has waited longest, so that none crowds out the others.
    fn make_room(&mut self) {
        while self.bytes > MAX_BYTES || self.entries.len() > MAX_WAITING {
            let mut kept: HashMap<u32, usize> = HashMap::new();
            for entry in self.entries.values() {
                // An entry without bytes takes room too.
                *kept.entry(entry.slot.0).or_default() += entry.waiting.bytes() + PIECE;
            }
            let most = kept.into_iter().max_by_key(|(_, bytes)| *bytes);
            let Some((slot, _)) = most else { return };
            let of_it = self.entries.iter().filter(|(_, e)| e.slot.0 == slot);
            let oldest = of_it.min_by_key(|(_, entry)| entry.since);
            let Some(source) = oldest.map(|(source, _)| *source) else {
                return;
            };
            if let Some(entry) = self.entries.remove(&source) {
                self.bytes -= entry.waiting.bytes();
            }
        }
    }
}

/// A datagram, the pieces of which come in their order.
#[derive(Debug, Default)]
struct Packet {
    bytes: Vec<u8>,
}

impl Packet {
    /// The whole of it once the last piece is there. Where one is missing it never is.
    fn add(&mut self, piece: &AnswerPiece, data: &[u8]) -> Option<Vec<u8>> {
        if self.bytes.len() == piece.offset as usize {
            self.bytes.extend(data);
        }
        (self.bytes.len() == piece.total as usize).then(|| std::mem::take(&mut self.bytes))
    }
}

/// A stream of messages, each with its length before it (RFC 1035, 4.2.2).
#[derive(Debug)]
struct Stream {
    /// Sequence number of the first byte of `known`, where a message begins.
    start: u32,
    known: Vec<u8>,
    /// What came before its time, by its distance from `start`.
    ahead: BTreeMap<u32, Vec<u8>>,
}

impl Stream {
    fn at(start: u32) -> Self {
        Self {
            start,
            known: Vec::new(),
            ahead: BTreeMap::new(),
        }
    }

    fn bytes(&self) -> usize {
        self.known.len() + self.ahead.values().map(Vec::len).sum::<usize>()
    }

    fn end(&self) -> u32 {
        // Less than `WINDOW`.
        self.start.wrapping_add(self.known.len() as u32)
    }

    /// The first byte behind the message that has begun.
    fn message_end(&self) -> u32 {
        match self.known[..] {
            [high, low, ..] => {
                let length = u16::from_be_bytes([high, low]);
                self.start.wrapping_add(u32::from(length) + 2)
            }
            [] | [_] => self.start,
        }
    }

    /// Adds `data`, whose first byte has the number `sequence`. All before `next` has passed.
    fn add(&mut self, sequence: u32, next: u32, data: &[u8]) -> Completed {
        if is_behind(self.end(), next) {
            // Something passed that is not known here: a message begins where the programs say.
            *self = Self::at(next);
        }
        let distance = sequence.wrapping_sub(self.start);
        let data = if is_behind(sequence, self.start) {
            // Its beginning was read before.
            let skip = self.start.wrapping_sub(sequence) as usize;
            data.get(skip..).map(|data| (0, data))
        } else {
            Some((distance, data))
        };
        if let Some((distance, data)) = data
            && distance < WINDOW
        {
            let longer = self
                .ahead
                .get(&distance)
                .is_none_or(|known| known.len() < data.len());
            if longer {
                self.ahead.insert(distance, data.to_vec());
            }
        }
        self.join();
        let messages = self.split();
        Completed {
            messages,
            known: Some(Known {
                to: self.end(),
                message_end: self.message_end(),
            }),
        }
    }

    /// Moves what is no longer ahead to what is known.
    fn join(&mut self) {
        while let Some(first) = self.ahead.first_entry() {
            let at = *first.key() as usize;
            if at > self.known.len() {
                return;
            }
            let data = first.remove();
            let fresh = data.get(self.known.len() - at..).unwrap_or_default();
            self.known.extend(fresh);
        }
    }

    /// Takes whole messages off the front.
    fn split(&mut self) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let mut at = 0;
        while let Some(&[high, low]) = self.known.get(at..at + 2) {
            let length = usize::from(u16::from_be_bytes([high, low]));
            let Some(message) = self.known.get(at + 2..at + 2 + length) else {
                break;
            };
            messages.push(message.to_vec());
            at += 2 + length;
        }
        self.known.drain(..at);
        let taken = at as u32;
        self.start = self.start.wrapping_add(taken);
        let ahead = std::mem::take(&mut self.ahead);
        self.ahead = ahead
            .into_iter()
            .filter_map(|(distance, data)| Some((distance.checked_sub(taken)?, data)))
            .collect();
        messages
    }
}

/// Whether `a` comes before `b`, as sequence numbers do (RFC 9293, 3.4).
fn is_behind(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::FromZeros as _;

    use super::*;

    const START: u32 = u32::MAX - 5;

    /// The piece of a stream that begins at byte `at`.
    fn segment(at: usize, next: usize, data: &[u8]) -> AnswerPiece {
        let mut piece = AnswerPiece::new_zeroed();
        piece.protocol = 6;
        piece.cookie = 7;
        piece.sequence = START.wrapping_add(at as u32);
        piece.next = START.wrapping_add(next as u32);
        piece.total = data.len() as u32;
        piece.length = data.len() as u32;
        piece.bytes[..data.len()].copy_from_slice(data);
        piece
    }

    fn datagram(boot_ns: u64, offset: usize, total: usize, data: &[u8]) -> AnswerPiece {
        let mut piece = segment(0, 0, data);
        piece.protocol = 17;
        piece.boot_ns = boot_ns;
        piece.offset = offset as u32;
        piece.total = total as u32;
        piece
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u16::try_from(message.len()).unwrap();
        [&length.to_be_bytes()[..], message].concat()
    }

    fn known(to: usize, message_end: usize) -> Option<Known> {
        let number = |bytes: usize| START.wrapping_add(bytes as u32);
        Some(Known {
            to: number(to),
            message_end: number(message_end),
        })
    }

    #[test]
    fn a_message_is_found_wherever_it_is_split() {
        let first: Vec<u8> = (0..40).collect();
        let stream = [framed(&first), framed(b"second"), framed(b"")].concat();
        for at in 1..stream.len() {
            let mut assembler = Assembler::default();
            let (before, after) = stream.split_at(at);
            let one = assembler.add(&segment(0, 0, before)).unwrap();
            // The first message ends at 42, the second at 50, the last at 52.
            let ends = match at {
                1 => 0,
                2..42 => 42,
                43 => 42,
                51 => 50,
                42 => 42,
                44..50 => 50,
                50 => 50,
                _ => unreachable!("the stream has 52 bytes"),
            };
            assert_eq!(one.known, known(at, ends), "split at {at}");
            let two = assembler.add(&segment(at, at, after)).unwrap();
            let messages = [one.messages, two.messages].concat();
            assert_eq!(
                messages,
                [first.clone(), b"second".to_vec(), vec![]],
                "split at {at}"
            );
            assert_eq!(two.known, known(stream.len(), stream.len()));
            assert_eq!(assembler.bytes, 0);
            let again = assembler.add(&segment(at, at, after)).unwrap();
            assert!(again.messages.is_empty(), "sent again");
        }
    }

    #[test]
    fn segments_may_come_in_any_order_again_and_overlapping() {
        let stream = framed(b"0123456789");
        let part = |from: usize, to: usize| segment(from, 0, &stream[from..to]);
        for (parts, why) in [
            (vec![part(6, 12), part(0, 6)], "the last first"),
            (vec![part(8, 12), part(4, 8), part(0, 4)], "backwards"),
            (vec![part(0, 6), part(0, 6), part(6, 12)], "one twice"),
            (vec![part(0, 8), part(4, 12)], "overlapping"),
            (vec![part(4, 9), part(4, 12), part(0, 5)], "one longer"),
            (
                vec![part(2, 9), part(9, 12), part(0, 12)],
                "all of it at last",
            ),
        ] {
            let mut assembler = Assembler::default();
            let mut messages = Vec::new();
            for piece in &parts {
                messages.extend(assembler.add(piece).unwrap().messages);
            }
            assert_eq!(messages, [b"0123456789"], "{why}");
            assert_eq!(assembler.bytes, 0, "{why}");
        }
    }

    #[test]
    fn what_the_programs_let_pass_is_no_gap() {
        let stream = framed(b"0123456789");
        let mut assembler = Assembler::default();
        // The first message begins behind what passed, and what is known of the one before is worth nothing.
        let before = assembler.add(&segment(0, 0, &[0, 90, 1, 2])).unwrap();
        assert_eq!(before.known, known(4, 92));
        let one = assembler.add(&segment(100, 100, &stream[..5])).unwrap();
        assert_eq!(one.known, known(105, 112));
        let two = assembler.add(&segment(105, 100, &stream[5..])).unwrap();
        assert_eq!(two.messages, [b"0123456789"]);
    }

    #[test]
    fn a_datagram_is_put_together_and_one_with_a_hole_is_not() {
        let bytes: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        let mut assembler = Assembler::default();
        let piece = |time, at: usize| {
            let end = bytes.len().min(at + PIECE);
            datagram(time, at, bytes.len(), &bytes[at..end])
        };
        // Two at once; of the second the middle is lost.
        for (time, at) in [(1, 0), (2, 0), (1, PIECE), (2, 2 * PIECE)] {
            let completed = assembler.add(&piece(time, at)).unwrap();
            assert_eq!(completed, Completed::default());
        }
        let completed = assembler.add(&piece(1, 2 * PIECE)).unwrap();
        assert_eq!(completed.messages, std::slice::from_ref(&bytes));
    }

    #[test]
    fn pieces_that_make_no_sense_are_refused() {
        let mut assembler = Assembler::default();
        type Change = fn(&mut AnswerPiece);
        for (change, why) in [
            ((|p| p.length = 0) as Change, "nothing in it"),
            (|p| p.length = PIECE as u32 + 1, "longer than it is"),
            (|p| p.offset = 2, "beyond its packet"),
            (|p| p.offset = u32::MAX, "an offset that wraps"),
            (|p| p.total = 1 << 20, "a packet that cannot be"),
        ] {
            let mut piece = segment(0, 0, b"abc");
            change(&mut piece);
            assert_eq!(assembler.add(&piece), None, "{why}");
        }
        assert_eq!(assembler.entries.len(), 0);
    }

    #[test]
    fn nobody_makes_it_keep_more_than_the_limit() {
        let mut assembler = Assembler::default();
        let data = [0xff; PIECE];
        for number in 0..2_000u32 {
            let mut piece = segment(2 + 5_000 * (number as usize % 50), 0, &data);
            piece.cookie = u64::from(number / 50);
            piece.boot_ns = u64::from(number);
            assembler.add(&piece).unwrap();
            let held: usize = assembler.entries.values().map(|e| e.waiting.bytes()).sum();
            assert_eq!(held, assembler.bytes);
            assert!(held <= MAX_BYTES, "{held} bytes");
        }
        for number in 0..1_000 {
            assembler.add(&datagram(number, 0, 5_000, &data)).unwrap();
            assert!(assembler.entries.len() <= MAX_WAITING);
        }
    }

    #[test]
    fn a_workload_does_not_crowd_out_another() {
        let mut assembler = Assembler::default();
        let stream = framed(b"0123456789");
        assembler.add(&segment(0, 0, &stream[..5])).unwrap();
        for number in 0..3_000 {
            let mut piece = datagram(1 + number, 0, 5_000, &[0xff; PIECE]);
            piece.slot = SlotRef::new(9, 1);
            assembler.add(&piece).unwrap();
        }
        let completed = assembler.add(&segment(5, 0, &stream[5..])).unwrap();
        assert_eq!(completed.messages, [b"0123456789"]);
    }

    proptest! {
        #[test]
        fn no_pieces_break_it(
            pieces in prop::collection::vec((any::<u32>(), any::<u32>(), 0..3u64, 0..5_000u32, any::<bool>(), any::<u8>()), 0..60)
        ) {
            let mut assembler = Assembler::default();
            for (sequence, next, cookie, length, near, fill) in pieces {
                let mut piece = AnswerPiece::new_zeroed();
                piece.protocol = if fill % 3 == 0 { 17 } else { 6 };
                piece.cookie = cookie;
                // Near each other, or anywhere.
                piece.sequence = if near { sequence % 300_000 } else { sequence };
                piece.next = if near { next % 300_000 } else { next };
                piece.length = length;
                piece.total = length;
                piece.bytes.fill(fill);
                assembler.add(&piece);
                let held: usize = assembler.entries.values().map(|e| e.waiting.bytes()).sum();
                prop_assert_eq!(held, assembler.bytes);
                prop_assert!(held <= MAX_BYTES);
            }
        }
    }
}
