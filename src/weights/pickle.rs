//! A pickle machine for data only: it builds lists, dicts and tensor descriptions, and calls nothing.
//!
//! Protocols 2 to 5, which is what `torch.save` writes. Values live in one arena and refer to each other by index, so
//! a value fetched from the memo a million times exists once, a value may contain itself, and nesting costs no stack:
//! memory is bounded by the number of opcodes.

mod machine;

use machine::Machine;

/// Bytes of one pickle accepted. AlexNet's is 1.5 KB; the rest is room for what a training script saves beside it.
const MAX_PICKLE: usize = 1 << 20;

/// Index of a value in [`Pickle::values`].
pub(super) type Id = usize;

/// A Python object. Strings are slices of the file.
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Text(&'a str),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A function or class: module and name.
    Global(&'a str, &'a str),
    /// Index into [`Pickle::storages`].
    Storage(usize),
    Tensor(Box<View>),
    /// An instance of a class that means nothing here, or what a function would have returned: module and name.
    Object(&'a str, &'a str),
    /// A plain value of no use here, by the name of its type.
    Other(&'static str),
}

/// A storage that tensors are views of.
#[derive(PartialEq)]
pub(super) struct Storage<'a> {
    pub(super) key: &'a str,
    /// PyTorch's class, `FloatStorage` for example.
    pub(super) class: &'a str,
    /// Elements.
    pub(super) len: usize,
}

/// A strided view of a storage, in elements. Shape and stride have the same length.
pub(super) struct View {
    pub(super) storage: usize,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) stride: Vec<usize>,
}

/// What one pickle holds.
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    pub(super) storages: Vec<Storage<'a>>,
    root: Id,
    /// Bytes from the start to the end of the STOP opcode.
    pub(super) len: usize,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle that `bytes` begin with.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let mut machine = Machine::new(&bytes[..bytes.len().min(MAX_PICKLE)]);
        let available = machine.rest.len();
        let root = machine.run().map_err(|e| format!("pickle, byte {}: {e}", available - machine.rest.len()))?;
        let Machine { values, storages, rest, .. } = machine;
        Ok(Self { values, storages, root, len: available - rest.len() })
    }

    pub(super) fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id]
    }

    pub(super) fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    /// The name of a value's Python type.
    pub(super) fn type_name(&self, value: &Value) -> String {
        match value {
            Value::None => "None".into(),
            Value::Bool(_) => "bool".into(),
            Value::Int(_) => "int".into(),
            Value::Text(_) => "str".into(),
            Value::Tuple(_) => "tuple".into(),
            Value::List(_) => "list".into(),
            Value::Dict(_) => "dict".into(),
            Value::Global(module, name) | Value::Object(module, name) => super::quoted(&format!("{module}.{name}")),
            Value::Storage(_) => "storage".into(),
            Value::Tensor(_) => "tensor".into(),
            Value::Other(name) => (*name).into(),
        }
    }
}
