//! Which rules an address satisfies: from the rules' prefixes to the class of each prefix.
//!
//! The kernel takes the longest match only, so the class of a prefix also holds the rules of every
//! shorter prefix around it. Sorted by address and length, the prefixes around the one at hand are a stack.

use ipnet::{Ipv4Net, Ipv6Net};

use super::{
    ClassOf,
    bitmap::{Bitmap, Classes},
};

/// What the two families have in common here.
pub(super) trait Prefix: Copy + Ord {
    /// Bits that count.
    fn bits(self) -> u8;
    /// Whether `inner` lies in this prefix.
    fn covers(self, inner: Self) -> bool;
    /// The order in which a prefix comes directly before all that lie in it.
    fn outermost_first(self) -> (u128, u8);
}

impl Prefix for Ipv4Net {
    fn bits(self) -> u8 {
        self.prefix_len()
    }

    fn covers(self, inner: Self) -> bool {
        self.contains(&inner)
    }

    fn outermost_first(self) -> (u128, u8) {
        (u128::from(u32::from(self.network())), self.prefix_len())
    }
}

impl Prefix for Ipv6Net {
    fn bits(self) -> u8 {
        self.prefix_len()
    }

    fn covers(self, inner: Self) -> bool {
        self.contains(&inner)
    }

    fn outermost_first(self) -> (u128, u8) {
        (u128::from(self.network()), self.prefix_len())
    }
}

/// The address dimension of one family.
pub(super) struct Prefixes<P> {
    /// Class of an address that no prefix of `classes` covers.
    pub(super) default: u32,
    /// Class of each prefix that differs from its surroundings.
    pub(super) classes: ClassOf<P>,
}

/// Numbers the prefixes of one family. `anywhere` are the rules that look at no address.
pub(super) fn compile<P: Prefix>(
    mut entries: Vec<(P, usize)>,
    anywhere: &Bitmap,
    classes: &mut Classes,
) -> Prefixes<P> {
    entries.sort_unstable_by_key(|(prefix, rule)| (prefix.outermost_first(), *rule));
    let mut outside = anywhere.clone();
    let mut around: Vec<(P, Bitmap, u32)> = Vec::new();
    let mut out = Prefixes {
        default: class_number(&outside, classes),
        classes: Vec::new(),
    };
    for same in entries.chunk_by(|(a, _), (b, _)| a == b) {
        let prefix = same[0].0;
        while around
            .last()
            .is_some_and(|(outer, ..)| !outer.covers(prefix))
        {
            around.pop();
        }
        let (surroundings, class_around) = around
            .last()
            .map_or((&outside, out.default), |(_, set, class)| (set, *class));
        let set = surroundings.with(same.iter().map(|(_, rule)| *rule));
        let class = class_number(&set, classes);
        if prefix.bits() == 0 {
            (outside, out.default) = (set, class);
        } else if class != class_around {
            out.classes.push((prefix, class));
            around.push((prefix, set, class));
        }
    }
    out
}

fn class_number(set: &Bitmap, classes: &mut Classes) -> u32 {
    u32::try_from(classes.number(set)).expect("there are fewer prefixes than 2^32 in memory")
}
