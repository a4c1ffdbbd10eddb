//! Handles and descriptors: numbers looked up in a table, so that a stale one is refused.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::abi::{In, Outcome, Status};

/// What a `cublasLt*_t` names; never dereferenced.
pub type Name = usize;

/// What a product does (`cublasLtMatmulDesc_t`).
#[derive(Clone, Copy)]
pub struct Operation {
    pub compute: u32,
    pub scale: u32,
    pub pointer_mode: u32,
    /// `cublasOperation_t` of A, B and C.
    pub transposed: [u32; 3],
    pub epilogue: u32,
    pub bias: u64,
    /// `None`: D's.
    pub bias_kind: Option<u32>,
}

impl Operation {
    pub fn new(compute: u32, scale: u32) -> Operation {
        Operation { compute, scale, pointer_mode: 0, transposed: [0; 3], epilogue: 1, bias: 0, bias_kind: None }
    }

    /// Sets a `cublasLtMatmulDescAttributes_t`.
    pub fn set(&mut self, attribute: u32, value: In, size: usize) -> Outcome {
        match attribute {
            0 => self.compute = value.attribute(size)?,
            1 => self.scale = value.attribute(size)?,
            2 => self.pointer_mode = value.attribute(size)?,
            3..=5 => self.transposed[attribute as usize - 3] = value.attribute(size)?,
            7 => self.epilogue = value.attribute(size)?,
            8 => self.bias = value.attribute(size)?,
            10 => _ = value.attribute::<i64>(size)?, // the bias's stride from one product of a batch to the next
            26 => self.bias_kind = Some(value.attribute(size)?),
            _ => return Err(Status::NOT_SUPPORTED),
        }
        Ok(())
    }
}

/// How a matrix lies in memory (`cublasLtMatrixLayout_t`).
#[derive(Clone, Copy, PartialEq)]
pub struct Layout {
    /// `cudaDataType`.
    pub kind: u32,
    /// 0: column-major.
    pub order: u32,
    pub rows: u64,
    pub columns: u64,
    /// Elements from one column to the next.
    pub step: i64,
    pub batch: i32,
}

impl Layout {
    /// Sets a `cublasLtMatrixLayoutAttribute_t`.
    pub fn set(&mut self, attribute: u32, value: In, size: usize) -> Outcome {
        match attribute {
            0 => self.kind = value.attribute(size)?,
            1 => self.order = value.attribute(size)?,
            2 => self.rows = value.attribute(size)?,
            3 => self.columns = value.attribute(size)?,
            4 => self.step = value.attribute(size)?,
            5 => self.batch = value.attribute(size)?,
            6 => _ = value.attribute::<i64>(size)?, // the stride from one matrix of a batch to the next
            _ => return Err(Status::NOT_SUPPORTED),
        }
        Ok(())
    }
}

/// What an algorithm may need (`cublasLtMatmulPreference_t`).
#[derive(Clone, Copy)]
pub struct Preference {
    pub workspace: u64,
    /// `cublasLtReductionScheme_t`s that are allowed, a bit each.
    pub reductions: u32,
    /// Bytes that A, B, C and D are aligned to at least.
    pub alignment: [u32; 4],
}

impl Preference {
    pub const DEFAULT: Preference = Preference { workspace: 0, reductions: 7, alignment: [256; 4] };

    /// Sets a `cublasLtMatmulPreferenceAttributes_t`; others that narrow the choice of algorithms make no difference.
    pub fn set(&mut self, attribute: u32, value: In, size: usize) -> Outcome {
        match attribute {
            1 => self.workspace = value.attribute(size)?,
            3 => self.reductions = value.attribute(size)?,
            5..=8 => self.alignment[attribute as usize - 5] = value.attribute(size)?,
            0 | 2 | 4 | 9..=12 => _ = value.attribute::<u32>(size)?,
            _ => return Err(Status::NOT_SUPPORTED),
        }
        Ok(())
    }
}

/// Everything that has a name.
pub enum Object {
    Handle,
    Operation(Operation),
    Layout(Layout),
    Preference(Preference),
}

struct Objects {
    live: HashMap<Name, Object>,
    next: Name,
}

static OBJECTS: LazyLock<Mutex<Objects>> =
    LazyLock::new(|| Mutex::new(Objects { live: HashMap::new(), next: 0x20_0000 }));

fn objects() -> MutexGuard<'static, Objects> {
    OBJECTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds an object under a name that no earlier one had.
pub fn add(object: Object) -> Name {
    let mut objects = objects();
    objects.next += 16;
    let name = objects.next;
    objects.live.insert(name, object);
    name
}

/// Calls `act` with the object of a name.
///
/// # Errors
/// `INVALID_VALUE` for a name without one; what `act` returns.
pub fn with<T>(name: Name, act: impl FnOnce(&mut Object) -> Outcome<T>) -> Outcome<T> {
    act(objects().live.get_mut(&name).ok_or(Status::INVALID_VALUE)?)
}

/// Removes an object of the same kind as `kind`.
///
/// # Errors
/// `INVALID_VALUE` for any other name.
pub fn remove(name: Name, kind: &Object) -> Outcome {
    let mut objects = objects();
    let found = objects.live.get(&name).ok_or(Status::INVALID_VALUE)?;
    if std::mem::discriminant(found) != std::mem::discriminant(kind) {
        return Err(Status::INVALID_VALUE);
    }
    objects.live.remove(&name);
    Ok(())
}

pub fn operation(name: Name) -> Outcome<Operation> {
    with(name, |object| match object {
        Object::Operation(operation) => Ok(*operation),
        _ => Err(Status::INVALID_VALUE),
    })
}

pub fn layout(name: Name) -> Outcome<Layout> {
    with(name, |object| match object {
        Object::Layout(layout) => Ok(*layout),
        _ => Err(Status::INVALID_VALUE),
    })
}

pub fn preference(name: Name) -> Outcome<Preference> {
    with(name, |object| match object {
        Object::Preference(preference) => Ok(*preference),
        _ => Err(Status::INVALID_VALUE),
    })
}
