//! The states of a subscription, with their names and their numbers in tables. No transitions.

/// State of a subscription (RFC 3857 §4.7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Allowed: it is told everything it may see.
    Active,
    /// Nobody has decided about it yet: it is told nothing.
    Pending,
    /// Over, or refused.
    Terminated,
    /// It ended before anybody decided about it.
    Waiting,
}

impl Status {
    /// As in Subscription-State and in watcher information.
    pub fn name(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Pending => "pending",
            Status::Terminated => "terminated",
            Status::Waiting => "waiting",
        }
    }

    /// As in column `status` of `active_watchers` and `watchers`.
    pub fn number(self) -> i64 {
        match self {
            Status::Active => 1,
            Status::Pending => 2,
            Status::Terminated => 3,
            Status::Waiting => 4,
        }
    }

    /// The status of such a number; an unknown one is undecided.
    pub fn of_number(number: i64) -> Status {
        match number {
            1 => Status::Active,
            3 => Status::Terminated,
            4 => Status::Waiting,
            _ => Status::Pending,
        }
    }
}
