//! safetensors: a little-endian u64 header length, a JSON header, and the tensors' bytes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensorError};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::json;

use super::source::{Source, unreadable};
use super::{Checkpoint, DType, Parsed, Tensor, labels, quoted};
use crate::file::PartialFile;
use crate::{Error, Result};

/// Bytes of JSON accepted: a thousand tensors and the names of twenty thousand classes take half of it.
const MAX_HEADER: u64 = 4 << 20;

const VARIANT: &str = "alexnet.variant";
const LABELS: &str = "alexnet.labels";

/// Reads the header; `path` is for the result.
pub(super) fn read(path: &Path, source: &Arc<Source>) -> Parsed<Checkpoint> {
    let (data, header) = header(source).map_err(|problem| vec![problem])?;
    let infos: BTreeMap<_, _> = header.tensors().into_iter().collect();
    let end = infos.values().map(|info| info.data_offsets.1).max().unwrap_or(0);
    if data.checked_add(end) != Some(source.len()) {
        return Err(vec![SafeTensorError::MetadataIncompleteBuffer.to_string()]);
    }

    let mut tensors = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, info) in infos {
        let dtype = match info.dtype {
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::Bf16,
            other => {
                problems.push(format!("{}: {other} elements; F64, F32, F16 and BF16 are read", quoted(&name)));
                continue;
            }
        };
        let (start, end) = info.data_offsets;
        // The crate's own product of extents may have met a zero before it overflowed.
        let elements = info.shape.iter().try_fold(dtype.size(), |bytes, &extent| bytes.checked_mul(extent));
        if elements != Some(end - start) {
            problems.push(format!("{}: shape {:?} does not have {} bytes", quoted(&name), info.shape, end - start));
            continue;
        }
        tensors.insert(name, Tensor::within(source, data + start..data + end, dtype, info.shape.clone()));
    }
    if tensors.is_empty() && problems.is_empty() {
        problems.push("the file holds no tensors".into());
    }

    let mut metadata: BTreeMap<_, _> = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let variant = metadata.remove(VARIANT);
    let labels = metadata.remove(LABELS).and_then(|json| match labels::parse_json(&json) {
        Ok(labels) => Some(labels),
        Err(problem) => {
            problems.push(format!("metadata {LABELS}: {problem}"));
            None
        }
    });
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Checkpoint { path: path.into(), tensors, variant, labels, metadata })
}

/// Where the data begins, and the header, of which the `safetensors` crate sees to it that tensors follow each other without
/// gaps. What it lets pass is refused: a header of 100 MB, and a name given twice (the last one wins).
fn header(source: &Source) -> Result<(usize, Metadata), String> {
    const LEN: usize = size_of::<u64>();
    let follow = source.len().checked_sub(LEN).ok_or("the file ends within its first 8 bytes")?;
    let mut len = [0; LEN];
    source.read(0, &mut len).map_err(unreadable)?;
    let len = u64::from_le_bytes(len);
    if len > MAX_HEADER {
        return Err(format!("the header is said to be {len} bytes; at most {MAX_HEADER} are read"));
    }
    let len = len as usize;
    if len > follow {
        return Err(format!("the header is said to be {len} bytes but {follow} follow: the file is cut off"));
    }
    let header = source.bytes(LEN..LEN + len).map_err(unreadable)?;
    let invalid = |e| format!("header: {e}");
    serde_json::from_slice::<UniqueKeys>(&header).map_err(invalid)?;
    Ok((LEN + len, serde_json::from_slice(&header).map_err(invalid)?))
}

/// Any JSON in which no object has the same key twice.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<Self>()?;
            if let Some(key) = seen.replace(key) {
                return Err(de::Error::custom(format_args!("{} is there twice", quoted(&key))));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

/// Writes `checkpoint`. The `safetensors` crate writes metadata in a hash map's order, another one each run, so the
/// header is put together here.
pub(super) fn write(checkpoint: &Checkpoint, out: &mut PartialFile) -> Result<()> {
    let mut metadata: serde_json::Map<_, _> =
        checkpoint.metadata.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    if let Some(labels) = &checkpoint.labels {
        metadata.insert(LABELS.into(), json!(json!(labels).to_string()));
    }
    if let Some(variant) = &checkpoint.variant {
        metadata.insert(VARIANT.into(), json!(variant));
    }
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), metadata.into());
    }

    // Wide elements first: with a header of whole 8 bytes, every tensor is aligned.
    let mut tensors: Vec<_> = checkpoint.tensors.iter().collect();
    tensors.sort_by_key(|(_, tensor)| Reverse(tensor.dtype.size()));
    let mut offset = 0;
    for (name, tensor) in &tensors {
        let dtype = match tensor.dtype {
            DType::F64 => Dtype::F64,
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::Bf16 => Dtype::BF16,
        };
        let end = offset + tensor.len() * tensor.dtype.size();
        header.insert((*name).clone(), json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut header = serde_json::Value::from(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');

    if header.len() as u64 > MAX_HEADER {
        let problem =
            format!("its header would be {} bytes, of which {MAX_HEADER} are read; shorten the labels", header.len());
        return Err(Error::weights(out.path(), problem));
    }

    let mut write = |bytes: &[u8]| out.write_all(bytes).map_err(|e| Error::output(out.path())(e));
    write(&(header.len() as u64).to_le_bytes())?;
    write(&header)?;
    tensors.into_iter().try_for_each(|(_, tensor)| write(&tensor.bytes()?))
}
