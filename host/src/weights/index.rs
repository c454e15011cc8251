//! The index of a sharded model: `model.safetensors.index.json`.

use std::path::{Component, Path};

use serde::Deserialize;

use super::error::WeightsError;
use super::json::{self, UniqueMap};

#[derive(Deserialize)]
struct RawIndex {
    weight_map: UniqueMap<String>,
}

/// The pairs (tensor, file name of its shard) of the index whose content is `bytes`, in the index's order.
/// `metadata.total_size` is not looked at: the files say what they hold.
///
/// # Errors
/// Invalid JSON, no or an empty `weight_map`, a tensor twice, or a shard's name that leads out of the folder.
pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Vec<(String, String)>, WeightsError> {
    let index: RawIndex = json::parse(bytes, path)?;
    let problem = |problem: String| WeightsError::Index { path: path.to_path_buf(), problem };
    if index.weight_map.0.is_empty() {
        return Err(problem("its weight_map names no tensor".into()));
    }
    for (tensor, shard) in &index.weight_map.0 {
        // A backslash separates on Windows only; refused everywhere, so that a folder means the same everywhere.
        let stays_inside = Path::new(shard).components().all(|part| matches!(part, Component::Normal(_)))
            && !shard.contains(['\\', ':', '\0']);
        if shard.is_empty() || !stays_inside {
            return Err(problem(format!(
                "tensor {tensor} should be in {shard:?}, which is not a path inside the model's folder"
            )));
        }
        if !shard.ends_with(".safetensors") {
            return Err(problem(format!(
                "tensor {tensor} should be in {shard:?}, which is not a .safetensors file"
            )));
        }
    }
    Ok(index.weight_map.0)
}
