//! What stands in the attributes' parentheses: `name = value`, separated by commas.

use proc_macro::{Delimiter, Group, Ident, Literal, Punct, Spacing, Span, TokenStream, TokenTree};

/// An error of the user's, where it was made.
pub struct Mistake {
    span: Span,
    message: String,
}

impl Mistake {
    /// At that token; without one, at the attribute.
    pub fn at(token: Option<&TokenTree>, message: impl Into<String>) -> Mistake {
        Mistake {
            span: token.map_or_else(Span::call_site, TokenTree::span),
            message: message.into(),
        }
    }

    /// What makes the compiler say so.
    pub fn into_error(self) -> TokenStream {
        let message = TokenTree::from(Literal::string(&self.message));
        let tokens = [
            Ident::new("compile_error", self.span).into(),
            Punct::new('!', Spacing::Alone).into(),
            Group::new(Delimiter::Brace, message.into()).into(),
        ];
        let spanned = tokens.map(|mut token: TokenTree| {
            token.set_span(self.span);
            token
        });
        spanned.into_iter().collect()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Flavor {
    Local,
    Stealing,
    Sharded,
}

/// See the macro `main`.
#[derive(Default)]
pub struct Arguments {
    flavor: Option<Flavor>,
    workers: Option<usize>,
}

impl Arguments {
    /// Reads them.
    pub fn parse(attribute: TokenStream) -> Result<Arguments, Mistake> {
        let mut arguments = Arguments::default();
        let mut tokens = attribute.into_iter();
        while let Some(name) = tokens.next() {
            let known = name.to_string();
            if known != "flavor" && known != "workers" {
                let message = format!("`{known}` is no argument: expected `flavor` or `workers`");
                return Err(Mistake::at(Some(&name), message));
            }
            let Some(TokenTree::Punct(equals)) = tokens.next().filter(|t| t.to_string() == "=")
            else {
                return Err(Mistake::at(Some(&name), format!("expected `{known} = …`")));
            };
            let value = tokens.next();
            let is_repeated = match known.as_str() {
                "flavor" => {
                    arguments.flavor.replace(flavor(value.as_ref(), equals.span())?).is_some()
                }
                _ => arguments.workers.replace(workers(value.as_ref(), equals.span())?).is_some(),
            };
            if is_repeated {
                return Err(Mistake::at(Some(&name), format!("`{known}` is there twice")));
            }
            if arguments.flavor == Some(Flavor::Local) && arguments.workers.is_some() {
                let message = "a local runtime has one thread and no `workers`";
                return Err(Mistake::at(Some(&name), message));
            }
            match tokens.next() {
                Some(comma) if comma.to_string() != "," => {
                    return Err(Mistake::at(Some(&comma), "expected a comma"));
                }
                _ => {}
            }
        }
        Ok(arguments)
    }

    /// The expression that makes the runtime.
    pub fn runtime(&self, is_test: bool) -> String {
        let by_default =
            if is_test && self.workers.is_none() { Flavor::Local } else { Flavor::Stealing };
        let mut runtime = "::overlapped::Builder::new()".to_owned();
        if let Some(workers) = self.workers {
            runtime += &format!(".workers({workers})");
        }
        runtime
            + match self.flavor.unwrap_or(by_default) {
                Flavor::Local => ".build_local()",
                Flavor::Stealing => ".build()",
                Flavor::Sharded => ".flavor(::overlapped::Flavor::Sharded).build()",
            }
    }
}

fn flavor(value: Option<&TokenTree>, after: Span) -> Result<Flavor, Mistake> {
    match value.map(ToString::to_string).as_deref() {
        Some("\"local\"") => Ok(Flavor::Local),
        Some("\"stealing\"") => Ok(Flavor::Stealing),
        Some("\"sharded\"") => Ok(Flavor::Sharded),
        _ => Err(wrong(value, after, "expected \"local\", \"stealing\" or \"sharded\"")),
    }
}

fn workers(value: Option<&TokenTree>, after: Span) -> Result<usize, Mistake> {
    let number = value.and_then(|value| value.to_string().replace('_', "").parse().ok());
    number
        .filter(|&number| number > 0)
        .ok_or_else(|| wrong(value, after, "expected a number greater than 0"))
}

fn wrong(value: Option<&TokenTree>, after: Span, message: &str) -> Mistake {
    Mistake { span: value.map_or(after, TokenTree::span), message: message.to_owned() }
}
