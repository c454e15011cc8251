use proptest::prelude::*;

use super::*;
use crate::weights::gguf::testing::{File, texts, value};
use crate::weights::testing::refused;

/// What is wrong, how a sound file becomes so, and what its refusal says.
type Case = (fn(&mut File), &'static [&'static str]);

fn check(change: impl FnOnce(&mut File), words: &[&str]) {
    let mut file = File::llama();
    change(&mut file);
    refused(parse(&file.bytes()), words);
}

#[test]
fn a_sound_file_is_read_in_both_versions() {
    for version in [2, 3] {
        let header = parse(&File { version, ..File::llama() }.bytes()).unwrap();
        assert_eq!(header.tensors.len(), 11);
        let embedding = &header.tensors["token_embd.weight"];
        assert_eq!((&embedding.shape[..], embedding.bytes.len()), (&[4, 4][..], 64));
        assert_eq!(header.metadata.whole("llama.block_count"), Ok(Some(1)));
    }
}

/// The file's order of sizes is the other way round, and the alignment is its own.
#[test]
fn shapes_and_alignment() {
    for alignment in [8, 32, 64, 4096] {
        let mut file = File { alignment, ..File::llama() };
        file.set("general.alignment", Value::Unsigned(alignment as u64));
        file.floats("wide", &[3, 2, 1, 5]);
        let bytes = file.bytes();
        let header = parse(&bytes).unwrap();
        assert_eq!(header.tensors["wide"].shape, [5, 1, 2, 3]);
        for tensor in header.tensors.values() {
            assert!(tensor.bytes.start.is_multiple_of(alignment));
            assert!(bytes[tensor.bytes.clone()].chunks(4).all(|bytes| bytes == 1f32.to_le_bytes()));
        }
    }
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let bytes = File::llama().bytes();
    for length in 0..bytes.len() {
        assert!(parse(&bytes[..length]).is_err(), "accepted after {length} of {} bytes", bytes.len());
    }
    let header = File::llama().header().len();
    refused(parse(&bytes[..20]), &["cut off"]);
    refused(parse(&bytes[..header - 1]), &["tensor 10 of 11", "cut off"]);
    refused(parse(&bytes[..bytes.len() - 1]), &["blk.0.ffn_norm.weight", "cut off"]);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let cases: &[Case] = &[
        (|file| file.version = 1, &["version 1", "newer"]),
        (|file| file.version = 4, &["version 4", "2 and 3"]),
        (|file| file.version = 3u32.swap_bytes(), &["big-endian", "little-endian"]),
        // Numbers that nothing could allocate.
        (|file| file.counts.0 = Some(u64::MAX), &["tensor 11 of 18446744073709551615"]),
        (|file| file.counts.1 = Some(u64::MAX), &["18446744073709551615"]),
        (|file| file.counts.0 = Some(12), &["tensor 11 of 12"]),
        (|file| file.keys[0].1 = vec![8, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255], &["cut off"]),
        (|file| file.keys[0].1 = [&[9, 0, 0, 0, 8, 0, 0, 0][..], &[255; 8]].concat(), &["cut off"]),
        (|file| file.keys[0].1 = [&[9, 0, 0, 0, 12, 0, 0, 0][..], &[127; 8]].concat(), &["cut off"]),
        (|file| file.keys[0].1 = vec![13, 0, 0, 0], &["type 13", "0 to 12"]),
        (|file| file.keys[0].1 = vec![7, 0, 0, 0, 2], &["truth value", "is 2"]),
        (|file| file.keys[0].1 = vec![8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 255], &["UTF-8"]),
        (
            |file| {
                file.keys[0].1 =
                    [9u32; 1].iter().chain([9, 1, 0].repeat(9).iter()).flat_map(|n| n.to_le_bytes()).collect()
            },
            &["nested"],
        ),
        (|file| file.keys.push(("llama.block_count".into(), value(&Value::Unsigned(1)))), &["comes twice"]),
        (|file| file.keys[0].0 = String::new(), &["empty"]),
        (|file| file.keys[0].0 = "k".repeat(1 << 16), &["65536 bytes"]),
        (|file| file.set("general.alignment", Value::Unsigned(12)), &["general.alignment", "12"]),
        (|file| file.set("general.alignment", Value::Unsigned(0)), &["general.alignment", "0"]),
        (
            |file| file.set("general.alignment", Value::Text("32".into())),
            &["general.alignment", "whole number"],
        ),
        (|file| file.tensors[1].name = "token_embd.weight".into(), &["two tensors", "token_embd.weight"]),
        (|file| file.tensors[1].offset = Some(0), &["inside tensor"]),
        (|file| file.tensors[1].offset = Some(40), &["no multiple of the alignment"]),
        (|file| file.tensors[1].offset = Some(1 << 40), &["blk.0.attn_q.weight", "cut off"]),
        (|file| file.tensors[1].offset = Some(u64::MAX - 31), &["blk.0.attn_q.weight", "cut off"]),
        (|file| file.tensors[1].sizes = vec![1; 5], &["5 dimensions"]),
        (|file| file.tensors[1].sizes = vec![1 << 32, 1 << 32], &["blk.0.attn_q.weight", "no file can hold"]),
        (|file| file.tensors[1].sizes = vec![u64::MAX], &["blk.0.attn_q.weight", "larger than any file"]),
        (|file| file.tensors[1].sizes = vec![4, 1 << 30], &["blk.0.attn_q.weight", "cut off"]),
        (|file| file.tensors[1].kind = 8, &["Q8_0", "32 elements", "rows have 4"]),
        (|file| file.tensors[1].kind = 4, &["Q4_2", "newer"]),
        (|file| file.tensors[1].kind = 99, &["kind 99", "Q8_0, Q4_0 and Q4_1"]),
    ];
    for (change, words) in cases {
        check(change, words);
    }
    refused(parse(b"GGML\x03\0\0\0"), &["letters GGUF", "web page"]);
    refused(parse(b""), &["letters GGUF"]);
}

/// What a key holds is asked for by its type, and the refusal shows both.
#[test]
fn values_of_another_type_are_refused() {
    let mut file = File::llama();
    file.set("a", texts(&["x"]));
    file.set("b", Value::Signed(-1));
    let metadata = parse(&file.bytes()).unwrap().metadata;
    refused(metadata.whole("a"), &["a is a list of 1 texts", "whole number"]);
    refused(metadata.whole("b"), &["b is -1"]);
    refused(metadata.text("b"), &["expected a text"]);
    refused(metadata.flag("a"), &["true or false"]);
    refused(metadata.number("a"), &["a number"]);
    refused(metadata.texts("b"), &["list of texts"]);
    refused(metadata.f32s("a"), &["list of f32"]);
    refused(metadata.i32s("a"), &["32 bits"]);
    refused(metadata.required_whole("c"), &["c is missing"]);
}

proptest! {
    /// Whatever the bytes are, the answer is a header whose tensors are in the file, or a sentence.
    #[test]
    fn no_bytes_panic(changes in prop::collection::vec((0usize..2000, any::<u8>()), 1..8), cut in 0usize..3000) {
        let mut bytes = File::llama().bytes();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(cut.max(24));
        if let Ok(header) = parse(&bytes) {
            for tensor in header.tensors.values() {
                prop_assert!(bytes.get(tensor.bytes.clone()).is_some());
            }
        }
    }

    #[test]
    fn no_start_panics(rest in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&[b"GGUF\x03\0\0\0", &rest[..]].concat());
    }
}
