//! The MLX back end.
#![cfg(feature = "mlx")]

#[cfg(target_os = "linux")]
mod blas;

use abi_stable as _;
use finetune_plugin_api as _;

#[cfg(test)]
mod tests {
    use mlx_rs::Array;

    /// Two small matrices.
    #[test]
    fn multiplies() {
        let a = Array::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2]);
        let c = a.matmul(&a).unwrap();
        assert_eq!(c.as_slice::<f32>(), [7.0, 10.0, 15.0, 22.0]);
    }
}
