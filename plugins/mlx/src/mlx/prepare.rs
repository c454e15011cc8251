//! What MLX finds when it begins: its environment, and where it keeps the kernels that it has compiled.

use std::path::PathBuf;
use std::sync::OnceLock;

use finetune_plugin_api::export::Error;

use super::failure::keep_message;
use super::info::{DeviceInfo, is_available, version};

/// Where this process has told MLX to keep kernels.
static KERNELS: OnceLock<PathBuf> = OnceLock::new();

/// What an environment variable that is 1 or 0 says, if it is there.
///
/// # Errors
/// It says something else.
pub fn switch(name: &str) -> Result<Option<bool>, Error> {
    let Some(value) = std::env::var_os(name) else { return Ok(None) };
    match value.to_str() {
        Some("1") => Ok(Some(true)),
        Some("0") => Ok(Some(false)),
        _ => Err(Error::invalid_argument(format!(
            "the environment variable {name} is {:?}; expected 1 or 0",
            value.to_string_lossy()
        ))),
    }
}

/// To be called before anything else of MLX: f32 means f32, and an error is kept instead of ending the process,
/// as MLX would have it.
///
/// # Errors
/// `FINETUNE_MLX_TF32` says neither 1 nor 0.
pub fn prepare() -> Result<(), Error> {
    static ONCE: OnceLock<()> = OnceLock::new();
    let tf32 = switch("FINETUNE_MLX_TF32")?.unwrap_or(false);
    ONCE.get_or_init(|| begin(tf32));
    Ok(())
}

fn begin(tf32: bool) {
    // SAFETY: MLX has not been used, so nothing of it reads the environment now. Threads that the host has by then
    // (its supervisor's socket, its signals) do not read it either.
    let set = |name: &str, value: &str| unsafe { std::env::set_var(name, value) };
    set("MLX_ENABLE_TF32", if tf32 { "1" } else { "0" });
    let default = |name: &str, value: &str| {
        if std::env::var_os(name).is_none() {
            set(name, value);
        }
    };
    // On CUDA, MLX keeps a graph of each sequence of kernels, and by default fails when it has met more than
    // twice 400 of them. Each length of rows has its own, and so has generation.
    default("MLX_CUDA_GRAPH_CACHE_SIZE", "2000");
    default("MLX_ENABLE_CACHE_THRASHING_CHECK", "0");
    if cfg!(target_os = "linux") {
        // There, what a kernel reads is kept until all kernels that were handed over with it are done: so few at a
        // time that memory comes back while others wait for it. (Metal has a default of its own for each chip.)
        default("MLX_MAX_MB_PER_BUFFER", "200");
    }
    // mlx-rs sets its own handler at its first call; this one has to come after it.
    let _ = mlx_rs::memory::active_memory();
    // SAFETY: the handler is a function of this library, which is never unloaded.
    unsafe { mlx_sys::mlx_set_error_handler(Some(keep_message), std::ptr::null_mut(), None) };
    // MLX would make equal expressions one: what the backward pass computes again, in f32 even, would be kept
    // from the forward pass on, for every layer. A program says itself what is computed once.
    // SAFETY: sets a number.
    unsafe { mlx_sys::mlx_set_compile_mode(mlx_sys::mlx_compile_mode__MLX_COMPILE_MODE_NO_SIMPLIFY) };
    if std::env::var_os("MLX_PTX_CACHE_DIR").is_none()
        && let Some(folder) = kernels_folder()
        && let Some(text) = folder.to_str()
    {
        set("MLX_PTX_CACHE_DIR", text);
        let _ = KERNELS.set(folder);
    }
}

/// Where MLX for CUDA keeps the kernels that it has compiled, a minute or two of work: in the user's cache, by version
/// and architecture. MLX's own choice is a folder of a fixed name in the system's for temporary files, where another
/// user may have put something else.
fn kernels_folder() -> Option<PathBuf> {
    if !cfg!(target_os = "linux") || !is_available(true, 0) {
        return None;
    }
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    let info = DeviceInfo::of(true, 0).ok()?;
    let architecture = info.text(c"architecture").or_else(|| info.text(c"compute_capability"))?;
    Some(cache.join("finetune").join(format!("mlx-{}-{architecture}", version())))
}

/// What MLX says of a kernel that it has kept and cannot use: it writes them in place, so a process that was killed
/// may have left a part of one, which no later process would get past.
const BROKEN: [&str; 2] = ["failed to load compiled", "there is no kernel named"];

/// If a message of MLX's is of a kept kernel, removes them all. Says so.
pub fn forget_broken_kernels(message: &str) -> Option<String> {
    let lower = message.to_lowercase();
    let folder = KERNELS.get().filter(|_| BROKEN.iter().any(|words| lower.contains(words)))?;
    std::fs::remove_dir_all(folder).ok()?;
    Some(format!("the kernels kept in {} were removed; they are compiled anew", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word that is taken for "no" would turn something off that was asked for.
    #[test]
    fn a_switch_is_1_or_0() {
        let name = "FINETUNE_MLX_SWITCH_OF_A_TEST";
        assert_eq!(switch(name), Ok(None));
        for (value, wanted) in [("1", true), ("0", false)] {
            // SAFETY: no other test reads or writes this name; nextest runs each in a process of its own.
            unsafe { std::env::set_var(name, value) };
            assert_eq!(switch(name), Ok(Some(wanted)));
        }
        // SAFETY: as above.
        unsafe { std::env::set_var(name, "on") };
        assert!(switch(name).unwrap_err().message().ends_with("is \"on\"; expected 1 or 0"));
    }
}
