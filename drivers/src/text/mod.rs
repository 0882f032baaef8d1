//! Stacks as text: `trace | cache(size=64M) | luks(key=@key.bin) | file(disk.img)`.
//!
//! Top first, as requests meet them; the last element may be a bottom. What an element may be is in a
//! registry of names ([`register`]), where this crate's filters are from the start, and where programs
//! put their own.
//!
//! ```text
//! stack   = element { "|" element }
//! element = name [ "(" [ parameter { "," parameter } ] ")" ]
//! parameter = [ key "=" ] value
//! name, key = a letter, then letters, digits, "-" or "_"
//! value   = anything but , ( ) | " and space around it; or "…", with \" and \\
//! ```
//!
//! An error points at its place in the text. A [`Text`] is printed back as it would be written.
//!
//! ```
//! # mod overlapped { pub mod driver { pub use overlapped_drivers::text; } }
//! use overlapped::driver::text::Text;
//!
//! let text: Text = "xor( key = 0x55 )|memory(size=1M)".parse().unwrap();
//! assert_eq!(text.to_string(), "xor(key=0x55) | memory(size=1M)");
//! let stack = text.build().unwrap();
//! assert_eq!(stack.filters.len(), 1);
//!
//! let error = "xor(kee=1)".parse::<Text>().unwrap().build().map(drop).unwrap_err();
//! assert_eq!(error.to_string(), "\
//! 'xor' has no parameter 'kee' (it has: key)
//!   xor(kee=1)
//!       ^^^");
//! ```

mod build;
mod error;
mod parameter;
mod parse;

pub use build::{Bottom, Built, Entry, Made, entries, register};
pub use error::{TextError, TextErrorKind};
pub use parameter::{Parameter, Parameters, Secret, Size};
pub use parse::Text;
