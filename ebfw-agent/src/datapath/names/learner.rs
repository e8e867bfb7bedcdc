//! Learns names as the programs do, from answers that only the agent can read: the same questions, places, quota and times.

use std::{net::IpAddr, os::fd::AsFd, sync::atomic::Ordering};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError},
};
use ebfw_common::{
    abi::{
        ALL_NAMES, Address, Config, Held, HeldKey, LearnedName, NAME_COUNTS, NAMES_PER_ADDRESS,
        NameKey, Question, QuestionKey, SlotRef, has_room_for_name,
    },
    dns::{ANSWER_NS, Name, QUESTION_WAYS, is_special, lifetime_s, set_of},
};

use super::{Key, LoadError, NameMap, QuestionMap, Value, entry, map_error, syscall};

type HeldMap = HashMap<MapData, [u64; 3], [u64; 3]>;

/// `BPF_ANY`.
const REPLACE: u64 = 0;
/// `BPF_NOEXIST`.
const ONLY_NEW: u64 = 1;

/// What became of an answer's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Whose name is known now.
    pub learned: u32,
    /// Without room for it.
    pub full: u32,
    /// Special ones, which are not learned.
    pub special: u32,
}

/// Who asked a question, and where.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The workload.
    pub slot: SlotRef,
    /// Under whom its names stand: the workload, or [`ebfw_common::abi::SHARED`].
    pub owner: SlotRef,
    /// Cookie of the network namespace.
    pub netns: u64,
    /// Cookie of the socket.
    pub cookie: u64,
    /// The port.
    pub port: u16,
    /// Who was asked.
    pub resolver: Address,
}

/// Writes to `NAMES` beside the programs, under their rules.
pub struct Learner {
    names: NameMap,
    counts: syscall::SharedWords,
    questions: QuestionMap,
    held: HeldMap,
    config: Array<MapData, [u64; 5]>,
}

