//! What `torch.save` writes: a zip of a pickle and one entry per storage (PyTorch 1.6 and later), or a stream of
//! pickles with the storages behind them (before 1.6).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::pickle::{Id, Pickle, Storage, Value, View};
use super::source::{Source, unreadable};
use super::{DType, Parsed, Tensor, quoted, zip};

/// The magic number that opens a legacy file, as pickled: LONG1, 10 bytes.
const LEGACY_MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// The keys training scripts put a state dict under.
const WRAPPERS: [&str; 3] = ["state_dict", "model_state_dict", "model"];

type Tensors = BTreeMap<String, Tensor>;

/// Bytes that tell a legacy file.
pub(super) const MAGIC: usize = 11 + LEGACY_MAGIC.len();

/// Whether `bytes` begin like a legacy file.
pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    // After the protocol, and from protocol 4 on a frame.
    bytes.first() == Some(&0x80)
        && [2, 11].iter().any(|&at| bytes.get(at..).is_some_and(|b| b.starts_with(LEGACY_MAGIC)))
}

/// Reads the zip layout.
pub(super) fn read_zip(source: &Arc<Source>) -> Parsed<Tensors> {
    let one = |problem: String| vec![problem];
    let entries = zip::entries(source).map_err(one)?;
    let root = zip_root(&entries).map_err(one)?;
    let entry = |name: &str| {
        let entry = entries.get(&format!("{root}{name}"));
        entry.ok_or_else(|| "no such zip entry: the file is incomplete".to_string())
    };
    if let Ok(byteorder) = entry("byteorder")
        && *byteorder.content(source).map_err(one)? != *b"little"
    {
        return Err(vec!["saved on a big-endian machine: load the file there and save it as safetensors".into()]);
    }
    let data = entry("data.pkl").and_then(|entry| entry.content(source));
    let data = data.map_err(|e| vec![format!("data.pkl: {e}")])?;
    let pickle = Pickle::parse(&data).map_err(one)?;
    if pickle.len != data.len() {
        return Err(vec!["data.pkl goes on after its end".into()]);
    }
    tensors(&pickle, source, |storage| entry(&format!("data/{}", storage.key))?.checked(source))
}

/// The folder of `data.pkl`, with its slash.
fn zip_root(entries: &HashMap<String, zip::Entry>) -> Result<&str, String> {
    let mut roots = entries
        .keys()
        .filter_map(|name| name.strip_suffix("data.pkl"))
        .filter(|root| root.is_empty() || root.ends_with('/'));
    match (roots.next(), roots.next()) {
        (Some(root), None) => Ok(root),
        (None, _) => Err("a zip without data.pkl: not a PyTorch checkpoint".into()),
        (Some(_), Some(_)) => Err("a zip with more than one data.pkl".into()),
    }
}

/// Reads the legacy layout: magic number, protocol version, machine, the object, the storage keys; then per key a
/// number of elements and the elements. Its parts have no directory: a file is read whole.
pub(super) fn read_legacy(source: &Arc<Source>) -> Parsed<Tensors> {
    let whole = 0..source.len();
    let read;
    let source = match source.in_memory(whole.clone()) {
        Some(_) => source,
        None => {
            let bytes = source.bytes(whole.clone()).map_err(|e| vec![unreadable(e)])?;
            read = Arc::new(Source::Memory(bytes.into_owned()));
            &read
        }
    };
    let bytes = source.in_memory(whole).expect("it is now");
    let (pickle, storages) = legacy_parts(bytes).map_err(|problem| vec![problem])?;
    tensors(&pickle, source, |storage| {
        storages.get(storage.key).cloned().ok_or_else(|| "missing from the file's list of storages".into())
    })
}

/// The object, and where each storage is.
type LegacyParts<'a> = (Pickle<'a>, HashMap<&'a str, Range<usize>>);

