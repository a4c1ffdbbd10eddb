//! Statements to instructions. A form that is not listed here or in the table of [`crate::alu`] is refused.

mod copies;
mod inst;
mod matrix;
mod memory;
mod warp;

use std::collections::HashMap;
use std::sync::Arc;

pub use inst::*;

use crate::alu;
use crate::counters::Class;
use crate::ptx::{Entry, LoadError, Operand, Reg, Statement, Symbol, Width};
use crate::store::Store;

/// The lane-wise forms that are supported, each with its whole list of modifiers. Loads, stores, atomics, branches,
/// barriers, shuffles, votes and matrix instructions come on top of these.
pub fn forms() -> Vec<&'static str> {
    alu::all().map(|alu| alu.form).filter(|form| !form.contains(' ')).collect()
}

/// Decodes a kernel; `lines` are those of the module's text.
pub fn decode(entry: &Entry, lines: &[&str], constants: &Arc<Store>, bytes: u32) -> Result<Code, LoadError> {
    let [predicates, narrow, wide] = entry.registers.map(usize::from);
    let mut decoder = Decoder {
        layout: Layout { narrow, wide, predicates, ..Layout::default() },
        narrow: HashMap::new(),
        wide: HashMap::new(),
        shared_bytes: entry.shared_bytes,
        dynamic_offset: entry.shared_bytes,
        always: 0,
        insts: Vec::new(),
    };
    decoder.always = decoder.predicate_constant(true);
    let mut sources = Vec::new();
    // One statement may become two instructions, so branch targets are translated at the end.
    let mut starts = Vec::with_capacity(entry.body.len() + 1);
    for statement in &entry.body {
        starts.push(decoder.insts.len() as u32);
        decoder.statement(statement).map_err(|message| LoadError::new(statement.line, message))?;
        let text = lines.get(statement.line - 1).map_or("", |line| line.trim());
        sources.resize(decoder.insts.len(), (statement.line, text.into()));
    }
    // A label may stand behind the last statement.
    starts.push(decoder.insts.len() as u32);
    decoder.insts.push(Inst { kind: Kind::Exit, guard: decoder.always, negate: 0, class: Class::Control });
    sources.push((entry.body.last().map_or(entry.line, |last| last.line), "}".into()));
    for inst in &mut decoder.insts {
        if let Kind::Branch(target) = &mut inst.kind {
            *target = starts[*target as usize];
        }
    }
    Ok(Code {
        insts: decoder.insts,
        sources,
        layout: decoder.layout,
        dynamic_offset: decoder.dynamic_offset,
        local_bytes: entry.local_bytes,
        constants: Arc::clone(constants),
        constant_bytes: bytes,
    })
}

struct Decoder {
    layout: Layout,
    narrow: HashMap<u32, u16>,
    wide: HashMap<u64, u16>,
    shared_bytes: u32,
    dynamic_offset: u32,
    /// The predicate that is always true.
    always: u16,
    insts: Vec<Inst>,
}

/// Why a statement was refused.
type Refusal = String;

