use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use alexnet::Error;
use alexnet::input::{Pack, PackWriter};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{colour, folder, numbered_pack, usage, write};

/// What `numpy.save` writes for a uint8 array of shape (3, 2, 2, 3).
const HEADER: &[u8; 128] = b"\x93NUMPY\x01\x00\x76\x00{'descr': '|u1', 'fortran_order': False, \
    'shape': (3, 2, 2, 3), }                                                    \n";

/// A .npy file, version 1.0, of `dict` and `data` bytes of zeros.
fn npy(dict: &str, data: usize) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((dict.len() as u16).to_le_bytes());
    bytes.extend(dict.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn dict(descr: &str, fortran: &str, shape: &str) -> String {
    format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n")
}

/// The names in `folder`, sorted.
fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

/// The message of the output error for `path` that `result` must be.
fn refused<T>(result: alexnet::Result<T>, path: &Path) -> String {
    match result {
        Err(Error::Output { path: named, source }) if named == path => source.to_string(),
        Err(e) => panic!("not an output error for {}: {e:?}", path.display()),
        Ok(_) => panic!("no error"),
    }
}

fn open(bytes: &[u8]) -> alexnet::Result<Pack> {
    let dir = folder();
    Pack::open(&write(dir.path(), "p.npy", bytes))
}

#[test]
fn a_pack_comes_back_as_it_was_written() {
    let dir = folder();
    let path = dir.path().join("p.npy");
    numbered_pack(&path, 2, 300, 3);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes[..128], HEADER[..]);
    let expected = [colour(300).repeat(4), colour(301).repeat(4), colour(302).repeat(4)].concat();
    assert_eq!(bytes[128..], expected);
    assert_eq!(names(dir.path()), ["p.csv", "p.npy"]);

    let pack = Pack::open(&path).unwrap();
    assert_eq!((pack.rows(), pack.height(), pack.width(), pack.path()), (3, 2, 2, path.as_path()));
    let mut out = [0; 12];
    for row in 0..3 {
        pack.read_row(row as u64, &mut out).unwrap();
        assert_eq!(out, expected[12 * row..][..12], "row {row}");
    }
    for (begin, end) in [(0, 3), (1, 3), (0, 2), (2, 3), (1, 1), (3, 3)] {
        let mut out = vec![0; 12 * (end - begin)];
        pack.read_rows(begin as u64..end as u64, &mut out).unwrap();
        assert_eq!(out, expected[12 * begin..12 * end], "rows {begin} to {end}");
    }
}

#[test]
fn an_empty_pack_is_a_pack() {
    let dir = folder();
    numbered_pack(&dir.path().join("p.npy"), 227, 0, 0);
    assert_eq!(fs::metadata(dir.path().join("p.npy")).unwrap().len(), 128);
    assert_eq!(Pack::open(&dir.path().join("p.npy")).unwrap().rows(), 0);
}