fn legacy_parts(bytes: &[u8]) -> Result<LegacyParts<'_>, String> {
    let mut rest = bytes;
    let mut next = |what: &str| {
        let pickle = Pickle::parse(rest).map_err(|e| format!("{what}: {e}"))?;
        rest = &rest[pickle.len..];
        Ok::<_, String>(pickle)
    };
    next("magic number")?;
    if !matches!(next("protocol version")?.root(), Value::Int(1001)) {
        return Err("a protocol version other than 1001".into());
    }
    match dict_get(&next("machine")?, "little_endian") {
        Some(true) => {}
        Some(false) => {
            return Err("saved on a big-endian machine: load the file there and save it as safetensors".into());
        }
        None => return Err("the machine's byte order is missing".into()),
    }
    let object = next("object")?;
    let keys = next("storage keys")?;
    let Value::List(key_ids) = keys.root() else {
        return Err("the storage keys must be a list".into());
    };

    let described: HashMap<&str, &Storage> = object.storages.iter().map(|s| (s.key, s)).collect();
    let mut storages = HashMap::new();
    for &id in key_ids {
        let &Value::Text(key) = keys.get(id) else {
            return Err("a storage key must be a string".into());
        };
        let problem = |what: &str| format!("storage {}: {what}", quoted(key));
        let storage = described.get(key).ok_or_else(|| problem("no tensor uses it"))?;
        let size = element_size(storage.class).ok_or_else(|| problem("of a type unknown here"))?;
        let (found, after) = rest.split_first_chunk().ok_or_else(|| problem("the file is cut off"))?;
        let found = u64::from_le_bytes(*found);
        if found != storage.len as u64 {
            return Err(problem(&format!("{found} elements, but the pickle says {}", storage.len)));
        }
        let split = storage.len.checked_mul(size).and_then(|len| after.split_at_checked(len));
        let (data, after) = split.ok_or_else(|| problem("the file is cut off"))?;
        rest = after;
        let end = bytes.len() - rest.len();
        if storages.insert(storage.key, end - data.len()..end).is_some() {
            return Err(problem("listed twice"));
        }
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes after the last storage", rest.len()));
    }
    Ok((object, storages))
}

/// The bool under `key` of a pickled dict.
fn dict_get(pickle: &Pickle, key: &str) -> Option<bool> {
    let Value::Dict(items) = pickle.root() else { return None };
    items.iter().find_map(|&(k, v)| match (pickle.get(k), pickle.get(v)) {
        (Value::Text(text), &Value::Bool(value)) if *text == key => Some(value),
        _ => None,
    })
}

fn element_size(class: &str) -> Option<usize> {
    Some(match class {
        "ComplexDoubleStorage" => 16,
        "DoubleStorage" | "LongStorage" | "ComplexFloatStorage" => 8,
        "FloatStorage" | "IntStorage" => 4,
        "HalfStorage" | "BFloat16Storage" | "ShortStorage" => 2,
        "CharStorage" | "ByteStorage" | "BoolStorage" => 1,
        _ => return None,
    })
}

fn dtype(class: &str) -> Option<DType> {
    Some(match class {
        "DoubleStorage" => DType::F64,
        "FloatStorage" => DType::F32,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::Bf16,
        _ => return None,
    })
}

/// The tensors of the state dict in `pickle`. `place` tells where in `source` a storage is.
fn tensors<'a>(
    pickle: &Pickle<'a>,
    source: &Arc<Source>,
    place: impl Fn(&Storage<'a>) -> Result<Range<usize>, String>,
) -> Parsed<Tensors> {
    let (views, mut problems) = views(pickle, state_dict(pickle).map_err(|problem| vec![problem])?);

    // Each storage once, however many tensors look at it: they share its bytes and its CRC is checked here.
    let used: BTreeMap<usize, DType> = views.iter().map(|(_, view, dtype)| (view.storage, *dtype)).collect();
    let mut storages = HashMap::new();
    for (index, dtype) in used {
        let storage = &pickle.storages[index];
        let size = dtype.size();
        match place(storage) {
            Ok(range) if storage.len.checked_mul(size) == Some(range.len()) => drop(storages.insert(index, range)),
            Ok(range) => problems.push(format!(
                "storage {}: {} bytes, but the pickle says {} elements of {size}",
                quoted(storage.key),
                range.len(),
                storage.len
            )),
            Err(problem) => problems.push(format!("storage {}: {problem}", quoted(storage.key))),
        }
    }

    // A view may repeat elements, so a small file may describe tensors of any size. Views that overlap, transposed or
    // shared weights, stay well within four times the file.
    let limit = (64 << 20).max(source.len().saturating_mul(4));
    let mut total = 0usize;
    let mut sizes = Vec::new();
    for (name, view, dtype) in &views {
        match byte_len(view, pickle.storages[view.storage].len, dtype.size()) {
            Ok(len) => {
                total = total.saturating_add(len);
                sizes.push(len);
            }
            Err(problem) => problems.push(format!("{}: {problem}", quoted(name))),
        }
    }
    if total > limit {
        problems.push(format!("the tensors would take {total} bytes, out of a file of {}", source.len()));
    }
    if views.is_empty() && problems.is_empty() {
        problems.push("the file holds no tensors".into());
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    // Each once, too, of those that are gathered from.
    let mut gathered = HashMap::new();
    let tensor = |((name, view, dtype), len): ((String, &View, DType), usize)| {
        let storage = storages[&view.storage].clone();
        let tensor = if len == 0 || view.is_contiguous() {
            let start = storage.start + view.offset * dtype.size();
            Tensor::within(source, start..start + len, dtype, view.shape.clone())
        } else {
            let storage = match gathered.entry(view.storage) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(source.bytes(storage).map_err(|e| vec![unreadable(e)])?),
            };
            Tensor::new(dtype, view.shape.clone(), gather(view, storage, dtype.size(), len))
        };
        Ok((name, tensor))
    };
    views.into_iter().zip(sizes).map(tensor).collect()
}

