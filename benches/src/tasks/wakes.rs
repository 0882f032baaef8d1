//! Two tasks that wake each other in turn: on one worker, on two threads with a runtime each, on
//! two workers of one runtime.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

use super::Runtime;
use super::turn::Turn;
use crate::cpu::pin;

/// Two tasks of this worker, unless the runtime moves one.
pub async fn two_tasks<R: Runtime>(rounds: u64) {
    let turn = Arc::new(Turn::default());
    let other = turn.clone();
    let task = R::spawn(async move {
        for _ in 0..rounds {
            other.pass(1).await;
        }
    });
    for _ in 0..rounds {
        turn.pass(0).await;
    }
    task.await;
    assert_eq!(turn.count(), rounds * 2);
}

/// Two threads with a runtime each, on two cores: asleep until they are woken, or busy with
/// another task.
pub fn two_threads<R: Runtime>(rounds: u64, busy: bool) -> io::Result<()> {
    let turn = Arc::new(Turn::default());
    let run = |core: usize| {
        let turn = turn.clone();
        move || {
            pin(core)?;
            let done = Arc::new(AtomicBool::new(false));
            R::new(1)?.block_on(async move {
                let other = busy.then(|| R::spawn(keep_busy::<R>(done.clone())));
                for _ in 0..rounds {
                    turn.pass(core as u64).await;
                }
                done.store(true, Ordering::Relaxed);
                if let Some(other) = other {
                    other.await;
                }
            });
            io::Result::Ok(())
        }
    };
    let threads = [0, 1].map(|core| std::thread::spawn(run(core)));
    for thread in threads {
        thread.join().expect("the tasks do not panic")?;
    }
    assert_eq!(turn.count(), rounds * 2);
    Ok(())
}

/// Two tasks that begin on two workers of one runtime, which may move them together. Needs a
/// runtime that has two.
pub async fn two_workers<R: Runtime>(rounds: u64, busy: bool) {
    let (turn, met) = (Arc::new(Turn::default()), Arc::new(Barrier::new(2)));
    let done = Arc::new(AtomicBool::new(false));
    let tasks = [0, 1].map(|parity| {
        let (turn, met, done) = (turn.clone(), met.clone(), done.clone());
        R::spawn(async move {
            // Blocks both: they are on two threads now. With nothing else to do, the second thread
            // has taken its task from the first.
            met.wait();
            let other = busy.then(|| R::spawn(keep_busy::<R>(done.clone())));
            for _ in 0..rounds {
                turn.pass(parity).await;
            }
            done.store(true, Ordering::Relaxed);
            if let Some(other) = other {
                other.await;
            }
        })
    });
    for task in tasks {
        task.await;
    }
    assert_eq!(turn.count(), rounds * 2);
}

async fn keep_busy<R: Runtime>(done: Arc<AtomicBool>) {
    while !done.load(Ordering::Relaxed) {
        R::yield_now().await;
    }
}
