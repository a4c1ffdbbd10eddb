//! Copies of rows of bytes, most of them of one row, between the host and the memory of one device or two.
//!
//! Work of their stream alone: a driver's copy between contexts in a default stream waits for both devices, which is not
//! imitated and orders less here. Nor are arrays, copies within host memory, and the synchronous forms of copies of more
//! than one row.

use std::sync::Arc;

use super::abi::{HostSource, HostTarget};
use super::capture;
use super::context::{Context, find};
use super::device::MAX_PITCH;
use super::errors::{Code, Outcome, exports};
use super::host::is_pinned;
use super::inject::Call;
use super::memory::{asynchronous, lost, refused, synchronous};
use super::peer::holder;
use super::stream::Lane;
use super::{Handle, explain};

/// `CUmemorytype`.
const HOST: u32 = 1;
const DEVICE: u32 = 2;
const ARRAY: u32 = 3;
const UNIFIED: u32 = 4;

/// One side of a copy: rows of `width` bytes, in planes of `height` rows.
#[derive(Clone, Copy)]
struct Rows<A> {
    /// Where the first begins.
    start: A,
    width: usize,
    height: usize,
    depth: usize,
    /// Bytes from one row to the next.
    pitch: usize,
    /// Bytes from one plane to the next.
    plane: usize,
}

impl<A> Rows<A> {
    fn one(start: A, width: usize) -> Rows<A> {
        Rows { start, width, height: 1, depth: 1, pitch: width, plane: width }
    }

    /// Bytes from the first row's start to the last row's end.
    fn span(&self) -> usize {
        (self.depth - 1) * self.plane + (self.height - 1) * self.pitch + self.width
    }

    /// Where the rows begin, in bytes from the first, in ascending order.
    fn offsets(&self) -> impl Iterator<Item = usize> {
        let Rows { height, depth, pitch, plane, .. } = *self;
        (0..depth).flat_map(move |z| (0..height).map(move |y| z * plane + y * pitch))
    }
}

impl Rows<u64> {
    fn addresses(&self) -> impl Iterator<Item = u64> {
        let start = self.start;
        self.offsets().map(move |offset| start.wrapping_add(offset as u64))
    }

    /// # Errors
    /// `INVALID_VALUE` unless the rows lie in one live allocation that the context may access.
    fn check(&self, context: &Context) -> Outcome {
        let device = context.reach(self.start).map_err(refused)?;
        device.memory.check(self.start, self.span() as u64).map_err(refused)
    }

    /// Whether they share bytes with rows of the same width.
    fn overlap(&self, other: &Rows<u64>) -> bool {
        let (first, second) = if self.start < other.start { (self, other) } else { (other, self) };
        if second.start - first.start >= first.span() as u64 {
            return false;
        }
        let (mut mine, mut theirs) = (self.addresses().peekable(), other.addresses().peekable());
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            if a.abs_diff(*b) < self.width as u64 {
                return true;
            }
            if a < b {
                mine.next()
            } else {
                theirs.next()
            };
        }
        false
    }
}

/// What a copy is of: bytes of a row, rows, planes.
type Extent = [usize; 3];

/// Where one side of a copy begins and how it lies, as the structures of the API say it.
struct Place<A> {
    base: A,
    /// Bytes, rows and planes before the first.
    offset: [usize; 3],
    /// Bytes from one row to the next; 0 will do for a single row.
    pitch: usize,
    /// Rows from one plane to the next; 0 will do for a single plane.
    plane_height: usize,
}

