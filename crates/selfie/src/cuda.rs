//! Devices with the feature `cuda`; `no_cuda.rs` is the counterpart.

use selfie_kernels::gpu::{Cuda, CudaOptions};
use selfie_kernels::{Backend, KernelError};

use crate::{AnyDevice, DeviceOptions, Note, Observer, Result};

/// Evaluates an expression for a model on any device: `on!(&model.llama, llama => Trace::new(llama, &ids))`.
#[macro_export]
macro_rules! on {
    ($model:expr, $name:pat => $body:expr) => {
        match $model {
            $crate::AnyModel::Cpu($name) => $body,
            $crate::AnyModel::Cuda($name) => $body,
        }
    };
}

/// The same for a device.
macro_rules! on_device {
    ($device:expr, $name:pat => $body:expr) => {
        match $device {
            $crate::AnyDevice::Cpu($name) => $body,
            $crate::AnyDevice::Cuda($name) => $body,
        }
    };
}
pub(crate) use on_device;

/// Opens the GPU with this number.
pub(crate) fn open(
    ordinal: usize,
    options: &DeviceOptions,
    observer: &dyn Observer,
) -> Result<AnyDevice> {
    let cuda = Cuda::open(ordinal, cuda(options))?;
    note_later(&cuda, observer)?;
    Ok(AnyDevice::Cuda(cuda))
}

/// Opens the first usable GPU with `bytes` free. Notes the GPUs that it skips.
pub(crate) fn first_that_fits(
    options: &DeviceOptions,
    bytes: u64,
    observer: &mut dyn Observer,
) -> Option<AnyDevice> {
    let devices = match Cuda::devices() {
        Ok(devices) => devices,
        Err(reason) => {
            observer.note(Note::GpuPassedOver { reason });
            0
        }
    };
    for ordinal in 0..devices {
        let opened = Cuda::open(ordinal, cuda(options))
            .and_then(|cuda| fitting(cuda, bytes))
            .and_then(|cuda| note_later(&cuda, observer).map(|()| cuda));
        match opened {
            Ok(cuda) => return Some(AnyDevice::Cuda(cuda)),
            Err(reason) => observer.note(Note::GpuPassedOver { reason }),
        }
    }
    None
}

/// Passes on what happens while models run.
fn note_later(cuda: &Cuda, observer: &dyn Observer) -> Result<(), KernelError> {
    let Some(note) = observer.later() else {
        return Ok(());
    };
    cuda.driver().when_graphs_fail(move |reason| {
        note(Note::WithoutGraphs {
            reason: reason.to_owned(),
        });
    })
}

fn cuda(options: &DeviceOptions) -> CudaOptions {
    CudaOptions {
        deterministic: options.deterministic,
        graphs: options.cuda_graphs,
        ..CudaOptions::default()
    }
}

/// The device, if a model of `bytes` fits on it.
fn fitting(cuda: Cuda, bytes: u64) -> Result<Cuda, KernelError> {
    let available = cuda.memory()?.available;
    if bytes <= available {
        return Ok(cuda);
    }
    Err(KernelError::OutOfMemory {
        what: "the model",
        bytes,
        available,
        device: cuda.describe(),
    })
}
