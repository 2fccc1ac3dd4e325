//! The `vhost` crate's view of [`Backend`]: its handler trait, request by request. What is not offered is refused.

use std::fs::File;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg, VhostUserSingleMemoryRegion,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{GpuBackend, Result, VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures};

use super::backend::Backend;
use super::error::Refusal;
use super::offer;
use super::rings::Addresses;
use super::slots::MAX_SLOTS;
use crate::address::FrontendAddr;

fn not_offered<T>(request: &'static str) -> Result<T> {
    Err(Refusal::Unsupported(request).into())
}

impl VhostUserBackendReqHandlerMut for Backend {
    /// There is one frontend at a time, and it owns the session from the start.
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        Backend::reset_owner(self);
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        Backend::reset_device(self);
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered_features())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        Ok(Backend::set_features(self, features)?)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(offer::protocol())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        Ok(Backend::set_protocol_features(self, features)?)
    }

    /// For virtio-net the number of queue *pairs* (QEMU compares it with `queues=` of the netdev).
    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.queue_pairs() as u64)
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        Backend::set_mem_table(self, regions, files)?;
        Ok(None)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_SLOTS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        Backend::add_mem_region(self, region, file)?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        Ok(Backend::remove_mem_region(self, region)?)
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> Result<()> {
        Ok(Backend::set_vring_num(self, index, size)?)
    }

    /// The log address means something only with LOG_ALL, which is not offered.
    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let addresses = Addresses {
            descriptors: FrontendAddr(descriptor),
            driver: FrontendAddr(available),
            device: FrontendAddr(used),
        };
        Ok(Backend::set_vring_addr(self, index, addresses)?)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        Ok(Backend::set_vring_base(self, index, base)?)
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        Ok(VhostUserVringState::new(index, Backend::get_vring_base(self, index)?))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        Ok(Backend::set_vring_kick(self, index.into(), file)?)
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        Ok(Backend::set_vring_call(self, index.into(), file)?)
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        Ok(Backend::set_vring_err(self, index.into(), file)?)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        Ok(Backend::set_vring_enable(self, index, enable.into())?)
    }

    fn get_config(&mut self, _offset: u32, _size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        not_offered("GET_CONFIG")
    }

    fn set_config(&mut self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        not_offered("SET_CONFIG")
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> Result<()> {
        not_offered("GPU_SET_SOCKET")
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        not_offered("GET_SHARED_OBJECT")
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        not_offered("GET_INFLIGHT_FD")
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        not_offered("SET_INFLIGHT_FD")
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        not_offered("SET_DEVICE_STATE_FD")
    }

    fn check_device_state(&mut self) -> Result<()> {
        not_offered("CHECK_DEVICE_STATE")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered("GET_SHMEM_CONFIG")
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        not_offered("SET_LOG_BASE")
    }
}
