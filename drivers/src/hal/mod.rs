//! The hardware: io_uring ([`UringHal`]) and epoll ([`EpollHal`]), and the choice between them; and a
//! simulated machine ([`sim`]), which nobody gets but by entering it. [`system`] is what is asked of
//! the system besides requests.
//!
//! The choice is made at run time, per processor: what the builder asked for, else the environment
//! variable `OVERLAPPED_BACKEND` (`io_uring` or `epoll`), else io_uring where the kernel allows it.
//! A kernel that refuses io_uring (`EPERM` of a container's seccomp filter, `ENOSYS`, `ENOMEM`, …)
//! means epoll, said once in the log, unless io_uring was asked for by name.

mod epoll;
mod generation;
mod message;
pub(crate) mod pool;
pub mod sim;
pub mod system;
mod uring;

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Once;

use overlapped_iomgr::hal::Hal;
use overlapped_iomgr::panics::log;

pub use epoll::{EpollConfig, EpollHal};
pub use pool::Pool;
pub use uring::{UringConfig, UringHal};

/// Which hardware a processor uses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Backend {
    /// io_uring.
    IoUring,
    /// epoll, with a thread pool for files.
    Epoll,
    /// A simulated machine ([`sim`]): on a thread that is in a simulation, and there only. The
    /// environment does not choose it.
    Simulated,
}

impl Backend {
    /// The backend that `OVERLAPPED_BACKEND` names, if it names one.
    ///
    /// # Errors
    /// `InvalidInput` when it names another.
    pub fn from_environment() -> io::Result<Option<Backend>> {
        match std::env::var("OVERLAPPED_BACKEND") {
            Ok(name) if name.is_empty() => Ok(None),
            Ok(name) => name.parse().map(Some).map_err(|UnknownBackend| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("OVERLAPPED_BACKEND is {name:?}; it may be io_uring or epoll"),
                )
            }),
            Err(_) => Ok(None),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::IoUring => "io_uring",
            Backend::Epoll => "epoll",
            Backend::Simulated => "simulated",
        })
    }
}

/// A name that is no backend's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownBackend;

impl fmt::Display for UnknownBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown backend; it may be io_uring or epoll")
    }
}

impl std::error::Error for UnknownBackend {}

impl FromStr for Backend {
    type Err = UnknownBackend;
    fn from_str(name: &str) -> Result<Backend, UnknownBackend> {
        match name {
            "io_uring" => Ok(Backend::IoUring),
            "epoll" => Ok(Backend::Epoll),
            _ => Err(UnknownBackend),
        }
    }
}

/// Settings of a processor's hardware.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Config {
    /// `None`: the environment decides, then the kernel.
    pub backend: Option<Backend>,
    /// Settings of io_uring.
    pub uring: UringConfig,
    /// Settings of epoll.
    pub epoll: EpollConfig,
}

/// Makes the hardware of the calling thread's processor.
///
/// # Errors
/// That of io_uring when it was asked for by name, that of epoll otherwise; `InvalidInput` for a
/// bad `OVERLAPPED_BACKEND`; `Unsupported` for the simulated one outside a simulation.
pub fn new(config: &Config) -> io::Result<Box<dyn Hal>> {
    choose(config, UringHal::new)
}

fn choose(
    config: &Config,
    ring: fn(&UringConfig) -> io::Result<UringHal>,
) -> io::Result<Box<dyn Hal>> {
    let wanted = match config.backend {
        Some(backend) => Some(backend),
        None => Backend::from_environment()?,
    };
    if wanted == Some(Backend::Simulated) {
        return sim::hardware();
    }
    if wanted != Some(Backend::Epoll) {
        match ring(&config.uring) {
            Ok(hal) => return Ok(Box::new(hal)),
            Err(error) if wanted == Some(Backend::IoUring) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("io_uring was asked for and cannot be set up: {error}"),
                ));
            }
            Err(error) => {
                static SAID: Once = Once::new();
                SAID.call_once(|| {
                    log(|| tracing::warn!(%error, "io_uring is not to be had here; using epoll"));
                });
            }
        }
    }
    Ok(Box::new(EpollHal::new(&config.epoll)?))
}

/// Lets plain threads have processors; see
/// [`overlapped_iomgr::processor::set_hardware_factory`]. Cheap to call again.
pub fn install() {
    let make = || choose(&Config::default(), UringHal::shared);
    // SAFETY: neither the ring that `shared` makes nor an epoll set minds which thread drives it.
    unsafe { overlapped_iomgr::processor::set_hardware_factory(make) };
}

/// Closes a descriptor of the kernel's at once; 0, or a negative errno.
fn close(fd: i32) -> i32 {
    system::System::close(&system::Kernel, fd)
}
