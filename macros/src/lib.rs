//! The attribute macros of `overlapped`: `#[overlapped::main]` and `#[overlapped::test]`.

use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// Runs an `async fn main` on a runtime: the multi-thread one, or with
/// `#[overlapped::main(local)]` the calling thread alone.
///
/// ```ignore
/// #[overlapped::main]
/// async fn main() -> std::io::Result<()> {
///     overlapped::fs::write("greeting", "hello").await
/// }
/// ```
#[proc_macro_attribute]
pub fn main(attribute: TokenStream, function: TokenStream) -> TokenStream {
    expand(attribute, function, false)
}

/// Runs an `async fn` as a test, on the calling thread alone, or with
/// `#[overlapped::test(multi_thread)]` on a multi-thread runtime.
///
/// ```ignore
/// #[overlapped::test]
/// async fn reads_what_was_written() { /* … */ }
/// ```
#[proc_macro_attribute]
pub fn test(attribute: TokenStream, function: TokenStream) -> TokenStream {
    expand(attribute, function, true)
}

fn error(message: &str) -> TokenStream {
    format!("::core::compile_error!({message:?});").parse().expect("a macro call")
}

fn expand(attribute: TokenStream, function: TokenStream, test: bool) -> TokenStream {
    let local = match attribute.to_string().as_str() {
        "" => test,
        "local" => true,
        "multi_thread" => false,
        _ => return error("expected nothing, `local` or `multi_thread`"),
    };
    let mut tokens: Vec<TokenTree> = function.into_iter().collect();
    let is = |t: &TokenTree, word: &str| matches!(t, TokenTree::Ident(i) if i.to_string() == word);
    let Some(position) = tokens.iter().position(|t| is(t, "async")) else {
        return error("expected an `async fn`");
    };
    tokens.remove(position);
    let Some(TokenTree::Group(body)) = tokens.pop() else {
        return error("expected a function with a body");
    };
    if body.delimiter() != Delimiter::Brace {
        return error("expected a function with a body");
    }
    let runtime = if local { "build_local" } else { "build" };
    let head = format!(
        "let runtime = ::overlapped::Builder::new().{runtime}()\
         .expect(\"the runtime cannot be set up\"); runtime.block_on"
    );
    let mut inner: TokenStream = head.parse().expect("statements");
    let mut future: TokenStream = "async move".parse().expect("a keyword");
    future.extend([TokenTree::Group(body)]);
    inner.extend([TokenTree::Group(Group::new(Delimiter::Parenthesis, future))]);
    let mut output: TokenStream =
        if test { "#[::core::prelude::v1::test]" } else { "" }.parse().expect("an attribute");
    output.extend(tokens);
    output.extend([TokenTree::Group(Group::new(Delimiter::Brace, inner))]);
    output
}
