//! [`Payload`]: an owned value of any type, kept inline when it is small.
//!
//! The IRP owns its request's buffer without knowing the type. Every buffer handle of this crate is
//! at most six words (a `Slice<Vec<u8>>` is five), so none is boxed, and issuing allocates nothing.
//!
//! **Invariant.** `vtable` is `Some` iff the storage holds a value, and then it is the table of that
//! value's type: the value itself where [`fits`] says so, else the pointer of its box. The functions
//! that read the storage as a `T` compare the type first ([`Payload::holds`]).

use std::any::{TypeId, type_name};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;

/// The bytes of a value or of a pointer. Bytes, not words: copying them keeps a pointer's
/// provenance, which integers would lose.
#[repr(C, align(8))]
struct Storage<const WORDS: usize>([MaybeUninit<[u8; 8]>; WORDS]);

const fn fits<T, const WORDS: usize>() -> bool {
    size_of::<T>() <= 8 * WORDS && align_of::<T>() <= align_of::<Storage<WORDS>>()
}

/// What an erased value needs: one table per type, in static memory.
struct VTable {
    /// A function, since `TypeId::of` is not const in the oldest compiler supported.
    type_id: fn() -> TypeId,
    name: fn() -> &'static str,
    /// Drops the value that the storage holds; `None` where that does nothing.
    drop: Option<unsafe fn(*mut u8)>,
}

struct TableOf<T, const WORDS: usize>(PhantomData<T>);

impl<T: 'static, const WORDS: usize> TableOf<T, WORDS> {
    const TABLE: &'static VTable = &VTable {
        type_id: TypeId::of::<T>,
        name: type_name::<T>,
        drop: if !fits::<T, WORDS>() {
            Some(drop_boxed::<T>)
        } else if std::mem::needs_drop::<T>() {
            Some(drop_inline::<T>)
        } else {
            None
        },
    };
}

/// # Safety
/// The storage holds a `T` inline, which nobody uses afterwards.
unsafe fn drop_inline<T>(storage: *mut u8) {
    // SAFETY: the caller's promise; the storage is aligned for what fits it.
    unsafe { storage.cast::<T>().drop_in_place() }
}

/// # Safety
/// The storage holds the pointer of a `Box<T>`, which nobody uses afterwards.
unsafe fn drop_boxed<T>(storage: *mut u8) {
    // SAFETY: the caller's promise; `Payload::new` made the pointer with `Box::into_raw`.
    drop(unsafe { Box::from_raw(storage.cast::<*mut T>().read()) });
}

/// A value of any type, or nothing: up to `WORDS` words (of 8 bytes) inline, larger or more aligned
/// in a box. Checked by type when taken out.
///
/// ```
/// use overlapped_iomgr::buf::Payload;
/// let mut payload: Payload = Payload::new(vec![1, 2, 3]);
/// assert!(payload.get_ref::<String>().is_none());
/// payload.get_mut::<Vec<i32>>().unwrap().push(4);
/// assert_eq!(payload.take::<Vec<i32>>().unwrap(), [1, 2, 3, 4]);
/// assert!(payload.is_empty());
/// ```
///
/// It is `Send`, for every value in it is; not `Sync`, for a value need not be:
///
/// ```compile_fail
/// fn sync<T: Sync>() {}
/// sync::<overlapped_iomgr::buf::Payload>();
/// ```
pub struct Payload<const WORDS: usize = 6> {
    storage: Storage<WORDS>,
    vtable: Option<&'static VTable>,
    /// Takes `Sync` away. `Send` comes by itself and is sound by the bound of [`Payload::new`].
    not_sync: PhantomData<Cell<()>>,
}

const _: () = assert!(size_of::<Payload>() == 56);

impl<const WORDS: usize> Payload<WORDS> {
    /// Holds nothing.
    ///
    /// ```
    /// use overlapped_iomgr::buf::Payload;
    /// assert!(Payload::<6>::empty().is_empty());
    /// ```
    pub const fn empty() -> Self {
        const { assert!(WORDS > 0, "a boxed value's pointer needs a word") };
        let storage = Storage([MaybeUninit::uninit(); WORDS]);
        Payload { storage, vtable: None, not_sync: PhantomData }
    }

