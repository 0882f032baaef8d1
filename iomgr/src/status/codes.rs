//! The statuses that have names.

use std::io::ErrorKind;

use super::Status;

/// One table for constant, name and kind, so that they cannot drift apart.
macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $bits:literal => $kind:ident;)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Status = Status($bits);)*

            /// NT's name without `STATUS_`, if the status is one of the constants here.
            ///
            /// ```
            /// # use overlapped_iomgr as overlapped;
            /// use overlapped::Status;
            /// assert_eq!(Status::PENDING.name(), Some("PENDING"));
            /// assert_eq!(Status::from_errno(1).name(), None);
            /// ```
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($bits => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            pub(super) fn named_kind(self) -> ErrorKind {
                match self.0 {
                    $($bits => ErrorKind::$kind,)*
                    _ => ErrorKind::Other,
                }
            }

            #[cfg(test)]
            pub(super) const NAMED: &[Status] = &[$(Status::$name),*];
        }
    };
}

statuses! {
    /// Waiting here would stop what is waited for: on a worker, or inside a completion routine.
    WOULD_DEADLOCK = 0xE00F_0002 => Deadlock;
    /// Offset and length reach past the largest offset a file can have.
    OFFSET_OVERFLOW = 0xE00F_0003 => InvalidInput;
    /// Direct I/O whose offset, length or memory is not aligned as the file system demands.
    UNALIGNED = 0xE00F_0004 => InvalidInput;
    /// The bytes a receive is to get are above it: kept from one that nobody waited for. The drivers
    /// between see this as an error; the requester gets the bytes.
    DATA_ABOVE = 0xE00F_0005 => Other;
    /// The peer ended the stream without saying that it would (TLS: without close_notify, or in the
    /// middle of the handshake): perhaps somebody else cut it off.
    TLS_TRUNCATED = 0xE00F_0020 => UnexpectedEof;
    /// What the peer sent is not TLS, or breaks its rules.
    TLS_PROTOCOL_ERROR = 0xE00F_0021 => InvalidData;
    /// The peer gave the connection up, and said so by an alert.
    TLS_ALERT = 0xE00F_0022 => ConnectionAborted;
    /// The peer has no version, cipher suite or application protocol in common with this side.
    TLS_INCOMPATIBLE = 0xE00F_0023 => Unsupported;
    /// The peer's certificate is not valid any more, or not yet.
    CERTIFICATE_EXPIRED = 0xE00F_0024 => PermissionDenied;
    /// Nobody who is trusted here has issued the peer's certificate.
    CERTIFICATE_UNTRUSTED = 0xE00F_0025 => PermissionDenied;
    /// The peer's certificate is somebody else's.
    CERTIFICATE_WRONG_NAME = 0xE00F_0026 => PermissionDenied;
    /// The peer's certificate is malformed, revoked, wrongly signed, or for another use.
    CERTIFICATE_INVALID = 0xE00F_0027 => PermissionDenied;
    /// The peer has shown no certificate, and must.
    CERTIFICATE_MISSING = 0xE00F_0028 => PermissionDenied;
    /// A path or name with a NUL byte, which the system would take for its end.
    NUL_IN_NAME = 0xE00F_0010 => InvalidInput;
    /// Done.
    SUCCESS = 0x0000_0000 => Other;
    /// A wait ended because an owner died with the object held.
    ABANDONED_WAIT_0 = 0x0000_0080 => Other;
    /// A wait ended because user APCs ran.
    USER_APC = 0x0000_00C0 => Other;
    /// A wait ended because the thread was alerted.
    ALERTED = 0x0000_0101 => Other;
    /// A wait ended because its time was up. A success; a request that ran out of time fails with
    /// [`Status::IO_TIMEOUT`].
    TIMEOUT = 0x0000_0102 => TimedOut;
    /// Under way: the result comes later. Never a final status (I-22).
    PENDING = 0x0000_0103 => WouldBlock;
    /// The name leads elsewhere: open again with the new name.
    REPARSE = 0x0000_0104 => Other;
    /// More results than fitted; ask again.
    MORE_ENTRIES = 0x0000_0105 => Other;
    /// A directory watch ended because its handle was closed.
    NOTIFY_CLEANUP = 0x0000_010B => Other;
    /// A directory watch lost events: read the directory again.
    NOTIFY_ENUM_DIR = 0x0000_010C => Other;
    /// The object was there already, and was opened.
    OBJECT_NAME_EXISTS = 0x4000_0000 => AlreadyExists;
    /// The buffer does not have the alignment asked for.
    DATATYPE_MISALIGNMENT = 0x8000_0002 => InvalidInput;
    /// The data was longer than the buffer; what fitted is valid (B-10).
    BUFFER_OVERFLOW = 0x8000_0005 => Other;
    /// The directory has no further entry.
    NO_MORE_FILES = 0x8000_0006 => Other;
    /// Only a part could be copied.
    PARTIAL_COPY = 0x8000_000D => Other;
    /// The device is in use.
    DEVICE_BUSY = 0x8000_0011 => ResourceBusy;
    /// The medium may have changed (I-29).
    VERIFY_REQUIRED = 0x8000_0016 => Other;
    /// The enumeration has no further entry.
    NO_MORE_ENTRIES = 0x8000_001A => Other;
    /// Failed, and there is no better status.
    UNSUCCESSFUL = 0xC000_0001 => Other;
    /// The operation exists but nobody wrote it.
    NOT_IMPLEMENTED = 0xC000_0002 => Unsupported;
    /// No such information class.
    INVALID_INFO_CLASS = 0xC000_0003 => InvalidInput;
    /// The length does not fit the information class.
    INFO_LENGTH_MISMATCH = 0xC000_0004 => InvalidInput;
    /// Memory that the caller may not use so.
    ACCESS_VIOLATION = 0xC000_0005 => InvalidInput;
    /// No such handle, or a handle of another kind.
    INVALID_HANDLE = 0xC000_0008 => InvalidInput;
    /// An argument is wrong.
    INVALID_PARAMETER = 0xC000_000D => InvalidInput;
    /// The device does not exist.
    NO_SUCH_DEVICE = 0xC000_000E => NotFound;
    /// The file does not exist.
    NO_SUCH_FILE = 0xC000_000F => NotFound;
    /// The device does not do this operation, or not in its present state.
    INVALID_DEVICE_REQUEST = 0xC000_0010 => Unsupported;
    /// A read at or past the end.
    END_OF_FILE = 0xC000_0011 => UnexpectedEof;
    /// A completion routine has taken the request back. Never a final status.
    MORE_PROCESSING_REQUIRED = 0xC000_0016 => Other;
    /// No memory.
    NO_MEMORY = 0xC000_0017 => OutOfMemory;
    /// Not permitted.
    ACCESS_DENIED = 0xC000_0022 => PermissionDenied;
    /// The buffer cannot hold the smallest result; nothing was written.
    BUFFER_TOO_SMALL = 0xC000_0023 => InvalidInput;
    /// The handle names an object of another type.
    OBJECT_TYPE_MISMATCH = 0xC000_0024 => InvalidInput;
    /// The name is malformed.
    OBJECT_NAME_INVALID = 0xC000_0033 => InvalidFilename;
    /// The name does not exist.
    OBJECT_NAME_NOT_FOUND = 0xC000_0034 => NotFound;
    /// The name exists already.
    OBJECT_NAME_COLLISION = 0xC000_0035 => AlreadyExists;
    /// A folder on the path does not exist.
    OBJECT_PATH_NOT_FOUND = 0xC000_003A => NotFound;
    /// The data is damaged.
    DATA_ERROR = 0xC000_003E => InvalidData;
    /// The checksum is wrong.
    CRC_ERROR = 0xC000_003F => InvalidData;
    /// Somebody has the file open in a way that forbids this.
    SHARING_VIOLATION = 0xC000_0043 => ResourceBusy;
    /// The opener's quota is used up (B-6).
    QUOTA_EXCEEDED = 0xC000_0044 => QuotaExceeded;
    /// Somebody holds a lock on the range.
    FILE_LOCK_CONFLICT = 0xC000_0054 => ResourceBusy;
    /// The file or device is being deleted.
    DELETE_PENDING = 0xC000_0056 => PermissionDenied;
    /// The caller lacks a privilege.
    PRIVILEGE_NOT_HELD = 0xC000_0061 => PermissionDenied;
    /// The password or key is not the right one.
    WRONG_PASSWORD = 0xC000_006A => PermissionDenied;
    /// The medium is full.
    DISK_FULL = 0xC000_007F => StorageFull;
    /// The file on the other side is not the one that was opened any more.
    FILE_INVALID = 0xC000_0098 => StaleNetworkFileHandle;
    /// No memory, descriptors or slots.
    INSUFFICIENT_RESOURCES = 0xC000_009A => OutOfMemory;
    /// The medium is read-only.
    MEDIA_WRITE_PROTECTED = 0xC000_00A2 => ReadOnlyFilesystem;
    /// The device cannot take the request now; as in Winsock, "would block".
    DEVICE_NOT_READY = 0xC000_00A3 => WouldBlock;
    /// The pipe's other end is gone.
    PIPE_DISCONNECTED = 0xC000_00B0 => BrokenPipe;
    /// The request ran out of time.
    IO_TIMEOUT = 0xC000_00B5 => TimedOut;
    /// A folder where a file is needed.
    FILE_IS_A_DIRECTORY = 0xC000_00BA => IsADirectory;
    /// Not supported.
    NOT_SUPPORTED = 0xC000_00BB => Unsupported;
    /// Two files on different devices.
    NOT_SAME_DEVICE = 0xC000_00D4 => CrossesDevices;
    /// A bug in the I/O manager.
    INTERNAL_ERROR = 0xC000_00E5 => Other;
    /// The caller's buffer is not usable.
    INVALID_USER_BUFFER = 0xC000_00E8 => InvalidInput;
    /// An error nobody foresaw.
    UNEXPECTED_IO_ERROR = 0xC000_00E9 => Other;
    /// The folder is not empty.
    DIRECTORY_NOT_EMPTY = 0xC000_0101 => DirectoryNotEmpty;
    /// The file is damaged: what it says about itself does not fit together.
    FILE_CORRUPT_ERROR = 0xC000_0102 => InvalidData;
    /// A file where a folder is needed.
    NOT_A_DIRECTORY = 0xC000_0103 => NotADirectory;
    /// Cancelled (X-5).
    CANCELLED = 0xC000_0120 => Other;
    /// The file object is closed.
    FILE_CLOSED = 0xC000_0128 => Other;
    /// Not a connected socket.
    INVALID_CONNECTION = 0xC000_0140 => NotConnected;
    /// The pipe broke.
    PIPE_BROKEN = 0xC000_014B => BrokenPipe;
    /// A bug in a driver.
    DRIVER_INTERNAL_ERROR = 0xC000_0183 => Other;
    /// The device's state does not allow the request.
    INVALID_DEVICE_STATE = 0xC000_0184 => Other;
    /// The device failed.
    IO_DEVICE_ERROR = 0xC000_0185 => Other;
    /// The medium has nothing on it that the driver knows.
    UNRECOGNIZED_VOLUME = 0xC000_014F => InvalidData;
    /// Waiting would never end.
    POSSIBLE_DEADLOCK = 0xC000_0194 => Deadlock;
    /// The address is not one of this machine's.
    INVALID_ADDRESS_COMPONENT = 0xC000_0207 => AddrNotAvailable;
    /// The address is in use.
    ADDRESS_ALREADY_EXISTS = 0xC000_020A => AddrInUse;
    /// The other side closed the connection.
    CONNECTION_DISCONNECTED = 0xC000_020C => ConnectionReset;
    /// The other side reset the connection.
    CONNECTION_RESET = 0xC000_020D => ConnectionReset;
    /// Not found.
    NOT_FOUND = 0xC000_0225 => NotFound;
    /// Do it again.
    RETRY = 0xC000_022D => Interrupted;
    /// The other side refused the connection.
    CONNECTION_REFUSED = 0xC000_0236 => ConnectionRefused;
    /// No route to the network.
    NETWORK_UNREACHABLE = 0xC000_023C => NetworkUnreachable;
    /// No route to the host.
    HOST_UNREACHABLE = 0xC000_023D => HostUnreachable;
    /// This side gave the connection up.
    CONNECTION_ABORTED = 0xC000_0241 => ConnectionAborted;
    /// Too many links.
    TOO_MANY_LINKS = 0xC000_0265 => TooManyLinks;
    /// The device is gone.
    DEVICE_REMOVED = 0xC000_02B6 => NotFound;
    /// The power state does not allow the request.
    POWER_STATE_INVALID = 0xC000_02D3 => Other;
    /// The runtime, or a processor of it, is going away.
    SHUTDOWN_IN_PROGRESS = 0xC000_02FE => Other;
    /// The file would be too large.
    FILE_TOO_LARGE = 0xC000_0904 => FileTooLarge;
}
