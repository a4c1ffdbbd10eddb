//! `cp.async` and the groups it is waited for by.

use super::{AsyncCopy, Decoder, Kind, Refusal, Space, unknown};
use crate::ptx::{Operand, Width};

impl Decoder {
    pub(super) fn copy(&mut self, op: &str, operands: &[Operand]) -> Result<Kind, Refusal> {
        match (op, operands) {
            ("cp.async.commit_group", []) => return Ok(Kind::Commit),
            ("cp.async.wait_all", []) => return Ok(Kind::Wait(None)),
            ("cp.async.wait_group", [Operand::Int(most)]) => {
                return Ok(Kind::Wait(Some(u32::try_from(*most).map_err(|_| unknown(op))?)));
            }
            _ => {}
        }
        let form = op.strip_prefix("cp.async.").ok_or_else(|| unknown(op))?;
        // How much of the second-level cache is filled changes nothing here.
        let form =
            [".L2::64B", ".L2::128B", ".L2::256B"].iter().find_map(|hint| form.strip_suffix(hint)).unwrap_or(form);
        let (to, from, bytes, rest) = match operands {
            [Operand::Address(to, to_offset), Operand::Address(from, from_offset), Operand::Int(bytes), rest @ ..] => {
                ((to, *to_offset), (from, *from_offset), *bytes, rest)
            }
            _ => return Err(unknown(op)),
        };
        if !matches!((form, bytes), ("ca.shared.global", 4 | 8 | 16) | ("cg.shared.global", 16)) {
            return Err(unknown(op));
        }
        let source_bytes = match rest {
            [] => None,
            [size @ (Operand::Int(_) | Operand::Reg(_))] => Some(self.source(size, Width::W32)?),
            _ => return Err(unknown(op)),
        };
        Ok(Kind::Copy(AsyncCopy {
            to: self.address(op, Space::Shared, to.0, to.1)?,
            from: self.address(op, Space::Global, from.0, from.1)?,
            bytes: bytes as u8,
            source_bytes,
        }))
    }
}
