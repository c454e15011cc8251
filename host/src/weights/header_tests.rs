use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::weights::testing::{f32_file, raw_file, refused};

fn one_tensor(dtype: &str, shape: Value, begin: u64, end: u64) -> String {
    json!({ "w": { "dtype": dtype, "shape": shape, "data_offsets": [begin, end] } }).to_string()
}

/// What the safetensors library writes is read as it was meant.
#[test]
fn sound_file_is_read() {
    let file = f32_file(&[("a", &[2, 3], &[0.; 6]), ("scalar", &[], &[1.]), ("none", &[0, 4], &[])]);
    let entries = parse(&file).unwrap();
    assert_eq!(entries["a"].shape, [2, 3]);
    assert_eq!(entries["a"].dtype, StoredDType::F32);
    assert_eq!(entries["a"].bytes.len(), 24);
    assert_eq!(&file[entries["scalar"].bytes.clone()], 1f32.to_le_bytes());
    assert!(entries["none"].bytes.is_empty());
}

/// A download that stopped, at whichever byte, is recognized.
#[test]
fn every_cut_is_refused() {
    let file = f32_file(&[("a", &[2, 3], &[0.; 6]), ("b", &[1], &[0.])]);
    for length in 0..file.len() {
        assert!(parse(&file[..length]).is_err(), "accepted after {length} of {} bytes", file.len());
    }
    refused(parse(&file[..4]), &["4 bytes"]);
    refused(parse(&file[..20]), &["header should be", "cut off"]);
    refused(parse(&file[..file.len() - 1]), &["cut off"]);
}

/// Sizes that cannot be are refused by comparing, not by trying: none of these numbers could be allocated.
#[test]
fn absurd_sizes_are_refused() {
    refused(parse(&u64::MAX.to_le_bytes()), &["more than the format allows"]);
    refused(parse(&99_000_000u64.to_le_bytes()), &["cut off"]);
    let max = u64::MAX;
    for shape in [json!([max]), json!([max, max]), json!([1u64 << 62, 4])] {
        refused(
            parse(&raw_file(&one_tensor("F32", shape, 0, 4), &[0; 4])),
            &["tensor w", "no file can hold"],
        );
    }
    let huge = 1u64 << 40;
    refused(parse(&raw_file(&one_tensor("U8", json!([huge]), 0, huge), &[0; 4])), &["tensor w", "cut off"]);
    refused(parse(&raw_file(&one_tensor("U8", json!([8]), max - 8, max), &[0; 8])), &["no file can hold"]);
}

/// Offsets that contradict the shape, run backwards, overlap, leave a gap or leave bytes over are refused.
#[test]
fn contradicting_offsets_are_refused() {
    refused(parse(&raw_file(&one_tensor("F32", json!([2]), 0, 4), &[0; 4])), &["tensor w", "needs 8 bytes"]);
    refused(parse(&raw_file(&one_tensor("F32", json!([1]), 8, 4), &[0; 8])), &["tensor w", "[8, 4]"]);
    refused(parse(&raw_file(&one_tensor("F32", json!([1]), 4, 8), &[0; 8])), &["gap of 4 bytes"]);
    refused(parse(&raw_file(&one_tensor("F32", json!([1]), 0, 4), &[0; 7])), &["3 bytes after the last"]);
    refused(parse(&raw_file(&one_tensor("F4", json!([3]), 0, 1), &[0; 1])), &["whole bytes"]);
    let overlap = json!({
        "a": { "dtype": "U8", "shape": [4], "data_offsets": [0, 4] },
        "b": { "dtype": "U8", "shape": [4], "data_offsets": [2, 6] },
    });
    refused(parse(&raw_file(&overlap.to_string(), &[0; 6])), &["b overlaps a"]);
}

/// Other malformed headers are refused, each naming what is wrong.
#[test]
fn malformed_headers_are_refused() {
    refused(parse(&raw_file("{", &[])), &["header is invalid"]);
    refused(parse(&raw_file("[]", &[])), &["header is invalid", "object"]);
    refused(parse(&raw_file(&one_tensor("F33", json!([1]), 0, 4), &[0; 4])), &["tensor w", "F33"]);
    refused(parse(&raw_file(&one_tensor("F32", json!([-1]), 0, 4), &[0; 4])), &["tensor w", "-1"]);
    refused(parse(&raw_file(r#"{"w":{"dtype":"F32"}}"#, &[])), &["tensor w", "shape"]);
    refused(parse(&raw_file(r#"{"__metadata__":{"format":1}}"#, &[])), &["metadata"]);
    let twice = r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    refused(parse(&raw_file(twice, &[0])), &["\"w\" comes twice"]);
}

proptest! {
    /// Whatever the bytes, parsing ends with a result.
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
    }

    /// Whatever the header says, what is accepted lies inside the file.
    #[test]
    fn random_headers_never_panic(
        dtype in prop::sample::select(vec!["F32", "F4", "U8", "BF16", "F64", "?"]),
        shape in prop::collection::vec(prop_oneof![0u64..5, any::<u64>()], 0..4),
        begin in prop_oneof![0u64..20, any::<u64>()],
        end in prop_oneof![0u64..20, any::<u64>()],
        data in 0usize..20,
    ) {
        let file = raw_file(&one_tensor(dtype, json!(shape), begin, end), &vec![0; data]);
        if let Ok(entries) = parse(&file) {
            for entry in entries.values() {
                prop_assert!(file.get(entry.bytes.clone()).is_some());
            }
        }
    }

    /// A sound file with some bytes changed is either refused or still lies inside the file.
    #[test]
    fn mutated_files_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut file = f32_file(&[("a", &[2, 3], &[0.; 6]), ("b.weight", &[1], &[0.])]);
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Ok(entries) = parse(&file) {
            for entry in entries.values() {
                prop_assert!(file.get(entry.bytes.clone()).is_some());
            }
        }
    }

    /// A header that is built is parsed to the same tensors, and data starts at a multiple of 8.
    #[test]
    fn built_headers_are_parsed(tensors in prop::collection::btree_map("\\PC{1,12}", prop::collection::vec(0usize..5, 0..3), 0..6)) {
        let list: Vec<_> =
            tensors.iter().filter(|(name, _)| *name != METADATA_KEY).map(|(n, s)| (n.as_str(), WeightDType::F32, s.as_slice())).collect();
        let (mut file, offsets, total) = build(&list, &[("format", "pt")]).unwrap();
        prop_assert_eq!(file.len() % 8, 0);
        file.resize(total as usize, 0);
        let entries = parse(&file).unwrap();
        prop_assert_eq!(entries.len(), list.len());
        for ((name, _, shape), offset) in list.iter().zip(offsets) {
            prop_assert_eq!(entries[*name].shape.as_slice(), *shape);
            prop_assert_eq!(entries[*name].bytes.start as u64, offset);
        }
    }
}
