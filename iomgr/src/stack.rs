//! Devices and stacks: who sits above whom, and which of them an operation visits.
//!
//! A [`Stack`] is an immutable snapshot. For every major it holds the list of devices that hook it,
//! top first, ending with the bottom: an operation walks that list and never meets the others, so a
//! filter that does not hook a major costs nothing there. An IRP finishes on the snapshot it
//! started on; the file object keeps the snapshot alive (I-7, O-6, O-8).

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::driver::{Class, Driver};
use crate::driver_counts::Number;
use crate::irp::{Disposition, Irp, Lower, MAX_LOCATIONS};
use crate::major::{Major, MajorSet};
use crate::status::Status;

/// A driver's place in a stack.
pub struct Device {
    driver: Arc<dyn Driver>,
    /// Asked once: a report must not run the code of the driver it is about.
    name: Box<str>,
    number: Number,
    faulted: AtomicBool,
    bugs: AtomicU64,
}

impl Device {
    fn new(driver: Arc<dyn Driver>) -> Device {
        let name: Box<str> = driver.name().into();
        let number = Number::of(&name);
        Device { driver, name, number, faulted: AtomicBool::new(false), bugs: AtomicU64::new(0) }
    }

    /// The driver.
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// The driver's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name's, for counting.
    #[inline]
    pub(crate) fn number(&self) -> Number {
        self.number
    }

    /// Whether the driver has panicked here.
    pub fn is_faulted(&self) -> bool {
        self.faulted.load(Ordering::Relaxed)
    }

    /// How often the driver dropped an IRP or panicked here (V-43).
    pub fn bugs(&self) -> u64 {
        self.bugs.load(Ordering::Relaxed)
    }

    pub(crate) fn report_bug(&self, what: &'static str, panicked: bool) {
        self.bugs.fetch_add(1, Ordering::Relaxed);
        self.number.count_bug();
        if panicked {
            self.faulted.store(true, Ordering::Relaxed);
        }
        tracing::error!(driver = self.name(), "driver bug: {what}");
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("driver", &self.name())
            .field("faulted", &self.is_faulted())
            .finish_non_exhaustive()
    }
}

/// Stands in a transforming filter's place on the routes of operations the filter does not know.
struct Refuse(String);

impl Driver for Refuse {
    fn name(&self) -> &str {
        &self.0
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        irp.complete(Status::NOT_SUPPORTED, 0)
    }
}

/// The devices above one another that a file's requests travel: filters, and the bottom. Immutable.
///
/// For every major it lists the devices that hook it, top first: an operation walks that list and does
/// not meet the others, so a filter costs nothing where it hooks nothing. Files and sockets make their
/// own of the filters that they are given.
pub struct Stack {
    /// Top first, the bottom last, then the refusing stand-ins. Boxed one by one: routes point to
    /// them.
    devices: Box<[Box<Device>]>,
    /// How many of `devices` are real.
    depth: usize,
    routes: [Box<[NonNull<Device>]>; Major::COUNT],
}

// SAFETY: the pointers in `routes` point into `devices`, which are `Send + Sync`, never change and
// live exactly as long.
unsafe impl Send for Stack {}
// SAFETY: as above.
unsafe impl Sync for Stack {}

/// A stack cannot be built.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StackError {
    /// More drivers than a request has locations for ([`MAX_LOCATIONS`]).
    TooDeep {
        /// Drivers asked for, the bottom included.
        drivers: usize,
    },
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StackError::TooDeep { drivers } => write!(
                f,
                "a stack of {drivers} drivers is deeper than the limit of {MAX_LOCATIONS}; \
                 merge some of the filters"
            ),
        }
    }
}

impl std::error::Error for StackError {}

impl From<StackError> for std::io::Error {
    fn from(error: StackError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidInput, error)
    }
}

impl Stack {
    /// Builds a stack of filters, top first, on a bottom driver.
    ///
    /// # Errors
    /// [`StackError::TooDeep`].
    pub fn new(
        filters: impl IntoIterator<Item = Arc<dyn Driver>>,
        bottom: Arc<dyn Driver>,
    ) -> Result<Arc<Stack>, StackError> {
        let mut devices: Vec<Box<Device>> =
            filters.into_iter().chain([bottom]).map(|d| Box::new(Device::new(d))).collect();
        let depth = devices.len();
        if depth > MAX_LOCATIONS {
            return Err(StackError::TooDeep { drivers: depth });
        }
        let refuse: Vec<Option<usize>> = (0..depth)
            .map(|i| {
                (devices[i].driver().class() == Class::Transform).then(|| {
                    let name = format!("{} (refuses)", devices[i].name());
                    devices.push(Box::new(Device::new(Arc::new(Refuse(name)))));
                    devices.len() - 1
                })
            })
            .collect();
        let mut routes = [const { Vec::new() }; Major::COUNT];
        for major in Major::ALL {
            let route = &mut routes[major as usize];
            for i in 0..depth {
                let hooked = devices[i].driver().hooks().contains(major);
                if hooked || i == depth - 1 {
                    route.push(NonNull::from(&*devices[i]));
                } else if let Some(stand_in) = refuse[i].filter(|_| major.carries_data()) {
                    route.push(NonNull::from(&*devices[stand_in]));
                }
            }
        }
        let devices = devices.into_boxed_slice();
        Ok(Arc::new(Stack { devices, depth, routes: routes.map(Vec::into_boxed_slice) }))
    }

    /// The devices, top first, the bottom last.
    pub fn devices(&self) -> impl ExactSizeIterator<Item = &Device> {
        self.devices[..self.depth].iter().map(|d| &**d)
    }

    /// The devices that an operation visits, top first: "who is on the path".
    pub fn explain(&self, major: Major) -> impl Iterator<Item = &Device> {
        // SAFETY: routes point into `self.devices` (see `Stack`).
        self.routes[major as usize].iter().map(|d| unsafe { d.as_ref() })
    }

    pub(crate) fn bottom(&self) -> &Device {
        &self.devices[self.depth - 1]
    }

    #[inline]
    pub(crate) fn route(&self, major: Major) -> &[NonNull<Device>] {
        // Every discriminant is below COUNT, so this check folds away.
        &self.routes[major as usize]
    }

    /// Whether anybody wants to see the operation, filters or bottom.
    pub(crate) fn hooks(&self, major: Major) -> bool {
        self.routes[major as usize].len() > 1 || self.bottom().driver().hooks().contains(major)
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.devices().map(Device::name)).finish()
    }
}
