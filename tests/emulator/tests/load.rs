//! What is refused when a module is loaded, and the forms that the test kernels use.

use std::collections::BTreeSet;

use cuemu::Module;

use crate::device::module;

fn kernel(body: &str) -> String {
    module(&format!(
        ".visible .entry run(.param .u64 out)\n{{\n.reg .pred %p<3>;\n.reg .b16 %h<3>;\n.reg .b32 %r<4>;\n.reg .b64 %d<4>;\n{body}\nret;\n}}"
    ))
}

#[test]
fn refusals_name_the_line() {
    Module::load(&kernel("add.s32 %r1, %r2, 3;")).unwrap_or_else(|error| panic!("{error}"));
    for (body, message) in [
        ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 %r1, %r2, %r3;", "mma.sync"),
        ("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%r1, %r2}, {%r1}, {%r1}, {%r1, %r2};", "mma.sync"),
        (
            "mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%d1, %r2}, {%r1, %r1}, {%r1}, {%r1, %r2};",
            "register of W64",
        ),
        ("mma.sync.aligned.m16n8k16.row.col.f32.tf32.tf32.f32 {%r1}, {%r1}, {%r1}, {%r1};", "mma.sync"),
        (
            "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%r1, %r1, %r1, %r1}, {%r1}, {%r1}, {0, 0, 0, 0};",
            "mma.sync",
        ),
        ("cvt.rn.tf32.f32 %r1, %r2;", "cvt.rn.tf32.f32"),
        ("add.bf16 %h1, %h1, %h2;", "add.bf16"),
        ("mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%r1}, {%r1}, {%r1}, {%r1};", "mma.sync"),
        ("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1}, [%r2];", "ldmatrix"),
        ("ldmatrix.sync.aligned.m8n8.x1.b16 {%r1}, [%d1];", "ldmatrix"),
        ("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%h1];", "the address is not of its space"),
        ("add.f64 %d1, %d2, %d3;", "add.f64"),
        ("add.sat.s32 %r1, %r2, %r3;", "add.sat.s32"),
        ("add.s32 %r1, %d2, %r3;", "register of W64 where the form takes W32"),
        ("add.s32 %d1, %r2, %r3;", "register of W64"),
        ("add.s32 %r1, %r2;", "takes 2 sources, found 1"),
        ("add.s32 %r1, %r2, %r3, %r1;", "takes 2 sources, found 3"),
        ("add.s32 %r1, %r2, %r9;", "%r9 is not supported"),
        ("add.s32 %r1, %r2, nothing;", "unknown name nothing"),
        ("mov.u32 %r1, %clock;", "%clock is not supported"),
        ("mov.u64 %d1, out;", "address of a parameter"),
        ("ld.f32 %r1, [%d1];", "ld.f32"),
        ("ld.global.b128 %d1, [%d1];", "ld.global.b128"),
        ("ld.global.v4.u64 {%d1, %d1, %d1, %d1}, [%d1];", "ld.global.v4.u64"),
        ("ld.global.v2.u32 {%r1, %d1}, [%d1];", "ld.global.v2.u32"),
        ("ld.global.v2.u32 %r1, [%d1];", "ld.global.v2.u32"),
        ("ld.global.u32 %h1, [%d1];", "ld.global.u32"),
        ("ld.global.u32 %r1, [%r1];", "the address is not of its space"),
        ("ld.global.u32 %r1, [out];", "the address is not of its space"),
        ("ld.param.u32 %r1, [%d1];", "by its name only"),
        ("st.global.nc.u32 [%d1], %r1;", "st.global.nc"),
        ("st.const.u32 [%d1], %r1;", "st.const"),
        ("atom.global.add.u64 %d1, [%d1], %d2;", "atom.global.add.u64"),
        ("red.global.exch.b32 [%d1], %r2;", "red.global.exch"),
        ("bar.sync 16;", "bar.sync"),
        ("bar.sync 1, 48;", "bar.sync"),
        ("bar.arrive 1, 64;", "bar.arrive"),
        ("shfl.bfly.b32 %r1, %r2, 1, 31;", "shfl.bfly"),
        ("bra $nowhere;", "unknown label $nowhere"),
        ("$a:\n$a:", "declared twice"),
        ("{ bra $inside; $inside: } bra $inside;", "unknown label $inside"),
        ("brx.idx %r1, table;", "unknown name table"),
        ("@%r1 bra $a;", "not a predicate"),
        ("add.f32 %r1, %r2, 0d3FF0000000000000;", "0d3FF0000000000000 is not supported"),
        ("call.uni (x), f, (y);", "unexpected '('"),
        (".reg .b32 %q<99999>;", "61440 registers"),
        (".reg .f64 %q;", ".f64"),
        (".loc 1 2 3;", ".loc"),
        (".shared .align 3 .b8 x[8];", "power of two"),
        (".local .b8 x[4294967295]; .local .b8 y[4294967295];", "does not fit"),
        ("add.s32 %r1, %r2, 3", "expected ','"),
        ("\"", "string without an end"),
        ("/* ", "comment without an end"),
        ("\u{7}", "unexpected byte 0x07"),
    ] {
        let text = kernel(body);
        let error = Module::load(&text).err().unwrap_or_else(|| panic!("{body} is taken"));
        assert!(error.message.contains(message), "{body}: {error}");
        assert_eq!(
            error.line,
            if body.contains("\n") || message == "expected ','" { 11 } else { 10 },
            "{body}: {error}"
        );
    }
    for (text, message) in [
        (String::new(), "no .target"),
        (".target sm_80\n.visible .func f() {}".into(), "device functions"),
        (".target sm_80\n.global .u32 x;".into(), ".global"),
        (".target sm_80\n.address_size 32".into(), "64 is supported"),
        (".target x".into(), "unknown target x"),
        (kernel(".shared .b8 x[49153];"), "static shared memory"),
        (kernel(".local .b8 x[4294967280];"), "local memory"),
        (module(".visible .entry big(.param .b8 x[40000]) { ret; }"), "bytes of parameters"),
        (kernel("{"), "ends early"),
        (format!("{}\n{}", kernel(""), kernel("").split_once("64\n").unwrap().1), "declared twice"),
    ] {
        let error = Module::load(&text).err().unwrap_or_else(|| panic!("{text} is taken"));
        assert!(error.message.contains(message), "{error}");
    }
}

