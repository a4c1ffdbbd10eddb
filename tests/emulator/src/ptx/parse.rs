//! The parser: declarations are laid out, names resolved by scope, branch targets turned into statement numbers.

use super::LoadError;
use super::ast::{Entry, Operand, Param, Program, Reg, Statement, Symbol, Width};
use super::cursor::{Name, Parser, Scope, show};
use super::lex::{Token, lex};

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

impl<'a> Parser<'a> {
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
}
