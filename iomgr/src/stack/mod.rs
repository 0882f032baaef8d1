//! Devices and stacks: who sits above whom, and which of them an operation visits.
//!
//! A [`Stack`] is an immutable snapshot. For every major it holds the list of devices that hook it,
//! top first, ending with the bottom: an operation walks that list and never meets the others, so a
//! filter that does not hook a major costs nothing there. An IRP finishes on the snapshot it
//! started on; the file object keeps the snapshot alive (I-7, O-6, O-8).

mod describe;
mod implicit;

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::altitude::Altitude;
use crate::driver::{Class, Driver};
use crate::driver_counts::Number;
use crate::irp::{Disposition, Irp, Lower, MAX_LOCATIONS};
use crate::limits::{Capabilities, Group, Limits, OutOfOrder};
use crate::major::{Major, MajorSet};
use crate::panics::log;
use crate::status::Status;
use crate::wait::Event;
use implicit::{Composed, Implicit, composed};

/// A driver's place in a stack.
pub struct Device {
    /// That of `_owned`: its address is at hand here, and to be reckoned there.
    driver: NonNull<dyn Driver>,
    _owned: Arc<dyn Driver>,
    number: Number,
    /// Asked once: a report must not run the code of the driver it is about.
    name: Box<str>,
    /// Of a stand-in: whose place it is in.
    stands_for: Option<usize>,
    /// Put in by the I/O manager, and what for.
    implicit: Option<Implicit>,
    /// Of an instance of a filter that goes on every stack.
    altitude: Option<Altitude>,
    faulted: AtomicBool,
    bugs: AtomicU64,
}

// SAFETY: the driver, which is `Send` and `Sync`, is shared as `_owned` shares it.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    pub(crate) fn new(driver: Arc<dyn Driver>) -> Device {
        let name: Box<str> = driver.name().into();
        let number = Number::of(&name);
        let (faulted, bugs) = (AtomicBool::new(false), AtomicU64::new(0));
        let (stands_for, implicit, altitude) = (None, None, None);
        let (driver, _owned) = (NonNull::from(&*driver), driver);
        Device { driver, _owned, number, name, stands_for, implicit, altitude, faulted, bugs }
    }

    /// An instance of a filter that goes on every stack.
    pub(crate) fn at(altitude: Altitude, driver: Arc<dyn Driver>) -> Device {
        Device { altitude: Some(altitude), ..Device::new(driver) }
    }

    /// The driver.
    #[inline]
    pub fn driver(&self) -> &dyn Driver {
        // SAFETY: `_owned` keeps it for as long as the device lives, and it does not move.
        unsafe { self.driver.as_ref() }
    }

    /// The driver's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it stands among the filters that go on every stack, if it is one of these
    /// ([`register_filter`](crate::register_filter)).
    pub fn altitude(&self) -> Option<&Altitude> {
        self.altitude.as_ref()
    }

    /// Whether the I/O manager has put it in.
    pub(crate) fn is_implicit(&self) -> bool {
        self.implicit.is_some()
    }

    /// What files know their state for it by. No other device's while this one lives.
    pub(crate) fn key(&self) -> usize {
        std::ptr::from_ref(self).addr()
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
        log(|| tracing::error!(driver = self.name(), "driver bug: {what}"));
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

/// A device that an operation visits; see [`Stack::explain`].
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// The device.
    pub device: &'a Device,
    /// Why it is visited.
    pub why: Why,
}

/// Why an operation visits a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Its driver hooks the operation.
    Hooks,
    /// Its driver transforms data and does not hook the operation, which is refused in its place.
    Refuses,
    /// It is the bottom, which gets what is left.
    Bottom,
    /// The I/O manager has put it in: for the limits of the driver below it, or for what that cannot do.
    Limits,
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
    /// Top first, the bottom last. Routes point to them; the stacks that a file changes to share them.
    devices: Box<[Arc<Device>]>,
    /// In place of transforming filters, for what they do not know. Routes point to them too.
    _stand_ins: Box<[Box<Device>]>,
    routes: [Box<[NonNull<Device>]>; Major::COUNT],
    /// Of each device, and all below it.
    limits: Box<[Limits]>,
    can: Capabilities,
}

