//! Lays states into the cells of a double array: each where its edges fall into free cells, the ones with most edges first.

use std::cmp::Reverse;

use ebfw_common::names::{self, DEFAULT, END, MAX_CELLS, SYMBOLS};
use rustc_hash::FxHashMap;

use super::{
    Limit,
    merge::{Merged, Next},
};

/// Words of fruitless search before a shape of state begins its next search further on.
const PATIENCE: usize = 8;

/// The cells, and the state at which names begin.
pub(super) fn lay_out(states: &[Merged], first: Next) -> Result<(Vec<u32>, u32), Limit> {
    let Next::State(first) = first else {
        // No pattern matches the empty name, so where all names have one class that is no class.
        return Ok((Vec::new(), 1));
    };
    let (cells, bases) = cells_of(states, names::symbol)?;
    Ok((cells, bases[first as usize]))
}

/// The cells, and where each state begins. `symbol` is that of a byte.
pub(in crate::compile) fn cells_of(
    states: &[Merged],
    symbol: fn(u8) -> u32,
) -> Result<(Vec<u32>, Vec<u32>), Limit> {
    let bases = place(states, symbol)?;
    let mut cells = Vec::new();
    for (state, base) in states.iter().zip(&bases) {
        for (symbol, next) in outs(state, symbol) {
            let index = (base + symbol) as usize;
            if index >= cells.len() {
                cells.resize(index + 1, 0);
            }
            debug_assert!(cells[index] == 0, "two states share a cell");
            cells[index] = match next {
                _ if symbol == END => names::edge(symbol, state.class),
                Next::State(next) => names::edge(symbol, bases[next as usize]),
                Next::Decided(class) => names::decided(symbol, class),
            };
        }
    }
    if cells.len() > MAX_CELLS as usize {
        return Err(Limit::Cells);
    }
    Ok((cells, bases))
}

/// The symbols for which a state needs a cell, in their order. What the one for [`END`] says is the class.
fn outs(state: &Merged, symbol: fn(u8) -> u32) -> impl Iterator<Item = (u32, Next)> {
    let default = (state.default != Next::Decided(0)).then_some((DEFAULT, state.default));
    let end = (state.class != 0).then_some((END, Next::Decided(state.class)));
    let edges = state.edges.iter();
    default
        .into_iter()
        .chain(end)
        .chain(edges.map(move |&(byte, next)| (symbol(byte), next)))
}

fn place(states: &[Merged], symbol: fn(u8) -> u32) -> Result<Vec<u32>, Limit> {
    let mut order = walked(states);
    order.sort_by_key(|&state| Reverse(states[state as usize].edges.len()));
    let mut bases = vec![0; states.len()];
    let mut room = Room::new();
    let mut symbols = Vec::new();
    for state in order {
        symbols.clear();
        symbols.extend(outs(&states[state as usize], symbol).map(|(symbol, _)| symbol));
        bases[state as usize] = room.take(&symbols)?;
    }
    Ok(bases)
}

/// All states, each behind the one from which the walk comes: what is walked over together lies together then, which saves the kernel
/// look-ups.
fn walked(states: &[Merged]) -> Vec<u32> {
    let mut order = Vec::with_capacity(states.len());
    let mut seen = vec![false; states.len()];
    let mut open: Vec<u32> = (0..states.len() as u32).rev().collect();
    while let Some(state) = open.pop() {
        if std::mem::replace(&mut seen[state as usize], true) {
            continue;
        }
        order.push(state);
        let Merged {
            class: _,
            default,
            edges,
        } = &states[state as usize];
        let nexts = edges.iter().rev().map(|(_, next)| next);
        open.extend(
            [default]
                .into_iter()
                .chain(nexts)
                .filter_map(|next| match next {
                    Next::State(next) if !seen[*next as usize] => Some(*next),
                    Next::State(_) | Next::Decided(_) => None,
                }),
        );
    }
    order
}

/// Which cells are free and which bases are taken, a bit each.
struct Room {
    cells: Vec<u64>,
    bases: Vec<u64>,
    /// Where to begin, for states with this first symbol and number of symbols.
    begin: FxHashMap<(u32, usize), usize>,
}

impl Room {
    fn new() -> Self {
        Self {
            cells: Vec::new(),
            // No state is 0.
            bases: vec![1],
            begin: FxHashMap::default(),
        }
    }

    /// The lowest base that is left for a state with these symbols.
    fn take(&mut self, symbols: &[u32]) -> Result<u32, Limit> {
        let shape = (symbols.first().copied().unwrap_or(0), symbols.len());
        let begin = self.begin.get(&shape).copied().unwrap_or(0);
        let mut word = begin;
        let base = loop {
            if word * 64 > MAX_CELLS as usize {
                return Err(Limit::Cells);
            }
            let taken = self.taken(word, symbols);
            if taken != u64::MAX {
                break word * 64 + taken.trailing_ones() as usize;
            }
            word += 1;
        };
        if word > begin + PATIENCE {
            self.begin.insert(shape, word - PATIENCE);
        }
        set(&mut self.bases, base);
        for symbol in symbols {
            set(&mut self.cells, base + *symbol as usize);
        }
        Ok(base as u32)
    }

    /// Which of the 64 bases from `word` on cannot be used.
    fn taken(&self, word: usize, symbols: &[u32]) -> u64 {
        let mut taken = self.bases.get(word).copied().unwrap_or(0);
        for &symbol in symbols {
            debug_assert!(symbol < SYMBOLS);
            taken |= window(&self.cells, word * 64 + symbol as usize);
            if taken == u64::MAX {
                break;
            }
        }
        taken
    }
}

/// 64 bits from `bit` on.
fn window(bits: &[u64], bit: usize) -> u64 {
    let word = |at: usize| bits.get(at).copied().unwrap_or(0);
    let (at, shift) = (bit / 64, bit % 64);
    match shift {
        0 => word(at),
        _ => word(at) >> shift | word(at + 1) << (64 - shift),
    }
}

fn set(bits: &mut Vec<u64>, bit: usize) {
    if bit / 64 >= bits.len() {
        bits.resize(bit / 64 + 1, 0);
    }
    bits[bit / 64] |= 1 << (bit % 64);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state for each number: as many edges, all to state 0.
    fn states(edges: &[u8]) -> Vec<Merged> {
        let state = |&number: &u8| Merged {
            class: 0,
            default: Next::Decided(0),
            edges: (b'a'..b'a' + number)
                .map(|byte| (byte, Next::State(0)))
                .collect(),
        };
        edges.iter().map(state).collect()
    }

    #[test]
    fn states_fill_the_gaps_that_others_leave() {
        let states = states(&[1, 26, 1, 2, 26, 1, 3, 26]);
        let (cells, root) = lay_out(&states, Next::State(0)).unwrap();
        let edges = states.iter().map(|state| state.edges.len()).sum::<usize>();
        assert_eq!(cells.iter().filter(|cell| **cell != 0).count(), edges);
        assert!(
            cells.len() < names::symbol(b'a') as usize + edges + 8,
            "{}",
            cells.len()
        );
        assert!(root > 0, "0 is nobody");
    }

    #[test]
    fn more_cells_than_the_kernel_has_are_refused() {
        let many = states(&vec![26; MAX_CELLS as usize / 26 + 1]);
        assert_eq!(lay_out(&many, Next::State(0)), Err(Limit::Cells));
        let few = states(&vec![26; MAX_CELLS as usize / 64]);
        assert!(lay_out(&few, Next::State(0)).is_ok());
    }
}
