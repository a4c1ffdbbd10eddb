use std::ffi::OsString;
use std::fs;
use std::io::Cursor;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use alexnet::image::DecodeOptions;
use alexnet::input::{Feed, FeedOptions, Row, Sources};

use super::{buffers, expand, folder, next_batch, numbered_pack, numbered_png, usage, write};

/// All rows of `sources`, as a run would report them.
fn rows(sources: Sources) -> Vec<Row> {
    let options = FeedOptions { decode: DecodeOptions::default(), input_size: 8, threads: 2, stop: || false };
    let mut feed = Feed::new(sources, options, buffers(3, 5 * 8 * 8 * 3)).unwrap();
    let mut rows = Vec::new();
    while let Some(mut batch) = next_batch(&mut feed) {
        rows.append(&mut batch.rows);
        feed.give_back(batch.pixels);
    }
    rows
}

/// The file names of `sources`, relative to `root`; a failed row has `!` before it.
fn names(sources: Sources, root: &Path) -> Vec<String> {
    let (total, widest) = (sources.total(), sources.widest_filename());
    let rows = rows(sources);
    if let Some(total) = total {
        assert_eq!(total, rows.len() as u64, "total");
        assert_eq!(widest, rows.iter().map(|r| r.filename.chars().count()).max().unwrap_or(0), "widest");
    }
    let prefix = format!("{}/", root.display());
    let name = |row: &Row| {
        let name = row.filename.replacen(&prefix, "", 1);
        if row.error.is_some() { format!("!{name}") } else { name }
    };
    rows.iter().map(name).collect()
}

/// `a.JPG b/c.png b/d/e.gif z.webp`, named so whatever they hold, and things a folder does not contribute.
fn tree(root: &Path) {
    for (index, name) in ["z.webp", "b/d/e.gif", "a.JPG", "b/c.png", ".hidden.png", ".git/x.png"].iter().enumerate() {
        write(root, name, &numbered_png(index));
    }
    write(root, "notes.txt", b"text");
    write(root, "pixels.npy", b"not read in a folder");
    fs::create_dir(root.join("folder.png")).unwrap();
}

const TREE: [&str; 4] = ["a.JPG", "b/c.png", "b/d/e.gif", "z.webp"];

#[test]
fn folders_are_walked_in_order_with_the_name_as_given() {
    let dir = folder();
    tree(dir.path());
    assert_eq!(names(expand(&[dir.path()]).unwrap(), dir.path()), TREE);
    let slash = format!("{}/", dir.path().display());
    assert_eq!(names(expand(&[&slash]).unwrap(), dir.path()), TREE);
    let dotted = dir.path().join("./b/../b");
    let expected: Vec<_> = ["c.png", "d/e.gif"].iter().map(|n| dotted.join(n).display().to_string()).collect();
    assert_eq!(names(expand(&[&dotted]).unwrap(), Path::new("/nowhere")), expected);
}

#[test]
fn every_extension_counts_in_any_case() {
    let dir = folder();
    let files = ["a.jpg", "b.jpeg", "c.jpe", "d.jfif", "e.png", "f.webp", "g.bmp", "h.gif", "i.PNG", "j.JpEg"];
    for name in files {
        write(dir.path(), name, &numbered_png(1));
    }
    for name in ["k.tif", "png", "l.png.bak"] {
        write(dir.path(), name, b"");
    }
    assert_eq!(names(expand(&[dir.path()]).unwrap(), dir.path()), files);
}

#[test]
fn a_hidden_folder_counts_when_it_is_named() {
    let dir = folder();
    tree(dir.path());
    assert_eq!(names(expand(&[dir.path().join(".git")]).unwrap(), dir.path()), [".git/x.png"]);
}

#[test]
fn arguments_keep_their_order_and_repeat() {
    let dir = folder();
    tree(dir.path());
    numbered_pack(&dir.path().join("p.npy"), 8, 0, 2);
    let arguments = ["z.webp", "p.npy", "b", "z.webp"].map(|n| dir.path().join(n));
    let expected = ["z.webp", "p.npy#0", "p.npy#1", "b/c.png", "b/d/e.gif", "z.webp"];
    assert_eq!(names(expand(&arguments).unwrap(), dir.path()), expected);
}

