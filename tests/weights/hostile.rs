//! Files that are no checkpoints: every one is refused with a message that names the cause, none takes the process
//! down.

use std::path::Path;

use alexnet::Error;
use alexnet::weights::{Checkpoint, Tensor};

use super::builder::{self, Entry, Param, checkpoint_entries, dense, dict, int, legacy, state_dict, text, tuple, zip};
use crate::testdata;

/// From memory, and the same from a file, which takes longer; see [`sometimes_from_a_file`].
pub fn from_bytes(bytes: &[u8]) -> Result<Checkpoint, Error> {
    let found = Checkpoint::from_bytes(Path::new("hostile"), bytes);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile");
    std::fs::write(&path, bytes).unwrap();
    let problems = |found: &Result<Checkpoint, Error>| match found {
        Err(Error::Weights { problems, .. }) => Some(problems.clone()),
        _ => None,
    };
    let opened = Checkpoint::open(&path);
    assert_eq!(problems(&opened), problems(&found), "from a file, and from memory");
    if let (Ok(opened), Ok(found)) = (&opened, &found) {
        assert!(opened.tensors.keys().eq(found.tensors.keys()), "from a file, and from memory");
        for (name, tensor) in &found.tensors {
            assert_eq!(opened.tensors[name].bytes().unwrap(), tensor.bytes().unwrap(), "{name} from a file");
        }
    }
    assert_eq!(opened.is_ok(), found.is_ok(), "from a file, and from memory");
    found
}

/// As [`from_bytes`], from a file for one number in fifty.
pub fn sometimes_from_a_file(number: u64, bytes: &[u8]) -> Result<Checkpoint, Error> {
    if number.is_multiple_of(50) { from_bytes(bytes) } else { Checkpoint::from_bytes(Path::new("hostile"), bytes) }
}

/// The problems of a file that must be refused.
#[track_caller]
fn problems(bytes: &[u8]) -> Vec<String> {
    reasons(from_bytes(bytes))
}

#[track_caller]
fn reasons(found: Result<Checkpoint, Error>) -> Vec<String> {
    match found {
        Err(Error::Weights { path, problems }) => {
            assert_eq!(path, Path::new("hostile"));
            problems
        }
        Err(other) => panic!("refused with the wrong kind of error: {other:?}"),
        Ok(checkpoint) => panic!("accepted: {checkpoint:?}"),
    }
}

/// Asserts that a file is refused for one reason, whose message contains `message`.
#[track_caller]
fn refused(bytes: &[u8], message: &str) {
    let problems = problems(bytes);
    assert!(problems.len() == 1 && problems[0].contains(message), "expected {message:?}, found {problems:#?}");
}

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

pub fn small_safetensors() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small");
    let tensors =
        [("a", Tensor::from_f32(vec![2, 2], &[1.0, 2.0, 3.0, 4.0])), ("b", Tensor::from_f32(vec![1], &[5.0]))];
    let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor)).into();
    let labels = Some(vec!["x".into(), "y".into()]);
    let checkpoint =
        Checkpoint { path: path.clone(), tensors, variant: Some("half".into()), labels, metadata: Default::default() };
    checkpoint.save_safetensors(&path).unwrap();
    std::fs::read(&path).unwrap()
}

/// 24 bytes of 1.0 to 6.0, and 12 of 1.0 to 3.0.
fn storage(n: usize) -> Vec<u8> {
    (1..=n).flat_map(|v| (v as f32).to_le_bytes()).collect()
}

fn small_params() -> Vec<Param<'static>> {
    vec![dense("module.w", "0", &[2, 3]), dense("module.b", "1", &[3])]
}

pub fn small_entries() -> Vec<Entry> {
    checkpoint_entries(&state_dict(&small_params()), &[("0", &storage(6)), ("1", &storage(3))])
}

pub fn small_legacy() -> Vec<u8> {
    legacy(&state_dict(&small_params()), &[("1", 3, &storage(3)), ("0", 6, &storage(6))])
}

