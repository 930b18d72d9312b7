//! Links `src/malloc.c` into the program where the C library is glibc; others keep no memory that
//! was freed.

fn main() {
    println!("cargo::rerun-if-changed=src/malloc.c");
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() != Ok("gnu") {
        return;
    }
    let objects = cc::Build::new()
        .file("src/malloc.c")
        .compile_intermediates();
    for object in objects {
        println!("cargo::rustc-link-arg-bins={}", object.display());
    }
}
