//! Devices without the feature `cuda`: the CPU alone.

use crate::{AnyDevice, DeviceOptions, Error, Observer, Result};

/// Evaluates an expression for a model on any device: `on!(&model.llama, llama => Trace::new(llama, &ids))`.
#[macro_export]
macro_rules! on {
    ($model:expr, $name:pat => $body:expr) => {
        match $model {
            $crate::AnyModel::Cpu($name) => $body,
        }
    };
}

/// The same for a device.
macro_rules! on_device {
    ($device:expr, $name:pat => $body:expr) => {
        match $device {
            $crate::AnyDevice::Cpu($name) => $body,
        }
    };
}
pub(crate) use on_device;

/// Fails: this build has no GPUs.
pub(crate) fn open(ordinal: usize, _: &DeviceOptions, _: &dyn Observer) -> Result<AnyDevice> {
    Err(Error::WithoutCuda { ordinal })
}

/// Finds no GPU.
pub(crate) fn first_that_fits(
    _: &DeviceOptions,
    _: u64,
    _: &mut dyn Observer,
) -> Option<AnyDevice> {
    None
}
