//! What the race checkers find, as faults.

use super::block::State;
use super::place::Found;
use super::transfer::Offsets;
use super::warp::thread;
use super::{Context, Raised};
use crate::alu::LANES;
use crate::check::{Access, Conflict, Earlier};
use crate::fault::FaultKind;

/// The fault of an access to shared memory.
pub fn shared_race(context: &Context, conflict: Conflict, pc: u32, addresses: &[u64; LANES]) -> Box<Raised> {
    let Conflict { lane, other, earlier } = conflict;
    let other = thread(context.launch, other as u32);
    let (kind, detail) = match earlier {
        Earlier::Copy => {
            (FaultKind::PendingCopy, format!("thread {other:?} copies to these bytes and has not waited for it"))
        }
        Earlier::Same => {
            (FaultKind::SharedRace, format!("thread {other:?} writes these bytes in the same instruction"))
        }
        earlier => {
            let what = match earlier {
                Earlier::Read => "read",
                Earlier::Atomic => "updated",
                _ => "written",
            };
            let detail =
                format!("thread {other:?} has {what} these bytes, and no barrier orders this access after that");
            (FaultKind::SharedRace, detail)
        }
    };
    Box::new(Raised { kind, pc, lane, address: Some(addresses[lane]), detail })
}

impl Found<'_> {
    /// Notes an access by the lanes of `mask`, for races and traffic; a fault if it races with another block's.
    #[expect(clippy::too_many_arguments, reason = "an access is all of these")]
    pub fn note(
        &self,
        context: &Context,
        block: &State,
        offsets: &Offsets,
        bytes: usize,
        mask: u32,
        access: Access,
        pc: u32,
    ) -> Result<(), Box<Raised>> {
        if let Some(touched) = &context.touched {
            touched.access(self.index, offsets, bytes, mask, access);
        }
        let Some(races) = &context.races else { return Ok(()) };
        races.access(self.index, offsets, bytes, mask, access, &block.order).map_err(|rival| {
            let what = match rival.access {
                Access::Read => "read",
                Access::Write => "written",
                Access::Atomic => "updated",
            };
            let who = rival.block.map_or("other blocks have".into(), |block| {
                let [x, y, _] = context.launch.grid;
                format!("block {:?} has", [block % x, block / x % y, block / x / y])
            });
            let lane = rival.lane;
            Box::new(Raised {
                kind: FaultKind::GlobalRace,
                pc,
                lane,
                address: Some(self.allocation.address + offsets[lane] as u64),
                detail: format!(
                    "{who} {what} these bytes in this launch, and no fences and atomics order this access after that"
                ),
            })
        })
    }
}
