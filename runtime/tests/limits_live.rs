//! Limits that come and go under load: no write undoes another's bytes, and streams are not held up.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use overlapped::driver::{Filter, Limits, MajorSet, Place};
use overlapped::fs::OpenOptions;
use overlapped::net::UnixStream;
use support::{Dir, both, poll_once, workers};

/// Takes whole blocks only.
struct Blocks;

impl Filter for Blocks {
    type Open = ();
    fn name(&self) -> &str {
        "blocks"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::NONE
    }
    fn limits(&self, below: Limits) -> Limits {
        Limits { block: 4096, ..below }
    }
}

/// O-8, B-7: writers of neighbouring bytes find their own, whatever the stack was when they wrote.
#[test]
fn neighbours_survive_changes_under_load() {
    workers(2, |_| async {
        let dir = Dir::new();
        let options = OpenOptions::new().read(true).write(true).create(true);
        let file = Arc::new(options.open(dir.path("file")).await.unwrap());
        file.write_all_at(vec![0; 4096], 0).await.unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let writers = (0..8u64).map(|i| {
            let (file, ended) = (file.clone(), ended.clone());
            overlapped::spawn(async move {
                let mut round = 0u64;
                while !ended.load(Relaxed) {
                    round += 1;
                    file.write_all_at(round.to_le_bytes().to_vec(), i * 8).await.unwrap();
                    let (_, bytes) = file.read_at(vec![0; 8], i * 8).await.unwrap();
                    assert_eq!(bytes, round.to_le_bytes(), "writer {i}");
                }
                round
            })
        });
        let writers: Vec<_> = writers.collect();
        for _ in 0..300 {
            let (blocks, attached) =
                file.object().attach(Place::Top, Blocks.into_driver()).unwrap();
            overlapped::yield_now().await;
            let detached = file.object().detach(&blocks).unwrap();
            attached.await;
            detached.await;
        }
        ended.store(true, Relaxed);
        for writer in writers {
            assert!(writer.await.unwrap() > 0);
        }
    });
}

/// A receive that waits on the old stack for ever keeps nobody from sending.
#[test]
fn a_silent_stream_holds_nobody_up() {
    both(async |_| {
        let (one, other) = UnixStream::pair().unwrap();
        let mut silent = one.read(vec![0; 9]);
        assert!(poll_once(&mut silent).is_pending());
        let (blocks, attached) = one.object().attach(Place::Top, Blocks.into_driver()).unwrap();
        one.write_all("there").await.unwrap();
        drop(one.object().detach(&blocks).unwrap());
        one.write_all(" and").await.unwrap();
        assert_eq!(other.read_exact(vec![0; 9]).await.unwrap().1, b"there and");
        assert!(!attached.is_done());
        other.write_all("back").await.unwrap();
        assert_eq!(silent.await.unwrap().0, 4);
        attached.await;
    });
}
