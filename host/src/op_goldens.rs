//! Reads the op goldens: what torch gives in float64 for single ops and their gradients.

use std::path::Path;

use finetune_plugin_api::program::table::OpDef;
use finetune_plugin_api::program::{AttrKind, AttrValue, Attrs, DType, Op};
use finetune_plugin_api::reference::{Tensor, Values};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// One application of an op.
pub struct Entry {
    pub name: String,
    pub op: Op,
    pub attrs: Attrs,
    pub inputs: Vec<(String, Tensor)>,
    pub outputs: Vec<(String, Tensor)>,
    /// The gradients of results from which those of the inputs flow.
    pub upstream: Vec<(String, Tensor)>,
    /// The gradients of inputs.
    pub gradients: Vec<(String, Tensor)>,
}

impl Entry {
    pub fn input(&self, name: &str) -> &Tensor {
        &self.inputs.iter().find(|(known, _)| known == name).unwrap().1
    }

    pub fn output(&self, name: &str) -> &Tensor {
        &self.outputs.iter().find(|(known, _)| known == name).unwrap().1
    }
}

/// All entries.
pub fn read() -> Vec<Entry> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/data/ops");
    let index: Value = serde_json::from_slice(&std::fs::read(folder.join("ops.json")).unwrap()).unwrap();
    let bytes = std::fs::read(folder.join("ops.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    index["entries"].as_array().unwrap().iter().map(|entry| read_entry(entry, &tensors)).collect()
}

fn read_entry(entry: &Value, tensors: &SafeTensors<'_>) -> Entry {
    let op = Op::from_name(text(&entry["op"])).unwrap();
    let listed = |key: &str| -> Vec<(String, Tensor)> {
        let rows = entry[key].as_array().unwrap().iter();
        rows.map(|row| (text(&row["name"]).into(), tensor(tensors, text(&row["tensor"])))).collect()
    };
    let mapped = |key: &str| -> Vec<(String, Tensor)> {
        let rows = entry[key].as_object().unwrap().iter();
        rows.map(|(name, key)| (name.clone(), tensor(tensors, text(key)))).collect()
    };
    Entry {
        name: text(&entry["name"]).into(),
        op,
        attrs: attrs(op.def(), &entry["attrs"]),
        inputs: listed("inputs"),
        outputs: listed("outputs"),
        upstream: mapped("upstream"),
        gradients: mapped("gradients"),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn attrs(def: &OpDef, given: &Value) -> Attrs {
    let given = given.as_object().unwrap();
    given.iter().fold(Attrs::none(), |attrs, (name, value)| {
        let def = def.attrs.iter().find(|def| def.name == name).unwrap();
        attrs.with(def.name, attr(def.kind, value))
    })
}

fn attr(kind: AttrKind, value: &Value) -> AttrValue {
    match kind {
        AttrKind::Bool => AttrValue::Bool(value.as_bool().unwrap()),
        AttrKind::Int => AttrValue::Int(value.as_u64().unwrap()),
        AttrKind::Float => AttrValue::Float(value.as_f64().unwrap()),
        AttrKind::Ints => {
            AttrValue::Ints(value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect())
        }
        AttrKind::DType => AttrValue::DType(DType::from_name(text(value)).unwrap()),
        AttrKind::Word(words) => AttrValue::Word(words.iter().find(|word| **word == text(value)).unwrap()),
    }
}

/// Floats are float64 in the file and f32 in programs; the interpreter holds them unrounded.
fn tensor(tensors: &SafeTensors<'_>, key: &str) -> Tensor {
    let view = tensors.tensor(key).unwrap();
    let (shape, data) = (view.shape(), view.data());
    match view.dtype() {
        Dtype::F64 => {
            let values = data.chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap()));
            Tensor::float(DType::F32, shape, values.collect()).unwrap()
        }
        Dtype::U32 => {
            let values = data.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
            Tensor::u32(shape, values.collect()).unwrap()
        }
        Dtype::BOOL => {
            let ty = finetune_plugin_api::program::TensorType::new(DType::Bool, shape);
            Tensor::new(ty, Values::Bool(data.iter().map(|&byte| byte != 0).collect())).unwrap()
        }
        other => panic!("{key} is {other:?}"),
    }
}
