//! What the command line of a bench may change.

use std::path::PathBuf;

use crate::contest::{Contestant, target};

/// The options of all contests.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Repetitions of each row.
    pub repetitions: usize,
    /// Length of the measured part of one run, in seconds.
    pub seconds: f64,
    /// Length of what goes before it, where a run has such.
    pub warmup: f64,
    /// Only these rows; empty for all.
    pub rows: Vec<String>,
    /// Only these contestants; empty for all.
    pub only: Vec<String>,
    /// The contestant that others are compared to; otherwise the first.
    pub base: Option<String>,
    /// Contestants to add or replace.
    pub more: Vec<Contestant>,
    /// The folder of our own examples.
    pub ours: PathBuf,
    /// Whether to count system calls too, in a short run of their own.
    pub syscalls: bool,
    /// The core of the server.
    pub server_core: usize,
    /// The core of the load generator.
    pub load_core: usize,
}

/// Printed for `--help` and after an error.
const USAGE: &str = "options:
  --reps N, --seconds S, --warmup S   repetitions and length of a run (3, 1.0, 0.2)
  --rows A,B, --only A,B              choose rows and contestants, by name or by a part of it
  --base NAME                         whom the ratios are to (the first contestant)
  --contestant NAME='PROGRAM ARGS'    adds a contestant, or replaces the one of that name
  --ours DIR                          where our examples are (target/release/examples), in the
                                      folder of the other runtimes' programs
  --server-core N, --load-core N      cores of echo (0, 1); tasks of one thread run on the first
  --syscalls                          echo, tasks: count system calls too (needs perf or strace)";

impl Settings {
    /// Reads the command line; ignores `--bench`, which cargo adds. Ends the process with what is
    /// wrong.
    pub fn from_args() -> Settings {
        Self::parse().unwrap_or_else(|error| {
            eprintln!("{error}\n{USAGE}");
            std::process::exit(2);
        })
    }

    fn parse() -> Result<Settings, lexopt::Error> {
        use lexopt::prelude::*;
        let mut settings = Settings {
            repetitions: 3,
            seconds: 1.0,
            warmup: 0.2,
            rows: Vec::new(),
            only: Vec::new(),
            base: None,
            more: Vec::new(),
            ours: target().join("release/examples"),
            syscalls: false,
            server_core: 0,
            load_core: 1,
        };
        let list = |text: String| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("bench") => {}
                Long("help") => {
                    println!("{USAGE}");
                    std::process::exit(0);
                }
                Long("reps") => settings.repetitions = parser.value()?.parse()?,
                Long("seconds") => settings.seconds = parser.value()?.parse()?,
                Long("warmup") => settings.warmup = parser.value()?.parse()?,
                Long("rows") => settings.rows = list(parser.value()?.string()?),
                Long("only") => settings.only = list(parser.value()?.string()?),
                Long("base") => settings.base = Some(parser.value()?.string()?),
                Long("contestant") => {
                    let text = parser.value()?.string()?;
                    let (name, command) = text.split_once('=').ok_or("--contestant: no '='")?;
                    let mut words = command.split_whitespace().map(str::to_owned);
                    let program = words.next().ok_or("--contestant: no program")?;
                    let words: Vec<String> = words.collect();
                    let words: Vec<&str> = words.iter().map(String::as_str).collect();
                    settings.more.push(Contestant::new(name, program, &words));
                }
                Long("ours") => settings.ours = parser.value()?.into(),
                Long("syscalls") => settings.syscalls = true,
                Long("server-core") => settings.server_core = parser.value()?.parse()?,
                Long("load-core") => settings.load_core = parser.value()?.parse()?,
                other => return Err(other.unexpected()),
            }
        }
        Ok(settings)
    }

    /// One of ours: an example of this project.
    pub fn ours(&self, name: &str, example: &str, arguments: &[&str]) -> Contestant {
        Contestant::new(name, self.ours.join(example), arguments)
    }

    /// Another runtime, which has its programs in a crate of its own (`benches/peers`).
    pub fn other(&self, program: &str, runtime: &str) -> Contestant {
        let folder = self.ours.parent().unwrap_or(&self.ours);
        Contestant::new(runtime, folder.join(program), &["--runtime", runtime])
    }

    /// Whether a row is to be run, of all there are.
    pub fn wants_row(&self, row: &str, all: &[String]) -> bool {
        is_chosen(&self.rows, row, all)
    }

    /// The contestants to run: those chosen, of those given and added, that have been built.
    pub fn contestants(&self, mut all: Vec<Contestant>) -> Vec<Contestant> {
        for more in &self.more {
            match all.iter_mut().find(|c| c.name == more.name) {
                Some(known) => *known = more.clone(),
                None => all.push(more.clone()),
            }
        }
        let names: Vec<String> = all.iter().map(|c| c.name.clone()).collect();
        all.retain(|c| {
            let by_default = self.only.is_empty() && c.is_usual;
            by_default || (!self.only.is_empty() && is_chosen(&self.only, &c.name, &names))
        });
        all.retain(|c| {
            let exists = c.exists();
            if !exists {
                eprintln!("{}: not built, left out ({})", c.name, c.command[0]);
            }
            exists
        });
        all
    }
}

/// A filter that is the whole name of something means just that; else it is part of a name.
fn is_chosen(filters: &[String], name: &str, all: &[String]) -> bool {
    let fits = |f: &String| if all.contains(f) { name == f } else { name.contains(f.as_str()) };
    filters.is_empty() || filters.iter().any(fits)
}
