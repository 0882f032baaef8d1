//! Block devices, which are opened as files are: on loop devices, where they can be made.

#[path = "support/loop_device.rs"]
mod loop_device;
mod support;

use loop_device::Loop;
use overlapped::driver::Filter;
use overlapped::fs::OpenOptions;
use overlapped_drivers::filter::luks::{Format, Luks};
use support::{Dir, both, pattern};

const SIZE: usize = 4 << 20;

#[test]
fn a_device_is_as_long_as_its_medium() {
    let dir = Dir::new();
    both(async |_| {
        let image = dir.file("image", vec![7; SIZE]);
        let Some(device) = Loop::over(&image) else { return };
        let file = OpenOptions::new().read(true).write(true).open(&device.0).await.unwrap();
        let metadata = file.metadata().await.unwrap();
        assert!(metadata.file_type().is_block_device());
        assert_eq!(metadata.len(), SIZE as u64);
        let bytes = pattern(10_000);
        file.write_all_at(bytes.clone(), 4001).await.unwrap();
        // Written to its end, and not past it.
        file.write_all_at(vec![9; 10], SIZE as u64 - 10).await.unwrap();
        file.write_at(vec![9; 10], SIZE as u64).await.unwrap_err();
        file.punch_hole(1 << 20, 1 << 20).await.unwrap();
        file.sync_all().await.unwrap();
        let (n, _) = file.read_at(vec![0; 10], SIZE as u64).await.unwrap();
        assert_eq!(n, 0);
        file.close().await.unwrap();
        drop(device);
        let mut expected = vec![7; SIZE];
        expected[4001..14_001].copy_from_slice(&bytes);
        expected[SIZE - 10..].fill(9);
        expected[1 << 20..2 << 20].fill(0);
        assert!(std::fs::read(&image).unwrap() == expected);
    });
}

/// Filters go by the length.
#[test]
fn an_encrypted_device_is_as_long_as_what_is_behind_its_header() {
    let dir = Dir::new();
    both(async |_| {
        let image = dir.file("image", vec![0; 20 << 20]);
        let Some(device) = Loop::over(&image) else { return };
        let options = OpenOptions::new().read(true).write(true);
        let raw = options.clone().open(&device.0).await.unwrap();
        let format = Format::luks2().pbkdf2(1000);
        Luks::format(raw.object(), "key", &format).await.unwrap();
        let volume = options.filter(Luks::new("key").into_driver()).open(&device.0).await.unwrap();
        let len = volume.metadata().await.unwrap().len();
        assert!(len > 0 && len < 20 << 20, "{len}");
        volume.write_all_at(pattern(5000), len - 5000).await.unwrap();
        let ((), bytes) = volume.read_exact_at(vec![0; 5000], len - 5000).await.unwrap();
        assert!(bytes == pattern(5000));
        volume.sync_all().await.unwrap();
        assert_eq!(volume.read_at(vec![0; 9], len).await.unwrap().0, 0);
        volume.close().await.unwrap();
        raw.close().await.unwrap();
    });
}
