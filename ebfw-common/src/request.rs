//! From the method and the path of a request to their classes: the sets of a ruleset's rules that they satisfy.
//!
//! Each ruleset has an automaton of its own for both, in its blocks, made of the cells of [`crate::names`] and walked from the first byte
//! to the last. A path's walk ends at the longest prefix that means it, wherever the path goes on from there, so its cost does not depend
//! on how many prefixes there are. `ebfw_policy::compile` builds the cells.

use crate::{
    classify::{TableError, Tables},
    layout::{BITS_WORDS, Block, Header},
    names::{self, Cells, Text},
};

/// What the readers of streams keep of a request is what is looked at here.
pub use crate::stream::{MAX_METHOD, MAX_PATH, MAX_PREFIX as MAX_PATH_PREFIX};

const CELLS_SHIFT: u32 = BITS_WORDS.trailing_zeros();

/// The cells in the blocks of a ruleset, of which the last one is kept in mind.
struct InBlocks<'a, T> {
    tables: &'a T,
    first: u32,
    number: u32,
    block: &'a Block,
}

impl<'a, T: Tables> InBlocks<'a, T> {
    #[inline(always)]
    fn new(tables: &'a T, first: u32) -> Result<Self, TableError> {
        let block = tables.block(first).ok_or(TableError)?;
        Ok(Self {
            tables,
            first,
            number: 0,
            block,
        })
    }
}

impl<T: Tables> Cells for InBlocks<'_, T> {
    #[inline(always)]
    fn cell(&mut self, index: u32) -> Option<u32> {
        let number = index >> CELLS_SHIFT;
        if number != self.number {
            self.block = self.tables.block(self.first.wrapping_add(number))?;
            self.number = number;
        }
        Some(self.block[index as usize & (BITS_WORDS - 1)] as u32)
    }
}

/// The class of a method of `length` bytes, as it stands in the request.
///
/// # Errors
///
/// [`TableError`] where cells are missing: the flow must not pass.
#[inline(always)]
pub fn class_of_method<T: Tables>(
    tables: &T,
    header: &Header,
    text: &(impl Text + ?Sized),
    length: u32,
) -> Result<u32, TableError> {
    if length > MAX_METHOD as u32 {
        return Ok(names::NO_CLASS);
    }
    walk::<{ MAX_METHOD as u32 }, T>(tables, header.cells, header.method_root, text, length)
}

/// The class of a path of `length` bytes in its normal form (SEMANTICS 3, `pathPrefix`); bytes behind the first [`MAX_PATH`] are not read.
///
/// # Errors
///
/// As [`class_of_method`].
#[inline(always)]
pub fn class_of_path<T: Tables>(
    tables: &T,
    header: &Header,
    text: &(impl Text + ?Sized),
    length: u32,
) -> Result<u32, TableError> {
    walk::<{ MAX_PATH as u32 }, T>(tables, header.cells, header.path_root, text, length)
}

/// A part of [`class_of_path`], of `LIMIT` bytes at most: from byte `from` on, with `length` bytes left, in `state`, which at first is that of
/// the header. The state behind it, or, with [`names::IS_CLASS`], the class.
///
/// # Errors
///
/// As [`class_of_method`].
#[inline(always)]
pub fn walk_over_path<const LIMIT: u32, T: Tables>(
    tables: &T,
    header: &Header,
    text: &(impl Text + ?Sized),
    state: u32,
    from: u32,
    length: u32,
) -> Result<u32, TableError> {
    names::walk_over::<LIMIT>(
        &mut InBlocks::new(tables, header.cells)?,
        state,
        length,
        |state| text.pass(state),
        |read| names::exact(text.byte(from.wrapping_add(read))),
    )
    .ok_or(TableError)
}

/// The class of a path that ends in `state`.
///
/// # Errors
///
/// As [`class_of_method`].
#[inline(always)]
pub fn end_of_path<T: Tables>(tables: &T, header: &Header, state: u32) -> Result<u32, TableError> {
    names::end(&mut InBlocks::new(tables, header.cells)?, state).ok_or(TableError)
}

#[inline(always)]
fn walk<const LIMIT: u32, T: Tables>(
    tables: &T,
    first: u32,
    root: u32,
    text: &(impl Text + ?Sized),
    length: u32,
) -> Result<u32, TableError> {
    names::walk::<LIMIT>(
        &mut InBlocks::new(tables, first)?,
        root,
        length,
        |state| text.pass(state),
        |read| names::exact(text.byte(read)),
    )
    .ok_or(TableError)
}