#[test]
fn hostile_text_is_refused_without_a_panic() {
    let text = include_str!("ptx/reduce.ptx");
    for end in (0..text.len()).step_by(97) {
        let _ = Module::load(&text[..end]);
    }
    for (what, with) in [
        (";", ""),
        ("[", "[["),
        ("{", "{{{{"),
        (",", ",,"),
        ("%r", "%p"),
        ("4", "4294967295"),
        ("-", "--"),
        ("+", "+-"),
    ] {
        for (at, _) in text.match_indices(what).step_by(7) {
            let _ = Module::load(&format!("{}{with}{}", &text[..at], &text[at + what.len()..]));
        }
    }
    for deep in ["-", "{", "[", "!", "%p1|"] {
        assert!(Module::load(&kernel(&format!("mov.u32 {};", deep.repeat(100_000)))).is_err());
    }
}

#[test]
fn kernels_describe_themselves() {
    let loaded = Module::load(include_str!("ptx/conv.ptx")).unwrap();
    assert_eq!(loaded.target(), 80);
    assert!(loaded.kernel("nothing").is_none());
    let conv = loaded.kernel("conv_tiled").unwrap();
    assert_eq!(
        (conv.name(), conv.static_shared(), conv.max_threads(), conv.local_bytes()),
        ("conv_tiled", 2304, 64, 0)
    );
    assert_eq!(conv.params(), [cuemu::ParamLayout { offset: 0, size: 80, align: 8 }]);
    let loaded = Module::load(include_str!("ptx/layers.ptx")).unwrap();
    let offsets: Vec<usize> = loaded.kernel("preprocess").unwrap().params().iter().map(|param| param.offset).collect();
    assert_eq!(offsets, [0, 8, 16, 20, 32]);
}

/// The forms in the compiled kernels, those that ship and those of these tests, all of which load. A new one shows up here,
/// and so in review: rewrite the list with `CENSUS=write cargo test -p cuda-emulator census`.
#[test]
fn census() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [root.join("tests/ptx"), root.join("../../kernels/prebuilt")];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let modules: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "ptx")).collect();
    assert_eq!(modules.len(), 22, "{modules:?}");
    let mut found: BTreeSet<String> = BTreeSet::new();
    for path in modules {
        let text = &std::fs::read_to_string(&path).unwrap();
        Module::load(text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        // Inline assembly may have braces on a line, or two statements.
        let statements = text.lines().flat_map(|line| line.rsplit_once(';').map_or("", |(text, _)| text).split(';'));
        for statement in statements {
            let mut words = statement.split(|c: char| c.is_whitespace() || c == '{').filter(|word| !word.is_empty());
            let word = words.find(|word| !word.starts_with('@')).unwrap_or_default();
            if word.starts_with(|first: char| first.is_ascii_lowercase()) {
                found.insert(word.into());
            }
        }
    }
    let found: String = found.into_iter().map(|form| format!("{form}\n")).collect();
    let path = root.join("tests/ptx/forms.txt");
    if std::env::var_os("CENSUS").is_some_and(|value| value == "write") {
        std::fs::write(&path, &found).unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(&path).unwrap_or_default());
}
