//! Rules by which a NIC chooses an RX queue.

use std::ffi::{CStr, c_char};
use std::ptr::{NonNull, null, null_mut};
use std::sync::Arc;

use crate::error::{Error, check};
use crate::ffi;
use crate::port::{PortInner, report};

/// A rule of [`Port::steer`](crate::Port::steer). It goes when this is dropped, and keeps the port running until then.
pub struct FlowRule {
    raw: NonNull<ffi::rte_flow>,
    port: Arc<PortInner>,
    mac: [u8; 6],
    queue: u16,
}

// SAFETY: the driver's handle of a rule belongs to no thread, and is used under the port's lock only.
unsafe impl Send for FlowRule {}

impl std::fmt::Debug for FlowRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (port, mac, queue) = (self.port.name(), self.mac, self.queue);
        f.debug_struct("FlowRule").field("port", &port).field("mac", &mac).field("queue", &queue).finish()
    }
}

impl FlowRule {
    /// `queue` need not exist: then the driver refuses.
    pub(crate) fn create(port: &Arc<PortInner>, mac: [u8; 6], queue: u16) -> Result<Self, Error> {
        Self::validate(port, mac, queue)?;
        let raw = steer(port, mac, queue, ("rte_flow_create", ffi::PMD_FLOW_CREATE))?;
        // The shim reports a rule that is not there as an error.
        let raw = NonNull::new(raw).expect("a rule that was created");
        Ok(Self { raw, port: Arc::clone(port), mac, queue })
    }

    pub(crate) fn validate(port: &Arc<PortInner>, mac: [u8; 6], queue: u16) -> Result<(), Error> {
        steer(port, mac, queue, ("rte_flow_validate", ffi::PMD_FLOW_VALIDATE)).map(drop)
    }

    /// The address whose packets it is about.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The RX queue that receives them.
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }
}

impl Drop for FlowRule {
    fn drop(&mut self) {
        let _lock = self.port.lock();
        let mut words = null();
        report(check("rte_flow_destroy", self.port.name(), || {
            // SAFETY: the port runs, its lock is held, and this is the only handle of the rule.
            unsafe { ffi::pmd_flow_destroy(self.port.id(), self.raw.as_ptr(), &mut words) }
        }));
    }
}

/// Makes such a rule, or asks whether it could be made.
fn steer(
    port: &PortInner,
    mac: [u8; 6],
    queue: u16,
    (call, what): (&'static str, u32),
) -> Result<*mut ffi::rte_flow, Error> {
    let _lock = port.lock();
    let (mut raw, mut words) = (null_mut(), null());
    let outcome = check(call, port.name(), || {
        // SAFETY: the port runs as long as `port` lives, and its lock is held; the shim reads 6 bytes and writes the two pointers.
        unsafe { ffi::pmd_flow_steer(what as i32, port.id(), mac.as_ptr(), queue, &mut raw, &mut words) }
    });
    outcome.map(|_| raw).map_err(|error| with_words(error, words))
}

/// The error with what the driver says of it, if it does.
fn with_words(error: Error, words: *const c_char) -> Error {
    let Error::Dpdk(mut error) = error else { return error };
    if !words.is_null() {
        // SAFETY: a driver's message is a constant, or lives until its next call; it is copied before that.
        let words = unsafe { CStr::from_ptr(words) }.to_string_lossy();
        if !error.log.contains(&*words) && words != error.text {
            error.log = if error.log.is_empty() { words.into_owned() } else { format!("{words}; {}", error.log) };
        }
    }
    error.into()
}
