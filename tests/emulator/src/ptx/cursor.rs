//! Reading tokens: names by scope, numbers, operands.

use std::collections::HashMap;

use super::LoadError;
use super::ast::{Operand, Reg, Symbol, Width};
use super::lex::{Lexeme, Token};

#[derive(Clone, Copy)]
pub(super) enum Name {
    Reg(Reg),
    /// `%p<4>`: registers %p0 to %p3 from this one on.
    Range(Reg, u16),
    Symbol(Symbol),
}

#[derive(Default)]
pub(super) struct Scope<'a> {
    pub names: HashMap<&'a str, Name>,
    pub labels: HashMap<&'a str, usize>,
    /// Branches whose label is not known yet: statement, label.
    pub branches: Vec<(usize, &'a str)>,
}

pub(super) struct Parser<'a> {
    pub tokens: Vec<Lexeme<'a>>,
    pub at: usize,
    pub scopes: Vec<Scope<'a>>,
}

impl<'a> Parser<'a> {
    pub(super) fn next_or_end(&mut self) -> Option<Lexeme<'a>> {
        let lexeme = self.tokens.get(self.at).copied();
        self.at += 1;
        lexeme
    }

    pub(super) fn next(&mut self) -> Result<Lexeme<'a>, LoadError> {
        let last = self.tokens.last().map_or(1, |(_, line)| *line);
        self.next_or_end().ok_or_else(|| LoadError::new(last, "the text ends early"))
    }

    pub(super) fn eat(&mut self, what: u8) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|(token, _)| *token == Token::Punct(what));
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, what: u8) -> Result<(), LoadError> {
        match self.next()? {
            (Token::Punct(found), _) if found == what => Ok(()),
            (found, line) => Err(LoadError::new(line, format!("expected '{}', found {}", what as char, show(found)))),
        }
    }

    pub(super) fn word(&mut self) -> Result<&'a str, LoadError> {
        match self.next()? {
            (Token::Word(word), _) => Ok(word),
            (found, line) => Err(LoadError::new(line, format!("expected a word, found {}", show(found)))),
        }
    }

    pub(super) fn integer(&mut self) -> Result<u64, LoadError> {
        let line = self.line();
        let word = self.word()?;
        parse_integer(word).ok_or_else(|| LoadError::new(line, format!("{word} is not an integer")))
    }

    pub(super) fn small(&mut self) -> Result<u32, LoadError> {
        let line = self.line();
        let value = self.integer()?;
        u32::try_from(value).map_err(|_| LoadError::new(line, format!("{value} is too large here")))
    }

    pub(super) fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, line)| *line)
    }

    pub(super) fn scope(&mut self) -> &mut Scope<'a> {
        self.scopes.last_mut().expect("the module's scope is never closed")
    }

    pub(super) fn operand(&mut self) -> Result<Operand<'a>, LoadError> {
        let line = self.line();
        if self.eat(b'!') {
            return match self.scalar()? {
                Operand::Reg(reg) if reg.width == Width::Pred => Ok(Operand::Not(reg)),
                _ => Err(LoadError::new(line, "'!' before something that is not a predicate")),
            };
        }
        if self.eat(b'{') {
            let mut items = Vec::new();
            loop {
                items.push(self.scalar()?);
                if self.eat(b'}') {
                    return Ok(Operand::Vector(items));
                }
                self.expect(b',')?;
            }
        }
        if self.eat(b'[') {
            let base = self.scalar()?;
            let mut offset = 0;
            let plus = self.eat(b'+');
            if self.eat(b'-') {
                offset = (self.integer()? as i64).wrapping_neg();
            } else if plus {
                offset = self.integer()? as i64;
            }
            self.expect(b']')?;
            return Ok(Operand::Address(Box::new(base), offset));
        }
        match self.scalar()? {
            Operand::Reg(first) if self.eat(b'|') => match self.scalar()? {
                Operand::Reg(second) => Ok(Operand::Pair(first, second)),
                _ => Err(LoadError::new(line, "'|' before something that is not a register")),
            },
            operand => Ok(operand),
        }
    }

    /// A name or a number.
    fn scalar(&mut self) -> Result<Operand<'a>, LoadError> {
        if self.eat(b'-') {
            return Ok(Operand::Int(self.integer()?.wrapping_neg()));
        }
        match self.next()? {
            (Token::Word(word), line) => self.named(word, line),
            (token, line) => Err(LoadError::new(line, format!("unexpected {}", show(token)))),
        }
    }

    fn named(&self, word: &'a str, line: usize) -> Result<Operand<'a>, LoadError> {
        if word.starts_with(|first: char| first.is_ascii_digit()) {
            if let Some(digits) = word.strip_prefix("0f").or(word.strip_prefix("0F"))
                && digits.len() == 8
                && let Ok(bits) = u32::from_str_radix(digits, 16)
            {
                return Ok(Operand::Float(bits));
            }
            let value = parse_integer(word);
            return value.map(Operand::Int).ok_or_else(|| LoadError::new(line, format!("{word} is not supported")));
        }
        let (prefix, digits) = word.split_at(word.trim_end_matches(|c: char| c.is_ascii_digit()).len());
        let number = digits.parse::<u16>().ok();
        for scope in self.scopes.iter().rev() {
            match scope.names.get(word) {
                Some(Name::Reg(reg)) => return Ok(Operand::Reg(*reg)),
                Some(Name::Symbol(symbol)) => return Ok(Operand::Symbol(*symbol)),
                _ => {}
            }
            if let (Some(number), Some(Name::Range(first, count))) = (number, scope.names.get(prefix))
                && number < *count
            {
                return Ok(Operand::Reg(Reg { slot: first.slot + number, ..*first }));
            }
        }
        match word {
            "WARP_SZ" => Ok(Operand::Int(32)),
            _ if word.starts_with('%') => Ok(Operand::Special(word)),
            _ => Err(LoadError::new(line, format!("unknown name {word}"))),
        }
    }
}

fn parse_integer(word: &str) -> Option<u64> {
    let word = word.strip_suffix(['U', 'u']).unwrap_or(word);
    match word.strip_prefix("0x").or(word.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

pub(super) fn show(token: Token) -> String {
    match token {
        Token::Word(word) => word.to_string(),
        Token::Text(text) => format!("\"{text}\""),
        Token::Punct(byte) => format!("'{}'", byte as char),
    }
}
