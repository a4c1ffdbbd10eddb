//! Loads, stores and atomics.

use super::{Access, Address, Atomic, AtomicOp, Decoder, Kind, Refusal, Space, register, unknown};
use crate::ptx::{Operand, Symbol, Width};

impl Decoder {
    pub(super) fn load(&mut self, op: &str, operands: &[Operand]) -> Result<Kind, Refusal> {
        let [target, Operand::Address(base, offset)] = operands else { return Err(unknown(op)) };
        let mut access = self.access(op, base, *offset)?;
        let parts = parts(target, access.count).ok_or_else(|| unknown(op))?;
        for (i, part) in parts.iter().enumerate() {
            let Operand::Reg(reg) = part else { return Err(unknown(op)) };
            access.registers[i] = reg.slot;
            fit(&mut access, reg.width).ok_or_else(|| unknown(op))?;
        }
        Ok(Kind::Load(access))
    }

    pub(super) fn store(&mut self, op: &str, operands: &[Operand]) -> Result<Kind, Refusal> {
        let [Operand::Address(base, offset), source] = operands else { return Err(unknown(op)) };
        let mut access = self.access(op, base, *offset)?;
        if matches!(access.space, Space::Const | Space::Param) || op.contains(".nc") {
            return Err(unknown(op));
        }
        let parts = parts(source, access.count).ok_or_else(|| unknown(op))?;
        for (i, part) in parts.iter().enumerate() {
            let width = match part {
                Operand::Reg(reg) => reg.width,
                _ if access.element == 8 => Width::W64,
                _ => Width::W32,
            };
            access.registers[i] = self.source(part, width)?;
            fit(&mut access, width).ok_or_else(|| unknown(op))?;
        }
        Ok(Kind::Store(access))
    }

    fn access(&mut self, op: &str, base: &Operand, offset: i64) -> Result<Access, Refusal> {
        let mut modifiers: Vec<&str> = op.split('.').skip(1).collect();
        let (element, signed) = match modifiers.pop() {
            Some("u8" | "b8") => (1, false),
            Some("s8") => (1, true),
            Some("u16" | "b16") => (2, false),
            Some("s16") => (2, true),
            Some("u32" | "b32" | "f32") => (4, false),
            Some("s32") => (4, true),
            Some("u64" | "s64" | "b64") => (8, false),
            _ => return Err(unknown(op)),
        };
        let count = match modifiers.last() {
            Some(&"v2") => 2,
            Some(&"v4") => 4,
            _ => 1,
        };
        if count > 1 {
            modifiers.pop();
        }
        if element * count > 16 {
            return Err(unknown(op));
        }
        let space = match modifiers[..] {
            // Cache hints change nothing here.
            ["global", ..]
                if modifiers[1..].iter().all(|hint| matches!(*hint, "nc" | "ca" | "cg" | "cs" | "lu" | "wt")) =>
            {
                Space::Global
            }
            ["volatile", "global"] => Space::Global,
            ["shared"] | ["volatile", "shared"] => Space::Shared,
            ["local"] => Space::Local,
            ["const"] => Space::Const,
            ["param"] => Space::Param,
            _ => return Err(unknown(op)),
        };
        let address = self.address(op, space, base, offset)?;
        Ok(Access { space, address, count, element, signed, wide: false, keep: 0, registers: [0; 4] })
    }

    pub(super) fn address(&mut self, op: &str, space: Space, base: &Operand, offset: i64) -> Result<Address, Refusal> {
        let (slot, wide) = match (base, space) {
            (Operand::Symbol(Symbol::Param(at)), Space::Param) => (self.wide_constant((*at).into())?, true),
            (_, Space::Param) => return Err(format!("{op}: a parameter is loaded by its name only")),
            (Operand::Symbol(Symbol::Shared(_) | Symbol::Dynamic { .. }), Space::Shared)
            | (Operand::Symbol(Symbol::Local(_)), Space::Local)
            | (Operand::Symbol(Symbol::Const(_)), Space::Const) => (self.source(base, Width::W64)?, true),
            (Operand::Reg(reg), _) if reg.width == Width::W64 => (reg.slot, true),
            (Operand::Reg(reg), Space::Shared) if reg.width == Width::W32 => (reg.slot, false),
            _ => return Err(format!("{op}: the address is not of its space")),
        };
        Ok(Address { slot, wide, offset })
    }

    pub(super) fn atomic(&mut self, op: &str, operands: &[Operand], returns: bool) -> Result<Kind, Refusal> {
        let (_, modifiers) = op.split_once('.').ok_or_else(|| unknown(op))?;
        let (space, modifiers) = if let Some(rest) = modifiers.strip_prefix("global.") {
            (Space::Global, rest)
        } else if let Some(rest) = modifiers.strip_prefix("shared.") {
            (Space::Shared, rest)
        } else {
            return Err(unknown(op));
        };
        let kind = match modifiers {
            "add.u32" | "add.s32" => AtomicOp::Add,
            "add.f32" => AtomicOp::AddFloat,
            "min.s32" => AtomicOp::MinSigned,
            "max.s32" => AtomicOp::MaxSigned,
            "min.u32" => AtomicOp::MinUnsigned,
            "max.u32" => AtomicOp::MaxUnsigned,
            "and.b32" => AtomicOp::And,
            "or.b32" => AtomicOp::Or,
            "xor.b32" => AtomicOp::Xor,
            "inc.u32" => AtomicOp::Increment,
            "dec.u32" => AtomicOp::Decrement,
            "exch.b32" if returns => AtomicOp::Exchange,
            "cas.b32" if returns => AtomicOp::Swap,
            _ => return Err(unknown(op)),
        };
        let (destination, rest) = match operands {
            [first, rest @ ..] if returns => (Some(register(first, Width::W32)?.slot), rest),
            rest => (None, rest),
        };
        let (base, offset, value, other) = match (rest, kind) {
            ([Operand::Address(base, offset), value, other], AtomicOp::Swap) => (base, offset, value, other),
            ([Operand::Address(base, offset), value], _) if kind != AtomicOp::Swap => (base, offset, value, value),
            _ => return Err(unknown(op)),
        };
        let address = self.address(op, space, base, *offset)?;
        let (value, other) = (self.source(value, Width::W32)?, self.source(other, Width::W32)?);
        Ok(Kind::Atomic(Atomic { op: kind, space, address, destination, value, other }))
    }
}

/// The elements of a scalar or vector operand.
fn parts<'a, 'b>(operand: &'b Operand<'a>, count: u8) -> Option<&'b [Operand<'a>]> {
    match operand {
        Operand::Vector(parts) if count > 1 && parts.len() == usize::from(count) => Some(parts),
        Operand::Vector(_) => None,
        scalar => (count == 1).then_some(std::slice::from_ref(scalar)),
    }
}

/// Notes the width of the registers, which may be wider than the element, but not narrower, and all the same.
fn fit(access: &mut Access, width: Width) -> Option<()> {
    let (wide, keep) = match width {
        Width::W16 if access.element <= 2 => (false, 0xFFFF),
        Width::W32 if access.element <= 4 => (false, u32::MAX),
        Width::W64 => (true, u32::MAX),
        _ => return None,
    };
    let first = access.keep == 0;
    let same = first || (wide, keep) == (access.wide, access.keep);
    (access.wide, access.keep) = (wide, keep);
    same.then_some(())
}
