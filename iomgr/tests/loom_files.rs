//! The rundown of file objects, explored by loom: a file is closed once, after everybody who counts
//! on it has left, and is not forgotten, wherever its handles and requests go, and when its home goes
//! too; and a close that waits for others goes on once, when nobody uses the descriptor any more.
//!
//! The models run the real [`Count`] and [`Closer`] on a file object and a home of their own, which
//! follow `file::rundown` and `processor::turn::shutdown` line by line; loom's cells find any
//! conflicting access.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p overlapped-iomgr --test loom_files --release`

#![cfg(loom)]

#[path = "../src/file/closing.rs"]
mod closing;
#[path = "../src/file/count.rs"]
mod count;

use closing::{Asked, Closer};
use count::{Count, Kind};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Ending {
    Open,
    Asked,
    Cleaned,
    Closing,
}

/// What is sent to the home.
enum Mail {
    Arrive(Kind),
    LetCloserGo,
}

/// Whose thread a call is on.
#[derive(Clone, Copy, PartialEq)]
enum On {
    Home,
    /// Not the home's; or the home is gone.
    Elsewhere,
}
use On::{Elsewhere, Home};

/// A file object, and its home.
struct File {
    count: Count,
    /// What waits says as what the close counts.
    closer: Closer<Option<Kind>>,
    /// The home's thread's.
    ending: UnsafeCell<Ending>,
    /// Whether there is a descriptor, as requests see it.
    fd: AtomicBool,
    /// The descriptor itself: read by its users, written by the close.
    descriptor: UnsafeCell<bool>,
    /// Anything at all: written by the free, read by whoever still believes in the file.
    memory: UnsafeCell<bool>,
    cleanups: AtomicUsize,
    closes: AtomicUsize,
    frees: AtomicUsize,
    /// A close that waited has been let go; carried out at the end by [`File::finish`].
    resumed: Mutex<Vec<Option<Kind>>>,
    /// `None` once the home is gone.
    mail: Mutex<Option<Vec<Mail>>>,
    /// The home's thread's.
    counts_locally: UnsafeCell<bool>,
    stopping: UnsafeCell<bool>,
    /// Whether it is in a list of files with an instance of a filter; in models with such a list.
    list: Option<Mutex<bool>>,
}

fn get<T: Copy>(cell: &UnsafeCell<T>) -> T {
    // SAFETY: loom reports the access if it conflicts.
    cell.with(|value| unsafe { *value })
}

fn set<T>(cell: &UnsafeCell<T>, to: T) {
    // SAFETY: as above.
    cell.with_mut(|value| unsafe { *value = to });
}

impl File {
    /// With one handle, open.
    fn new() -> Arc<File> {
        Arc::new(File {
            count: Count::new(),
            closer: Closer::new(),
            ending: UnsafeCell::new(Ending::Open),
            fd: AtomicBool::new(true),
            descriptor: UnsafeCell::new(true),
            memory: UnsafeCell::new(true),
            cleanups: AtomicUsize::new(0),
            closes: AtomicUsize::new(0),
            frees: AtomicUsize::new(0),
            resumed: Mutex::new(Vec::new()),
            mail: Mutex::new(Some(Vec::new())),
            counts_locally: UnsafeCell::new(true),
            stopping: UnsafeCell::new(false),
            list: None,
        })
    }

    /// As [`File::new`], in a list.
    fn listed() -> Arc<File> {
        let mut file = File::new();
        Arc::get_mut(&mut file).expect("new").list = Some(Mutex::new(true));
        file
    }

    /// `Registration::detach`: takes a handle of what is in the list, and uses it.
    fn find(&self) {
        let list = self.list.as_ref().expect("listed").lock().unwrap();
        let found = *list && {
            self.touch();
            self.count.try_add_handle()
        };
        drop(list);
        if found {
            self.touch();
            self.drop_handle(Elsewhere);
        }
    }

    /// Any access of somebody who counts.
    fn touch(&self) {
        assert!(get(&self.memory), "used after it was freed");
    }

    /// A request at the hardware, if the descriptor is there.
    fn use_descriptor(&self) {
        self.touch();
        if self.fd.load(Ordering::Relaxed) {
            assert!(get(&self.descriptor), "a request met a closed descriptor");
        }
    }

    fn free(&self) {
        self.touch();
        if let Some(list) = &self.list {
            *list.lock().unwrap() = false;
        }
        set(&self.memory, false);
        self.frees.fetch_add(1, Ordering::Relaxed);
    }