/// The dict that holds the tensors: the object itself, or what a training script wrapped it in.
fn state_dict<'p>(pickle: &'p Pickle) -> Result<&'p [(Id, Id)], String> {
    let Value::Dict(items) = pickle.root() else {
        return Err(format!(
            "the file holds a {}, not a state dict: save model.state_dict()",
            pickle.type_name(pickle.root())
        ));
    };
    let mut wrapped = items.iter().filter_map(|&(key, value)| match (pickle.get(key), pickle.get(value)) {
        (Value::Text(key), Value::Dict(inner)) => Some((*WRAPPERS.iter().find(|wrapper| *wrapper == key)?, inner)),
        _ => None,
    });
    match (wrapped.next(), wrapped.next()) {
        (None, _) => Ok(items),
        (Some((_, inner)), None) => Ok(inner),
        (Some((a, _)), Some((b, _))) => Err(format!("the file holds two state dicts, {a} and {b}: save one")),
    }
}

type Views<'p> = Vec<(String, &'p View, DType)>;

/// The views of a state dict by name, and every entry that is none.
fn views<'p>(pickle: &'p Pickle, items: &[(Id, Id)]) -> (Views<'p>, Vec<String>) {
    let mut views = Vec::new();
    let mut problems = Vec::new();
    let mut seen = HashSet::new();
    for &(key, value) in items {
        let &Value::Text(name) = pickle.get(key) else {
            problems.push(format!("a tensor's name must be a string, found {}", pickle.type_name(pickle.get(key))));
            continue;
        };
        if !seen.insert(name) {
            problems.push(format!("{} is there twice", quoted(name)));
            continue;
        }
        let value = pickle.get(value);
        let Value::Tensor(view) = value else {
            problems.push(format!("{}: expected a tensor, found {}", quoted(name), pickle.type_name(value)));
            continue;
        };
        let class = pickle.storages[view.storage].class;
        match dtype(class) {
            Some(dtype) => views.push((name.to_owned(), &**view, dtype)),
            None => problems.push(format!(
                "{}: {} elements; Double, Float, Half and BFloat16 are read",
                quoted(name),
                quoted(class.strip_suffix("Storage").unwrap_or(class)),
            )),
        }
    }
    (views, problems)
}

/// Bytes of the tensor that `view` describes, if it lies within a storage of `len` elements.
fn byte_len(view: &View, len: usize, element: usize) -> Result<usize, String> {
    let outside = || {
        format!("shape {:?}, stride {:?}, offset {} reach beyond {len} elements", view.shape, view.stride, view.offset)
    };
    let bytes = view.shape.iter().try_fold(element, |bytes, &dim| bytes.checked_mul(dim)).ok_or_else(outside)?;
    let end = if bytes == 0 {
        Some(view.offset)
    } else {
        let steps = view.shape.iter().zip(&view.stride);
        steps
            .map(|(dim, stride)| (dim - 1).checked_mul(*stride))
            .try_fold(view.offset + 1, |end, s| end.checked_add(s?))
    };
    end.filter(|&end| end <= len).map(|_| bytes).ok_or_else(outside)
}

impl View {
    /// Whether its elements follow each other, of which there is at least one.
    fn is_contiguous(&self) -> bool {
        // A dimension of 1 is never stepped along, so its stride may be anything.
        let mut dense = 1;
        self.shape.iter().zip(&self.stride).rev().all(|(&dim, &stride)| {
            let fits = dim == 1 || stride == dense;
            dense *= dim;
            fits
        })
    }
}

/// The `len` bytes of a tensor, row-major. `view` lies within `storage`.
fn gather(view: &View, storage: &[u8], element: usize, len: usize) -> Vec<u8> {
    let View { offset, shape, stride, .. } = view;
    let mut bytes = Vec::with_capacity(len);
    let mut index = vec![0; shape.len()];
    let mut at = *offset;
    while bytes.len() < len {
        bytes.extend_from_slice(&storage[at * element..][..element]);
        for d in (0..shape.len()).rev() {
            index[d] += 1;
            if index[d] < shape[d] {
                at += stride[d];
                break;
            }
            index[d] = 0;
            at -= (shape[d] - 1) * stride[d];
        }
    }
    bytes
}
