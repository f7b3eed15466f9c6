//! The two hidden inputs of a program, made visible: what time it is, and chance.

use chrono::{DateTime, Utc};

pub trait Clock: Send + Sync {
    fn now(&self) -> DateTime<Utc>;
}

pub trait Entropy: Send + Sync {
    fn bits(&self) -> u64;
}
