//! Counts nodes, watches the clock, and asks the caller whether to stop.

use std::time::Instant;

use crate::search::Options;
use crate::solution::Status;

pub(crate) struct Monitor<'a> {
    stop: &'a dyn Fn() -> bool,
    deadline: Option<Instant>,
    node_limit: Option<u64>,
    pub(crate) nodes: u64,
    reason: Option<Status>,
}

impl<'a> Monitor<'a> {
    pub(crate) fn new(options: &Options, stop: &'a dyn Fn() -> bool) -> Self {
        let deadline = options.time_limit.and_then(|limit| Instant::now().checked_add(limit));
        Self { stop, deadline, node_limit: options.node_limit, nodes: 0, reason: None }
    }

    /// Why to stop, once there is a reason.
    pub(crate) fn reason(&self) -> Option<Status> {
        self.reason
    }

    /// Whether to stop now.
    pub(crate) fn stopped(&mut self) -> bool {
        if self.reason.is_none() {
            if (self.stop)() {
                self.reason = Some(Status::Interrupted);
            } else if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.reason = Some(Status::TimeLimit);
            }
        }
        self.reason.is_some()
    }

    /// Count one more node; whether it may still be visited.
    pub(crate) fn visit(&mut self) -> bool {
        if !self.stopped() && self.node_limit.is_some_and(|limit| self.nodes >= limit) {
            self.reason = Some(Status::NodeLimit);
        }
        if self.reason.is_none() {
            self.nodes += 1;
        }
        self.reason.is_none()
    }
}
