//! Matrix instructions: `mma` and `ldmatrix`.

use super::{Decoder, Element, Kind, LoadMatrix, Mma, Refusal, Space, next_slot, register, unknown};
use crate::ptx::{Operand, Width};

impl Decoder {
    pub(super) fn mma(&mut self, op: &str, operands: &[Operand]) -> Result<Kind, Refusal> {
        let (element, depth, single) = match op {
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32" => (Element::Half, 8, true),
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" => (Element::Half, 16, true),
            "mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16" => (Element::Half, 8, false),
            "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16" => (Element::Half, 16, false),
            "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32" => (Element::Bfloat, 8, true),
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" => (Element::Bfloat, 16, true),
            "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32" => (Element::Tensor, 4, true),
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" => (Element::Tensor, 8, true),
            _ => return Err(unknown(op)),
        };
        let [d, a, b, c] = operands else { return Err(unknown(op)) };
        let results = if single { 4 } else { 2 };
        // Registers of b; a, with twice as many rows, has twice as many.
        let registers = depth / if element == Element::Tensor { 4 } else { 8 };
        let mut mma = Mma { element, depth: depth as u8, single, d: [0; 4], a: [0; 4], b: [0; 2], c: [0; 4] };
        for (part, slot) in parts(op, d, results)?.iter().zip(&mut mma.d) {
            *slot = register(part, Width::W32)?.slot;
        }
        for (sources, count, slots) in
            [(a, 2 * registers, &mut mma.a[..]), (b, registers, &mut mma.b[..]), (c, results, &mut mma.c[..])]
        {
            for (part, slot) in parts(op, sources, count)?.iter().zip(slots) {
                *slot = self.source(part, Width::W32)?;
            }
        }
        Ok(Kind::Mma(mma))
    }

    pub(super) fn load_matrix(&mut self, op: &str, operands: &[Operand]) -> Result<Kind, Refusal> {
        let modifiers: Vec<&str> = op.split('.').collect();
        let (count, transposed) = match modifiers[..] {
            ["ldmatrix", "sync", "aligned", "m8n8", count, "shared" | "shared::cta", "b16"] => (count, false),
            ["ldmatrix", "sync", "aligned", "m8n8", count, "trans", "shared" | "shared::cta", "b16"] => (count, true),
            _ => return Err(unknown(op)),
        };
        let count = match count {
            "x1" => 1,
            "x2" => 2,
            "x4" => 4,
            _ => return Err(unknown(op)),
        };
        let [target, Operand::Address(base, offset)] = operands else { return Err(unknown(op)) };
        let mut registers = [0; 4];
        for (part, slot) in parts(op, target, count)?.iter().zip(&mut registers) {
            *slot = register(part, Width::W32)?.slot;
        }
        let address = self.address(op, Space::Shared, base, *offset)?;
        let scratch = next_slot(&mut self.layout.narrow)?;
        for _ in 1..4 {
            next_slot(&mut self.layout.narrow)?;
        }
        Ok(Kind::LoadMatrix(LoadMatrix { transposed, count: count as u8, address, scratch, registers }))
    }
}

/// The `count` registers of a fragment.
fn parts<'a, 'b>(op: &str, operand: &'b Operand<'a>, count: usize) -> Result<&'b [Operand<'a>], Refusal> {
    match operand {
        Operand::Vector(parts) if parts.len() == count => Ok(parts),
        _ => Err(unknown(op)),
    }
}
