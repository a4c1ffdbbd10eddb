//! PTX text to statements: names resolved, labels turned into statement numbers, nothing else interpreted.

mod ast;
mod cursor;
mod declare;
mod lex;
mod parse;

pub use ast::{Entry, Operand, Param, Reg, Statement, Symbol, Width};
pub use parse::parse;

/// Why a text was refused, and on which line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {message}")]
pub struct LoadError {
    /// Line of the text, from 1.
    pub line: usize,
    /// What was found and what is supported.
    pub message: String,
}

impl LoadError {
    pub(crate) fn new(line: usize, message: impl Into<String>) -> LoadError {
        LoadError { line, message: message.into() }
    }
}
