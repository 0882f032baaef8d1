//! Wrong arguments of the attribute macros, and wrong functions under them, are errors that name
//! the place and say what is expected.
//!
//! The `.stderr` files are those of rustc 1.95; `TRYBUILD=overwrite` writes them anew.

#[test]
fn mistakes_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
