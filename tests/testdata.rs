//! Finds test data: `ALEXNET_TEST_ROOT` where set (the binary was carried to another machine), else the crate's root.

use std::path::PathBuf;

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
