//! The attribute macros of `overlapped`: `#[overlapped::main]` and `#[overlapped::test]`.

mod arguments;

use arguments::{Arguments, Mistake};
use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// Runs an `async fn main` on a runtime.
///
/// - `flavor`: `"stealing"` (the default: tasks may run on any worker), `"sharded"` (tasks stay on
///   the worker where they began), or `"local"` (the calling thread alone).
/// - `workers`: how many; by default one for each core. Not with `"local"`.
///
/// The other settings are those of `Builder::new()`. Whoever wants others calls the `Builder`.
///
/// ```ignore
/// #[overlapped::main(flavor = "sharded", workers = 4)]
/// async fn main() -> std::io::Result<()> {
///     overlapped::fs::write("greeting", "hello").await
/// }
/// ```
///
/// # Panics
/// The program does when the runtime cannot be set up.
#[proc_macro_attribute]
pub fn main(attribute: TokenStream, function: TokenStream) -> TokenStream {
    expand(attribute, function, false)
}

/// Runs an `async fn` as a test, on the calling thread alone, or on a multi-thread runtime if
/// `flavor` or `workers` says so; see [`macro@main`]. Other attributes, as `#[should_panic]`, go
/// below.
///
/// ```ignore
/// #[overlapped::test]
/// async fn reads_what_was_written() { /* … */ }
///
/// #[overlapped::test(workers = 2)]
/// async fn moves_between_threads() { /* … */ }
/// ```
#[proc_macro_attribute]
pub fn test(attribute: TokenStream, function: TokenStream) -> TokenStream {
    expand(attribute, function, true)
}

fn expand(attribute: TokenStream, function: TokenStream, is_test: bool) -> TokenStream {
    let (arguments, mistake) = match Arguments::parse(attribute) {
        Ok(arguments) => (arguments, None),
        // The function is still there, so that there is one error and not two.
        Err(mistake) => (Arguments::default(), Some(mistake)),
    };
    let mut output = wrap(arguments, function, is_test).unwrap_or_else(Mistake::into_error);
    output.extend(mistake.map(Mistake::into_error));
    output
}

/// The function with its body run on a runtime.
fn wrap(
    arguments: Arguments,
    function: TokenStream,
    is_test: bool,
) -> Result<TokenStream, Mistake> {
    let mut tokens: Vec<TokenTree> = function.into_iter().collect();
    let word = |token: &TokenTree, word: &str| matches!(token, TokenTree::Ident(ident) if ident.to_string() == word);
    let Some(at_fn) = tokens.iter().position(|token| word(token, "fn")) else {
        return Err(Mistake::at(tokens.first(), "expected an `async fn`"));
    };
    if let Some(TokenTree::Group(parameters)) = tokens.get(at_fn + 2)
        && !parameters.stream().is_empty()
    {
        return Err(Mistake::at(tokens.get(at_fn + 2), "expected a function without parameters"));
    }
    let Some(TokenTree::Group(body)) = tokens.pop_if(
        |token| matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace),
    ) else {
        return Err(Mistake::at(tokens.last(), "expected a function with a body"));
    };
    let Some(at_async) = tokens[..at_fn].iter().position(|token| word(token, "async")) else {
        return Err(Mistake::at(tokens.get(at_fn), "expected an `async fn`"));
    };
    tokens.remove(at_async);

    let runtime = arguments.runtime(is_test);
    let head = format!("{runtime}.expect(\"the runtime cannot be set up\").block_on");
    let mut call: TokenStream = head.parse().expect("an expression");
    let mut future: TokenStream = "async move".parse().expect("keywords");
    future.extend([TokenTree::Group(body)]);
    call.extend([TokenTree::Group(Group::new(Delimiter::Parenthesis, future))]);
    let attribute = if is_test { "#[::core::prelude::v1::test]" } else { "" };
    let mut output: TokenStream = attribute.parse().expect("an attribute");
    output.extend(tokens);
    output.extend([TokenTree::Group(Group::new(Delimiter::Brace, call))]);
    Ok(output)
}
