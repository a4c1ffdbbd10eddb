//! The opcodes.

use std::collections::HashMap;

use super::super::quoted;
use super::{Id, MAX_PICKLE, Storage, Value, View};

/// Bytes of a string that may be a name: longer ones, text saved beside the weights, are not kept, so that comparing
/// names is cheap however often one is used.
const MAX_NAME: usize = 4096;

/// Dimensions of a tensor accepted.
const MAX_RANK: usize = 8;

/// Runs one pickle's opcodes.
pub(super) struct Machine<'a> {
    pub(super) rest: &'a [u8],
    pub(super) values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Stack heights at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    pub(super) storages: Vec<Storage<'a>>,
    /// Storage key to index.
    keys: HashMap<&'a str, usize>,
    /// Items copied into dicts so far: the one thing that can outgrow the number of opcodes.
    copied: usize,
}

impl<'a> Machine<'a> {
    pub(super) fn new(pickle: &'a [u8]) -> Self {
        Self {
            rest: pickle,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            storages: Vec::new(),
            keys: HashMap::new(),
            copied: 0,
        }
    }

    /// Runs to the STOP opcode and returns what is on top of the stack then.
    pub(super) fn run(&mut self) -> Result<Id, String> {
        loop {
            let [op] = self.take_array()?;
            match op {
                // PROTO, FRAME
                0x80 => match self.take_array()? {
                    [2..=5] => {}
                    [version] => return Err(format!("protocol {version}; 2 to 5 are read")),
                },
                0x95 => drop(self.take(8)?),
                b'.' => return self.pop(),

                b'N' => self.push(Value::None),
                0x88 => self.push(Value::Bool(true)),
                0x89 => self.push(Value::Bool(false)),
                // BININT, BININT1, BININT2, LONG1, LONG4, BINFLOAT
                b'J' => {
                    let int = i32::from_le_bytes(self.take_array()?);
                    self.push(Value::Int(int.into()));
                }
                b'K' => {
                    let [int] = self.take_array()?;
                    self.push(Value::Int(int.into()));
                }
                b'M' => {
                    let int = u16::from_le_bytes(self.take_array()?);
                    self.push(Value::Int(int.into()));
                }
                0x8a | 0x8b => {
                    let bytes = self.take_counted(if op == 0x8a { 1 } else { 4 })?;
                    self.push(long(bytes));
                }
                b'G' => {
                    self.take(8)?;
                    self.push(Value::Other("float"));
                }
                // SHORT_BINSTRING, SHORT_BINUNICODE, BINSTRING, BINUNICODE, BINUNICODE8
                b'U' | 0x8c => self.push_text(1)?,
                b'T' | b'X' => self.push_text(4)?,
                0x8d => self.push_text(8)?,
                // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
                b'C' | b'B' | 0x8e | 0x96 => {
                    self.take_counted(match op {
                        b'C' => 1,
                        b'B' => 4,
                        _ => 8,
                    })?;
                    self.push(Value::Other("bytes"));
                }

                b'(' => self.marks.push(self.stack.len()),
                b')' => self.push(Value::Tuple(Vec::new())),
                b't' => {
                    let items = self.pop_mark()?;
                    self.push(Value::Tuple(items));
                }
                // TUPLE1 to TUPLE3
                0x85..=0x87 => {
                    let mut items = vec![0; usize::from(op - 0x84)];
                    for item in items.iter_mut().rev() {
                        *item = self.pop()?;
                    }
                    self.push(Value::Tuple(items));
                }
                b']' => self.push(Value::List(Vec::new())),
                b'l' => {
                    let items = self.pop_mark()?;
                    self.push(Value::List(items));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(&[item])?;
                }
                b'e' => {
                    let items = self.pop_mark()?;
                    self.append(&items)?;
                }
                b'}' => self.push(Value::Dict(Vec::new())),
                b'd' => {
                    let items = self.pop_mark()?;
                    self.push(Value::Dict(Vec::new()));
                    self.set_items(&items)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.set_items(&items)?;
                }
                // EMPTY_SET, FROZENSET, ADDITEMS
                0x8f => self.push(Value::Other("set")),
                0x91 => {
                    self.pop_mark()?;
                    self.push(Value::Other("set"));
                }
                0x90 => {
                    self.pop_mark()?;
                    match self.values[self.top()?] {
                        Value::Other("set") => {}
                        _ => return Err("items added to what is no set".into()),
                    }
                }

                // POP, POP_MARK, DUP
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_mark()?),
                b'2' => self.stack.push(self.top()?),
                // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
                b'q' | b'r' | 0x94 => {
                    let slot = match op {
                        b'q' => u32::from_le_bytes(self.take_padded(1)?),
                        b'r' => u32::from_le_bytes(self.take_padded(4)?),
                        _ => self.memo.len() as u32,
                    };
                    let top = self.top()?;
                    self.memo.insert(slot, top);
                }
                b'h' | b'j' => {
                    let slot = u32::from_le_bytes(self.take_padded(if op == b'h' { 1 } else { 4 })?);
                    let id = *self.memo.get(&slot).ok_or_else(|| format!("memo {slot} was never set"))?;
                    self.stack.push(id);
                }

                // GLOBAL, STACK_GLOBAL
                b'c' => {
                    let (module, name) = (self.take_line()?, self.take_line()?);
                    self.push(Value::Global(module, name));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (&Value::Text(module), &Value::Text(name)) = (&self.values[module], &self.values[name]) else {
                        return Err("a global's module and name must be strings".into());
                    };
                    self.push(Value::Global(module, name));
                }
                b'Q' => self.persistent_id()?,
                b'R' => self.reduce()?,
                // NEWOBJ, NEWOBJ_EX
                0x81 | 0x92 => {
                    for _ in 0..if op == 0x81 { 1 } else { 2 } {
                        self.pop()?;
                    }
                    let class = self.pop()?;
                    let &Value::Global(module, name) = &self.values[class] else {
                        return Err("an instance of what is no class".into());
                    };
                    self.push(Value::Object(module, name));
                }
                // BUILD sets attributes. Those of a dict (`_metadata` of a state dict) are no items; an object has none
                // of use here.
                b'b' => {
                    self.pop()?;
                    match self.values[self.top()?] {
                        Value::Dict(_) | Value::Object(..) => {}
                        _ => return Err("attributes set on a plain value".into()),
                    }
                }
                _ => return Err(format!("opcode {op:#04x} is not among those torch.save writes")),
            }
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| {
            format!("ends too early: the file is cut off or damaged, or the pickle is over {MAX_PICKLE} bytes")
        })?;
        self.rest = rest;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("take gives N bytes"))
    }

    /// `len` little-endian bytes, with zeros up to `N`.
    fn take_padded<const N: usize>(&mut self, len: usize) -> Result<[u8; N], String> {
        let mut padded = [0; N];
        padded[..len].copy_from_slice(self.take(len)?);
        Ok(padded)
    }

    /// Bytes preceded by their number in `count_len` bytes.
    fn take_counted(&mut self, count_len: usize) -> Result<&'a [u8], String> {
        let count = u64::from_le_bytes(self.take_padded(count_len)?);
        self.take(usize::try_from(count).unwrap_or(usize::MAX))
    }

    fn take_line(&mut self) -> Result<&'a str, String> {
        let line = &self.rest[..self.rest.len().min(MAX_NAME)];
        let len = line.iter().position(|&b| b == b'\n').ok_or("a name without an end")?;
        let line = self.take(len + 1)?;
        std::str::from_utf8(&line[..len]).map_err(|_| "a name is not UTF-8".into())
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    /// Pushes the string that follows. Python 2 also wrote raw bytes as strings.
    fn push_text(&mut self, count_len: usize) -> Result<(), String> {
        let bytes = self.take_counted(count_len)?;
        self.push(match std::str::from_utf8(bytes) {
            Ok(text) if text.len() <= MAX_NAME => Value::Text(text),
            Ok(_) => Value::Other("long str"),
            Err(_) => Value::Other("bytes"),
        });
        Ok(())
    }

    fn top(&self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor..].last().copied().ok_or_else(|| "a value is missing on the stack".into())
    }

    fn pop(&mut self) -> Result<Id, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("a mark is missing on the stack")?;
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        let Value::List(list) = &mut self.values[top] else {
            return Err("items appended to what is no list".into());
        };
        list.extend(items);
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        let Value::Dict(dict) = &mut self.values[top] else {
            return Err("items set on what is no dict".into());
        };
        let (pairs, []) = items.as_chunks() else {
            return Err("a dict's key without a value".into());
        };
        dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    /// Calls nothing: what the functions of `torch.save` would return is described, any other result is opaque.
    fn reduce(&mut self) -> Result<(), String> {
        let (args, function) = (self.pop()?, self.pop()?);
        let &Value::Global(module, name) = &self.values[function] else {
            return Err("a call of what is no function".into());
        };
        let Value::Tuple(args) = &self.values[args] else {
            return Err(format!("arguments of {name} must be a tuple"));
        };
        match (module, name) {
            ("collections", "OrderedDict") => {
                let items = self.ordered_items(args)?;
                self.copied += items.len();
                if self.copied > MAX_PICKLE {
                    return Err("the same items in too many dicts".into());
                }
                self.push(Value::Dict(items));
            }
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => {
                let view = self.view(args)?;
                self.push(Value::Tensor(Box::new(view)));
            }
            ("torch._utils", "_rebuild_parameter") => {
                let data = *args.first().ok_or("a parameter without data")?;
                self.stack.push(data);
            }
            _ => self.push(Value::Object(module, name)),
        }
        Ok(())
    }

    /// The arguments of `OrderedDict`: none, or from Python 2 a list of pairs.
    fn ordered_items(&self, args: &[Id]) -> Result<Vec<(Id, Id)>, String> {
        let items = match args {
            [] => return Ok(Vec::new()),
            [items] => &self.values[*items],
            _ => return Err("an OrderedDict takes one argument".into()),
        };
        let Value::List(items) = items else {
            return Err("an OrderedDict takes a list".into());
        };
        let pair = |&item: &Id| match &self.values[item] {
            Value::List(pair) | Value::Tuple(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            _ => Err("an item of an OrderedDict must be a pair".into()),
        };
        items.iter().map(pair).collect()
    }

    /// The arguments of `_rebuild_tensor` and `_rebuild_tensor_v2`: storage, offset, shape, stride, then flags.
    fn view(&self, args: &[Id]) -> Result<View, String> {
        let [storage, offset, shape, stride, ..] = args else {
            return Err(format!("a tensor takes 4 arguments or more, found {}", args.len()));
        };
        let Value::Storage(storage) = self.values[*storage] else {
            return Err("a tensor without a storage".into());
        };
        let view = View {
            storage,
            offset: self.natural(*offset)?,
            shape: self.naturals(*shape)?,
            stride: self.naturals(*stride)?,
        };
        if view.shape.len() != view.stride.len() {
            return Err(format!("a tensor of {} dimensions with {} strides", view.shape.len(), view.stride.len()));
        }
        Ok(view)
    }

    fn naturals(&self, id: Id) -> Result<Vec<usize>, String> {
        match &self.values[id] {
            Value::Tuple(ids) if ids.len() <= MAX_RANK => ids.iter().map(|&id| self.natural(id)).collect(),
            Value::Tuple(ids) => Err(format!("a tensor of {} dimensions; at most {MAX_RANK} are read", ids.len())),
            _ => Err("a shape or stride must be a tuple".into()),
        }
    }

    fn natural(&self, id: Id) -> Result<usize, String> {
        match self.values[id] {
            Value::Int(int) => usize::try_from(int).map_err(|_| format!("{int} where a size is due")),
            _ => Err("a size must be an int".into()),
        }
    }

    /// `("storage", class, key, location, elements)`; before PyTorch 1.6 a sixth item, None unless it is a view.
    fn persistent_id(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let fields: Vec<_> = match &self.values[id] {
            Value::Tuple(ids) => ids.iter().take(7).map(|&id| &self.values[id]).collect(),
            _ => Vec::new(),
        };
        let [Value::Text("storage"), Value::Global(_, class), Value::Text(key), _, Value::Int(len), view @ ..] =
            &fields[..]
        else {
            return Err("a persistent id that names no storage".into());
        };
        if !matches!(view, [] | [Value::None]) {
            return Err("a storage that is a view of another: load the file with PyTorch and save it again".into());
        }
        let len = usize::try_from(*len).map_err(|_| format!("a storage of {len} elements"))?;
        let storage = Storage { key, class, len };
        let index = *self.keys.entry(key).or_insert(self.storages.len());
        match self.storages.get(index) {
            None => self.storages.push(storage),
            Some(known) if *known == storage => {}
            Some(_) => return Err(format!("storage {} is described in two ways", quoted(key))),
        }
        self.push(Value::Storage(index));
        Ok(())
    }
}

/// A two's-complement little-endian integer; one beyond 64 bits cannot be a size.
fn long(bytes: &[u8]) -> Value<'static> {
    if bytes.len() > 8 {
        return Value::Other("int");
    }
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut padded = [if negative { 0xff } else { 0 }; 8];
    padded[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(padded))
}
