//! The parser: declarations are laid out, names resolved by scope, branch targets turned into statement numbers.

use std::collections::HashMap;

use super::LoadError;
use super::lex::{Lexeme, Token, lex};

/// Size class of a register. 16- and 32-bit registers share one file of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    Pred,
    W16,
    W32,
    W64,
}

/// A register: its row in the file of its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg {
    pub width: Width,
    pub slot: u16,
}

/// A declared name: its offset in its state space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbol {
    Param(u32),
    Shared(u32),
    /// Dynamic shared memory starts after the static variables, at a multiple of `align`.
    Dynamic {
        align: u32,
    },
    Local(u32),
    Const(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand<'a> {
    Reg(Reg),
    /// `!%p`
    Not(Reg),
    /// `%r|%p`
    Pair(Reg, Reg),
    /// An integer, sign-extended.
    Int(u64),
    /// Bits of an f32.
    Float(u32),
    Special(&'a str),
    Symbol(Symbol),
    /// Statement number.
    Label(usize),
    Vector(Vec<Operand<'a>>),
    /// `[base+offset]`
    Address(Box<Operand<'a>>, i64),
}

#[derive(Debug)]
pub struct Statement<'a> {
    pub line: usize,
    /// Predicate and whether it is negated.
    pub guard: Option<(Reg, bool)>,
    pub op: &'a str,
    pub operands: Vec<Operand<'a>>,
}

/// A kernel parameter, as the parameter buffer holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    pub offset: u32,
    pub size: u32,
    pub align: u32,
}

#[derive(Debug)]
pub struct Entry<'a> {
    pub name: &'a str,
    pub line: usize,
    pub params: Vec<Param>,
    /// `.maxntid`
    pub max_threads: Option<u32>,
    /// `.reqntid`
    pub required_threads: Option<[u32; 3]>,
    pub shared_bytes: u32,
    pub local_bytes: u32,
    /// Registers declared: predicates, 16 and 32 bits, 64 bits.
    pub registers: [u16; 3],
    pub body: Vec<Statement<'a>>,
}

#[derive(Debug)]
pub struct Program<'a> {
    /// 80 for `sm_80`.
    pub target: u32,
    /// The constant variables, one after the other.
    pub constants: Vec<u8>,
    pub entries: Vec<Entry<'a>>,
}

/// A declared variable.
#[derive(Debug)]
pub struct Variable<'a> {
    name: &'a str,
    align: u32,
    element: u32,
    /// `None` for `name[]`.
    bytes: Option<u32>,
}

/// Parses a whole module.
pub fn parse(text: &str) -> Result<Program<'_>, LoadError> {
    let mut parser = Parser { tokens: lex(text)?, at: 0, scopes: vec![Scope::default()] };
    let mut program = Program { target: 0, constants: Vec::new(), entries: Vec::new() };
    let mut shared_bytes = 0;
    while let Some((token, line)) = parser.next_or_end() {
        match token {
            Token::Word(".version") => drop(parser.word()?),
            Token::Word(".target") => {
                let name = parser.word()?;
                let digits = name.strip_prefix("sm_").map(|rest| rest.trim_end_matches(['a', 'f']));
                let number = digits.and_then(|digits| digits.parse().ok());
                program.target = number.ok_or_else(|| LoadError::new(line, format!("unknown target {name}")))?;
            }
            Token::Word(".address_size") => {
                let size = parser.integer()?;
                if size != 64 {
                    return Err(LoadError::new(line, format!(".address_size is {size}, 64 is supported")));
                }
            }
            Token::Word(".visible" | ".weak" | ".extern") => {}
            Token::Word(".const") => parser.constant(&mut program.constants)?,
            Token::Word(".shared") => parser.shared(&mut shared_bytes)?,
            Token::Word(".entry") => {
                let entry = parser.entry(shared_bytes)?;
                program.entries.push(entry);
            }
            Token::Word(".func") => {
                let message = "device functions (.func, and so printf and assert) are not supported: inline them";
                return Err(LoadError::new(line, message));
            }
            _ => return Err(LoadError::new(line, format!("{} is not supported at module level", show(token)))),
        }
    }
    match program.target {
        0 => Err(LoadError::new(1, "the module has no .target")),
        _ => Ok(program),
    }
}