    /// Holds `value`. Allocates only if it is larger than `WORDS` words or more aligned than one.
    ///
    /// ```
    /// use overlapped_iomgr::buf::Payload;
    /// assert_eq!(Payload::<6>::new([7u64; 100]).get_ref::<[u64; 100]>().unwrap()[99], 7);
    /// ```
    #[inline]
    pub fn new<T: Send + 'static>(value: T) -> Self {
        let mut payload = Self::empty();
        let storage = &raw mut payload.storage;
        if fits::<T, WORDS>() {
            // SAFETY: size and alignment fit, as just asked.
            unsafe { storage.cast::<T>().write(value) };
        } else {
            // SAFETY: a thin pointer fits.
            unsafe { storage.cast::<*mut T>().write(Box::into_raw(Box::new(value))) };
        }
        payload.vtable = Some(TableOf::<T, WORDS>::TABLE);
        payload
    }

    /// Whether it holds nothing.
    ///
    /// ```
    /// use overlapped_iomgr::buf::Payload;
    /// assert!(!Payload::<6>::new(()).is_empty());
    /// ```
    pub const fn is_empty(&self) -> bool {
        self.vtable.is_none()
    }

    /// Takes the value out, if it is a `T`; otherwise `None`, and the value stays.
    ///
    /// ```
    /// use overlapped_iomgr::buf::Payload;
    /// let mut payload = Payload::<6>::new("text");
    /// assert_eq!(payload.take::<u32>(), None);
    /// assert_eq!(payload.take::<&str>(), Some("text"));
    /// assert_eq!(payload.take::<&str>(), None);
    /// ```
    #[inline]
    pub fn take<T: 'static>(&mut self) -> Option<T> {
        if !self.holds::<T>() {
            return None;
        }
        self.vtable = None;
        let storage = &raw const self.storage;
        Some(if fits::<T, WORDS>() {
            // SAFETY: it held a `T`, inline (invariant); the storage counts as empty now, so the
            // value has one owner.
            unsafe { storage.cast::<T>().read() }
        } else {
            // SAFETY: as above, in a box.
            unsafe { *Box::from_raw(storage.cast::<*mut T>().read()) }
        })
    }

    /// The value, if it is a `T`.
    ///
    /// ```
    /// use overlapped_iomgr::buf::Payload;
    /// assert_eq!(Payload::<6>::new(5u8).get_ref::<u8>(), Some(&5));
    /// ```
    #[inline]
    pub fn get_ref<T: 'static>(&self) -> Option<&T> {
        let storage = &raw const self.storage;
        self.holds::<T>().then(|| {
            if fits::<T, WORDS>() {
                // SAFETY: it holds a `T`, inline (invariant), and is borrowed as long as this is.
                unsafe { &*storage.cast::<T>() }
            } else {
                // SAFETY: as above, in a box.
                unsafe { &*storage.cast::<*const T>().read() }
            }
        })
    }

    /// The value, if it is a `T`, for changing.
    ///
    /// ```
    /// use overlapped_iomgr::buf::Payload;
    /// let mut payload = Payload::<6>::new(5u8);
    /// *payload.get_mut::<u8>().unwrap() += 1;
    /// assert_eq!(payload.take::<u8>(), Some(6));
    /// ```
    #[inline]
    pub fn get_mut<T: 'static>(&mut self) -> Option<&mut T> {
        let storage = &raw mut self.storage;
        self.holds::<T>().then(|| {
            if fits::<T, WORDS>() {
                // SAFETY: it holds a `T`, inline (invariant), and is borrowed as long as this is.
                unsafe { &mut *storage.cast::<T>() }
            } else {
                // SAFETY: as above, in a box.
                unsafe { &mut *storage.cast::<*mut T>().read() }
            }
        })
    }

    /// Drops what it holds, in place: it counts as empty before.
    #[inline]
    pub(crate) fn clear(&mut self) {
        if let Some(drop) = self.vtable.take().and_then(|vtable| vtable.drop) {
            // SAFETY: the table is that of the value held (invariant), which nobody finds any more.
            unsafe { drop((&raw mut self.storage).cast()) };
        }
    }

    #[inline]
    fn holds<T: 'static>(&self) -> bool {
        // The same table implies the same type, for a table names its type's id; the reverse does
        // not hold (a table may exist once per codegen unit), hence the second question.
        self.vtable.is_some_and(|vtable| {
            ptr::eq(vtable, TableOf::<T, WORDS>::TABLE) || (vtable.type_id)() == TypeId::of::<T>()
        })
    }
}