#[test]
fn globs_match_files_and_folders_once() {
    let dir = folder();
    tree(dir.path());
    fs::remove_dir(dir.path().join("folder.png")).unwrap();
    let glob = |pattern: &str| names(expand(&[dir.path().join(pattern)]).unwrap(), dir.path());
    assert_eq!(glob("?.JPG"), ["a.JPG"]);
    assert_eq!(glob("[bz]*"), ["b/c.png", "b/d/e.gif", "z.webp"]);
    assert_eq!(glob("**/*.[gp]*"), ["b/c.png", "b/d/e.gif"]);
    // `b` and all below it match.
    assert_eq!(glob("**/[a-e]*"), ["a.JPG", "b/c.png", "b/d/e.gif"]);
    assert!(usage(expand(&[dir.path().join("*.bmp")])).contains("no file matches"));
    assert!(usage(expand(&[dir.path().join("***.bmp")])).contains("no valid pattern"));
}

#[test]
fn globs_find_names_that_are_not_utf8() {
    let dir = folder();
    let bytes = |name: &[u8]| dir.path().join(OsString::from_vec(name.to_vec()));
    fs::create_dir(bytes(b"d\xe9")).unwrap();
    for name in [&b"caf\xe9.png"[..], b"caf\xe9.txt", b"d\xe9/e.png", b"z.png"] {
        fs::write(bytes(name), numbered_png(1)).unwrap();
    }
    let glob = |pattern: &[u8]| names(expand(&[bytes(pattern)]).unwrap(), dir.path());
    assert_eq!(glob(b"z*.png"), ["z.png"]);
    assert_eq!(glob(b"*.png"), ["caf\u{fffd}.png", "z.png"]);
    assert_eq!(glob(b"caf?.png"), ["caf\u{fffd}.png"]);
    assert_eq!(glob(b"**/e*"), ["d\u{fffd}/e.png"]);
    assert_eq!(glob(b"d\xe9/*"), ["d\u{fffd}/e.png"]);
    assert!(usage(expand(&[bytes(b"\xe9*")])).contains("UTF-8"));
}

#[test]
fn globs_see_what_is_hidden_only_where_they_have_its_dot() {
    let dir = folder();
    tree(dir.path());
    write(dir.path(), "b/.e.png", &numbered_png(1));
    write(dir.path(), ".png", &numbered_png(1));
    let glob = |pattern: &str| names(expand(&[dir.path().join(pattern)]).unwrap(), dir.path());
    assert_eq!(glob(".h*"), [".hidden.png"]);
    assert_eq!(glob(".*/*"), [".git/x.png"]);
    assert_eq!(glob("b/[.c]*"), ["b/c.png"]);
    assert_eq!(glob("**/.e*"), ["b/.e.png"]);
    assert_eq!(glob("**/?.png"), ["b/c.png"]);
}

#[test]
fn globs_that_end_in_folders() {
    let dir = folder();
    tree(dir.path());
    let glob = |pattern: &str| names(expand(&[dir.path().join(pattern)]).unwrap(), dir.path());
    assert_eq!(glob("[a-z]*/"), ["b/c.png", "b/d/e.gif"]);
    assert_eq!(glob("?/**"), ["b/c.png", "b/d/e.gif"]);
    assert_eq!(glob("**"), TREE);
    assert!(usage(expand(&[dir.path().join("?.JPG/")])).contains("no file matches"));
}

#[test]
fn globs_get_past_symlink_loops_and_show_broken_links() {
    let dir = folder();
    write(dir.path(), "sub/a.png", &numbered_png(1));
    symlink(dir.path(), dir.path().join("sub/loop")).unwrap();
    symlink("nowhere", dir.path().join("sub/b.png")).unwrap();
    symlink("nowhere", dir.path().join("sub/c.txt")).unwrap();
    let glob = |pattern: &str| names(expand(&[dir.path().join(pattern)]).unwrap(), dir.path());
    assert_eq!(glob("**/*.png"), ["sub/a.png", "!sub/b.png"]);
    assert_eq!(glob("*/b.png"), ["!sub/b.png"]);
}

