//! NT's classic driver mistakes, and use of a buffer in flight, do not compile (design, section 9).
//!
//! The `.stderr` files are those of rustc 1.95; `TRYBUILD=overwrite` writes them anew.

#![cfg(not(loom))]

#[test]
fn mistakes_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
