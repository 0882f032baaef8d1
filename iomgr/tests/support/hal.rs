//! Simulated hardware: files in memory, and for every operation a script of when it ends, how, and
//! whether it listens to a cancel.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use overlapped_iomgr::hal::{Completion, Hal, Op, Token, Wait, Wake};

const ECANCELED: i32 = 125;
const EBADF: i32 = 9;

/// How one operation goes.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Ends after so many turns; 0: inside `submit`; `None`: when the gate opens.
    turns: Option<u32>,
    /// Ends with this instead of what the operation would give.
    result: Option<i32>,
    /// Moves at most that many bytes.
    limit: u32,
    honours_cancel: bool,
}

impl Step {
    const fn new(turns: Option<u32>) -> Step {
        Step { turns, result: None, limit: u32::MAX, honours_cancel: true }
    }
    pub const INLINE: Step = Step::new(Some(0));
    /// Waits for [`Sim::open_gate`].
    pub const GATED: Step = Step::new(None);
    pub const fn after(turns: u32) -> Step {
        Step::new(Some(turns))
    }
    pub const fn result(self, result: i32) -> Step {
        Step { result: Some(result), ..self }
    }
    pub const fn limit(self, limit: u32) -> Step {
        Step { limit, ..self }
    }
    pub fn is_inline(self) -> bool {
        self.turns == Some(0)
    }
    pub const fn deaf(self) -> Step {
        Step { honours_cancel: false, ..self }
    }
}

#[derive(Default)]
struct World {
    files: HashMap<i32, Vec<u8>>,
    script: VecDeque<Step>,
    default: Option<Step>,
    gate_open: bool,
}

#[derive(Default)]
struct Shared {
    world: Mutex<World>,
    /// Set by a wake, or by whatever lets an operation end.
    woken: Mutex<bool>,
    bell: Condvar,
    submits: AtomicUsize,
    cancels: AtomicUsize,
    in_flight: AtomicUsize,
    wakes: AtomicUsize,
}

impl Wake for Shared {
    fn wake(&self) {
        self.wakes.fetch_add(1, SeqCst);
        *self.woken.lock().unwrap() = true;
        self.bell.notify_all();
    }
}

/// The simulated hardware as the test sees it. Clones are the same.
#[derive(Clone, Default)]
pub struct Sim(Arc<Shared>);

impl Sim {
    pub fn new() -> Sim {
        Sim::default()
    }

    /// A processor's part of it. Wakes reach all parts, so use one each where sleeps are counted.
    pub fn hal(&self) -> SimHal {
        SimHal { shared: self.0.clone(), ops: Vec::new() }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.world.lock().unwrap()
    }

    pub fn set_file(&self, fd: i32, bytes: Vec<u8>) {
        self.world().files.insert(fd, bytes);
    }

    pub fn file(&self, fd: i32) -> Vec<u8> {
        self.world().files[&fd].clone()
    }

    /// What the operations to come do, one step each; then the default.
    pub fn script(&self, steps: impl IntoIterator<Item = Step>) {
        self.world().script.extend(steps);
    }

    /// What operations do that have no step of their own; at first [`Step::INLINE`].
    pub fn default_step(&self, step: Step) {
        self.world().default = Some(step);
    }

    /// Lets the gated operations end, those to come too.
    pub fn open_gate(&self) {
        self.world().gate_open = true;
        self.0.wake();
    }

    pub fn submits(&self) -> usize {
        self.0.submits.load(SeqCst)
    }

    pub fn cancels(&self) -> usize {
        self.0.cancels.load(SeqCst)
    }

    pub fn wakes(&self) -> usize {
        self.0.wakes.load(SeqCst)
    }

    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(SeqCst)
    }
}

struct Flying {
    token: Token,
    op: Op,
    step: Step,
    cancelled: bool,
}

/// One processor's hardware.
pub struct SimHal {
    shared: Arc<Shared>,
    ops: Vec<Flying>,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Segment {
    base: *mut u8,
    len: usize,
}

impl World {
    fn read(&self, fd: i32, offset: u64, into: &mut [u8]) -> i32 {
        let Some(file) = self.files.get(&fd) else { return -EBADF };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(file.len());
        let n = into.len().min(file.len() - start);
        into[..n].copy_from_slice(&file[start..start + n]);
        n as i32
    }

    fn write(&mut self, fd: i32, offset: u64, from: &[u8]) -> i32 {
        let Some(file) = self.files.get_mut(&fd) else { return -EBADF };
        let start = offset as usize;
        if file.len() < start + from.len() {
            file.resize(start + from.len(), 0);
        }
        file[start..start + from.len()].copy_from_slice(from);
        from.len() as i32
    }

