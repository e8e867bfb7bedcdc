//! Command line of `ebfw`.