#[test]
fn an_unfinished_pack_leaves_what_was_there() {
    let dir = folder();
    let path = write(dir.path(), "p.npy", b"old");
    let mut writer = PackWriter::create(&path, 1).unwrap();
    writer.push("a.png", &[1, 2, 3]).unwrap();
    let partial = names(dir.path());
    assert!(partial.iter().filter(|name| name.ends_with(".partial")).count() == 2, "{partial:?}");
    drop(writer);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn the_list_has_every_input() {
    let dir = folder();
    let path = dir.path().join("p.npy");
    let mut writer = PackWriter::create(&path, 1).unwrap();
    writer.push("a.png", &[1, 2, 3]).unwrap();
    writer.push_error("b, \"c\".png", &Error::Input("not a picture".into())).unwrap();
    writer.push("d.png", &[4, 5, 6]).unwrap();
    assert_eq!(writer.finish().unwrap(), 2);
    let list = fs::read_to_string(dir.path().join("p.csv")).unwrap();
    assert_eq!(list, "row,filename,error\n0,a.png,\n,\"b, \"\"c\"\".png\",not a picture\n1,d.png,\n");
    let mut row = [0; 3];
    Pack::open(&path).unwrap().read_row(1, &mut row).unwrap();
    assert_eq!(row, [4, 5, 6]);
}

#[test]
fn only_a_file_is_replaced() {
    let dir = folder();
    for path in [dir.path(), Path::new("/dev/null"), &dir.path().join("missing/p.npy")] {
        match PackWriter::create(path, 1) {
            Err(Error::Output { path: named, .. }) => assert_eq!(named, path),
            other => panic!("{}: {other:?}", path.display()),
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn two_runs_that_write_one_pack_do_not_mix() {
    let dir = folder();
    let path = dir.path().join("p.npy");
    let [mut first, mut second] = [0, 1].map(|_| PackWriter::create(&path, 1).unwrap());
    first.push("a.png", &[1, 2, 3]).unwrap();
    second.push("b.png", &[4, 5, 6]).unwrap();
    second.push("c.png", &[7, 8, 9]).unwrap();
    let mut row = [0; 3];
    for (writer, rows, last) in [(first, 1, [1, 2, 3]), (second, 2, [7, 8, 9])] {
        assert_eq!(writer.finish().unwrap(), rows);
        let pack = Pack::open(&path).unwrap();
        assert_eq!(pack.rows(), rows);
        pack.read_row(rows - 1, &mut row).unwrap();
        assert_eq!(row, last);
    }
    assert_eq!(names(dir.path()), ["p.csv", "p.npy"]);
}

#[test]
fn temporary_files_never_are_files_that_exist() {
    let dir = folder();
    let path = dir.path().join("p.npy");
    let own = write(dir.path(), "p.npy.partial", b"own");
    let mut kept = vec!["p.npy.partial".to_string()];
    // More than the names that this process could have used up.
    for counter in 0..2000 {
        kept.push(format!("p.npy.{}-{counter}.partial", std::process::id()));
        symlink(&own, dir.path().join(kept.last().unwrap())).unwrap();
    }
    drop(PackWriter::create(&path, 1).unwrap());
    numbered_pack(&path, 1, 0, 1);
    assert_eq!(fs::read(&own).unwrap(), b"own");
    kept.extend(["p.csv", "p.npy"].map(String::from));
    kept.sort();
    assert_eq!(names(dir.path()), kept);
}

#[test]
fn a_symlink_stays_and_its_file_is_replaced() {
    let (dir, elsewhere) = (folder(), folder());
    let target = write(elsewhere.path(), "target.npy", b"old");
    let path = dir.path().join("p.npy");
    symlink(&target, &path).unwrap();
    numbered_pack(&path, 1, 0, 2);
    assert_eq!(fs::read_link(&path).unwrap(), target);
    assert_eq!(Pack::open(&target).unwrap().rows(), 2);
    assert_eq!(
        (names(dir.path()), names(elsewhere.path())),
        (vec!["p.csv".into(), "p.npy".into()], vec!["target.npy".into()])
    );

    let broken = dir.path().join("broken.npy");
    symlink("nowhere", &broken).unwrap();
    assert!(refused(PackWriter::create(&broken, 1), &broken).contains("symlink"));
}

#[test]
fn a_csv_that_is_no_list_is_not_replaced() {
    let dir = folder();
    let path = dir.path().join("p.npy");
    for content in ["filename,label\na.png,3\n", "row,filename", ""] {
        let list = write(dir.path(), "p.csv", content.as_bytes());
        let message = refused(PackWriter::create(&path, 1), &list);
        assert!(message.contains("not the list of a pack"), "{message}");
        assert_eq!(fs::read_to_string(&list).unwrap(), content);
        assert_eq!(names(dir.path()), ["p.csv"]);
    }
    fs::remove_file(dir.path().join("p.csv")).unwrap();
    // Its own, of an earlier run, is.
    numbered_pack(&path, 1, 0, 2);
    numbered_pack(&path, 1, 0, 1);
    assert_eq!(fs::read_to_string(dir.path().join("p.csv")).unwrap(), "row,filename,error\n0,0.png,\n");
    let csv = dir.path().join("q.csv");
    assert!(refused(PackWriter::create(&csv, 1), &csv).contains(".npy"));
}

#[test]
fn a_list_that_cannot_take_its_place_tells_of_the_pack() {
    let dir = folder();
    let path = dir.path().join("p.npy");
    let mut writer = PackWriter::create(&path, 1).unwrap();
    writer.push("a.png", &[1, 2, 3]).unwrap();
    let list = dir.path().join("p.csv");
    fs::create_dir(&list).unwrap();
    let message = refused(writer.finish(), &list);
    assert!(message.contains("p.npy is in place, without this list"), "{message}");
    assert_eq!(Pack::open(&path).unwrap().rows(), 1);
    assert_eq!(names(dir.path()), ["p.csv", "p.npy"]);
}

#[test]
fn other_arrays_are_refused_by_what_they_are() {
    let shape = "(2, 4, 4, 3)";
    let cases = [
        (dict("'<f4'", "False", shape), 384, "dtype '<f4'"),
        (dict("'|i1'", "False", shape), 96, "dtype '|i1'"),
        (dict("[('a', '<f4', (2,)), ('b', '|u1')]", "False", "(4,)"), 36, "('a', '<f4', (2,))"),
        (dict("'|u1'", "True", shape), 96, "Fortran order"),
        (dict("'|u1'", "False", "(2, 3, 4, 4)"), 96, "shape [2, 3, 4, 4]"),
        (dict("'|u1'", "False", "(4, 4, 3)"), 48, "shape [4, 4, 3]"),
        (dict("'|u1'", "False", "()"), 1, "shape []"),
        (dict("'|u1'", "False", "(9, 0, 4, 3)"), 0, "shape [9, 0, 4, 3]"),
        (dict("'|O'", "False", "(1,)"), 9, "dtype '|O'"),
        (dict("'|u1'", "False", shape), 95, "the file has"),
        (dict("'|u1'", "False", shape), 97, "the file has"),
        (dict("'|u1'", "False", "(99999999999, 224, 224, 3)"), 96, "asks for 15052799999849562 bytes"),
    ];
    for (dict, data, part) in cases {
        let message = usage(open(&npy(&dict, data)));
        assert!(message.contains("p.npy") && message.contains(part), "{dict}: {message}");
    }
    assert_eq!(open(&npy(&dict("'|u1'", "False", shape), 96)).unwrap().rows(), 2);
}

#[test]
fn hostile_headers_are_refused() {
    let deep = |open: &str, close: &str| dict("'|u1'", "False", &(open.repeat(1000) + "1" + &close.repeat(1000)));
    let overflow = "(4294967296, 4294967296, 4294967296, 3)";
    let cases = [
        (Vec::new(), "does not start"),
        (b"\x89PNG\r\n\x1a\n and so on".to_vec(), "does not start"),
        (HEADER[..9].to_vec(), "does not start"),
        (HEADER[..100].to_vec(), "ends within its header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "4294967295 bytes long"),
        (b"\x93NUMPY\x02\x00\x10\x00".to_vec(), "ends within its header"),
        (b"\x93NUMPY\x09\x00\x00\x00\x00\x00{}".to_vec(), "NumPy cannot read"),
        (npy(&deep("(", ",)"), 0), "its header is"),
        (npy(&deep("[", "]"), 0), "its header is"),
        (npy(&dict("'|u1'", "False", overflow), 0), "its header is"),
        (npy(&dict("'|u1'", "False", "(0xffffffffffffffff, 0xffffffffffffffff, 3, 3)"), 0), "its header is"),
        (npy(&dict("'|u1'", "False", "(-1, 2, 2, 3)"), 0), "NumPy cannot read"),
        (npy(&dict("'|u1'", "0", "(1, 2, 2, 3)"), 12), "NumPy cannot read"),
        (npy("{'descr': '|u1', 'shape': (1, 2, 2, 3)}", 12), "NumPy cannot read"),
        (npy("\u{0}\u{1}", 0), "NumPy cannot read"),
    ];
    for (bytes, part) in cases {
        let message = usage(open(&bytes));
        assert!(message.contains(part), "{part}: {message}");
        assert!(message.len() < 700, "{} characters: {message}", message.len());
    }
}

#[test]
fn mutated_headers_never_panic() {
    const SEED: u64 = 20_120_930;
    // What a parser reacts to; plain random bytes seldom get past its first rule.
    const TOKENS: &[u8] = b"(){}[]',:|<>ufx0123456789 TFNbj.+-_e\\\n\"\x00\xff";
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let dir = folder();
    let path = dir.path().join("p.npy");
    let file = fs::File::create(&path).unwrap();
    let mut opened = 0;
    for round in 0..20_000 {
        let mut bytes = HEADER.to_vec();
        // Half of them keep a header length that is right, so that more than the framing is tried.
        let framed = rng.random_ratio(1, 2);
        let first = if framed { 10 } else { 0 };
        for _ in 0..rng.random_range(1..=4) {
            let at = rng.random_range(first..90);
            let token = TOKENS[rng.random_range(0..TOKENS.len())];
            match rng.random_range(0..4) {
                0 => bytes[at] = token,
                1 => bytes[at] ^= 1 << rng.random_range(0..8),
                2 => bytes.insert(at, token),
                _ => drop(bytes.remove(at)),
            }
        }
        if framed {
            let length = bytes.len() as u16 - 10;
            bytes[8..10].copy_from_slice(&length.to_le_bytes());
        }
        bytes.resize(bytes.len() + 36, 9);
        if rng.random_ratio(1, 20) {
            bytes.truncate(rng.random_range(0..bytes.len()));
        }
        // Overwritten in place: creating it anew takes most of the test's time.
        file.write_all_at(&bytes, 0).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        match std::panic::catch_unwind(|| Pack::open(&path)) {
            Ok(Ok(pack)) => {
                opened += 1;
                assert_eq!(pack.rows() as usize * pack.height() * pack.width() * 3, 36, "seed {SEED} round {round}");
            }
            Ok(Err(Error::Usage(_))) => {}
            other => panic!("seed {SEED} round {round}: {other:?} for {:?}", bytes.escape_ascii().to_string()),
        }
    }
    assert!((100..19_000).contains(&opened), "{opened} of the mutations left a pack: they test little");
}

#[test]
fn a_pack_that_shrinks_fails_where_it_ends() {
    let dir = folder();
    let path = dir.path().join("p.npy");
    numbered_pack(&path, 2, 0, 3);
    let pack = Pack::open(&path).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(128 + 25).unwrap();
    let mut out = [0; 12];
    pack.read_row(1, &mut out).unwrap();
    assert_eq!(out[..], colour(1).repeat(4));
    assert!(matches!(pack.read_row(2, &mut out), Err(Error::Input(_))));
    assert!(matches!(pack.read_rows(0..3, &mut [0; 36]), Err(Error::Input(_))));
    pack.read_rows(0..2, &mut [0; 24]).unwrap();
}
