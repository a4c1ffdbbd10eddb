//! Names the cdylib `libcuda.so` inside, not on disk: once a test has loaded `libcuemu.so` by path,
//! the loader answers `dlopen("libcuda.so")` with it, while no file in a target folder can ever
//! shadow a real driver.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}
