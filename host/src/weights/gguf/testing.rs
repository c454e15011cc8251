//! GGUF files for tests, written piece by piece, sound or not.

pub(crate) use super::value::{List, Value};

/// Metadata and tensors, and what is to be wrong with them.
pub(crate) struct File {
    pub version: u32,
    pub keys: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
    pub alignment: usize,
    /// What the header claims; the true numbers if none.
    pub counts: (Option<u64>, Option<u64>),
}

pub(crate) struct Tensor {
    pub name: String,
    /// As in the file: innermost first.
    pub sizes: Vec<u64>,
    pub kind: u32,
    /// The next free place if none.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

/// A value with its type in front.
pub(crate) fn value(value: &Value) -> Vec<u8> {
    let (kind, bytes) = match value {
        Value::Unsigned(value) => (10u32, value.to_le_bytes().to_vec()),
        Value::Signed(value) => (11, value.to_le_bytes().to_vec()),
        Value::F32(value) => (6, value.to_le_bytes().to_vec()),
        Value::F64(value) => (12, value.to_le_bytes().to_vec()),
        Value::Bool(value) => (7, vec![u8::from(*value)]),
        Value::Text(value) => (8, text(value)),
        Value::List(list) => (9, self::list(list)),
    };
    [&kind.to_le_bytes()[..], &bytes].concat()
}

fn list(list: &List) -> Vec<u8> {
    let (kind, bytes): (u32, Vec<u8>) = match list {
        List::I32(list) => (5, list.iter().flat_map(|value| value.to_le_bytes()).collect()),
        List::F32(list) => (6, list.iter().flat_map(|value| value.to_le_bytes()).collect()),
        List::Text(list) => (8, list.iter().flat_map(|value| text(value)).collect()),
        other => panic!("{other:?} is not written by tests"),
    };
    [&kind.to_le_bytes()[..], &(list.len() as u64).to_le_bytes(), &bytes].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn texts(list: &[&str]) -> Value {
    Value::List(List::Text(list.iter().map(|&text| text.into()).collect()))
}

impl File {
    /// Nothing but the start.
    pub(crate) fn empty() -> File {
        File { version: 3, keys: vec![], tensors: vec![], alignment: 32, counts: (None, None) }
    }

    /// A Llama of one block, 4 channels, 2 heads and 4 tokens, all ones.
    pub(crate) fn llama() -> File {
        let mut file = File::empty();
        file.set("general.architecture", Value::Text("llama".into()));
        let numbers = [
            ("block_count", 1),
            ("embedding_length", 4),
            ("feed_forward_length", 4),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 2),
            ("vocab_size", 4),
        ];
        for (key, number) in numbers {
            file.set(&format!("llama.{key}"), Value::Unsigned(number));
        }
        file.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        file.set("tokenizer.ggml.model", Value::Text("gpt2".into()));
        file.set("tokenizer.ggml.pre", Value::Text("gpt-2".into()));
        file.set("tokenizer.ggml.tokens", texts(&["a", "b", "ab", "</s>"]));
        file.set("tokenizer.ggml.token_type", Value::List(List::I32(vec![1, 1, 1, 3])));
        file.set("tokenizer.ggml.merges", texts(&["a b"]));
        file.set("tokenizer.ggml.eos_token_id", Value::Unsigned(3));
        for name in ["token_embd", "blk.0.attn_q", "blk.0.attn_k", "blk.0.attn_v", "blk.0.attn_output"] {
            file.floats(&format!("{name}.weight"), &[4, 4]);
        }
        for name in ["blk.0.ffn_gate", "blk.0.ffn_up", "blk.0.ffn_down"] {
            file.floats(&format!("{name}.weight"), &[4, 4]);
        }
        for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
            file.floats(&format!("{name}.weight"), &[4]);
        }
        file
    }

    /// A tensor of F32 ones.
    pub(crate) fn floats(&mut self, name: &str, sizes: &[u64]) {
        let count = sizes.iter().product::<u64>() as usize;
        let data = std::iter::repeat_n(1f32.to_le_bytes(), count).flatten().collect();
        self.tensors.push(Tensor { name: name.into(), sizes: sizes.into(), kind: 0, offset: None, data });
    }

    /// Puts a value under a key, or another in its place.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.remove(key);
        self.keys.push((key.into(), self::value(&value)));
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.keys.retain(|(other, _)| other != key);
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    /// The header's bytes, before padding.
    pub(crate) fn header(&self) -> Vec<u8> {
        let counts = (self.tensors.len() as u64, self.keys.len() as u64);
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.counts.0.unwrap_or(counts.0).to_le_bytes());
        bytes.extend(self.counts.1.unwrap_or(counts.1).to_le_bytes());
        for (key, value) in &self.keys {
            bytes.extend(text(key));
            bytes.extend(value);
        }
        for (tensor, place) in self.tensors.iter().zip(self.places()) {
            bytes.extend(text(&tensor.name));
            bytes.extend((tensor.sizes.len() as u32).to_le_bytes());
            bytes.extend(tensor.sizes.iter().flat_map(|size| size.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(place.to_le_bytes());
        }
        bytes
    }

    fn places(&self) -> Vec<u64> {
        let mut free = 0;
        let place = |tensor: &Tensor| {
            let place = tensor.offset.unwrap_or(free);
            free = (free + tensor.data.len() as u64).next_multiple_of(self.alignment as u64);
            place
        };
        self.tensors.iter().map(place).collect()
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        for tensor in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
            bytes.extend(&tensor.data);
        }
        bytes
    }
}