/// A zip of `object` with a storage "0" of six elements.
fn zip_of(object: &[u8]) -> Vec<u8> {
    zip(&checkpoint_entries(object, &[("0", &storage(6))]))
}

#[test]
fn the_built_files_are_good() {
    for file in [zip(&small_entries()), small_legacy()] {
        let checkpoint = from_bytes(&file).unwrap();
        let expected = [
            ("b", Tensor::from_f32(vec![3], &[1.0, 2.0, 3.0])),
            ("w", Tensor::from_f32(vec![2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        ];
        assert_eq!(checkpoint.tensors, expected.map(|(name, t)| (name.to_owned(), t)).into());
    }
    assert_eq!(from_bytes(&small_safetensors()).unwrap().tensors.len(), 2);
}

#[test]
fn views_are_gathered() {
    let view = |offset, shape: &[i64], stride: &[i64]| {
        let param = Param { offset, shape: shape.into(), stride: stride.into(), len: 6, ..dense("w", "0", &[]) };
        from_bytes(&zip_of(&state_dict(&[param]))).unwrap().tensors["w"].to_f32().unwrap()
    };
    assert_eq!(view(0, &[3, 2], &[1, 3]), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    assert_eq!(view(1, &[2, 2], &[3, 1]), [2.0, 3.0, 5.0, 6.0]);
    assert_eq!(view(5, &[2, 1, 2], &[0, i64::MAX, 0]), [6.0; 4]);
    assert_eq!(view(4, &[1, 2], &[i64::MAX, 1]), [5.0, 6.0]);
    assert_eq!(view(3, &[], &[]), [4.0]);
    // Several of one storage.
    let param = |name, shape: &[i64], stride: &[i64]| Param {
        shape: shape.into(),
        stride: stride.into(),
        len: 6,
        ..dense(name, "0", &[])
    };
    let params = [param("a", &[3, 2], &[1, 3]), param("b", &[6], &[1]), param("c", &[2, 3], &[1, 2])];
    let checkpoint = from_bytes(&zip_of(&state_dict(&params))).unwrap();
    let values = |name: &str| checkpoint.tensors[name].to_f32().unwrap();
    assert_eq!(values("a"), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    assert_eq!(values("b"), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(values("c"), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
}

#[test]
fn no_checkpoint_at_all() {
    refused(b"", "empty");
    refused(b"PK", "neither");
    refused(b"hello, world: this is text", "neither");
    refused(&[0; 512], "neither");
    refused(b"\x80\x02}q\x00.", "neither");
    refused(b"PK\x03\x04", "zip directory");
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("missing"), folder.path().to_owned()] {
        let error = Checkpoint::open(&path).unwrap_err();
        assert!(matches!(error, Error::Usage(_)) && error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_opened() {
    assert!(matches!(Checkpoint::open(Path::new("/dev/null")), Err(Error::Usage(_))));
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let error = Checkpoint::open(&socket).unwrap_err();
    assert!(matches!(error, Error::Usage(_)) && error.to_string().contains("not a regular file"), "{error}");
}

#[test]
fn safetensors_headers() {
    const A: &str = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let refused_header = |header: String, message| refused(&safetensors(&header, &[0; 4]), message);
    assert!(from_bytes(&safetensors(&format!("{{{A}}}"), &[0; 4])).is_ok());

    refused_header(format!("{{{A},{A}}}"), "\"a\" is there twice");
    refused_header(format!(r#"{{"__metadata__":{{"k":"1","k":"2"}},{A}}}"#), "\"k\" is there twice");
    refused_header(format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},{A}}}"#), "\"__metadata__\" is there twice");
    refused_header(
        r#"{"a":{"dtype":"F32","shape":[2],"shape":[1],"data_offsets":[0,4]}}"#.into(),
        "\"shape\" is there twice",
    );
    refused_header(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#.into(), "offset");
    refused_header(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}"#.into(), "invalid shape");
    refused_header(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#.into(), "invalid shape");
    refused_header(r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}"#.into(), "not fully covered");
    refused_header(
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,0,9],"data_offsets":[0,4]}}"#.into(),
        "overflow",
    );
    refused_header(r#"{"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}}"#.into(), "Q4");
    refused_header(format!("{{{A}"), "EOF");
    refused_header("{]".into(), "header");
    refused_header(format!("{{{}", r#""a":{"#.repeat(5000)), "recursion limit");
    refused_header(format!(r#"{{"__metadata__":{{"alexnet.labels":"disc"}},{A}}}"#), "alexnet.labels");
    refused(&safetensors("{}", &[]), "no tensors");
    let module = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"module.a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    refused(&safetensors(module, &[0; 8]), "with and without");
    // The product overflows with the element's size, though the zero makes it 0 without.
    let huge = r#"{"a":{"dtype":"F32","shape":[9223372036854775808,0],"data_offsets":[0,0]}}"#;
    refused(&safetensors(huge, &[]), "does not have 0 bytes");
    let empty = r#"{"a":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}}"#;
    refused(&safetensors(empty, &[]), "\"a\": shape [0, 4294967296, 4294967296] has no elements");
    refused(&[&5u64.to_le_bytes()[..], b"{\"\xff\"}"].concat(), "header");

    let i64s = r#"{"n.num_batches_tracked":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"m":{"dtype":"BOOL","shape":[1],"data_offsets":[8,9]}}"#;
    let problems = problems(&safetensors(i64s, &[0; 9]));
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("\"m\"") && problems[0].contains("BOOL"), "{problems:?}");
    assert!(problems[1].contains("num_batches_tracked") && problems[1].contains("I64"), "{problems:?}");
}

/// What is written can be read: names of as many classes as the largest ImageNet has, and no header that is refused later.
#[test]
fn labels_fit_the_header() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels.safetensors");
    let save = |labels: Vec<String>| {
        let tensors = [("a".to_owned(), Tensor::from_f32(vec![1], &[1.0]))].into();
        let labels = Some(labels);
        Checkpoint { path: path.clone(), tensors, variant: None, labels, metadata: Default::default() }
            .save_safetensors(&path)
    };
    let labels: Vec<String> = (0..21_841).map(|index| format!("{index:045}, \"quoted\"")).collect();
    save(labels.clone()).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().labels, Some(labels));
    std::fs::remove_file(&path).unwrap();
    let error = save(vec!["x".repeat(5 << 20)]).unwrap_err();
    assert!(error.to_string().contains("shorten the labels"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn safetensors_header_cap() {
    // Exactly 4 MiB pass, one more byte does not, whether or not the bytes are there.
    let header = |len: usize| {
        let mut header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.to_owned();
        header.extend(std::iter::repeat_n(' ', len - header.len()));
        safetensors(&header, &[0; 4])
    };
    assert!(from_bytes(&header(4 << 20)).is_ok());
    refused(&header((4 << 20) + 1), "at most 4194304");
    for len in [(4 << 20) + 1, 100_000_000, u64::MAX, 1 << 63] {
        refused(&[&len.to_le_bytes()[..], b"{\"a\":{}}"].concat(), "at most 4194304");
    }
    refused(&[&1000u64.to_le_bytes()[..], b"{\"a\":{}}"].concat(), "cut off");
}

#[test]
fn cut_off_anywhere() {
    for file in [small_safetensors(), zip(&small_entries()), small_legacy()] {
        assert!(from_bytes(&file).is_ok());
        for len in 0..file.len() {
            reasons(sometimes_from_a_file(len as u64, &file[..len]));
        }
        problems(&[&file[..], b"\0"].concat());
    }
    for name in ["zip.pth", "legacy.pth", "views.pth", "training-checkpoint.pth", "f32.safetensors"] {
        let file = testdata::bytes(&format!("tests/data/checkpoints/torchvision.{name}"));
        for len in (0..4000).chain((4000..file.len()).step_by(97)).chain(file.len() - 200..file.len()) {
            reasons(sometimes_from_a_file(len as u64, &file[..len]));
        }
    }
}

#[test]
fn zip_archives() {
    let with = |change: &dyn Fn(&mut Vec<Entry>)| {
        let mut entries = small_entries();
        change(&mut entries);
        zip(&entries)
    };
    assert!(from_bytes(&with(&|_| {})).is_ok());
    assert!(from_bytes(&with(&|e| e.iter_mut().for_each(|e| e.crc = 0))).is_ok(), "no CRC was computed");
    assert!(from_bytes(&with(&|e| e.iter_mut().for_each(|e| e.name = e.name[2..].to_owned()))).is_ok(), "no folder");

    refused(&with(&|e| e[2].method = 8), "\"a/data/0\": compressed");
    refused(&with(&|e| e.push(e[2].clone())), "\"a/data/0\": there twice");
    refused(&with(&|e| e[4].name = "a/../../etc/passwd".into()), "leaves the archive");
    refused(&with(&|e| e[4].name = "/etc/passwd".into()), "leaves the archive");
    refused(&with(&|e| e[4].name = "a\\..\\b".into()), "leaves the archive");
    refused(&with(&|e| e[2].crc ^= 1), "CRC");
    refused(&with(&|e| e[0].crc ^= 1), "data.pkl: its bytes do not match their CRC");
    refused(&with(&|e| e[1] = builder::entry("a/byteorder", b"big")), "big-endian");
    refused(&with(&|e| drop(e.remove(0))), "without data.pkl");
    refused(&with(&|e| e.push(builder::entry("b/data.pkl", b"x"))), "more than one data.pkl");
    refused(&with(&|e| drop(e.remove(2))), "storage \"0\": no such zip entry");
    refused(&with(&|e| e[0] = builder::entry("a/data.pkl", &[&e[0].data[..], b"."].concat())), "goes on after its end");
    // The declared size and the entry's must agree, both ways.
    refused(
        &with(&|e| e[2] = builder::entry("a/data/0", &storage(5))),
        "20 bytes, but the pickle says 6 elements of 4",
    );
    refused(
        &with(&|e| e[2] = builder::entry("a/data/0", &storage(7))),
        "28 bytes, but the pickle says 6 elements of 4",
    );
    refused(&zip(&[]), "neither");

    let good = with(&|_| {});
    let directory = good.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    refused(&patched(directory + 8, &[1]), "encrypted");
    refused(&patched(directory + 20, &[9]), "two different sizes");
    refused(&patched(directory + 20, &[0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f]), "reaches into the directory");
    refused(&patched(directory + 42, &[1]), "no header where the directory says");
    refused(&patched(directory + 46, b"\xff"), "not UTF-8");
    let end = good.len() - 22;
    refused(&patched(end + 12, &[0xff; 4]), "at most 1048576");
    refused(&patched(end + 16, &[0xff; 4]), "zip directory");
    refused(&patched(end + 10, &[200]), "zip directory");

    // The last entry's header inside the data of the first storage.
    let mut entries = small_entries();
    let inner = zip(&entries[4..]);
    let inner = &inner[..inner.windows(4).position(|w| w == b"PK\x01\x02").unwrap()];
    entries[2] = builder::entry("a/data/0", &[inner, &storage(6)].concat());
    let mut file = zip(&entries);
    let inner_at = file.windows(inner.len()).position(|w| w == inner).unwrap() as u32;
    let last = file.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    file[last + 42..last + 46].copy_from_slice(&inner_at.to_le_bytes());
    refused(&file, "share bytes");
}

#[test]
fn state_dicts() {
    let refused_object = |object: &[u8], message| refused(&zip_of(object), message);
    let w = || dense("w", "0", &[2, 3]);
    let tensor = || builder::tensor(&w());

    refused_object(&dict(&[]), "no tensors");
    refused_object(&int(3), "holds a int");
    refused_object(b"cos\nsystem\nX\x02\0\0\0ls\x85R", "holds a \"os.system\"");
    refused_object(b"ctorchvision.models.alexnet\nAlexNet\n)\x81}b", "save model.state_dict()");
    refused_object(
        &dict(&[text("state_dict"), dict(&[text("w"), tensor()]), text("model"), dict(&[])]),
        "two state dicts",
    );
    refused_object(&state_dict(&[Param { name: "module.w", ..w() }, w()]), "\"w\" is there with and without");
    refused_object(&dict(&[text("w"), tensor(), text("w"), tensor()]), "\"w\" is there twice");
    refused_object(&dict(&[int(1), tensor()]), "must be a string, found int");
    refused_object(&dict(&[text("w"), tensor(), text("epoch"), int(3)]), "\"epoch\": expected a tensor, found int");
    refused_object(&dict(&[text("w"), dict(&[text("x"), tensor()])]), "\"w\": expected a tensor, found dict");
    let several = [text("epoch"), int(3), text("w"), tensor(), text("lr"), b"G\0\0\0\0\0\0\0\0".to_vec()];
    assert_eq!(problems(&zip_of(&dict(&several))).len(), 2);

    let counter = Param {
        class: "LongStorage",
        len: 3,
        shape: vec![],
        stride: vec![],
        ..dense("bn.num_batches_tracked", "0", &[])
    };
    refused_object(&state_dict(&[counter]), "\"bn.num_batches_tracked\": \"Long\" elements");
    refused_object(&state_dict(&[Param { len: 7, ..w() }]), "24 bytes, but the pickle says 7 elements");
    refused_object(&state_dict(&[Param { len: i64::MAX, ..w() }]), "24 bytes, but the pickle says");
    refused_object(&state_dict(&[Param { len: -6, ..w() }]), "a storage of -6 elements");
    refused_object(
        &state_dict(&[Param { class: "DoubleStorage", ..w() }, Param { name: "v", ..w() }]),
        "described in two ways",
    );

    // What lies beside the state dict is of no concern.
    let optimizer = Param { class: "LongStorage", key: "absent", ..w() };
    let training = dict(&[
        text("epoch"),
        int(90),
        text("args"),
        b"cargparse\nNamespace\n)\x81}b".to_vec(),
        text("optimizer"),
        dict(&[int(0), builder::tensor(&optimizer)]),
        text("model_state_dict"),
        dict(&[text("module.w"), tensor()]),
    ]);
    assert_eq!(from_bytes(&zip_of(&training)).unwrap().tensors["w"].shape, [2, 3]);

    // Attributes of the dict itself, as nn.Module.state_dict() leaves there, are no entries.
    let attributes = [dict(&[text("w"), tensor()]), dict(&[text("_metadata"), dict(&[])]), b"b".to_vec()].concat();
    assert_eq!(from_bytes(&zip_of(&attributes)).unwrap().tensors.len(), 1);

    // Python 2 wrote an OrderedDict as a call with a list of pairs; a Parameter wraps its tensor.
    let parameter = [
        b"ctorch._utils\n_rebuild_parameter\n".to_vec(),
        tuple(&[tensor(), b"\x88".to_vec(), b"}".to_vec()]),
        b"R".to_vec(),
    ]
    .concat();
    let pairs = [b"ccollections\nOrderedDict\n](](".to_vec(), text("w"), parameter, b"ee\x85R".to_vec()].concat();
    assert_eq!(from_bytes(&zip_of(&pairs)).unwrap().tensors["w"].shape, [2, 3]);
}

#[test]
fn views_that_leave_their_storage() {
    let view = |offset, shape: &[i64], stride: &[i64]| {
        let param = Param { offset, shape: shape.into(), stride: stride.into(), len: 6, ..dense("w", "0", &[]) };
        zip_of(&state_dict(&[param]))
    };
    let (min, max) = (i64::MIN, i64::MAX);
    for (offset, shape, stride) in [
        (1, &[2, 3][..], &[3, 1][..]),
        (6, &[], &[]),
        (7, &[0], &[1]),
        (max, &[1], &[1]),
        (0, &[2, 2], &[max, max]),
        (5, &[2], &[max]),
        (0, &[max, max, max], &[0, 0, 0]),
        (0, &[1 << 61], &[0]),
        (0, &[0, max, max], &[0, 0, 0]),
    ] {
        let problems = problems(&view(offset, shape, stride));
        let known = ["reach beyond 6 elements", "would take", "no elements"];
        assert!(known.iter().any(|message| problems[0].contains(message)), "{shape:?}: {problems:?}");
    }
    for file in [view(-1, &[1], &[1]), view(min, &[1], &[1]), view(0, &[-1], &[1]), view(0, &[2], &[-1])] {
        refused(&file, "where a size is due");
    }
    refused(&view(0, &[1, 1], &[1]), "2 dimensions with 1 strides");
    refused(&view(0, &[1; 9], &[1; 9]), "9 dimensions; at most 8");

    // 10 GB out of 24 bytes, in one tensor and in many.
    refused(&view(0, &[2_500_000_000], &[0]), "would take 10000000000 bytes");
    let names: Vec<_> = (0..200).map(|i| format!("w{i}")).collect();
    let repeated = |name| Param { shape: vec![1 << 20], stride: vec![0], len: 6, ..dense(name, "0", &[]) };
    let many: Vec<_> = names.iter().map(|name| repeated(name)).collect();
    refused(&zip_of(&state_dict(&many)), "would take 838860800 bytes");
    assert!(from_bytes(&zip_of(&state_dict(&many[..16]))).is_ok(), "64 MiB is allowed");
}

#[test]
fn pickles_that_would_grow() {
    let refused_object = |object: &[u8], message| refused(&zip_of(object), message);
    // A tensor of 20,000 dimensions, to be used 20,000 times: 3 GB for a reader that copies.
    let w = Param { shape: vec![1; 20_000], stride: vec![1; 20_000], len: 6, ..dense("w", "0", &[]) };
    refused_object(&[builder::tensor(&w), b"q\x01".repeat(20_000)].concat(), "20000 dimensions; at most 8");
    // Lists of lists, each of them twice the one before: 2^10,000 elements for a reader that copies.
    refused_object(&[b"]".to_vec(), b"2\x86".repeat(10_000)].concat(), "holds a tuple");
    // Nesting, and a list that contains itself.
    refused_object(&b"\x85".repeat(500_000), "a value is missing");
    refused_object(&[b")".to_vec(), b"\x85".repeat(500_000)].concat(), "holds a tuple");
    refused_object(b"]q\x00h\x00a", "holds a list");
    refused_object(
        &[b"}q\x00".to_vec(), text("state_dict"), b"h\x00s".to_vec()].concat(),
        "expected a tensor, found dict",
    );
    // One list of pairs made into many dicts.
    let pair = [b"](".to_vec(), b"))\x86".repeat(50_000), b"eq\x00ccollections\nOrderedDict\nq\x01".to_vec()].concat();
    refused_object(&[pair, b"h\x01h\x00\x85R".repeat(100)].concat(), "too many dicts");
    // Counts that reach beyond the file.
    for op in [
        &b"X\xff\xff\xff\xff"[..],
        b"B\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\xff",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        refused_object(op, "ends too early");
    }
    refused_object(&b"N".repeat(1 << 20), "over 1048576 bytes");
    refused(&legacy(&b"N".repeat(1 << 20), &[]), "over 1048576 bytes");
    // One name, long or short, is looked at very often.
    let long = "x".repeat(300_000);
    let many_names =
        [b"}q\x00(".to_vec(), text(&long), b"q\x01N".to_vec(), b"h\x01N".repeat(200_000), b"u".to_vec()].concat();
    assert!(problems(&zip_of(&many_names)).iter().all(|problem| problem.contains("must be a string, found long str")));
}

#[test]
fn pickle_opcodes() {
    for (object, message) in [
        (&b"0"[..], "a value is missing"),
        (b"t", "a mark is missing"),
        (b"(0", "a value is missing"),
        (b"(", "a value is missing"),
        (b"h\x05", "memo 5 was never set"),
        (b"j\x05\0\0\0", "memo 5 was never set"),
        (b"NNs", "a value is missing"),
        (b"NNNs", "items set on what is no dict"),
        (b"NNa", "items appended to what is no list"),
        (b"}(Nu", "a dict's key without a value"),
        (b"N)R", "a call of what is no function"),
        (b"ca\nb\nNR", "arguments of b must be a tuple"),
        (b"N)\x81", "an instance of what is no class"),
        (b"NNb", "attributes set on a plain value"),
        (b"NN\x93", "must be strings"),
        (b"NQ", "names no storage"),
        (b")Q", "names no storage"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R", "found 0"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNtR", "without a storage"),
        (b"ctorch._utils\n_rebuild_parameter\n)R", "without data"),
        (b"ccollections\nOrderedDict\nN\x85R", "takes a list"),
        (b"ccollections\nOrderedDict\n]Na\x85R", "must be a pair"),
        (b"ca", "without an end"),
        (b"c\xff\nb\n", "not UTF-8"),
        (b"I1\n", "opcode 0x49"),
        (b"\x97", "opcode 0x97"),
        (b"\x80\x09", "protocol 9"),
    ] {
        refused(&zip_of(object), message);
    }
}

#[test]
fn legacy_streams() {
    let object = state_dict(&small_params());
    let (w, b) = (storage(6), storage(3));
    let file = |storages: &[(&str, u64, &[u8])]| legacy(&object, storages);
    assert!(from_bytes(&file(&[("0", 6, &w), ("1", 3, &b)])).is_ok());
    refused(&file(&[("0", 5, &w), ("1", 3, &b)]), "storage \"0\": 5 elements, but the pickle says 6");
    refused(&file(&[("0", u64::MAX, &w), ("1", 3, &b)]), "but the pickle says 6");
    refused(&file(&[("0", 6, &w)]), "storage \"1\": missing from the file's list");
    refused(&file(&[("0", 6, &w), ("0", 6, &w), ("1", 3, &b)]), "storage \"0\": listed twice");
    refused(&file(&[("0", 6, &w), ("1", 3, &b), ("2", 3, &b)]), "storage \"2\": no tensor uses it");
    refused(&file(&[("0", 6, &w), ("1", 3, &w)]), "12 bytes after the last storage");

    let good = file(&[("0", 6, &w), ("1", 3, &b)]);
    let patched = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).position(|w| w == from).unwrap();
        [&good[..at], to, &good[at + from.len()..]].concat()
    };
    refused(&patched(&int(1001), &int(1002)), "protocol version");
    refused(&patched(b"little_endian\x88", b"little_endian\x89"), "big-endian");
    refused(&patched(b"little_endian\x88", b"little_endianN"), "byte order is missing");
    // Of a type without a known size, or of one beyond all sizes.
    let quint = Param { class: "QUInt8Storage", ..dense("w", "0", &[6]) };
    refused(&legacy(&state_dict(&[quint]), &[("0", 6, &w)]), "of a type unknown here");
    let huge = Param { len: i64::MAX, ..dense("w", "0", &[6]) };
    refused(&legacy(&state_dict(&[huge]), &[("0", i64::MAX as u64, &w)]), "cut off");
    // View metadata, as PyTorch 0.1 wrote for storages that share memory.
    let fields = [text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("0"), text("cpu"), int(6), tuple(&[])];
    refused(&legacy(&[tuple(&fields), b"Q".to_vec()].concat(), &[]), "a view of another");
}