impl Learner {
    pub(in crate::datapath) fn open(ebpf: &Ebpf) -> Result<Self, LoadError> {
        let descriptor = |name: &'static str| {
            syscall::descriptor(ebpf, name).map_err(|source| LoadError::Io {
                what: format!("open the map {name}"),
                source,
            })
        };
        let open = |name: &'static str| {
            MapData::from_fd(descriptor(name)?)
                .and_then(Map::from_map_data)
                .map_err(map_error(name))
        };
        let counts =
            syscall::SharedWords::map(descriptor("NAME_COUNTS")?.as_fd(), NAME_COUNTS as usize)
                .map_err(|source| LoadError::Io {
                    what: "map the memory of NAME_COUNTS".into(),
                    source,
                })?;
        Ok(Self {
            names: HashMap::try_from(open("NAMES")?).map_err(map_error("NAMES"))?,
            counts,
            questions: HashMap::try_from(open("QUESTIONS")?).map_err(map_error("QUESTIONS"))?,
            held: HashMap::try_from(open("HELD")?).map_err(map_error("HELD"))?,
            config: Array::try_from(open("CONFIG")?).map_err(map_error("CONFIG"))?,
        })
    }

    /// What the programs go by.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read.
    pub fn config(&self) -> Result<Config, MapError> {
        self.config
            .get(&0, 0)
            .map(|words| zerocopy::transmute!(words))
    }

    /// Takes the open question that an answer with this id, which came at `answered_ns`, answers, if `is_asked` finds its text (and what came
    /// behind) to be the one: each is good for one answer.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read or changed.
    pub fn take_question(
        &mut self,
        asker: &Asker,
        id: u16,
        answered_ns: u64,
        is_asked: impl Fn(&[u8]) -> bool,
    ) -> Result<bool, MapError> {
        let first = set_of(asker.cookie, id, asker.port.into());
        for place in first..first + QUESTION_WAYS {
            let key = QuestionKey {
                slot: asker.slot,
                place,
            };
            let key: u64 = zerocopy::transmute!(key);
            let question: Question = match self.questions.get(&key, 0) {
                Ok(words) => zerocopy::transmute!(words),
                Err(MapError::KeyNotFound) => continue,
                Err(error) => return Err(error),
            };
            let text = [&question.text.head[..], &question.text.tail[..]].concat();
            if question.cookie == asker.cookie
                && question.id == id
                && question.port == asker.port
                && question.resolver == asker.resolver
                && answered_ns.saturating_sub(question.asked_ns) < ANSWER_NS
                && is_asked(&text)
            {
                super::remove(&mut self.questions, &key)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Learns that `name` stands for `addresses`, each for so many seconds from `now_ns` on.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read or changed.
    pub fn learn(
        &mut self,
        asker: &Asker,
        name: &Name,
        addresses: &[(IpAddr, u32)],
        config: &Config,
        now_ns: u64,
    ) -> Result<Tally, MapError> {
        let mut tally = Tally::default();
        for (address, ttl) in addresses {
            let address = Address::from(*address);
            if config.learn_special == 0 && is_special(address) {
                tally.special += 1;
                continue;
            }
            let value = LearnedName {
                expires_ns: now_ns + lifetime_s(*ttl) * 1_000_000_000,
                class: 0,
                hash: name.hash(),
                length: name.length(),
                _pad: 0,
                text: *name.text(),
            };
            if self.place(asker, address, value, now_ns)? {
                tally.learned += 1;
            } else {
                tally.full += 1;
            }
        }
        Ok(tally)
    }

    /// As `place` of the programs: where the name stands already, at the first free place, or in that of an expired one.
    fn place(
        &mut self,
        asker: &Asker,
        address: Address,
        value: LearnedName,
        now_ns: u64,
    ) -> Result<bool, MapError> {
        let words: Value = zerocopy::transmute!(value);
        let counts = self.counts.words();
        let Some(count) = counts.get(asker.owner.index() as usize) else {
            return Ok(false);
        };
        let all = &counts[ALL_NAMES as usize];
        let mut expired = None;
        for place in 0..NAMES_PER_ADDRESS {
            let key = NameKey {
                slot: asker.owner,
                place,
                address,
                netns: asker.netns,
            };
            let key: Key = zerocopy::transmute!(key);
            let known = match self.names.get(&key, 0) {
                Ok(known) => entry(known),
                Err(MapError::KeyNotFound) => {
                    let own = count.load(Ordering::Acquire);
                    if !has_room_for_name(own, all.load(Ordering::Acquire)) {
                        break;
                    }
                    // Refused where a program came first, or the map is full.
                    if self.names.insert(key, words, ONLY_NEW).is_ok() {
                        count.fetch_add(1, Ordering::AcqRel);
                        all.fetch_add(1, Ordering::AcqRel);
                        return Ok(true);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            if known.hash == value.hash && known.length == value.length {
                if known.expires_ns < value.expires_ns {
                    self.names.insert(key, words, REPLACE)?;
                }
                return Ok(true);
            }
            if known.expires_ns < now_ns {
                expired = Some(key);
            }
        }
        match expired {
            Some(key) => self.names.insert(key, words, REPLACE).map(|()| true),
            None => Ok(false),
        }
    }

    /// Lets pass what waits for an answer over UDP about `name` and a type of record (as it stands in the message).
    ///
    /// # Errors
    ///
    /// Where the map refuses.
    pub fn let_pass(
        &mut self,
        asker: &Asker,
        name: &Name,
        kind: [u8; 2],
        now_ns: u64,
    ) -> Result<(), MapError> {
        let key = HeldKey {
            what: HeldKey::datagram(name.hash(), u16::from_be_bytes(kind)),
            netns: asker.netns,
            slot: asker.slot,
            protocol: libc::IPPROTO_UDP.cast_unsigned(),
        };
        self.advance(
            key,
            Held {
                read_ns: now_ns,
                ..Held::default()
            },
        )
    }

    /// Lets pass the segments of a stream before sequence number `read`, and those that end before the message that has begun does.
    ///
    /// # Errors
    ///
    /// Where the map refuses.
    pub fn let_pass_to(&mut self, asker: &Asker, read: u32, end: u32) -> Result<(), MapError> {
        let key = HeldKey {
            what: asker.cookie,
            netns: asker.netns,
            slot: asker.slot,
            protocol: libc::IPPROTO_TCP.cast_unsigned(),
        };
        let known: [u64; 3] = zerocopy::transmute!(key);
        if let Ok(words) = self.held.get(&known, 0) {
            let held: Held = zerocopy::transmute!(words);
            // The programs may be further.
            if read.wrapping_sub(held.read).cast_signed() <= 0 {
                return Ok(());
            }
        }
        self.advance(
            key,
            Held {
                read,
                end,
                ..Held::default()
            },
        )
    }

    fn advance(&mut self, key: HeldKey, held: Held) -> Result<(), MapError> {
        let key: [u64; 3] = zerocopy::transmute!(key);
        let held: [u64; 3] = zerocopy::transmute!(held);
        self.held.insert(key, held, REPLACE)
    }
}
