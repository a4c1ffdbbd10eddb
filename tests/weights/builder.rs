//! Writes small `.pth` files, good and bad ones, byte by byte.

/// One entry of a state dict: a view of a storage of `len` elements.
#[derive(Clone)]
pub struct Param<'a> {
    pub name: &'a str,
    pub class: &'a str,
    pub key: &'a str,
    pub len: i64,
    pub offset: i64,
    pub shape: Vec<i64>,
    pub stride: Vec<i64>,
}

/// A dense f32 parameter that owns its storage.
pub fn dense<'a>(name: &'a str, key: &'a str, shape: &[i64]) -> Param<'a> {
    let stride = (0..shape.len()).map(|d| shape[d + 1..].iter().product()).collect();
    Param { name, class: "FloatStorage", key, len: shape.iter().product(), offset: 0, shape: shape.to_vec(), stride }
}

pub fn int(value: i64) -> Vec<u8> {
    [b"\x8a\x08".as_slice(), &value.to_le_bytes()].concat()
}

pub fn text(value: &str) -> Vec<u8> {
    [b"X", (value.len() as u32).to_le_bytes().as_slice(), value.as_bytes()].concat()
}

pub fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(".as_slice(), &items.concat(), b"t"].concat()
}

/// A dict of `items`, keys and values in turn.
pub fn dict(items: &[Vec<u8>]) -> Vec<u8> {
    [b"}(".as_slice(), &items.concat(), b"u"].concat()
}

pub fn pickle(object: &[u8]) -> Vec<u8> {
    [b"\x80\x02", object, b"."].concat()
}

/// The call of `_rebuild_tensor_v2`.
pub fn tensor(p: &Param) -> Vec<u8> {
    let class = format!("ctorch\n{}\n", p.class).into_bytes();
    let storage = [tuple(&[text("storage"), class, text(p.key), text("cpu"), int(p.len)]), b"Q".to_vec()].concat();
    let ints = |v: &[i64]| tuple(&v.iter().copied().map(int).collect::<Vec<_>>());
    let hooks = b"ccollections\nOrderedDict\n)R".to_vec();
    let args = tuple(&[storage, int(p.offset), ints(&p.shape), ints(&p.stride), b"\x89".to_vec(), hooks]);
    [b"ctorch._utils\n_rebuild_tensor_v2\n".as_slice(), &args, b"R"].concat()
}

pub fn state_dict(params: &[Param]) -> Vec<u8> {
    dict(&params.iter().flat_map(|p| [text(p.name), tensor(p)]).collect::<Vec<_>>())
}

/// One entry of a zip archive. A CRC of 0 says that none was computed.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub data: Vec<u8>,
    pub method: u16,
    pub crc: u32,
}

pub fn entry(name: &str, data: &[u8]) -> Entry {
    Entry { name: name.into(), data: data.into(), method: 0, crc: crc32fast::hash(data) }
}

/// A zip archive as `torch.save` lays it out, without the zip64 record.
pub fn zip(entries: &[Entry]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for e in entries {
        let header_start = file.len() as u32;
        let size = (e.data.len() as u32).to_le_bytes();
        let method = e.method.to_le_bytes();
        let name_len = (e.name.len() as u16).to_le_bytes();
        let crc = e.crc.to_le_bytes();
        let common = [&[0, 0], &[0, 8], &method[..], &[0; 4], &crc, &size, &size, &name_len, &[0, 0]].concat();
        file.extend([b"PK\x03\x04", &common[..], e.name.as_bytes(), &e.data].concat());
        directory.extend([b"PK\x01\x02\0\0", &common[..], &[0; 10], &header_start.to_le_bytes()].concat());
        directory.extend(e.name.as_bytes());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let size = (directory.len() as u32).to_le_bytes();
    let start = (file.len() as u32).to_le_bytes();
    file.extend(directory);
    file.extend([b"PK\x05\x06\0\0\0\0", &count[..], &count, &size, &start, &[0, 0]].concat());
    file
}

/// The entries of a checkpoint: `object` pickled, and storages by key.
pub fn checkpoint_entries(object: &[u8], storages: &[(&str, &[u8])]) -> Vec<Entry> {
    let mut entries = vec![entry("a/data.pkl", &pickle(object)), entry("a/byteorder", b"little")];
    entries.extend(storages.iter().map(|(key, data)| entry(&format!("a/data/{key}"), data)));
    entries.push(entry("a/version", b"3\n"));
    entries
}

/// A file of the layout before PyTorch 1.6. Storages: key, number of elements, bytes.
pub fn legacy(object: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let magic = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    let machine = dict(&[text("little_endian"), b"\x88".to_vec()]);
    let keys: Vec<_> = storages.iter().map(|(key, ..)| text(key)).collect();
    let keys = [b"](".as_slice(), &keys.concat(), b"e"].concat();
    let pickles = [magic.as_slice(), &int(1001), &machine, object, &keys].map(pickle);
    let mut file = pickles.concat();
    for (_, len, data) in storages {
        file.extend(len.to_le_bytes());
        file.extend(*data);
    }
    file
}