impl<const WORDS: usize> Default for Payload<WORDS> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<const WORDS: usize> Drop for Payload<WORDS> {
    #[inline]
    fn drop(&mut self) {
        self.clear();
    }
}

/// Shows the type, never the value: it may be a secret.
impl<const WORDS: usize> fmt::Debug for Payload<WORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({})", self.vtable.map_or("empty", |vtable| (vtable.name)()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// Runs a value through all of the payload's functions, with a count of its drops.
    fn exercise<T: Send + PartialEq + fmt::Debug + Clone + 'static>(value: T, inline: bool) {
        type Counted<T> = (T, Arc<()>);
        assert_eq!(fits::<Counted<T>, 6>(), inline);
        let alive = Arc::new(());
        let counted = || (value.clone(), alive.clone());
        let count = || Arc::strong_count(&alive) - 1;

        drop(Payload::<6>::new(counted()));
        assert_eq!(count(), 0, "dropped with the payload");

        let mut payload = Payload::<6>::new(counted());
        assert_eq!(payload.take::<T>(), None);
        assert_eq!(payload.get_ref::<T>(), None);
        assert_eq!(payload.get_mut::<T>(), None);
        assert_eq!(payload.get_ref::<Counted<T>>().unwrap().0, value);
        assert_eq!(payload.get_mut::<Counted<T>>().unwrap().0, value);
        let mut moved = Box::new(payload);
        assert_eq!(count(), 1);
        let taken = moved.take::<Counted<T>>().unwrap();
        assert_eq!(taken.0, value);
        assert!(moved.is_empty() && moved.take::<Counted<T>>().is_none());
        drop(moved);
        assert_eq!(count(), 1, "not dropped a second time");
        drop(taken);

        let mut payload = Payload::<6>::new(Payload::<6>::new(counted()));
        assert_eq!((count(), payload.is_empty()), (1, false), "nested");
        payload = Payload::empty();
        assert_eq!((count(), payload.is_empty()), (0, true), "overwritten");
    }

    #[derive(Clone, Copy, PartialEq, Debug)]
    #[repr(align(64))]
    struct Aligned(u8);

    #[test]
    fn keeps_values_of_every_shape() {
        exercise((), true);
        exercise(1u8, true);
        exercise([2u64; 5], true);
        exercise([3u64; 6], false);
        exercise([4u64; 1000], false);
        exercise(Aligned(5), false);
        exercise(6u128, align_of::<u128>() <= 8);
        exercise(String::from("text"), true);
    }

    #[test]
    fn plain_values_and_zero_sizes() {
        let mut payload = Payload::<6>::new(());
        assert!(!payload.is_empty());
        assert_eq!(payload.take(), Some(()));
        assert_eq!(payload.take::<()>(), None);
        let mut payload = Payload::<6>::new([1u64; 6]);
        assert_eq!(payload.take(), Some([1u64; 6]));
        let mut payload = Payload::<6>::new(Aligned(9));
        let aligned = payload.get_mut::<Aligned>().unwrap();
        assert!((&raw const *aligned).addr().is_multiple_of(64));
        assert_eq!(*aligned, Aligned(9));
    }

    #[test]
    fn tells_types_of_one_shape_apart() {
        #[derive(Debug, PartialEq)]
        struct One(u64);
        #[derive(Debug, PartialEq)]
        struct Two(u64);
        let mut payload = Payload::<6>::new(One(1));
        assert_eq!(payload.take::<Two>(), None);
        assert_eq!(payload.take::<One>(), Some(One(1)));
    }

    #[test]
    fn buffer_handles_stay_inline() {
        assert!(fits::<crate::buf::Slice<Vec<u8>>, 6>() && fits::<crate::buf::Lease, 6>());
        assert!(fits::<crate::buf::Slice<bytes::BytesMut>, 6>());
    }

    #[test]
    fn crosses_threads() {
        let mut payload = Payload::<6>::new(vec![1, 2]);
        let back = std::thread::spawn(move || payload.take::<Vec<i32>>()).join().unwrap();
        assert_eq!(back.unwrap(), [1, 2]);
    }

    #[test]
    fn shows_the_type_only() {
        assert_eq!(format!("{:?}", Payload::<6>::new(vec![b'x'])), "Payload(alloc::vec::Vec<u8>)");
        assert_eq!(format!("{:?}", Payload::<6>::default()), "Payload(empty)");
    }
}
