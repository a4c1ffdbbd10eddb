//! Names the cdylib `libcudnn.so` inside, not on disk, as the emulated driver does with its own name.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcudnn.so");
}
