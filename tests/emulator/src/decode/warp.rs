//! Instructions in which lanes meet.

use super::{Barrier, Decoder, Kind, Refusal, Shuffle, ShuffleMode, Vote, VoteMode, register, unknown};
use crate::ptx::{Operand, Width};

impl Decoder {
    pub(super) fn shuffle(&mut self, op: &str, operands: &[Operand]) -> Result<Kind, Refusal> {
        let mode = match op {
            "shfl.sync.up.b32" => ShuffleMode::Up,
            "shfl.sync.down.b32" => ShuffleMode::Down,
            "shfl.sync.bfly.b32" => ShuffleMode::Butterfly,
            "shfl.sync.idx.b32" => ShuffleMode::Index,
            _ => return Err(unknown(op)),
        };
        let [target, value, lane, clamp, members] = operands else { return Err(unknown(op)) };
        let (destination, in_range) = match target {
            Operand::Pair(value, range) if value.width == Width::W32 && range.width == Width::Pred => {
                (value.slot, Some(range.slot))
            }
            single => (register(single, Width::W32)?.slot, None),
        };
        Ok(Kind::Shuffle(Shuffle {
            mode,
            destination,
            in_range,
            value: self.source(value, Width::W32)?,
            lane: self.source(lane, Width::W32)?,
            clamp: self.source(clamp, Width::W32)?,
            members: self.source(members, Width::W32)?,
        }))
    }

    pub(super) fn vote(&mut self, op: &str, operands: &[Operand]) -> Result<Kind, Refusal> {
        let (mode, width) = match op {
            "vote.sync.all.pred" => (VoteMode::All, Width::Pred),
            "vote.sync.any.pred" => (VoteMode::Any, Width::Pred),
            "vote.sync.uni.pred" => (VoteMode::Uniform, Width::Pred),
            "vote.sync.ballot.b32" => (VoteMode::Ballot, Width::W32),
            _ => return Err(unknown(op)),
        };
        let [destination, source, members] = operands else { return Err(unknown(op)) };
        let destination = register(destination, width)?.slot;
        let (source, negate) = match source {
            Operand::Not(reg) => (reg.slot, u32::MAX),
            source => (self.source(source, Width::Pred)?, 0),
        };
        Ok(Kind::Vote(Vote { mode, destination, source, negate, members: self.source(members, Width::W32)? }))
    }

    pub(super) fn barrier(&mut self, op: &str, operands: &[Operand]) -> Result<Kind, Refusal> {
        match (op, operands) {
            ("bar.sync", [Operand::Int(id @ 0..16)]) => Ok(Kind::Barrier(Barrier { id: *id as u32, threads: None })),
            ("bar.sync", [Operand::Int(id @ 0..16), Operand::Int(threads @ 32..=1024)]) if threads % 32 == 0 => {
                Ok(Kind::Barrier(Barrier { id: *id as u32, threads: Some(*threads as u32) }))
            }
            ("bar.warp.sync", [members]) => Ok(Kind::WarpBarrier { members: self.source(members, Width::W32)? }),
            _ => Err(unknown(op)),
        }
    }

    pub(super) fn active_mask(&mut self, op: &str, operands: &[Operand]) -> Result<Kind, Refusal> {
        match (op, operands) {
            ("activemask.b32", [destination]) => {
                Ok(Kind::ActiveMask { destination: register(destination, Width::W32)?.slot })
            }
            _ => Err(unknown(op)),
        }
    }
}
