//! The device time of each launch and each product.

use cudarc::driver::result::DriverError;

use super::event::Event;

/// A launch or a product, and its time.
#[derive(Clone, Debug)]
pub struct Timed {
    /// The kernel's entry, or the sizes of the product.
    pub name: String,
    /// Seconds by the device's clock.
    pub seconds: f64,
}

/// The events around each piece of work, in order.
#[derive(Default)]
pub(super) struct Profile(Vec<(String, [Event; 2])>);

impl Profile {
    pub(super) fn add(&mut self, name: String, start: Event, end: Event) {
        self.0.push((name, [start, end]));
    }

    /// The times; the stream must have been waited for.
    pub(super) fn times(self) -> Result<Vec<Timed>, DriverError> {
        let time = |(name, [start, end]): (String, [Event; 2])| {
            let seconds = end.seconds_since(&start)?;
            Ok(Timed { name, seconds })
        };
        self.0.into_iter().map(time).collect()
    }
}
