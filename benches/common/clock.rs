//! Criterion's measurement: the host's clock, or a device's own between two events on the stream that the work is queued on.

use std::rc::Rc;
use std::time::{Duration, Instant};

use alexnet::cuda::lone::{Lane, Lap};
use criterion::measurement::{Measurement, ValueFormatter, WallTime};

/// What time is taken from.
#[derive(Clone)]
pub enum Clock {
    Host,
    Device(Rc<Lane>),
}

/// When a measurement began.
pub enum Moment {
    Host(Instant),
    Device(Lap),
}

impl Measurement for Clock {
    type Intermediate = Moment;
    type Value = Duration;

    fn start(&self) -> Moment {
        match self {
            Clock::Host => Moment::Host(Instant::now()),
            Clock::Device(lane) => Moment::Device(lane.lap().expect("the device is there")),
        }
    }

    fn end(&self, begin: Moment) -> Duration {
        match (self, begin) {
            (_, Moment::Host(begin)) => begin.elapsed(),
            (Clock::Device(lane), Moment::Device(begin)) => lane.since(&begin).expect("the device is there"),
            (Clock::Host, Moment::Device(_)) => unreachable!("the host's clock gives its own moments"),
        }
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        static WALL: WallTime = WallTime;
        WALL.formatter()
    }
}
