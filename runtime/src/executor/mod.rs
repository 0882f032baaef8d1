//! The executor: tasks, workers and the runtimes made of them.
//!
//! - `task`: what a spawned future becomes, [`JoinHandle`], abort, captured panics.
//! - `shared`: what the workers of one runtime have in common: queues and sleepers.
//! - `inbox`: tasks on their way to the worker that alone may run them.
//! - `worker`: one thread's loop: run tasks, turn the processor, sleep.
//! - `runtime`: [`Runtime`] and [`LocalRuntime`], [`Builder`], their end.
//! - `handle`, `context`, `drive`: [`Handle`], the runtime a thread is in, `block_on`.
//! - `blocking`: threads for code that blocks.
//! - `stalls`: the watch over workers that a task keeps.
//! - `usage`: how busy a thread is.
//! - `concurrency`: how many workers run at once.
//!
//! **Work follows the completion.** A request belongs to the processor of the worker that polled it
//! first; its completion makes the task runnable on that worker's own queue, where the data is
//! warm. Stealing rebalances; nothing else moves tasks. A worker without work takes from the others'
//! queues before it sleeps; one that sleeps is woken when a task makes a second one wait, which may be
//! for long, or when a worker cannot keep up with what its turns make runnable. Workers that make each
//! other wait for cores are too many: some step aside, pass on what is not bound to them, and take from
//! others only what those are kept from.

mod blocking;
mod builder;
mod concurrency;
mod context;
mod drive;
mod handle;
mod inbox;
mod runtime;
mod shared;
mod stalls;
mod task;
#[cfg(test)]
mod tests;
mod usage;
mod worker;

pub use builder::{Builder, Flavor};
pub use context::{spawn, spawn_blocking, spawn_local};
pub use handle::Handle;
pub use runtime::{LocalRuntime, Runtime, RuntimeReport, block_on};
pub use stalls::Stall;
pub(crate) use task::yield_running;
pub use task::{AbortHandle, JoinError, JoinHandle, TaskId, id};
pub use worker::WorkerMetrics;
