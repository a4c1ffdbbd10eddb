//! Finds test data: `ALEXNET_TEST_ROOT` where set (the binary was carried to another machine), else the crate's root.

use std::path::PathBuf;

use alexnet::weights::{Checkpoint, Tensor};

/// `relative` below the test root, for example `tests/data/images/gray.jpg` or `samples/shapes`.
pub fn path(relative: &str) -> PathBuf {
    let root = std::env::var_os("ALEXNET_TEST_ROOT").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    root.join(relative)
}

/// The bytes of the file at [`path`].
pub fn bytes(relative: &str) -> Vec<u8> {
    let path = path(relative);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The JSON at [`path`].
pub fn json(relative: &str) -> serde_json::Value {
    serde_json::from_slice(&bytes(relative)).unwrap_or_else(|e| panic!("{relative}: {e}"))
}

/// The command line under test: `alexnet` in the test root where that was carried along, else the one cargo built.
pub fn alexnet() -> PathBuf {
    let carried = std::env::var_os("ALEXNET_TEST_ROOT").map(|root| PathBuf::from(root).join("alexnet"));
    carried.unwrap_or_else(|| env!("CARGO_BIN_EXE_alexnet").into())
}

/// The demo with a hundred thousand times as large a conv1, and conv2 as much smaller: the same network, were there no limits
/// to float16.
pub fn overflowing_demo() -> Checkpoint {
    let mut checkpoint = alexnet::demo_checkpoint();
    for (name, scale) in [("features.0.weight", 1e5), ("features.0.bias", 1e5), ("features.3.weight", 1e-5)] {
        let tensor = checkpoint.tensors.get_mut(name).expect("torchvision's names");
        let values: Vec<f32> = tensor.to_f32().unwrap().iter().map(|value| value * scale).collect();
        *tensor = Tensor::from_f32(tensor.shape.clone(), &values);
    }
    checkpoint
}

/// Checks that `text` is what stands in the part of `document` that is called `part`. With `GENERATE=write` it is written there.
pub fn generated(document: &str, part: &str, text: &str) {
    let path = path(document);
    let all = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (begin, end) = (format!("<!-- generated: {part} -->\n"), "<!-- end -->");
    let (before, rest) = all.split_once(&begin).expect("the part begins");
    let (found, after) = rest.split_once(end).expect("the part ends");
    if std::env::var("GENERATE").is_ok_and(|what| what == "write") {
        std::fs::write(&path, format!("{before}{begin}\n{}\n\n{end}{after}", text.trim())).expect("it can be written");
    } else {
        assert_eq!(found.trim(), text.trim(), "{document} is stale: run this test with GENERATE=write");
    }
}
