//! What there is: devices and the library.

use std::ffi::CStr;

use super::failure::check;
use super::*;

/// Whether a device is there, asked before it is touched.
pub fn is_available(gpu: bool, index: i32) -> bool {
    let kind = if gpu { mlx_sys::mlx_device_type__MLX_GPU } else { mlx_sys::mlx_device_type__MLX_CPU };
    let mut available = false;
    // SAFETY: a handle that is made, asked about and freed.
    unsafe {
        let device = mlx_sys::mlx_device_new_type(kind, index);
        let status = mlx_sys::mlx_device_is_available(&mut available, device);
        mlx_sys::mlx_device_free(device);
        available && status == 0
    }
}

/// How many there are of a kind.
pub fn device_count(gpu: bool) -> i32 {
    let kind = if gpu { mlx_sys::mlx_device_type__MLX_GPU } else { mlx_sys::mlx_device_type__MLX_CPU };
    let mut count = 0;
    // SAFETY: writes one number.
    let status = unsafe { mlx_sys::mlx_device_count(&mut count, kind) };
    if status == 0 { count } else { 0 }
}

/// What MLX knows of a device.
pub struct DeviceInfo(mlx_sys::mlx_device_info);

impl DeviceInfo {
    pub fn of(gpu: bool, index: i32) -> Result<DeviceInfo, Error> {
        let kind = if gpu { mlx_sys::mlx_device_type__MLX_GPU } else { mlx_sys::mlx_device_type__MLX_CPU };
        // SAFETY: handles that are made here; the info is owned by the result, the device freed.
        unsafe {
            let mut info = DeviceInfo(mlx_sys::mlx_device_info_new());
            let device = mlx_sys::mlx_device_new_type(kind, index);
            let status = mlx_sys::mlx_device_info_get(&mut info.0, device);
            mlx_sys::mlx_device_free(device);
            check(status)?;
            Ok(info)
        }
    }

    fn has(&self, key: &CStr) -> bool {
        let mut has = false;
        // SAFETY: a live handle.
        unsafe { mlx_sys::mlx_device_info_has_key(&mut has, self.0, key.as_ptr()) == 0 && has }
    }

    pub fn text(&self, key: &CStr) -> Option<String> {
        let (mut is_text, mut value) = (false, std::ptr::null());
        // SAFETY: a live handle; the string lives as long as it and is copied.
        unsafe {
            if !self.has(key)
                || mlx_sys::mlx_device_info_is_string(&mut is_text, self.0, key.as_ptr()) != 0
                || !is_text
            {
                return None;
            }
            check(mlx_sys::mlx_device_info_get_string(&mut value, self.0, key.as_ptr())).ok()?;
            (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
        }
    }

    pub fn size(&self, key: &CStr) -> Option<u64> {
        let (mut is_text, mut value) = (true, 0);
        // SAFETY: a live handle.
        unsafe {
            if !self.has(key)
                || mlx_sys::mlx_device_info_is_string(&mut is_text, self.0, key.as_ptr()) != 0
                || is_text
            {
                return None;
            }
            check(mlx_sys::mlx_device_info_get_size(&mut value, self.0, key.as_ptr())).ok()?;
        }
        Some(value as u64)
    }
}

impl Drop for DeviceInfo {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { mlx_sys::mlx_device_info_free(self.0) };
    }
}

/// MLX's version.
pub fn version() -> String {
    // SAFETY: a string that is made, filled, copied and freed here.
    unsafe {
        let mut text = mlx_sys::mlx_string_new();
        let status = mlx_sys::mlx_version(&mut text);
        let data = mlx_sys::mlx_string_data(text);
        let version = if status != 0 || data.is_null() {
            "unknown".into()
        } else {
            CStr::from_ptr(data).to_string_lossy().into_owned()
        };
        mlx_sys::mlx_string_free(text);
        version
    }
}
