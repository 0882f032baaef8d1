//! Filters that go on every stack: a program registers one with an [`Altitude`], and file objects that
//! are made from then on get an instance of it.
//!
//! Files without registered filters, in programs that have none, pay for one look at [`REGISTERED`]. A
//! file that has got some is in the list of each, to be found when these are to be taken off again.
//!
//! **Invariant.** A file in a list is not freed: its memory goes after it has left all lists
//! (`file::rundown`). It may be closing: who finds it asks its count for a handle (`file::count`).

use std::collections::HashMap;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::altitude::Altitude;
use crate::driver::Driver;
use crate::file::{Attachment, Change, ChangeError, FileHandle, FileObject};
use crate::panics::{caught, log};
use crate::stack::{Device, Stack, StackError};
use crate::status::Status;

/// How many there are.
static REGISTERED: AtomicUsize = AtomicUsize::new(0);
/// They, the highest first.
static ALL: Mutex<Vec<Arc<Registered>>> = Mutex::new(Vec::new());

fn all() -> MutexGuard<'static, Vec<Arc<Registered>>> {
    // Nobody's code runs while it is locked.
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

type Setup = dyn Fn(&Opening<'_>) -> Option<Arc<dyn Driver>> + Send + Sync;

/// A filter for every stack.
struct Registered {
    name: Box<str>,
    altitude: Altitude,
    setup: Box<Setup>,
    instances: Arc<Instances>,
}

/// The files that have got an instance of a filter.
#[derive(Default)]
pub(crate) struct Instances(Mutex<Files>);

#[derive(Default)]
struct Files {
    /// What is entered from now on is to lose it at once.
    over: bool,
    list: HashMap<u64, (Listed, Weak<Device>)>,
}

/// A file in a list.
struct Listed(NonNull<FileObject>);
// SAFETY: an address; who uses it keeps to the module's invariant.
unsafe impl Send for Listed {}

impl Instances {
    fn files(&self) -> MutexGuard<'_, Files> {
        // As in `all`.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file is going: whoever looks for it does not find it from now on.
    pub(crate) fn forget(&self, file: &FileObject) {
        self.files().list.remove(&file.id());
    }
}

/// A file object that is being made; what a registered filter decides by.
pub struct Opening<'a> {
    name: &'a str,
    stack: &'a Stack,
}

impl Opening<'_> {
    /// What is being opened: a path, an address; may be empty.
    pub fn name(&self) -> &str {
        self.name
    }

    /// The name of the driver at the bottom: `file` for files, directories and operations on paths,
    /// `stream` and `datagram` for sockets, `listener` for listening ones (what they accept are streams),
    /// `pipe` for pipes and terminals; or the name of a bottom of somebody's own.
    pub fn bottom(&self) -> &str {
        self.stack.bottom().name()
    }

    /// The stack that the program has put together.
    pub fn stack(&self) -> &Stack {
        self.stack
    }
}

impl fmt::Debug for Opening<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("name", &self.name).field("stack", &self.stack).finish()
    }
}

/// Puts a filter on everything that this process opens from now on: files, sockets, those that are
/// accepted too, pipes. `setup` is asked for each file object that is made, on the thread that makes it,
/// and gives the filter, the same one or one of its own, or `None` for what it is not to be on. (Files
/// that filters open for themselves are files too: a filter that does so must tell its own apart.)
///
/// Registered filters stand by their altitudes, the highest on top. Those at [`Altitude::GIVEN`] or above
/// stand above all filters that the program has put into the stack by itself, when it was opened; the
/// others stand below these, right above the bottom. What is [attached](FileObject::attach) later goes to
/// the place that is asked for.
///
/// A `setup` that panics makes opening fail with [`Status::DRIVER_INTERNAL_ERROR`], a stack that is too deep
/// with all its filters with [`Status::INVALID_PARAMETER`], and one that a filter cannot be in
/// ([`Driver::may_stand_on`]) with what that says; the log says more.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_iomgr::{Driver, register_filter}; } }
/// use overlapped::driver::{Driver, register_filter};
/// use std::sync::Arc;
/// # struct Tracer;
/// # impl Driver for Tracer {
/// #     fn name(&self) -> &str { "tracer" }
/// #     fn hooks(&self) -> overlapped_iomgr::MajorSet { overlapped_iomgr::MajorSet::ALL }
/// #     fn dispatch(&self, irp: overlapped_iomgr::Irp<'_>, lower: overlapped_iomgr::Lower<'_>)
/// #         -> overlapped_iomgr::Disposition { lower.skip(irp) }
/// # }
///
/// let tracer: Arc<dyn Driver> = Arc::new(Tracer);
/// let registration = register_filter("tracer", "385100.5".parse()?, move |opening| {
///     (opening.bottom() == "file").then(|| tracer.clone())
/// })?;
/// let taken = register_filter("other", "385100.50".parse()?, |_| None).unwrap_err();
/// assert_eq!(taken.name, "tracer");
/// // No file that is opened from here on gets one.
/// drop(registration);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// [`AltitudeTaken`]: there is one at this altitude.
pub fn register_filter(
    name: &str,
    altitude: Altitude,
    setup: impl Fn(&Opening<'_>) -> Option<Arc<dyn Driver>> + Send + Sync + 'static,
) -> Result<Registration, AltitudeTaken> {
    let (setup, instances) = (Box::new(setup), Arc::default());
    let new = Arc::new(Registered { name: name.into(), altitude, setup, instances });
    let mut all = all();
    match all.binary_search_by(|other| new.altitude.cmp(&other.altitude)) {
        Ok(at) => {
            let name = all[at].name.to_string();
            // It has code of others in it.
            drop(all);
            Err(AltitudeTaken { altitude: new.altitude.clone(), name })
        }
        Err(at) => {
            all.insert(at, new.clone());
            REGISTERED.store(all.len(), Ordering::Release);
            Ok(Registration(new))
        }
    }
}

/// There is a filter at this altitude. Another number will do: there is one between any two.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AltitudeTaken {
    /// The altitude.
    pub altitude: Altitude,
    /// The name of the filter that has it.
    pub name: String,
}