#[test]
fn a_match_without_pictures_is_left_out() {
    let dir = folder();
    tree(dir.path());
    fs::create_dir(dir.path().join("empty")).unwrap();
    let glob = |pattern: &str| expand(&[dir.path().join(pattern)]);
    assert_eq!(names(glob("[be]*").unwrap(), dir.path()), ["b/c.png", "b/d/e.gif"]);
    let message = usage(glob("e*"));
    assert!(message.contains("no pictures in") && message.contains("e*"), "{message}");
}

#[test]
fn what_a_run_reads_is_known_whatever_it_is_called() {
    let dir = folder();
    tree(dir.path());
    numbered_pack(&dir.path().join("p.npy"), 8, 0, 2);
    symlink("a.JPG", dir.path().join("link")).unwrap();
    fs::hard_link(dir.path().join("p.npy"), dir.path().join("hard")).unwrap();
    symlink("b", dir.path().join("folder")).unwrap();
    symlink("b/c.png", dir.path().join("results.csv")).unwrap();
    let sources = expand(&["a.JPG", "p.npy", "b", "z*"].map(|name| dir.path().join(name))).unwrap();
    for name in ["a.JPG", "./b/../a.JPG", "link", "p.npy", "hard", "b/c.png", "folder/d/e.gif", "z.webp", "results.csv"]
    {
        assert!(sources.reads(&dir.path().join(name)), "{name}");
    }
    write(dir.path(), "other/c.png", b"another file of that name");
    for name in ["new.csv", "notes.txt", "other/c.png", "missing/a.JPG"] {
        assert!(!sources.reads(&dir.path().join(name)), "{name}");
    }
}

#[test]
fn a_file_named_like_a_pattern_is_that_file() {
    let dir = folder();
    for name in ["[ab].png", "a.png"] {
        write(dir.path(), name, &numbered_png(1));
    }
    assert_eq!(names(expand(&[dir.path().join("[ab].png")]).unwrap(), dir.path()), ["[ab].png"]);
}

#[test]
fn a_leading_dot_of_a_pattern_stays() {
    let dir = folder();
    tree(dir.path());
    // The way from the working folder to `dir`.
    let up = std::env::current_dir().unwrap().ancestors().skip(1).map(|_| "../").collect::<String>();
    let relative = format!("{up}{}", dir.path().strip_prefix("/").unwrap().display());
    let arguments = [format!("./{relative}/?.JPG"), format!("{relative}/?.JPG"), format!("./{relative}/b/")];
    let expected = ["./R/a.JPG", "R/a.JPG", "./R/b/c.png", "./R/b/d/e.gif"].map(|name| name.replace('R', &relative));
    assert_eq!(names(expand(&arguments).unwrap(), Path::new("/nowhere")), expected);
}

#[test]
fn what_does_not_exist_is_named_before_any_work() {
    let dir = folder();
    tree(dir.path());
    let message = usage(expand(&[dir.path().join("a.JPG"), dir.path().join("missing.jpg")]));
    assert!(message.contains("no such file") && message.contains("missing.jpg"), "{message}");
    assert!(usage(expand(&[""])).contains("no such file"));
    let message = usage(expand(&[dir.path().join("folder.png")]));
    assert!(
        message.contains("no pictures") && message.contains(".jfif") && message.contains("folder.png"),
        "{message}"
    );
    assert!(usage(expand(&["-", "-"])).contains("once"));
    assert!(usage(expand(&[dir.path().join("pixels.npy")])).contains("not a picture pack"));
}

#[test]
fn symlinks_are_followed_and_a_loop_or_a_broken_one_is_a_row() {
    let dir = folder();
    let elsewhere = folder();
    write(elsewhere.path(), "far.png", &numbered_png(1));
    write(dir.path(), "sub/a.png", &numbered_png(2));
    symlink(elsewhere.path(), dir.path().join("link")).unwrap();
    symlink(dir.path(), dir.path().join("sub/loop")).unwrap();
    symlink("nowhere", dir.path().join("sub/broken")).unwrap();
    symlink("nowhere", dir.path().join("sub/.hidden")).unwrap();
    let rows = rows(expand(&[dir.path()]).unwrap());
    let found: Vec<_> = rows.iter().map(|r| r.filename.rsplit('/').next().unwrap()).collect();
    assert_eq!(found, ["far.png", "a.png", "broken", "loop"]);
    let reasons: Vec<_> = rows.iter().map(|r| r.error.as_ref().map(ToString::to_string)).collect();
    assert_eq!(reasons[..2], [None, None]);
    assert!(reasons[2].as_ref().unwrap().contains("cannot read"), "{reasons:?}");
    assert!(reasons[3].as_ref().unwrap().contains("symlink loop"), "{reasons:?}");
}

