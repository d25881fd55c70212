//! The monitor counts nodes and work, reads the clock, and asks the caller whether to stop.
//!
//! Every long computation reports its work to the monitor, and ends with [`Stopped`] when the
//! monitor has a reason to stop.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::solution::Status;

/// Table entries between two readings of the clock: about ten microseconds of work.
const WORK: usize = 1 << 13;

/// There is a reason to stop; [`Monitor::reason`] has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped;

/// Why a computation ends without a result.
#[derive(Debug)]
pub(crate) enum Halt {
    Stopped,
    Error(Error),
}

impl From<Stopped> for Halt {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

pub(crate) struct Monitor<'a> {
    stop: &'a dyn Fn() -> bool,
    deadline: Option<Instant>,
    node_limit: Option<u64>,
    nodes: Cell<u64>,
    /// Entries since the clock was last read.
    work: Cell<usize>,
    reason: Cell<Option<Status>>,
}

impl<'a> Monitor<'a> {
    pub(crate) fn new(
        time_limit: Option<Duration>,
        node_limit: Option<u64>,
        stop: &'a dyn Fn() -> bool,
    ) -> Self {
        Self {
            stop,
            deadline: time_limit.and_then(|limit| Instant::now().checked_add(limit)),
            node_limit,
            nodes: Cell::new(0),
            work: Cell::new(0),
            reason: Cell::new(None),
        }
    }

    /// Why to stop, once there is a reason.
    pub(crate) fn reason(&self) -> Option<Status> {
        self.reason.get()
    }

    /// Nodes visited so far.
    pub(crate) fn nodes(&self) -> u64 {
        self.nodes.get()
    }

    /// Read the clock, and ask the caller.
    pub(crate) fn go_on(&self) -> Result<(), Stopped> {
        self.work.set(0);
        if self.reason.get().is_none() {
            if (self.stop)() {
                self.reason.set(Some(Status::Interrupted));
            } else if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.reason.set(Some(Status::TimeLimit));
            }
        }
        if self.reason.get().is_some() { Err(Stopped) } else { Ok(()) }
    }

    /// Report that so many entries are about to be computed; reads the clock from time to time.
    #[inline]
    pub(crate) fn spend(&self, entries: usize) -> Result<(), Stopped> {
        let work = self.work.get().saturating_add(entries);
        self.work.set(work);
        if work < WORK { Ok(()) } else { self.go_on() }
    }

    /// Count one more node, if it may still be visited.
    pub(crate) fn visit(&self) -> Result<(), Stopped> {
        self.go_on()?;
        if self.node_limit.is_some_and(|limit| self.nodes.get() >= limit) {
            self.reason.set(Some(Status::NodeLimit));
            return Err(Stopped);
        }
        self.count(1);
        Ok(())
    }

    /// Count nodes.
    pub(crate) fn count(&self, nodes: u64) {
        self.nodes.set(self.nodes.get() + nodes);
    }
}