impl<A> Place<A> {
    /// The rows, whose start `at` finds from the base.
    ///
    /// # Errors
    /// `INVALID_VALUE` where rows overlap or reach beyond all addresses.
    fn rows(self, extent: Extent, at: impl Fn(A, usize) -> A) -> Outcome<Rows<A>> {
        let ([width, height, depth], [x, y, z]) = (extent, self.offset);
        let refuse = |reason: String| Err(explain(Code::INVALID_VALUE, reason));
        let needed = x.saturating_add(width);
        let single = [height, depth] == [1, 1] && [y, z] == [0, 0];
        if (self.pitch < needed && !(single && self.pitch == 0)) || self.pitch > MAX_PITCH {
            return refuse(format!(
                "a pitch of {} for rows that end at byte {needed}; most is {MAX_PITCH}",
                self.pitch
            ));
        }
        if self.plane_height < y.saturating_add(height) && (depth, z) != (1, 0) {
            return refuse(format!("a height of {} for planes of {height} rows from row {y} on", self.plane_height));
        }
        let found = || {
            let (pitch, plane) = (self.pitch, self.plane_height.checked_mul(self.pitch)?);
            let skipped = z.checked_mul(plane)?.checked_add(y.checked_mul(pitch)?)?.checked_add(x)?;
            let last = (depth - 1).checked_mul(plane)?.checked_add((height - 1).checked_mul(pitch)?)?;
            isize::try_from(skipped.checked_add(last)?.checked_add(width)?).ok()?;
            Some((skipped, plane))
        };
        let Some((skipped, plane)) = found() else { return refuse("a copy beyond all addresses".into()) };
        Ok(Rows { start: at(self.base, skipped), width, height, depth, pitch: self.pitch, plane })
    }
}

fn on_device(place: Place<u64>, extent: Extent) -> Outcome<Rows<u64>> {
    place.rows(extent, |base, offset| base.wrapping_add(offset as u64))
}

/// One half of a `CUDA_MEMCPY2D`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Side2D<H> {
    x: usize,
    y: usize,
    memory_type: u32,
    host: H,
    device: u64,
    array: Handle,
    pitch: usize,
}

/// `CUDA_MEMCPY2D`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Copy2D {
    source: Side2D<HostSource>,
    target: Side2D<HostTarget>,
    width: usize,
    height: usize,
}

/// A base in the memory that a memory type names.
enum Base<H> {
    Host(H),
    Device(u64),
}

impl<H: Copy> Side2D<H> {
    /// # Errors
    /// `NOT_SUPPORTED` for arrays, `INVALID_VALUE` for a type there isn't.
    fn base(&self, host_at: fn(u64) -> H) -> Outcome<Base<H>> {
        match self.memory_type {
            HOST => Ok(Base::Host(self.host)),
            DEVICE => Ok(Base::Device(self.device)),
            // The address tells.
            UNIFIED if holder(self.device).is_none() => Ok(Base::Host(host_at(self.device))),
            UNIFIED => Ok(Base::Device(self.device)),
            ARRAY => Err(explain(Code::NOT_SUPPORTED, "arrays are not imitated")),
            _ => Err(Code::INVALID_VALUE),
        }
    }

    fn place<A>(&self, base: A) -> Place<A> {
        Place { base, offset: [self.x, self.y, 0], pitch: self.pitch, plane_height: 0 }
    }
}

/// One half of a `CUDA_MEMCPY3D_PEER`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Side3D {
    x: usize,
    y: usize,
    z: usize,
    level: usize,
    memory_type: u32,
    host: usize,
    device: u64,
    array: Handle,
    context: Handle,
    pitch: usize,
    height: usize,
}

/// `CUDA_MEMCPY3D_PEER`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Copy3DPeer {
    source: Side3D,
    target: Side3D,
    extent: Extent,
}

impl Side3D {
    /// # Errors
    /// `NOT_SUPPORTED` for what isn't device memory, and those of [`named`] and of [`Place::rows`].
    fn rows(&self, extent: Extent) -> Outcome<(Arc<Context>, Rows<u64>)> {
        if self.memory_type != DEVICE {
            return Err(explain(Code::NOT_SUPPORTED, "copies between contexts are of device memory alone here"));
        }
        if self.level != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let offset = [self.x, self.y, self.z];
        let place = Place { base: self.device, offset, pitch: self.pitch, plane_height: self.height };
        Ok((named(self.context)?, on_device(place, extent)?))
    }
}

/// A context that a copy names.
///
/// # Errors
/// `INVALID_CONTEXT` for what isn't one; its fault once reported.
fn named(handle: Handle) -> Outcome<Arc<Context>> {
    let context = find(handle)?;
    context.check()?;
    Ok(context)
}