// SAFETY: the pointers in `routes` point to devices that are `Send + Sync`, never change and live at
// least as long.
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
    /// A driver cannot work on those below it ([`Driver::may_stand_on`]).
    Refused {
        /// The driver's name.
        driver: String,
        /// That of the one right below it.
        below: String,
        /// What the driver says.
        status: Status,
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
            StackError::Refused { driver, below, status } => {
                write!(f, "the driver '{driver}' cannot work on '{below}': {status}")
            }
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
    /// [`StackError::TooDeep`] and [`StackError::Refused`].
    pub fn new(
        filters: impl IntoIterator<Item = Arc<dyn Driver>>,
        bottom: Arc<dyn Driver>,
    ) -> Result<Arc<Stack>, StackError> {
        let drivers = filters.into_iter().chain([bottom]);
        Stack::of(drivers.map(|driver| Arc::new(Device::new(driver))).collect(), None)
    }

    /// A stack of these devices, of which the last is the bottom. `change`: in place of another one, on
    /// which no request is any more when the event is set.
    pub(crate) fn of(
        devices: Vec<Arc<Device>>,
        change: Option<&Event>,
    ) -> Result<Arc<Stack>, StackError> {
        let Composed { devices, limits, can } = composed(devices, change)?;
        let depth = devices.len();
        if depth > MAX_LOCATIONS {
            return Err(StackError::TooDeep { drivers: depth });
        }
        let stand_in = |(place, device): (usize, &Arc<Device>)| {
            let name = format!("{} (refuses)", device.name());
            let refuses = device.driver().class() == Class::Transform;
            refuses.then(|| {
                let stand_in = Device::new(Arc::new(Refuse(name)));
                Box::new(Device { stands_for: Some(place), ..stand_in })
            })
        };
        let stand_ins: Vec<_> = devices.iter().enumerate().map(stand_in).collect();
        let mut routes = [const { Vec::new() }; Major::COUNT];
        for major in Major::ALL {
            let route = &mut routes[major as usize];
            for (i, device) in devices.iter().enumerate() {
                let hooked = device.driver().hooks().contains(major);
                if hooked || i == depth - 1 {
                    route.push(NonNull::from(&**device));
                } else if let Some(stand_in) = &stand_ins[i]
                    && major.carries_data()
                {
                    route.push(NonNull::from(&**stand_in));
                }
            }
        }
        let stack = Stack {
            devices: devices.into_boxed_slice(),
            _stand_ins: stand_ins.into_iter().flatten().collect(),
            routes: routes.map(Vec::into_boxed_slice),
            limits: limits.into_boxed_slice(),
            can,
        };
        for pair in stack.out_of_order() {
            log(|| tracing::warn!("{pair}"));
        }
        Ok(Arc::new(stack))
    }

    /// Filters that stand in another order than the one their [`Group`]s belong in, next but for such as
    /// are in none. A warning has been given of each.
    pub fn out_of_order(&self) -> Vec<OutOfOrder> {
        let of = |d: &Device| {
            Some((d.name().to_owned(), (!d.is_implicit()).then(|| d.driver().group())??))
        };
        let grouped: Vec<(String, Group)> = self.devices().filter_map(of).collect();
        let wrong = grouped.windows(2).filter(|pair| pair[0].1 > pair[1].1);
        wrong.map(|p| OutOfOrder { upper: p[0].clone(), lower: p[1].clone() }).collect()
    }

    /// What clients' requests had best keep to: the limits of all drivers, which the I/O manager makes
    /// other requests fit, and what all of them can do without its help.
    pub fn limits(&self) -> Limits {
        let own = self.devices().zip(&self.limits).find(|(device, _)| !device.is_implicit());
        *own.expect("a bottom").1
    }

    /// What clients may ask for: what the drivers can do, or the I/O manager in their place.
    ///
    /// A write that is to be durable is refused otherwise, with [`Status::NOT_SUPPORTED`].
    pub fn can(&self) -> Capabilities {
        self.can
    }

    pub(crate) fn shared(&self) -> &[Arc<Device>] {
        &self.devices
    }

    /// The devices, top first, the bottom last.
    pub fn devices(&self) -> impl ExactSizeIterator<Item = &Device> {
        self.devices.iter().map(|d| &**d)
    }

    /// The devices that an operation visits, top first, and why: "who is on the path".
    pub fn explain(&self, major: Major) -> impl Iterator<Item = Visit<'_>> {
        self.visited(major).map(move |device| {
            let why = match device.stands_for {
                Some(_) => Why::Refuses,
                None if std::ptr::eq(device, self.bottom()) => Why::Bottom,
                None if device.is_implicit() => Why::Limits,
                None => Why::Hooks,
            };
            let device = device.stands_for.map_or(device, |place| &*self.devices[place]);
            Visit { device, why }
        })
    }

    fn visited(&self, major: Major) -> impl Iterator<Item = &Device> {
        // SAFETY: routes point to devices of this stack.
        self.routes[major as usize].iter().map(|d| unsafe { d.as_ref() })
    }

    pub(crate) fn bottom(&self) -> &Device {
        self.devices.last().expect("a bottom")
    }

    #[inline]
    pub(crate) fn route(&self, major: Major) -> &[NonNull<Device>] {
        // Every discriminant is below COUNT, so this check folds away.
        &self.routes[major as usize]
    }

    /// Where the operation goes on below a device of this stack: an index into its route. The bottom
    /// is below all, itself too.
    pub(crate) fn level_below(&self, device: &Device, major: Major) -> u8 {
        let place = |of: &Device| match of.stands_for {
            Some(place) => place,
            None => self.devices().position(|d| std::ptr::eq(d, of)).expect("of this stack"),
        };
        let from = place(device);
        let level = self.visited(major).position(|d| place(d) > from);
        level.unwrap_or(self.route(major).len() - 1) as u8
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