    fn close_descriptor(&self) {
        assert!(get(&self.descriptor), "closed once");
        set(&self.descriptor, false);
        self.closes.fetch_add(1, Ordering::Relaxed);
    }

    /// `Remote::run`. `false`: the home is gone.
    fn run(&self, mail: Mail) -> bool {
        self.mail.lock().unwrap().as_mut().map(|list| list.push(mail)).is_some()
    }

    // `file::rundown`.

    fn drop_handle(&self, on: On) {
        self.touch();
        if !self.count.drop_handle() {
            self.send_home(on, Kind::Handle);
        }
    }

    /// `leave` of a request of another processor.
    fn leave_foreign(&self, on: On) {
        self.touch();
        if !self.count.drop_foreign() {
            self.send_home(on, Kind::Foreign);
        }
    }

    /// `leave` of a request of the home's.
    fn leave_local(&self) {
        self.touch();
        self.count.drop_local();
        if get(&self.ending) != Ending::Open {
            self.maybe_close();
        }
    }

    fn send_home(&self, on: On, kind: Kind) {
        self.touch();
        if on == Home {
            self.arrive(kind);
        } else if !self.run(Mail::Arrive(kind)) {
            self.leave_without_home(kind);
        }
    }

    fn leave_without_home(&self, kind: Kind) {
        self.touch();
        if self.count.give_up_alone(kind, || self.let_closer_go(0)) {
            self.close_without_home();
        }
    }

    fn arrive(&self, kind: Kind) {
        self.touch();
        if !get(&self.counts_locally) {
            return self.leave_without_home(kind);
        }
        if kind == Kind::Handle
            && self.count.is_last_handle()
            && matches!(get(&self.ending), Ending::Open | Ending::Asked)
        {
            set(&self.ending, Ending::Cleaned);
            self.cleanups.fetch_add(1, Ordering::Relaxed);
        }
        self.count.give_up(kind);
        self.maybe_close();
    }

    fn maybe_close(&self) {
        let left = self.count.left();
        if left.closing {
            self.let_closer_go(self.count.local());
        }
        if !left.unused {
            return;
        }
        self.touch();
        if get(&self.ending) == Ending::Closing || !self.fd.load(Ordering::Relaxed) {
            return self.free();
        }
        set(&self.ending, Ending::Closing);
        // `request::detached`.
        if get(&self.stopping) {
            return self.close_without_home();
        }
        self.count.add_local();
        self.close(Home, None);
    }

    fn close_without_home(&self) {
        self.touch();
        if self.fd.swap(false, Ordering::Relaxed) {
            self.count.add_handle();
            self.close_descriptor();
            if !self.count.give_up_alone(Kind::Handle, || ()) {
                return;
            }
        }
        self.free();
    }

    /// The bottom's close, of a request that counts as local or as given.
    fn close(&self, on: On, counts: Option<Kind>) {
        if !self.fd.swap(false, Ordering::Relaxed) {
            // Closed already.
            return self.leave(on, counts);
        }
        if self.wait_until_alone(on, counts) {
            self.close_alone(on, counts);
        }
    }

    fn close_alone(&self, on: On, counts: Option<Kind>) {
        self.close_descriptor();
        self.leave(on, counts);
    }

    fn leave(&self, on: On, counts: Option<Kind>) {
        match counts {
            Some(_) => self.leave_foreign(on),
            None => self.leave_local(),
        }
    }

    /// `true`: it goes on.
    fn wait_until_alone(&self, on: On, counts: Option<Kind>) -> bool {
        self.touch();
        let foreign = self.count.set_closing();
        assert!(self.count.is_closing());
        let alone = foreign == 0 && on == Home && self.count.local() == 1;
        self.count.add_handle();
        let goes_on = match self.closer.ask(counts, alone, |counts| counts) {
            Asked::GoesOn(_) => true,
            Asked::Waits => {
                if on == Home {
                    self.at_home();
                } else if !self.run(Mail::LetCloserGo) {
                    self.let_closer_go(0);
                } else {
                    // The mail keeps a handle.
                    return false;
                }
                false
            }
            Asked::Refused(counts) => {
                self.leave(on, counts);
                false
            }
        };
        self.drop_handle(on);
        goes_on
    }

    fn at_home(&self) {
        self.touch();
        if get(&self.ending) == Ending::Open {
            set(&self.ending, Ending::Asked);
        }
        self.let_closer_go(self.count.local());
    }

    fn let_closer_go(&self, local: u32) {
        self.touch();
        if let Some(counts) = self.closer.let_go(self.count.foreign() + u64::from(local)) {
            // A write: nobody else is at the descriptor.
            set(&self.descriptor, true);
            self.resumed.lock().unwrap().push(counts);
        }
    }