/// What a graph copies from or to page-locked memory that is no longer there.
fn unpinned() -> Code {
    explain(Code::ILLEGAL_ADDRESS, "copy of page-locked host memory that has been freed or unregistered")
}

/// Reads pinned memory when the copy is done, pageable memory at the call.
fn host_to_device(lane: &Lane, to: Rows<u64>, from: Rows<HostSource>) -> Outcome {
    // Null must not wait for the work to be found.
    from.start.bytes(from.width)?;
    let pinned = is_pinned(from.start.address(), from.span())?;
    let context = Arc::clone(&lane.context);
    let write =
        move |address: u64, row: &[u8]| context.reach(address).map_err(lost)?.memory.write(address, row).map_err(lost);
    let check = || to.check(&lane.context);
    if !pinned {
        capture::forbid(&lane.queue, Code::STREAM_CAPTURE_UNSUPPORTED)?;
        if lane.context.deferred {
            let mut staged = Vec::with_capacity(from.width * from.height);
            for offset in from.offsets() {
                staged.extend_from_slice(from.start.at(offset).bytes(from.width)?);
            }
            let rows = move || to.addresses().zip(staged.chunks(to.width)).try_for_each(|(to, row)| write(to, row));
            return lane.submit(check, rows);
        }
    }
    lane.submit(check, move || {
        if pinned && !is_pinned(from.start.address(), from.span())? {
            return Err(unpinned());
        }
        let mut rows = to.addresses().zip(from.offsets());
        rows.try_for_each(|(to, offset)| write(to, from.start.at(offset).bytes(from.width)?))
    })
}

/// Writes pinned memory when the copy is done; to pageable memory the copy is waited for.
fn device_to_host(lane: &Lane, to: Rows<HostTarget>, from: Rows<u64>) -> Outcome {
    // Null must not wait for the work to be found.
    { to.start }.bytes(to.width)?;
    let pinned = is_pinned(to.start.address(), to.span())?;
    if !pinned {
        capture::forbid(&lane.queue, Code::STREAM_CAPTURE_UNSUPPORTED)?;
    }
    let context = Arc::clone(&lane.context);
    let work = move || {
        if pinned && !is_pinned(to.start.address(), to.span())? {
            return Err(unpinned());
        }
        from.addresses().zip(to.offsets()).try_for_each(|(from, offset)| {
            let device = context.reach(from).map_err(lost)?;
            device.memory.read(from, to.start.at(offset).bytes(to.width)?).map_err(lost)
        })
    };
    lane.submit(|| from.check(&lane.context), work)?;
    if pinned { Ok(()) } else { lane.synchronise() }
}

/// Copies what each context may access. Not done where either context has faulted, of which the stream's stays sound.
fn device_to_device(lane: &Lane, to: (Arc<Context>, Rows<u64>), from: (Arc<Context>, Rows<u64>)) -> Outcome {
    let check = || {
        to.1.check(&to.0)?;
        from.1.check(&from.0)?;
        if to.1.overlap(&from.1) {
            let (source, target) = (from.1.start, to.1.start);
            let reason = format!("copy from {source:#x} to {target:#x}: the ranges overlap, which is undefined");
            return Err(explain(Code::INVALID_VALUE, reason));
        }
        Ok(())
    };
    let (target, source) = (to.clone(), from.clone());
    let work = move || {
        let ((to, target), (from, source)) = (&target, &source);
        if to.faulted() || from.faulted() {
            return Ok(());
        }
        let (receiver, sender) = (to.reach(target.start).map_err(lost)?, from.reach(source.start).map_err(lost)?);
        let copy = |(to, from)| receiver.memory.copy(to, &sender.memory, from, target.width as u64).map_err(lost);
        target.addresses().zip(source.addresses()).try_for_each(copy)
    };
    lane.submit(check, work)
}

/// One row within what a stream's context may access.
fn one_row(lane: &Lane, to: u64, from: u64, bytes: usize) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    let side = |address| (Arc::clone(&lane.context), Rows::one(address, bytes));
    device_to_device(lane, side(to), side(from))
}