impl Decoder {
    fn statement(&mut self, statement: &Statement) -> Result<(), Refusal> {
        let Statement { op, operands, guard, .. } = statement;
        let first = self.insts.len();
        let mut parts = op.split('.');
        let kind = match parts.next().unwrap_or_default() {
            "ld" => self.load(op, operands)?,
            "st" => self.store(op, operands)?,
            "atom" => self.atomic(op, operands, true)?,
            "red" => self.atomic(op, operands, false)?,
            "cp" => self.copy(op, operands)?,
            "shfl" => self.shuffle(op, operands)?,
            "vote" => self.vote(op, operands)?,
            "bar" => self.barrier(op, operands)?,
            "mma" => self.mma(op, operands)?,
            "ldmatrix" => self.load_matrix(op, operands)?,
            "activemask" => self.active_mask(op, operands)?,
            "bra" => match operands[..] {
                [Operand::Label(target)] => Kind::Branch(target as u32),
                _ => return Err(unknown(op)),
            },
            "ret" | "exit" if !op.contains('.') => Kind::Exit,
            "trap" if !op.contains('.') => Kind::Trap,
            "membar" if matches!(*op, "membar.cta" | "membar.gl" | "membar.sys") => {
                Kind::Fence { device: *op != "membar.cta" }
            }
            "mov" if operands.iter().any(|operand| matches!(operand, Operand::Vector(_))) => self.pack(op, operands)?,
            // Global addresses are generic ones.
            "cvta" if *op == "cvta.to.global.u64" => self.alu("mov.u64", operands)?,
            _ => self.alu(op, operands)?,
        };
        self.insts.push(Inst { kind, guard: self.always, negate: 0, class: Class::Move });
        let class = Class::of(op);
        self.insts[first..].iter_mut().for_each(|inst| inst.class = class);
        if let Some((reg, negated)) = guard {
            for inst in &mut self.insts[first..] {
                (inst.guard, inst.negate) = (reg.slot, if *negated { u32::MAX } else { 0 });
            }
        }
        Ok(())
    }

    fn alu(&mut self, form: &str, operands: &[Operand]) -> Result<Kind, Refusal> {
        let alu = alu::lookup(form).filter(|alu| !alu.form.contains(' ')).ok_or_else(|| unknown(form))?;
        let [destination, sources @ ..] = operands else { return Err(unknown(form)) };
        if sources.len() != alu.sources.len() {
            return Err(format!("{form} takes {} sources, found {}", alu.sources.len(), sources.len()));
        }
        let mut slots = [0; 5];
        slots[0] = register(destination, alu.destination)?.slot;
        for ((source, width), slot) in sources.iter().zip(alu.sources).zip(&mut slots[1..]) {
            // A conversion may read the low part of a wider register.
            let relaxed = form.starts_with("cvt.") && *width == Width::W16;
            *slot = match source {
                Operand::Reg(reg) if relaxed && reg.width == Width::W32 => reg.slot,
                Operand::Reg(reg) if form.starts_with("cvt.") && (*width, reg.width) == (Width::W32, Width::W64) => {
                    self.low_word(reg.slot)?
                }
                source => self.source(source, *width)?,
            };
        }
        Ok(Kind::Alu { run: alu.run(), slots })
    }

    /// A row with the low words of a wide one.
    fn low_word(&mut self, wide: u16) -> Result<u16, Refusal> {
        let slot = next_slot(&mut self.layout.narrow)?;
        let run = alu::lookup("cvt.u32.u64").expect("a form of the table").run();
        self.insts.push(Inst {
            kind: Kind::Alu { run, slots: [slot, wide, 0, 0, 0] },
            guard: self.always,
            negate: 0,
            class: Class::Move,
        });
        Ok(slot)
    }

    /// `mov.b64 %rd, {%r1, %r2}` and `mov.b64 {%r1, %r2}, %rd`, also from 16 bits to 32.
    fn pack(&mut self, op: &str, operands: &[Operand]) -> Result<Kind, Refusal> {
        let (half, whole) = match op {
            "mov.b32" => (Width::W16, Width::W32),
            "mov.b64" => (Width::W32, Width::W64),
            _ => return Err(unknown(op)),
        };
        let entry = |part: &str| alu::lookup(&format!("{part} {op}")).map(|alu| alu.run()).ok_or_else(|| unknown(op));
        match operands {
            [destination, Operand::Vector(parts)] if parts.len() == 2 => {
                let slots = [
                    register(destination, whole)?.slot,
                    self.source(&parts[0], half)?,
                    self.source(&parts[1], half)?,
                    0,
                    0,
                ];
                Ok(Kind::Alu { run: entry("pack")?, slots })
            }
            [Operand::Vector(parts), source] if parts.len() == 2 => {
                let source = self.source(source, whole)?;
                let low = Kind::Alu { run: entry("low")?, slots: [register(&parts[0], half)?.slot, source, 0, 0, 0] };
                self.insts.push(Inst { kind: low, guard: self.always, negate: 0, class: Class::Move });
                Ok(Kind::Alu { run: entry("high")?, slots: [register(&parts[1], half)?.slot, source, 0, 0, 0] })
            }
            _ => Err(unknown(op)),
        }
    }

