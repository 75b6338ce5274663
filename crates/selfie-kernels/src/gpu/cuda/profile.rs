//! How long each launch and each product takes on the device.

use cudarc::driver::result::DriverError;

use super::event::Event;

/// A launch or a product, and its time.
#[derive(Clone, Debug)]
pub struct Timed {
    /// The kernel's entry, or the product's sizes.
    pub name: String,
    /// As the device counts them.
    pub seconds: f64,
}

/// The events around each piece of work, in order.
#[derive(Default)]
pub(super) struct Profile(Vec<(String, [Event; 2])>);

impl Profile {
    pub(super) fn add(&mut self, name: String, start: Event, end: Event) {
        self.0.push((name, [start, end]));
    }

    /// The times, when the stream has been waited for.
    pub(super) fn times(self) -> Result<Vec<Timed>, DriverError> {
        let time = |(name, [start, end]): (String, [Event; 2])| {
            let seconds = end.seconds_since(&start)?;
            Ok(Timed { name, seconds })
        };
        self.0.into_iter().map(time).collect()
    }
}