fn row_to_device(lane: &Lane, to: u64, from: HostSource, bytes: usize) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    host_to_device(lane, Rows::one(to, bytes), Rows::one(from, bytes))
}

fn row_to_host(lane: &Lane, to: HostTarget, from: u64, bytes: usize) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    device_to_host(lane, Rows::one(to, bytes), Rows::one(from, bytes))
}

exports! {
    /// Waits for the default stream. Then pageable memory is staged, and copied on while the host goes on; a copy of
    /// pinned memory is waited for.
    fn cuMemcpyHtoD_v2(to: u64, from: HostSource, bytes: usize) {
        let lane = synchronous(Call::Copy)?;
        if is_pinned(from.address(), bytes)? || !lane.context.deferred {
            row_to_device(&lane, to, from, bytes)?;
            return lane.synchronise();
        }
        lane.synchronise()?;
        row_to_device(&lane, to, from, bytes)
    }

    fn cuMemcpyDtoH_v2(to: HostTarget, from: u64, bytes: usize) {
        let lane = synchronous(Call::Copy)?;
        row_to_host(&lane, to, from, bytes)?;
        lane.synchronise()
    }

    /// Doesn't wait, as a driver's doesn't for copies within a device.
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        one_row(&synchronous(Call::Copy)?, to, from, bytes)
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: HostSource, bytes: usize, stream: Handle) {
        row_to_device(&asynchronous(Call::Copy, stream)?, to, from, bytes)
    }

    /// To pageable memory this waits, as a driver's does.
    fn cuMemcpyDtoHAsync_v2(to: HostTarget, from: u64, bytes: usize, stream: Handle) {
        row_to_host(&asynchronous(Call::Copy, stream)?, to, from, bytes)
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        one_row(&asynchronous(Call::Copy, stream)?, to, from, bytes)
    }

    /// Rows between the host and what the stream's context may access, or within that.
    fn cuMemcpy2DAsync_v2(copy: HostSource, stream: Handle) {
        let lane = asynchronous(Call::Copy, stream)?;
        let Copy2D { source, target, width, height } = copy.read(0)?;
        let (from, to) = (source.base(HostSource::of_address)?, target.base(HostTarget::of_address)?);
        let extent = [width, height, 1];
        if extent.contains(&0) {
            return Ok(());
        }
        match (from, to) {
            (Base::Host(from), Base::Device(to)) => {
                let from = source.place(from).rows(extent, |base, offset| base.at(offset))?;
                host_to_device(&lane, on_device(target.place(to), extent)?, from)
            }
            (Base::Device(from), Base::Host(to)) => {
                let to = target.place(to).rows(extent, |base, offset| base.at(offset))?;
                device_to_host(&lane, to, on_device(source.place(from), extent)?)
            }
            (Base::Device(from), Base::Device(to)) => {
                let side = |place| Ok((Arc::clone(&lane.context), on_device(place, extent)?));
                device_to_device(&lane, side(target.place(to))?, side(source.place(from))?)
            }
            (Base::Host(_), Base::Host(_)) => {
                Err(explain(Code::NOT_SUPPORTED, "copies within host memory are not imitated"))
            }
        }
    }

    /// Needs no peer access: a driver copies through the host where there is none.
    fn cuMemcpyPeerAsync(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize, stream: Handle) {
        let lane = asynchronous(Call::Copy, stream)?;
        let (to_context, from_context) = (named(to_context)?, named(from_context)?);
        if bytes == 0 {
            return Ok(());
        }
        device_to_device(&lane, (to_context, Rows::one(to, bytes)), (from_context, Rows::one(from, bytes)))
    }

    /// As `cuMemcpyPeerAsync`, of planes of rows.
    fn cuMemcpy3DPeerAsync(copy: HostSource, stream: Handle) {
        let lane = asynchronous(Call::Copy, stream)?;
        let Copy3DPeer { source, target, extent } = copy.read(0)?;
        if extent.contains(&0) {
            return Ok(());
        }
        device_to_device(&lane, target.rows(extent)?, source.rows(extent)?)
    }
}
