//! Declarations: variables get their place in a state space, registers their slots.

use super::LoadError;
use super::ast::{Entry, Operand, Reg, Symbol, Width};
use super::cursor::{Name, Parser};
use super::lex::Token;

/// A declared variable.
#[derive(Debug)]
pub(super) struct Variable<'a> {
    pub name: &'a str,
    pub align: u32,
    pub element: u32,
    /// `None` for `name[]`.
    pub bytes: Option<u32>,
}

impl<'a> Parser<'a> {
    /// `.align 16 .b8 name[64]`, also a parameter's `.u64 .ptr .global .align 1 name`.
    pub(super) fn variable(&mut self) -> Result<Variable<'a>, LoadError> {
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
    pub(super) fn place(&mut self, variable: &Variable<'a>, used: &mut u32, line: usize) -> Result<u32, LoadError> {
        let too_large = || LoadError::new(line, format!("{} does not fit its space", variable.name));
        let bytes = variable.bytes.ok_or_else(|| LoadError::new(line, format!("{} has no size", variable.name)))?;
        let offset = used.checked_next_multiple_of(variable.align).ok_or_else(too_large)?;
        *used = offset.checked_add(bytes).ok_or_else(too_large)?;
        Ok(offset)
    }

    pub(super) fn constant(&mut self, constants: &mut Vec<u8>) -> Result<(), LoadError> {
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

    pub(super) fn shared(&mut self, used: &mut u32) -> Result<(), LoadError> {
        let line = self.line();
        let variable = self.variable()?;
        let symbol = match variable.bytes {
            None => Symbol::Dynamic { align: variable.align },
            Some(_) => Symbol::Shared(self.place(&variable, used, line)?),
        };
        self.scope().names.insert(variable.name, Name::Symbol(symbol));
        self.expect(b';')
    }

    /// `.reg .b32 %r<10>;` or `.reg .pred p, q;`
    pub(super) fn registers(&mut self, entry: &mut Entry<'a>) -> Result<(), LoadError> {
        let line = self.line();
        let width = match self.word()? {
            ".pred" => Width::Pred,
            ".b16" | ".u16" | ".s16" | ".f16" => Width::W16,
            ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" => Width::W32,
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
}