    // The home.

    fn read(&self, list: Vec<Mail>) {
        for mail in list {
            match mail {
                Mail::Arrive(kind) => self.arrive(kind),
                Mail::LetCloserGo => {
                    self.at_home();
                    self.drop_handle(Home);
                }
            }
        }
    }

    /// A turn.
    fn turn(&self) {
        let list = self.mail.lock().unwrap().as_mut().map(std::mem::take);
        self.read(list.unwrap_or_default());
    }

    /// `turn::shutdown`, with so many local requests whose requesters have not let go.
    fn home_goes(&self, local: usize) {
        set(&self.stopping, true);
        self.turn();
        set(&self.counts_locally, false);
        for _ in 0..local {
            self.count.adopt_out();
        }
        let list = self.mail.lock().unwrap().take();
        self.read(list.unwrap_or_default());
    }

    /// After all threads have ended: what is under way comes to its end, and that is the right one.
    fn finish(&self, cleanups: usize) {
        loop {
            self.turn();
            let resumed = std::mem::take(&mut *self.resumed.lock().unwrap());
            if resumed.is_empty() {
                break;
            }
            assert_eq!(resumed.len(), 1, "one close goes on");
            for counts in resumed {
                let on = if counts.is_some() { Elsewhere } else { Home };
                assert!(self.wait_until_alone(on, counts), "nobody else is left");
                self.close_alone(on, counts);
            }
        }
        assert_eq!(self.closes.load(Ordering::Relaxed), 1, "closed once");
        assert_eq!(self.frees.load(Ordering::Relaxed), 1, "freed once");
        assert_eq!(self.cleanups.load(Ordering::Relaxed), cleanups);
    }
}

fn model(test: impl Fn() + Sync + Send + 'static) {
    bounded(3, test);
}

/// With so many preemptions: more take hours where three threads do much.
fn bounded(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(test);
}

fn run(file: &Arc<File>, work: impl FnOnce(&File) + 'static) -> thread::JoinHandle<()> {
    let file = file.clone();
    thread::spawn(move || work(&file))
}

/// The last handles go on two other threads while a request of the home's ends.
#[test]
fn handles_elsewhere_against_a_local_request() {
    model(|| {
        let file = File::new();
        file.count.add_handle();
        file.count.add_local();
        let one = run(&file, |file| file.drop_handle(Elsewhere));
        let two = run(&file, |file| file.drop_handle(Elsewhere));
        file.use_descriptor();
        file.leave_local();
        file.turn();
        one.join().unwrap();
        two.join().unwrap();
        file.finish(1);
    });
}

/// The last handle goes here while a request of another processor ends there.
#[test]
fn a_handle_here_against_a_foreign_request() {
    model(|| {
        let file = File::new();
        file.count.add_foreign();
        let request = run(&file, |file| {
            file.use_descriptor();
            file.leave_foreign(Elsewhere);
        });
        file.drop_handle(Home);
        file.turn();
        request.join().unwrap();
        file.finish(1);
    });
}

/// A handle and two requests, all elsewhere; the home reads its mail now and then.
#[test]
fn everything_elsewhere() {
    model(|| {
        let file = File::new();
        file.count.add_foreign();
        let request = run(&file, |file| {
            file.use_descriptor();
            file.leave_foreign(Elsewhere);
        });
        let handle = run(&file, |file| {
            // Issues one more, which outlives the handle.
            file.count.add_foreign();
            file.drop_handle(Elsewhere);
            file.use_descriptor();
            file.leave_foreign(Elsewhere);
        });
        file.turn();
        handle.join().unwrap();
        file.turn();
        request.join().unwrap();
        file.finish(1);
    });
}

/// The home goes, with a request that its requester, elsewhere, has not let go of, while the last
/// handle goes too.
#[test]
fn the_home_goes() {
    model(|| {
        let file = File::new();
        file.count.add_local();
        let handle = run(&file, |file| file.drop_handle(Elsewhere));
        file.home_goes(1);
        // `free_orphan`: it learns of it by the closed mailbox.
        let request = run(&file, |file| file.leave_foreign(Elsewhere));
        handle.join().unwrap();
        request.join().unwrap();
        let cleanups = file.cleanups.load(Ordering::Relaxed);
        file.finish(cleanups);
    });
}