#[derive(Clone, Copy)]
enum Name {
    Reg(Reg),
    /// `%p<4>`: registers %p0 to %p3 from this one on.
    Range(Reg, u16),
    Symbol(Symbol),
}

#[derive(Default)]
struct Scope<'a> {
    names: HashMap<&'a str, Name>,
    labels: HashMap<&'a str, usize>,
    /// Branches whose label is not known yet: statement, label.
    branches: Vec<(usize, &'a str)>,
}

struct Parser<'a> {
    tokens: Vec<Lexeme<'a>>,
    at: usize,
    scopes: Vec<Scope<'a>>,
}

impl<'a> Parser<'a> {
    fn next_or_end(&mut self) -> Option<Lexeme<'a>> {
        let lexeme = self.tokens.get(self.at).copied();
        self.at += 1;
        lexeme
    }

    fn next(&mut self) -> Result<Lexeme<'a>, LoadError> {
        let last = self.tokens.last().map_or(1, |(_, line)| *line);
        self.next_or_end().ok_or_else(|| LoadError::new(last, "the text ends early"))
    }

    fn eat(&mut self, what: u8) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|(token, _)| *token == Token::Punct(what));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, what: u8) -> Result<(), LoadError> {
        match self.next()? {
            (Token::Punct(found), _) if found == what => Ok(()),
            (found, line) => Err(LoadError::new(line, format!("expected '{}', found {}", what as char, show(found)))),
        }
    }

    fn word(&mut self) -> Result<&'a str, LoadError> {
        match self.next()? {
            (Token::Word(word), _) => Ok(word),
            (found, line) => Err(LoadError::new(line, format!("expected a word, found {}", show(found)))),
        }
    }

    fn integer(&mut self) -> Result<u64, LoadError> {
        let line = self.line();
        let word = self.word()?;
        parse_integer(word).ok_or_else(|| LoadError::new(line, format!("{word} is not an integer")))
    }

    fn small(&mut self) -> Result<u32, LoadError> {
        let line = self.line();
        let value = self.integer()?;
        u32::try_from(value).map_err(|_| LoadError::new(line, format!("{value} is too large here")))
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, line)| *line)
    }

    fn scope(&mut self) -> &mut Scope<'a> {
        self.scopes.last_mut().expect("the module's scope is never closed")
    }

    /// `.align 16 .b8 name[64]`, also a parameter's `.u64 .ptr .global .align 1 name`.
    fn variable(&mut self) -> Result<Variable<'a>, LoadError> {
        let line = self.line();
        let (mut align, mut element) = (None, None);
        let name = loop {
            match self.word()? {
                ".align" => align = Some(self.small()?),
                ".b8" | ".u8" | ".s8" => element = Some(1),
                ".b16" | ".u16" | ".s16" => element = Some(2),
                ".b32" | ".u32" | ".s32" | ".f32" => element = Some(4),
                ".b64" | ".u64" | ".s64" => element = Some(8),
                ".ptr" => {
                    while let Some((Token::Word(".global" | ".shared" | ".const" | ".local"), _)) =
                        self.tokens.get(self.at)
                    {
                        self.at += 1;
                    }
                    // The pointee's alignment, not the parameter's.
                    if let Some((Token::Word(".align"), _)) = self.tokens.get(self.at) {
                        self.at += 1;
                        self.small()?;
                    }
                }
                word if word.starts_with('.') => {
                    return Err(LoadError::new(line, format!("{word} is not supported in a declaration")));
                }
                name => break name,
            }
        };
        let element = element.ok_or_else(|| LoadError::new(line, format!("{name} has no type")))?;
        let align = align.unwrap_or(element);
        if !align.is_power_of_two() {
            return Err(LoadError::new(line, format!("{name} is aligned to {align}, not a power of two")));
        }
        let mut bytes = Some(element);
        while self.eat(b'[') {
            if self.eat(b']') {
                bytes = None;
                continue;
            }
            let count = self.small()?;
            self.expect(b']')?;
            let product = bytes.map(|bytes| bytes.checked_mul(count));
            bytes =
                product.map(|p| p.ok_or_else(|| LoadError::new(line, format!("{name} is too large")))).transpose()?;
        }
        Ok(Variable { name, align, element, bytes })
    }

    /// Gives a variable its place in `used` bytes of a space.
    fn place(&mut self, variable: &Variable<'a>, used: &mut u32, line: usize) -> Result<u32, LoadError> {
        let too_large = || LoadError::new(line, format!("{} does not fit its space", variable.name));
        let bytes = variable.bytes.ok_or_else(|| LoadError::new(line, format!("{} has no size", variable.name)))?;
        let offset = used.checked_next_multiple_of(variable.align).ok_or_else(too_large)?;
        *used = offset.checked_add(bytes).ok_or_else(too_large)?;
        Ok(offset)
    }

    fn constant(&mut self, constants: &mut Vec<u8>) -> Result<(), LoadError> {
        let line = self.line();
        let variable = self.variable()?;
        let mut used = constants.len() as u32;
        let offset = self.place(&variable, &mut used, line)?;
        if used > 64 << 10 {
            return Err(LoadError::new(line, "constant variables take more than 64 KiB"));
        }
        constants.resize(used as usize, 0);
        if self.eat(b'=') {
            let list = self.eat(b'{');
            let mut at = offset as usize;
            loop {
                let bytes = match self.operand()? {
                    Operand::Int(value) => value.to_le_bytes(),
                    Operand::Float(bits) => u64::from(bits).to_le_bytes(),
                    _ => {
                        return Err(LoadError::new(
                            line,
                            format!("{}: the initialiser is not a number", variable.name),
                        ));
                    }
                };
                let element = variable.element as usize;
                let target = constants.get_mut(at..at + element);
                let target =
                    target.ok_or_else(|| LoadError::new(line, "the initialiser is longer than its variable"))?;
                target.copy_from_slice(&bytes[..element]);
                at += element;
                if !list || !self.eat(b',') {
                    break;
                }
            }
            if list {
                self.expect(b'}')?;
            }
        }
        self.scope().names.insert(variable.name, Name::Symbol(Symbol::Const(offset)));
        self.expect(b';')
    }

    fn shared(&mut self, used: &mut u32) -> Result<(), LoadError> {
        let line = self.line();
        let variable = self.variable()?;
        let symbol = match variable.bytes {
            None => Symbol::Dynamic { align: variable.align },
            Some(_) => Symbol::Shared(self.place(&variable, used, line)?),
        };
        self.scope().names.insert(variable.name, Name::Symbol(symbol));
        self.expect(b';')
    }

    fn entry(&mut self, module_shared: u32) -> Result<Entry<'a>, LoadError> {
        let line = self.line();
        let mut entry = Entry {
            name: self.word()?,
            line,
            params: Vec::new(),
            max_threads: None,
            required_threads: None,
            shared_bytes: module_shared,
            local_bytes: 0,
            registers: [0; 3],
            body: Vec::new(),
        };
        self.scopes.push(Scope::default());
        self.expect(b'(')?;
        let mut param_bytes = 0;
        while !self.eat(b')') {
            let line = self.line();
            match self.word()? {
                ".param" => {}
                found => return Err(LoadError::new(line, format!("expected .param, found {found}"))),
            }
            let variable = self.variable()?;
            let offset = self.place(&variable, &mut param_bytes, line)?;
            entry.params.push(Param { offset, size: param_bytes - offset, align: variable.align });
            self.scope().names.insert(variable.name, Name::Symbol(Symbol::Param(offset)));
            self.eat(b',');
        }
        loop {
            match self.next()? {
                (Token::Punct(b'{'), _) => break,
                (Token::Word(".maxntid"), _) => {
                    entry.max_threads = Some(self.dimensions()?.into_iter().fold(1, u32::saturating_mul));
                }
                (Token::Word(".reqntid"), _) => entry.required_threads = Some(self.dimensions()?),
                (Token::Word(".minnctapersm" | ".maxnreg"), _) => drop(self.small()?),
                (found, line) => {
                    return Err(LoadError::new(line, format!("{} is not supported on a kernel", show(found))));
                }
            }
        }
        let outer = self.scopes.len();
        self.scopes.push(Scope::default());
        while self.scopes.len() > outer {
            self.body_item(&mut entry, outer)?;
        }
        self.scopes.pop();
        Ok(entry)
    }

    /// `.maxntid 64, 1, 1`: absent ones are 1.
    fn dimensions(&mut self) -> Result<[u32; 3], LoadError> {
        let mut found = [1; 3];
        for (i, value) in found.iter_mut().enumerate() {
            if i > 0 && !self.eat(b',') {
                break;
            }
            *value = self.small()?;
        }
        Ok(found)
    }

    fn body_item(&mut self, entry: &mut Entry<'a>, outer: usize) -> Result<(), LoadError> {
        let (token, line) = self.next()?;
        match token {
            Token::Punct(b'{') => self.scopes.push(Scope::default()),
            Token::Punct(b'}') => self.close_scope(entry, outer)?,
            Token::Word(".reg") => self.registers(entry)?,
            Token::Word(".shared") => self.shared(&mut entry.shared_bytes)?,
            Token::Word(".local") => {
                let variable = self.variable()?;
                let offset = self.place(&variable, &mut entry.local_bytes, line)?;
                self.scope().names.insert(variable.name, Name::Symbol(Symbol::Local(offset)));
                self.expect(b';')?;
            }
            // Hints to the optimiser.
            Token::Word(".pragma") => {
                self.next()?;
                self.expect(b';')?;
            }
            Token::Word(word) if word.starts_with('.') => {
                return Err(LoadError::new(line, format!("{word} is not supported in a kernel")));
            }
            Token::Word(label) if self.eat(b':') => {
                let target = entry.body.len();
                if self.scope().labels.insert(label, target).is_some() {
                    return Err(LoadError::new(line, format!("label {label} is declared twice")));
                }
            }
            Token::Punct(b'@') => {
                let negated = self.eat(b'!');
                let guard = match self.operand()? {
                    Operand::Reg(reg) if reg.width == Width::Pred => (reg, negated),
                    _ => return Err(LoadError::new(line, "the guard is not a predicate register")),
                };
                let op = self.word()?;
                self.statement(entry, line, Some(guard), op)?;
            }
            Token::Word(op) => self.statement(entry, line, None, op)?,
            _ => return Err(LoadError::new(line, format!("unexpected {}", show(token)))),
        }
        Ok(())
    }

    fn close_scope(&mut self, entry: &mut Entry<'a>, outer: usize) -> Result<(), LoadError> {
        let scope = self.scopes.pop().expect("body_item runs inside a scope");
        for (statement, label) in scope.branches {
            if let Some(target) = scope.labels.get(label) {
                entry.body[statement].operands = vec![Operand::Label(*target)];
            } else if self.scopes.len() > outer {
                self.scope().branches.push((statement, label));
            } else {
                let line = entry.body[statement].line;
                return Err(LoadError::new(line, format!("unknown label {label}")));
            }
        }
        Ok(())
    }

    /// `.reg .b32 %r<10>;` or `.reg .pred p, q;`
    fn registers(&mut self, entry: &mut Entry<'a>) -> Result<(), LoadError> {
        let line = self.line();
        let width = match self.word()? {
            ".pred" => Width::Pred,
            ".b16" | ".u16" | ".s16" => Width::W16,
            ".b32" | ".u32" | ".s32" | ".f32" => Width::W32,
            ".b64" | ".u64" | ".s64" => Width::W64,
            other => return Err(LoadError::new(line, format!("registers of type {other} are not supported"))),
        };
        loop {
            let name = self.word()?;
            let range = self.eat(b'<');
            let count = if range { self.small()? } else { 1 };
            if range {
                self.expect(b'>')?;
            }
            let file = match width {
                Width::Pred => &mut entry.registers[0],
                Width::W16 | Width::W32 => &mut entry.registers[1],
                Width::W64 => &mut entry.registers[2],
            };
            let reg = Reg { width, slot: *file };
            let count = u16::try_from(count).ok().filter(|count| file.checked_add(*count).is_some_and(|n| n < 0xF000));
            let count = count.ok_or_else(|| LoadError::new(line, "more than 61440 registers of a kind"))?;
            *file += count;
            self.scope().names.insert(name, if range { Name::Range(reg, count) } else { Name::Reg(reg) });
            if !self.eat(b',') {
                return self.expect(b';');
            }
        }
    }

    fn statement(
        &mut self,
        entry: &mut Entry<'a>,
        line: usize,
        guard: Option<(Reg, bool)>,
        op: &'a str,
    ) -> Result<(), LoadError> {
        let mut operands = Vec::new();
        if op == "bra" || op == "bra.uni" {
            let label = self.word()?;
            let statement = entry.body.len();
            self.scope().branches.push((statement, label));
            self.expect(b';')?;
        } else if !self.eat(b';') {
            loop {
                operands.push(self.operand()?);
                if self.eat(b';') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        entry.body.push(Statement { line, guard, op, operands });
        Ok(())
    }

    fn operand(&mut self) -> Result<Operand<'a>, LoadError> {
        let (token, line) = self.next()?;
        match token {
            Token::Punct(b'-') => match self.operand()? {
                Operand::Int(value) => Ok(Operand::Int(value.wrapping_neg())),
                _ => Err(LoadError::new(line, "'-' before something that is not an integer")),
            },
            Token::Punct(b'!') => match self.operand()? {
                Operand::Reg(reg) if reg.width == Width::Pred => Ok(Operand::Not(reg)),
                _ => Err(LoadError::new(line, "'!' before something that is not a predicate")),
            },
            Token::Punct(b'{') => {
                let mut items = Vec::new();
                loop {
                    items.push(self.operand()?);
                    if self.eat(b'}') {
                        return Ok(Operand::Vector(items));
                    }
                    self.expect(b',')?;
                }
            }
            Token::Punct(b'[') => {
                let base = self.operand()?;
                let mut offset = 0;
                if self.eat(b'+') {
                    let negative = self.eat(b'-');
                    let value = self.integer()? as i64;
                    offset = if negative { value.wrapping_neg() } else { value };
                } else if self.eat(b'-') {
                    offset = (self.integer()? as i64).wrapping_neg();
                }
                self.expect(b']')?;
                Ok(Operand::Address(Box::new(base), offset))
            }
            Token::Word(word) => {
                let operand = self.named(word, line)?;
                match operand {
                    Operand::Reg(first) if self.eat(b'|') => match self.operand()? {
                        Operand::Reg(second) => Ok(Operand::Pair(first, second)),
                        _ => Err(LoadError::new(line, "'|' before something that is not a register")),
                    },
                    operand => Ok(operand),
                }
            }
            _ => Err(LoadError::new(line, format!("unexpected {}", show(token)))),
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

fn show(token: Token) -> String {
    match token {
        Token::Word(word) => word.to_string(),
        Token::Text(text) => format!("\"{text}\""),
        Token::Punct(byte) => format!("'{}'", byte as char),
    }
}
