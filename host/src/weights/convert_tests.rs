use half::{bf16, f16};
use proptest::prelude::*;
use tempfile::tempdir;

use super::*;
use crate::weights::Tensors;
use crate::weights::testing::{f32_bytes, f32_file, put, raw_file, refused};

fn run(bytes: &[u8], from: StoredDType, to: WeightDType) -> Vec<u8> {
    let mut out = Vec::new();
    convert_slice(bytes, from, to, &mut out);
    out
}

fn to_half(value: f64, from: StoredDType, to: WeightDType) -> u16 {
    let bytes = match from {
        StoredDType::F64 => value.to_le_bytes().to_vec(),
        _ => (value as f32).to_le_bytes().to_vec(),
    };
    u16::from_le_bytes(run(&bytes, from, to).try_into().unwrap())
}

/// Ties go to even, just above a tie goes up, too large becomes infinity, NaN stays NaN; the bits are written
/// out, so that no library is compared with itself.
#[test]
fn rounding_is_to_nearest_even() {
    use StoredDType::F32;
    use WeightDType::{BF16, F16};
    let eps = f64::from(f32::EPSILON);
    for (value, bits) in [
        (1.0, 0x3f80),
        (1.0 + 1.0 / 256.0, 0x3f80),
        (1.0 + 3.0 / 256.0, 0x3f82),
        (1.0 + 1.0 / 256.0 + eps, 0x3f81),
        (-1.0 - 3.0 / 256.0, 0xbf82),
        (f64::from(f32::MAX), 0x7f80),
        (-0.0, 0x8000),
    ] {
        assert_eq!(to_half(value, F32, BF16), bits, "{value} to bf16");
    }
    for (value, bits) in [
        (1.0, 0x3c00),
        (1.0 + 1.0 / 2048.0, 0x3c00),
        (1.0 + 3.0 / 2048.0, 0x3c02),
        (1.0 + 1.0 / 2048.0 + eps, 0x3c01),
        (65504.0, 0x7bff),
        (65519.0, 0x7bff),
        (65520.0, 0x7c00),
        (2f64.powi(-24), 0x0001),
        (2f64.powi(-25), 0x0000),
        (3.0 * 2f64.powi(-25), 0x0002),
    ] {
        assert_eq!(to_half(value, F32, F16), bits, "{value} to f16");
    }
    assert!(bf16::from_bits(to_half(f64::NAN, F32, BF16)).is_nan());
    assert!(f16::from_bits(to_half(f64::NAN, F32, F16)).is_nan());
}

/// From f64, a value a hair above a tie goes up, though its nearest f32 is the tie itself.
#[test]
fn f64_is_rounded_once() {
    use StoredDType::F64;
    let hair = 2f64.powi(-40);
    assert_eq!(to_half(1.0 + 1.0 / 256.0 + hair, F64, WeightDType::BF16), 0x3f81);
    assert_eq!(to_half(1.0 + 3.0 / 256.0 - hair, F64, WeightDType::BF16), 0x3f81);
    assert_eq!(to_half(1.0 + 1.0 / 2048.0 + hair, F64, WeightDType::F16), 0x3c01);
    assert_eq!(to_half(1.0 + 1.0 / 2048.0, F64, WeightDType::F16), 0x3c00);
    assert_eq!(to_half(1e300, F64, WeightDType::BF16), 0x7f80);
    assert_eq!(to_half(-1e-300, F64, WeightDType::BF16), 0x8000);
}

/// All 16-bit values of both formats reach f32 and come back as they were.
#[test]
fn halves_survive_f32() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for (half, is_nan) in [
        (WeightDType::F16, (|bits| f16::from_bits(bits).is_nan()) as fn(u16) -> bool),
        (WeightDType::BF16, |bits| bf16::from_bits(bits).is_nan()),
    ] {
        let wide = run(&all, half.into(), WeightDType::F32);
        let back = run(&wide, StoredDType::F32, half);
        for (before, after) in all.chunks(2).zip(back.chunks(2)) {
            let bits = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
            assert!(before == after || (is_nan(bits(before)) && is_nan(bits(after))), "{before:?} {after:?}");
        }
    }
}

/// Ranges joined give the whole, over chunk borders, and a range that is not there is an error.
#[test]
fn ranges_join_to_the_whole() {
    let dir = tempdir().unwrap();
    let count = 2 * CHUNK + 777;
    let values: Vec<f32> = (0..count).map(|i| (i as f32).sin() * 1e3).collect();
    put(dir.path(), "m.safetensors", f32_file(&[("w", &[count], &values)]));
    let view = Tensors::open_file(&dir.path().join("m.safetensors")).unwrap().get("w").unwrap();
    let whole = convert(&view, WeightDType::BF16).unwrap();
    let expected: Vec<u8> = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
    assert!(whole == expected);
    let (mut joined, mut piece) = (Vec::new(), Vec::new());
    for start in (0..count).step_by(10_007) {
        convert_range(&view, start..(start + 10_007).min(count), WeightDType::BF16, &mut piece).unwrap();
        joined.extend_from_slice(&piece);
    }
    assert!(joined == whole);
    assert_eq!(convert(&view, WeightDType::F32).unwrap(), f32_bytes(&values));
    refused(convert_range(&view, 5..count + 1, WeightDType::F32, &mut piece), &["tensor w", "5.."]);
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = 5..4;
    refused(convert_range(&view, backwards, WeightDType::F32, &mut piece), &["5..4"]);
}

/// A tensor that is not aligned in its file is read like any other; an integer one is refused.
#[test]
fn unaligned_and_integer_tensors() {
    let dir = tempdir().unwrap();
    let header = r#"{"i":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"F64","shape":[1],"data_offsets":[1,9]}}"#;
    let mut data = vec![7];
    data.extend_from_slice(&2.5f64.to_le_bytes());
    put(dir.path(), "m.safetensors", raw_file(header, &data));
    let tensors = Tensors::open_file(&dir.path().join("m.safetensors")).unwrap();
    let view = tensors.require("w", &[1]).unwrap();
    assert_eq!(convert(&view, WeightDType::F32).unwrap(), f32_bytes(&[2.5]));
    refused(view.weight_dtype(), &["tensor w", "F64"]);
    refused(convert(&tensors.get("i").unwrap(), WeightDType::F32), &["tensor i", "U8"]);
}

proptest! {
    /// Of a finite value's bf16 neighbours the one that is taken is a nearest one.
    #[test]
    fn bf16_is_a_nearest(value in -1e30f64..1e30) {
        let taken = bf16::from_bits(to_half(value, StoredDType::F64, WeightDType::BF16));
        let distance = |bits: u16| (f64::from(bf16::from_bits(bits).to_f32()) - value).abs();
        prop_assert!(distance(taken.to_bits()) <= distance(taken.to_bits().wrapping_add(1)));
        prop_assert!(distance(taken.to_bits()) <= distance(taken.to_bits().wrapping_sub(1)) || taken.to_bits() & 0x7fff == 0);
    }
}