/// The home goes while two others go elsewhere.
#[test]
fn the_home_goes_with_nothing_of_its_own() {
    model(|| {
        let file = File::new();
        file.count.add_foreign();
        let request = run(&file, |file| {
            file.use_descriptor();
            file.leave_foreign(Elsewhere);
        });
        let handle = run(&file, |file| file.drop_handle(Elsewhere));
        file.home_goes(0);
        handle.join().unwrap();
        request.join().unwrap();
        let cleanups = file.cleanups.load(Ordering::Relaxed);
        file.finish(cleanups);
    });
}

/// a close at home, against a request of another processor that comes, looks and leaves.
#[test]
fn a_close_here_against_a_request_that_comes() {
    model(|| {
        let file = File::new();
        file.count.add_handle();
        let request = run(&file, |file| {
            // `RelatedFile`.
            file.count.add_foreign();
            file.use_descriptor();
            file.leave_foreign(Elsewhere);
            file.drop_handle(Elsewhere);
        });
        file.count.add_local();
        file.close(Home, None);
        file.turn();
        request.join().unwrap();
        file.drop_handle(Home);
        file.finish(1);
    });
}

/// a close elsewhere, against a request of the home's and one of a third processor.
#[test]
fn a_close_elsewhere_against_two_requests() {
    model(|| {
        let file = File::new();
        file.count.add_local();
        file.count.add_foreign();
        let close = run(&file, |file| {
            file.count.add_foreign();
            file.close(Elsewhere, Some(Kind::Foreign));
        });
        let request = run(&file, |file| {
            file.use_descriptor();
            file.leave_foreign(Elsewhere);
        });
        file.use_descriptor();
        file.leave_local();
        file.turn();
        close.join().unwrap();
        request.join().unwrap();
        file.turn();
        assert_eq!(file.resumed.lock().unwrap().len(), 1, "although there is a handle");
        file.drop_handle(Home);
        file.finish(1);
    });
}

/// a close elsewhere while the home goes, with a request of its own left, and one elsewhere.
#[test]
fn a_close_elsewhere_while_the_home_goes() {
    bounded(2, || {
        let file = File::new();
        file.count.add_local();
        file.count.add_foreign();
        let close = run(&file, |file| {
            file.count.add_foreign();
            file.close(Elsewhere, Some(Kind::Foreign));
            file.drop_handle(Elsewhere);
        });
        let request = run(&file, |file| {
            file.use_descriptor();
            file.leave_foreign(Elsewhere);
        });
        file.home_goes(1);
        file.use_descriptor();
        file.leave_foreign(Elsewhere);
        close.join().unwrap();
        request.join().unwrap();
        let cleanups = file.cleanups.load(Ordering::Relaxed);
        file.finish(cleanups);
    });
}

/// Two closes: one of them closes the file.
#[test]
fn two_closes() {
    model(|| {
        let file = File::new();
        file.count.add_handle();
        let close = run(&file, |file| {
            file.count.add_foreign();
            file.close(Elsewhere, Some(Kind::Foreign));
            file.drop_handle(Elsewhere);
        });
        file.count.add_local();
        file.close(Home, None);
        file.drop_handle(Home);
        file.turn();
        close.join().unwrap();
        file.finish(1);
    });
}

/// The same of two that have both seen the descriptor.
#[test]
fn two_closes_that_wait() {
    model(|| {
        let file = File::new();
        file.fd.store(false, Ordering::Relaxed);
        file.count.add_foreign();
        let close = run(&file, |file| {
            if file.wait_until_alone(Elsewhere, Some(Kind::Foreign)) {
                file.close_alone(Elsewhere, Some(Kind::Foreign));
            }
        });
        file.count.add_local();
        if file.wait_until_alone(Home, None) {
            file.close_alone(Home, None);
        }
        file.turn();
        close.join().unwrap();
        file.drop_handle(Home);
        file.finish(1);
    });
}

/// Somebody finds the file in a list while its last handle goes, and a request after it.
#[test]
fn found_in_a_list() {
    model(|| {
        let file = File::listed();
        file.count.add_foreign();
        let finder = run(&file, File::find);
        let request = run(&file, |file| {
            file.use_descriptor();
            file.leave_foreign(Elsewhere);
        });
        file.drop_handle(Home);
        file.turn();
        finder.join().unwrap();
        request.join().unwrap();
        file.finish(1);
    });
}

/// The same while the home goes.
#[test]
fn found_in_a_list_while_the_home_goes() {
    model(|| {
        let file = File::listed();
        let finder = run(&file, File::find);
        let handle = run(&file, |file| file.drop_handle(Elsewhere));
        file.home_goes(0);
        finder.join().unwrap();
        handle.join().unwrap();
        let cleanups = file.cleanups.load(Ordering::Relaxed);
        file.finish(cleanups);
    });
}
