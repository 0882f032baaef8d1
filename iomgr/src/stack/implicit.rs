//! What the I/O manager puts into a stack beside the drivers that it is given: what keeps requests within
//! their limits, and what does in their place what they cannot.
//!
//! ```text
//!   settling   on top, for a while: what writes parts of blocks has changed
//!   …
//!   emulate    of the driver below: what it takes away of what is below it
//!   align      of the driver below: its limits
//!   driver
//! ```
//!
//! What is right already stays in a changed stack, with the ranges that it knows to be written.

use std::sync::Arc;

use super::{Device, StackError};
use crate::driver::{Class, Driver};
use crate::filter::{Align, Emulate, Settling};
use crate::limits::{Capabilities, Limits};
use crate::major::Major;
use crate::wait::Event;

/// What a device has been put in for.
pub(super) enum Implicit {
    /// The limits of the device with this key.
    Aligns(Limits, usize),
    /// What the device below takes away.
    Emulates,
    /// The end of the requests on the stacks before: until the event is set.
    Settles(Event),
}

/// Devices with what has been put in, and what they make together: see `Stack`.
pub(super) struct Composed {
    pub devices: Vec<Arc<Device>>,
    pub limits: Vec<Limits>,
    pub can: Capabilities,
}

/// What the I/O manager does where a driver does not, if all below it do.
const EMULATED: Capabilities = Capabilities::ZERO.with(Capabilities::WRITE_THROUGH);

/// What a filter cannot pass on that refuses operations of its kind.
const OF_RANGES: Capabilities = Capabilities::ZERO.with(Capabilities::DISCARD);

/// Puts in what is needed, in place of what was there for that. See `Stack::of`.
pub(super) fn composed(
    devices: Vec<Arc<Device>>,
    change: Option<&Event>,
) -> Result<Composed, StackError> {
    let before: Vec<_> = devices.iter().filter(|device| device.is_implicit()).cloned().collect();
    let own: Vec<_> = devices.iter().filter(|d| !d.is_implicit()).map(|d| d.key()).collect();
    // What the driver above finds: requests of any kind are made to fit. What they are made to fit.
    let (mut below, mut limits) = (Limits::NONE, Limits::NONE);
    let mut placed: Vec<Arc<Device>> = Vec::new();
    let mut of_each = Vec::new();
    // Whether parts of blocks are written otherwise than before.
    let mut differs = before.iter().any(|device| match device.implicit {
        Some(Implicit::Aligns(was, of)) => was.block > 1 && !own.contains(&of),
        _ => false,
    });
    for device in devices.into_iter().rev() {
        if device.is_implicit() {
            continue;
        }
        let (driver, key) = (device.driver(), device.key());
        if let Err(status) = driver.may_stand_on(below) {
            let below = placed.last().map_or_else(String::new, |d| d.name().to_owned());
            return Err(StackError::Refused { driver: device.name().to_owned(), below, status });
        }
        // It refuses what it does not know.
        let refuses = match driver.class() {
            Class::Transform if !driver.hooks().contains(Major::FileSystemControl) => OF_RANGES,
            _ => Capabilities::NONE,
        };
        let mut its = driver.limits(below);
        its.can = its.can.without(refuses);
        limits = driver.limits(limits);
        limits.can = limits.can.without(refuses);
        let aligns = its.forbids_something_beside(&below);
        let Limits { block, most, one_piece, .. } = its;
        let keeps = Limits { block, most, one_piece, ..Limits::NONE };
        let lacks = below.can.without(its.can).common(EMULATED);
        placed.push(device);
        let old = before.iter().find_map(|device| match device.implicit {
            Some(Implicit::Aligns(limits, of)) if of == key => Some((limits, device.clone())),
            _ => None,
        });
        match old {
            Some((was, old)) if aligns && was == keeps => placed.push(old),
            old => {
                differs |= old.is_some_and(|(was, _)| was.block > 1) || aligns && block > 1;
                if aligns {
                    placed.push(put_in(Align::driver(keeps), Implicit::Aligns(keeps, key)));
                }
            }
        }
        of_each.resize(placed.len(), limits);
        if lacks != Capabilities::NONE {
            of_each.push(Limits { can: limits.can.with(lacks), ..limits });
            // It knows nothing that another one would not.
            placed.push(put_in(Emulate::driver(lacks), Implicit::Emulates));
        }
        below = match aligns {
            true => Limits { preferred: its.preferred, messages: its.messages, ..Limits::NONE },
            false => its,
        };
        below.can = its.can.with(lacks);
    }
    let unsettled = before.into_iter().find(
        |device| matches!(&device.implicit, Some(Implicit::Settles(event)) if !event.is_set()),
    );
    // The end of this change is that of those before, too.
    let settling = match change.filter(|_| differs) {
        Some(event) => {
            Some(put_in(Settling::driver(event.clone()), Implicit::Settles(event.clone())))
        }
        None => unsettled,
    };
    placed.extend(settling);
    of_each.resize(placed.len(), Limits { can: below.can, ..limits });
    placed.reverse();
    of_each.reverse();
    Ok(Composed { devices: placed, limits: of_each, can: below.can })
}

fn put_in(driver: Arc<dyn Driver>, implicit: Implicit) -> Arc<Device> {
    Arc::new(Device { implicit: Some(implicit), ..Device::new(driver) })
}
