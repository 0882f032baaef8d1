//! Loop devices, for tests that have the right to make them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A device over a file; gone with this.
pub struct Loop(pub PathBuf);

impl Loop {
    /// `None`: none can be made here, and nobody has promised one.
    pub fn over(image: &Path) -> Option<Loop> {
        let made = Command::new("losetup").args(["--find", "--show"]).arg(image).output();
        let said = match made {
            Ok(output) if output.status.success() => {
                return Some(Loop(String::from_utf8(output.stdout).unwrap().trim().into()));
            }
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        assert!(std::env::var_os("CI").is_none(), "no loop device can be made: {said}");
        eprintln!("NOT TESTED: no loop device can be made, which takes root: {said}");
        None
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("--detach").arg(&self.0).status();
        assert!(
            detached.is_ok_and(|status| status.success()),
            "{} is left behind",
            self.0.display()
        );
    }
}