    /// # Safety
    /// The contract of [`Hal::submit`].
    unsafe fn execute(&mut self, op: Op, step: Step) -> i32 {
        if let Some(result) = step.result
            && result < 0
        {
            return result;
        }
        // SAFETY: the caller's: the memory is valid and nobody else's until we report.
        let done = unsafe {
            match op {
                Op::Read { fd, buf, len, offset, .. } => {
                    let len = len.min(step.limit) as usize;
                    // The memory may be uninitialised, so no slice of it is made before this.
                    buf.write_bytes(0xEE, len);
                    self.read(fd, offset, std::slice::from_raw_parts_mut(buf, len))
                }
                Op::Write { fd, buf, len, offset, .. } => {
                    let len = len.min(step.limit) as usize;
                    self.write(fd, offset, std::slice::from_raw_parts(buf, len))
                }
                Op::ReadV { fd, iov, count, offset }
                | Op::WriteV { fd, iov, count, offset, .. } => {
                    let segments =
                        std::slice::from_raw_parts(iov.cast::<Segment>(), count as usize);
                    let (mut done, mut left) = (0, step.limit as usize);
                    for s in segments {
                        let n = s.len.min(left);
                        let at = offset + done as u64;
                        let moved = if matches!(op, Op::ReadV { .. }) {
                            s.base.write_bytes(0xEE, n);
                            self.read(fd, at, std::slice::from_raw_parts_mut(s.base, n))
                        } else {
                            self.write(fd, at, std::slice::from_raw_parts(s.base, n))
                        };
                        done += moved;
                        left -= n;
                        if (moved as usize) < n {
                            break;
                        }
                    }
                    done
                }
                _ => 0,
            }
        };
        step.result.unwrap_or(done)
    }
}

// SAFETY: completes each token once, when the test says so, with what the test says.
unsafe impl Hal for SimHal {
    fn name(&self) -> &'static str {
        "simulated"
    }

    unsafe fn submit(&mut self, token: Token, op: Op, _alone: bool) -> Option<i32> {
        self.shared.submits.fetch_add(1, SeqCst);
        let mut world = self.shared.world.lock().unwrap();
        // Closing is never scripted: tests script what they issue themselves.
        let step = if matches!(op, Op::Close { .. }) {
            Step::INLINE
        } else {
            world.script.pop_front().or(world.default).unwrap_or(Step::INLINE)
        };
        if step.turns == Some(0) {
            // SAFETY: the caller's.
            return Some(unsafe { world.execute(op, step) });
        }
        assert!(self.ops.iter().all(|o| o.token != token), "one operation a token");
        self.ops.push(Flying { token, op, step, cancelled: false });
        self.shared.in_flight.fetch_add(1, SeqCst);
        None
    }

    fn cancel(&mut self, token: Token) {
        self.shared.cancels.fetch_add(1, SeqCst);
        if let Some(op) = self.ops.iter_mut().find(|o| o.token == token) {
            op.cancelled = true;
        }
    }

    fn turn(&mut self, wait: Wait, done: &mut Vec<Completion>) -> io::Result<()> {
        loop {
            let mut world = self.shared.world.lock().unwrap();
            let mut ended = Vec::new();
            let before = done.len();
            for (i, flying) in self.ops.iter_mut().enumerate() {
                let token = flying.token;
                if flying.cancelled && flying.step.honours_cancel {
                    let result = -ECANCELED;
                    done.push(Completion { token, result, lease: None });
                    ended.push(i);
                    continue;
                }
                match &mut flying.step.turns {
                    None if !world.gate_open => continue,
                    None => {}
                    Some(turns) => {
                        *turns = turns.saturating_sub(1);
                        if *turns > 0 {
                            continue;
                        }
                    }
                }
                // SAFETY: whoever submitted it keeps the memory until the completion below.
                let result = unsafe { world.execute(flying.op, flying.step) };
                done.push(Completion { token, result, lease: None });
                ended.push(i);
            }
            drop(world);
            for i in ended.into_iter().rev() {
                self.ops.remove(i);
                self.shared.in_flight.fetch_sub(1, SeqCst);
            }
            // Time is turns: while an operation counts them, nobody sleeps.
            if done.len() > before
                || wait == Wait::No
                || self.ops.iter().any(|o| o.step.turns.is_some())
            {
                return Ok(());
            }
            let mut woken = self.shared.woken.lock().unwrap();
            let mut late = false;
            while !*woken && !late {
                match wait {
                    Wait::For(limit) => {
                        let (guard, timeout) = self.shared.bell.wait_timeout(woken, limit).unwrap();
                        (woken, late) = (guard, timeout.timed_out());
                    }
                    _ => woken = self.shared.bell.wait(woken).unwrap(),
                }
            }
            if late {
                return Ok(());
            }
            *woken = false;
            drop(woken);
            let gate_open = self.shared.world.lock().unwrap().gate_open;
            if !gate_open || !self.ops.iter().any(|o| o.step.turns.is_none()) {
                return Ok(());
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.ops.len()
    }

    fn wake_handle(&self) -> Arc<dyn Wake> {
        self.shared.clone()
    }
}