    /// The row that holds a source operand.
    fn source(&mut self, operand: &Operand, width: Width) -> Result<u16, Refusal> {
        match (operand, width) {
            (Operand::Reg(_), _) => Ok(register(operand, width)?.slot),
            (Operand::Int(value), Width::Pred) => Ok(self.predicate_constant(*value != 0)),
            (Operand::Int(value), Width::W16) => self.narrow_constant(u32::from(*value as u16)),
            (Operand::Int(value), Width::W32) => self.narrow_constant(*value as u32),
            (Operand::Int(value), Width::W64) => self.wide_constant(*value),
            (Operand::Float(bits), Width::W32) => self.narrow_constant(*bits),
            (Operand::Symbol(symbol), Width::W32 | Width::W64) => {
                let address = match *symbol {
                    Symbol::Shared(offset) | Symbol::Const(offset) | Symbol::Local(offset) => offset,
                    Symbol::Dynamic { align } => {
                        let start = self.shared_bytes.checked_next_multiple_of(align);
                        self.dynamic_offset = start.ok_or("shared memory does not fit its space")?;
                        self.dynamic_offset
                    }
                    Symbol::Param(_) => return Err("the address of a parameter is not supported".into()),
                };
                if width == Width::W32 { self.narrow_constant(address) } else { self.wide_constant(address.into()) }
            }
            (Operand::Special(name), Width::W32) => {
                let special = Special::named(name).ok_or_else(|| format!("{name} is not supported"))?;
                if let Some((slot, _)) = self.layout.specials.iter().find(|(_, known)| *known == special) {
                    return Ok(*slot);
                }
                let slot = next_slot(&mut self.layout.narrow)?;
                self.layout.specials.push((slot, special));
                Ok(slot)
            }
            _ => Err(format!("an operand of this kind is not supported as a source of {width:?}")),
        }
    }

    fn narrow_constant(&mut self, value: u32) -> Result<u16, Refusal> {
        if let Some(slot) = self.narrow.get(&value) {
            return Ok(*slot);
        }
        let slot = next_slot(&mut self.layout.narrow)?;
        self.narrow.insert(value, slot);
        self.layout.narrow_constants.push((slot, value));
        Ok(slot)
    }

    fn wide_constant(&mut self, value: u64) -> Result<u16, Refusal> {
        if let Some(slot) = self.wide.get(&value) {
            return Ok(*slot);
        }
        let slot = next_slot(&mut self.layout.wide)?;
        self.wide.insert(value, slot);
        self.layout.wide_constants.push((slot, value));
        Ok(slot)
    }

    fn predicate_constant(&mut self, value: bool) -> u16 {
        let bits = if value { u32::MAX } else { 0 };
        if let Some((slot, _)) = self.layout.predicate_constants.iter().find(|(_, known)| *known == bits) {
            return *slot;
        }
        // The parser leaves room behind the declared registers.
        let slot = self.layout.predicates as u16;
        self.layout.predicates += 1;
        self.layout.predicate_constants.push((slot, bits));
        slot
    }
}

fn next_slot(rows: &mut usize) -> Result<u16, Refusal> {
    let slot = u16::try_from(*rows).map_err(|_| "too many registers and constants")?;
    *rows += 1;
    Ok(slot)
}

/// A register of exactly this width.
fn register(operand: &Operand, width: Width) -> Result<Reg, Refusal> {
    match operand {
        Operand::Reg(reg) if reg.width == width => Ok(*reg),
        Operand::Reg(reg) => Err(format!("a register of {:?} where the form takes {width:?}", reg.width)),
        _ => Err(format!("a register of {width:?} is expected")),
    }
}

fn unknown(form: &str) -> Refusal {
    format!("{form} with these operands is not supported")
}
