//! A device that works on batches, as a graphics processor does: a batch of n items takes a + b * n, however many
//! processes share the CPU meanwhile.
//!
//! A worker *waits* for its device: the CPU is free for others until the batch is done. So four workers with a device each may
//! share one CPU, and still four batches are under way at once. A device can also *burn* the time on the CPU itself: then the
//! CPU is the device, and any other work there makes a batch longer.

use std::hint;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use rkyv::{Archive, Deserialize, Serialize};

/// The time of a batch, and how it is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Device {
    batch_ns: u64,
    item_ns: u64,
    burns: bool,
}

impl Device {
    /// A device to wait for.
    pub const fn waiting(batch: Duration, item: Duration) -> Self {
        Self { batch_ns: batch.as_nanos() as u64, item_ns: item.as_nanos() as u64, burns: false }
    }

    /// A device that burns CPU time.
    pub const fn burning(batch: Duration, item: Duration) -> Self {
        Self { burns: true, ..Self::waiting(batch, item) }
    }

    /// To be called once in a thread that is going to use it: a wait then ends as soon as it is over, as with an
    /// interrupt, and not up to 50 µs later, as Linux allows itself with ordinary sleeps.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn open(self) -> std::io::Result<Self> {
        prctl::set_timerslack(1)?;
        Ok(self)
    }

    /// How long a batch of this many items takes.
    pub fn time(self, items: usize) -> Duration {
        Duration::from_nanos(self.batch_ns + self.item_ns * items as u64)
    }

    /// Works on this many items.
    pub fn work(self, items: usize) {
        let begun = Instant::now();
        let time = self.time(items);
        loop {
            let left = time.saturating_sub(begun.elapsed());
            match left {
                Duration::ZERO => return,
                _ if self.burns => hint::spin_loop(),
                left => thread::sleep(left), // the device's own time
            }
        }
    }

    /// Nanoseconds an item if this many devices are never without a full batch.
    pub fn ideal_ns_per_item(self, batch_size: usize, devices: usize) -> f64 {
        self.time(batch_size).as_nanos() as f64 / (batch_size * devices) as f64
    }
}

impl ArchivedDevice {
    /// The device, out of its archive.
    pub fn native(&self) -> Device {
        let Self { batch_ns, item_ns, burns } = self;
        Device { batch_ns: batch_ns.to_native(), item_ns: item_ns.to_native(), burns: *burns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu_time;

    const BATCH: Duration = Duration::from_millis(3);
    const ITEM: Duration = Duration::from_micros(100);

    #[test]
    fn a_batch_takes_no_less_than_its_time() {
        for device in [Device::waiting(BATCH, ITEM), Device::burning(BATCH, ITEM)] {
            let begun = Instant::now();
            let cpu_before = cpu_time::of_this_thread();
            device.open().unwrap().work(20);
            let (took, cpu) = (begun.elapsed(), cpu_time::of_this_thread() - cpu_before);
            assert!(took >= Duration::from_millis(5), "{took:?}");
            assert!(device.burns || cpu < took / 2, "{cpu:?} of {took:?}");
        }
    }

    #[test]
    fn devices_share_the_items() {
        let device = Device::waiting(BATCH, ITEM);
        assert_eq!(device.time(0), BATCH);
        assert_eq!(device.ideal_ns_per_item(10, 1), 400_000.0);
        assert_eq!(device.ideal_ns_per_item(10, 4), 100_000.0);
    }
}