impl fmt::Display for AltitudeTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AltitudeTaken { altitude, name } = self;
        write!(
            f,
            "the filter '{name}' is at the altitude {altitude}: choose another, as {altitude}"
        )?;
        f.write_str(if altitude.to_string().contains('.') { "5" } else { ".5" })
    }
}

impl std::error::Error for AltitudeTaken {}

impl From<AltitudeTaken> for std::io::Error {
    fn from(error: AltitudeTaken) -> Self {
        std::io::Error::new(std::io::ErrorKind::AlreadyExists, error)
    }
}

/// That a filter goes on every stack; see [`register_filter`]. Dropped, what is opened from then on does
/// not get it; what is open keeps it.
#[must_use = "when it is dropped, the filter goes on no more stacks"]
pub struct Registration(Arc<Registered>);

impl Registration {
    /// Has no more files get the filter, and takes it off those that have it, as
    /// [`FileObject::detach`] does: an entry for each file that is in use. Of those that refuse to be rid
    /// of it, the next call tries again.
    ///
    /// Errors in the list are [`ChangeError::Refused`].
    pub fn detach(&self) -> Vec<Result<Change, ChangeError>> {
        self.end();
        let found: Vec<(Option<FileHandle>, Option<Arc<Device>>)> = {
            let mut files = self.0.instances.files();
            files.over = true;
            let found = files.list.values().map(|(file, device)| {
                // SAFETY: it is in the list, which is locked (the module's invariant).
                let file = unsafe { FileHandle::of_listed(file.0) };
                (file, device.upgrade())
            });
            found.collect()
        };
        // What is dropped here may be the last of its kind: without the lock.
        let open = found.into_iter().filter_map(|(file, device)| file.zip(device));
        let changes = open.map(|(file, device)| file.take_off(&Attachment::of(device)));
        // Somebody else has taken it off.
        let is_done = |change: &Result<Change, ChangeError>| {
            matches!(change, Err(ChangeError::NotAttached { .. } | ChangeError::Closed))
        };
        changes.filter(|change| !is_done(change)).collect()
    }

    /// No more of them.
    fn end(&self) {
        let mut all = all();
        let Some(at) = all.iter().position(|other| Arc::ptr_eq(other, &self.0)) else { return };
        all.remove(at);
        REGISTERED.store(all.len(), Ordering::Release);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("name", &self.0.name)
            .field("altitude", &self.0.altitude)
            .finish_non_exhaustive()
    }
}

/// What a new file has got.
pub(crate) struct Instance {
    of: Arc<Registered>,
    device: Arc<Device>,
}

/// The stack that a new file of this name and stack gets, and what is new in it.
#[inline]
pub(crate) fn set_up(stack: Arc<Stack>, name: &str) -> Result<(Arc<Stack>, Vec<Instance>), Status> {
    if REGISTERED.load(Ordering::Acquire) == 0 {
        return Ok((stack, Vec::new()));
    }
    ask_all(stack, name)
}

#[cold]
fn ask_all(stack: Arc<Stack>, name: &str) -> Result<(Arc<Stack>, Vec<Instance>), Status> {
    let registered = all().clone();
    let opening = Opening { name, stack: &stack };
    let mut instances = Vec::new();
    for of in registered {
        let Some(filter) = caught(|| (of.setup)(&opening)) else {
            let filter = &*of.name;
            log(|| tracing::error!(filter, file = name, "the setup of a filter panicked"));
            return Err(Status::DRIVER_INTERNAL_ERROR);
        };
        if let Some(filter) = filter {
            let device = Arc::new(Device::at(of.altitude.clone(), filter));
            instances.push(Instance { of, device });
        }
    }
    if instances.is_empty() {
        return Ok((stack, instances));
    }
    let given = Altitude::from(Altitude::GIVEN);
    let below = instances.partition_point(|instance| instance.of.altitude >= given);
    let devices = |instances: &[Instance]| {
        instances.iter().map(|instance| instance.device.clone()).collect::<Vec<_>>()
    };
    let (bottom, filters) = stack.shared().split_last().expect("a bottom");
    // Of a stack that is another file's, the instances are that file's.
    let filters = filters.iter().filter(|device| device.altitude().is_none()).cloned();
    let all = devices(&instances[..below]).into_iter().chain(filters);
    let all = all.chain(devices(&instances[below..])).chain([bottom.clone()]);
    match Stack::of(all.collect(), None) {
        Ok(stack) => Ok((stack, instances)),
        Err(error) => {
            log(|| tracing::error!(file = name, %error, "with filters that go on every stack"));
            match error {
                StackError::Refused { status, .. } => Err(status),
                _ => Err(Status::INVALID_PARAMETER),
            }
        }
    }
}

/// Enters a new file into the lists of what it has got.
#[cold]
pub(crate) fn list(file: &FileHandle, instances: Vec<Instance>) {
    for Instance { of, device } in instances {
        let over = {
            let mut files = of.instances.files();
            files.list.insert(file.id(), (Listed(file.address()), Arc::downgrade(&device)));
            files.over
        };
        if over {
            // Those that are to lose it have been looked for already. If it refuses, the next call finds it.
            _ = file.take_off(&Attachment::of(device));
        }
    }
}

/// The lists that a file with these is going to be in.
pub(crate) fn lists(instances: &[Instance]) -> Box<[Arc<Instances>]> {
    instances.iter().map(|instance| instance.of.instances.clone()).collect()
}