#[test]
fn a_fifo_is_never_opened() {
    let dir = folder();
    write(dir.path(), "a.png", &numbered_png(1));
    for name in ["b.png", "c.npy"] {
        assert!(Command::new("mkfifo").arg(dir.path().join(name)).status().unwrap().success());
    }
    let arguments = [dir.path().to_path_buf(), dir.path().join("b.png"), dir.path().join("c.npy"), "/dev/null".into()];
    // Opening a FIFO would wait for ever.
    assert_eq!(names(expand(&arguments).unwrap(), dir.path()), ["a.png", "!b.png", "!b.png", "!c.npy", "!/dev/null"]);
}

#[test]
fn names_that_are_not_utf8_are_lossy() {
    let dir = folder();
    let name = OsString::from_vec(b"caf\xe9.png".to_vec());
    fs::write(dir.path().join(&name), numbered_png(1)).unwrap();
    assert_eq!(names(expand(&[dir.path()]).unwrap(), dir.path()), ["caf\u{fffd}.png"]);
    assert_eq!(names(expand(&[dir.path().join(name)]).unwrap(), dir.path()), ["caf\u{fffd}.png"]);
}

#[test]
fn a_list_takes_its_place_among_the_arguments() {
    let dir = folder();
    tree(dir.path());
    numbered_pack(&dir.path().join("p.npy"), 8, 0, 2);
    numbered_pack(&dir.path().join("big.npy"), 9, 0, 2);
    let path = |name: &str| dir.path().join(name).display().to_string();
    let list = format!(
        "{}\r\n\n  \n{}\n{}\n{}\r\n{}\n{}\n{}",
        path("b/c.png"),
        path("gone.png"),
        path("p.npy"),
        path("big.npy"),
        path("gone.npy"),
        path("b"),
        path("z.webp")
    );
    let arguments = [path("a.JPG"), "-".into(), path("b/d")];
    let sources = Sources::expand_with(&arguments, Cursor::new(list)).unwrap();
    assert_eq!(sources.total(), None);
    let expected =
        ["a.JPG", "b/c.png", "!gone.png", "p.npy#0", "p.npy#1", "!big.npy", "!gone.npy", "!b", "z.webp", "b/d/e.gif"];
    assert_eq!(names(sources, dir.path()), expected);
}

#[test]
fn a_list_may_begin_with_a_byte_order_mark() {
    let dir = folder();
    tree(dir.path());
    let list = format!("\u{feff}{0}/a.JPG\r\n\u{feff}{0}/a.JPG\n", dir.path().display());
    let sources = Sources::expand_with(&["-"], Cursor::new(list)).unwrap();
    // Only there: elsewhere it belongs to a name.
    assert_eq!(names(sources, dir.path()), ["a.JPG".to_string(), "!\u{feff}a.JPG".to_string()]);
}

#[test]
fn a_list_of_find_print0_is_told_apart() {
    for length in [1, 10_000] {
        let list = format!("a.png\nb.png\0{}\nc.png\n", "c.png\0".repeat(length));
        let rows = rows(Sources::expand_with(&["-"], Cursor::new(list)).unwrap());
        let names: Vec<_> = rows.iter().map(|row| row.filename.as_str()).collect();
        assert_eq!(names, ["a.png", "-"], "{length} names");
        let message = rows[1].error.as_ref().unwrap().to_string();
        assert!(message.contains("-print0") && message.contains("NUL"), "{message}");
    }
}

#[test]
fn a_list_that_is_none_ends_in_a_failed_row() {
    let sources = Sources::expand_with(&["-"], std::io::BufReader::new(std::io::repeat(b'x'))).unwrap();
    let rows = rows(sources);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].filename, "-");
    assert!(rows[0].error.as_ref().unwrap().to_string().contains("no list of paths"));
}
