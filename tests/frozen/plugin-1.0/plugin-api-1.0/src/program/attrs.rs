use std::fmt;

use super::DType;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum AttrValue {
    /// `true` or `false`.
    Bool(bool),
    /// An integer that is not negative.
    Int(u64),
    /// A number; may be `inf`, `-inf` or `nan`.
    Float(f64),
    /// A list of integers, `[2,3]`.
    Ints(Vec<u64>),
    /// An element type.
    DType(DType),
    /// One of the words that the attribute's definition lists.
    Word(&'static str),
}

/// What an attribute's value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AttrKind {
    /// `true` or `false`.
    Bool,
    /// An integer that is not negative.
    Int,
    /// A number.
    Float,
    /// A list of integers.
    Ints,
    /// An element type.
    DType,
    /// One of these words.
    Word(&'static [&'static str]),
}

/// What an attribute is when it is not written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    /// It must be written.
    Required,
    /// This truth value.
    Bool(bool),
    /// This integer.
    Int(u64),
    /// This number.
    Float(f64),
}

/// An attribute in an op's table row.
#[derive(Clone, Copy, Debug)]
pub struct AttrDef {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub kind: AttrKind,
    /// What it is when not written. An attribute added later has a default that keeps the old meaning.
    pub default: Default,
}

impl AttrDef {
    /// The default as a value, if there is one.
    pub fn default_value(&self) -> Option<AttrValue> {
        match self.default {
            Default::Required => None,
            Default::Bool(value) => Some(AttrValue::Bool(value)),
            Default::Int(value) => Some(AttrValue::Int(value)),
            Default::Float(value) => Some(AttrValue::Float(value)),
        }
    }
}

/// The attributes of one op, in the order of its table row. Complete once the op is part of a program; the
/// getters then answer for every attribute of the row and panic for a name that the row does not have, which
/// is a mistake in the program that asks, never in its data.
#[derive(Clone, Debug, PartialEq, std::default::Default)]
pub struct Attrs(pub(crate) Vec<(&'static str, AttrValue)>);

impl Attrs {
    /// No attributes.
    pub fn none() -> Attrs {
        Attrs::default()
    }

    /// These and one more.
    pub fn with(mut self, name: &'static str, value: AttrValue) -> Attrs {
        self.0.push((name, value));
        self
    }

    /// `with` for a truth value.
    pub fn bool(self, name: &'static str, value: bool) -> Attrs {
        self.with(name, AttrValue::Bool(value))
    }

    /// `with` for an integer.
    pub fn int(self, name: &'static str, value: usize) -> Attrs {
        self.with(name, AttrValue::Int(value as u64))
    }

    /// `with` for a number.
    pub fn float(self, name: &'static str, value: f64) -> Attrs {
        self.with(name, AttrValue::Float(value))
    }

    /// `with` for a list of integers.
    pub fn ints(self, name: &'static str, value: &[usize]) -> Attrs {
        self.with(name, AttrValue::Ints(value.iter().map(|&v| v as u64).collect()))
    }

    /// `with` for an element type.
    pub fn dtype(self, name: &'static str, value: DType) -> Attrs {
        self.with(name, AttrValue::DType(value))
    }

    /// `with` for a word.
    pub fn word(self, name: &'static str, value: &'static str) -> Attrs {
        self.with(name, AttrValue::Word(value))
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &AttrValue)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }

    /// The value of that name, if it is there.
    pub fn get(&self, name: &str) -> Option<&AttrValue> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// A truth value.
    pub fn get_bool(&self, name: &str) -> bool {
        match self.get(name) {
            Some(AttrValue::Bool(value)) => *value,
            other => panic!("no truth value attribute {name}: {other:?}"),
        }
    }

    /// An integer.
    pub fn get_int(&self, name: &str) -> usize {
        match self.get(name) {
            Some(AttrValue::Int(value)) => *value as usize,
            other => panic!("no integer attribute {name}: {other:?}"),
        }
    }

    /// A number.
    pub fn get_float(&self, name: &str) -> f64 {
        match self.get(name) {
            Some(AttrValue::Float(value)) => *value,
            other => panic!("no number attribute {name}: {other:?}"),
        }
    }

    /// A list of integers.
    pub fn get_ints(&self, name: &str) -> Vec<usize> {
        match self.get(name) {
            Some(AttrValue::Ints(value)) => value.iter().map(|&v| v as usize).collect(),
            other => panic!("no list attribute {name}: {other:?}"),
        }
    }

    /// An element type.
    pub fn get_dtype(&self, name: &str) -> DType {
        match self.get(name) {
            Some(AttrValue::DType(value)) => *value,
            other => panic!("no element type attribute {name}: {other:?}"),
        }
    }

    /// A word.
    pub fn get_word(&self, name: &str) -> &'static str {
        match self.get(name) {
            Some(AttrValue::Word(value)) => value,
            other => panic!("no word attribute {name}: {other:?}"),
        }
    }

    /// Checks these against a row's definitions and returns them complete and in the row's order.
    pub(crate) fn complete(&self, defs: &[AttrDef]) -> Result<Attrs, String> {
        for (i, (name, _)) in self.0.iter().enumerate() {
            if !defs.iter().any(|def| def.name == *name) {
                let known: Vec<_> = defs.iter().map(|def| def.name).collect();
                return Err(format!("it has no attribute {name}; it has: {}", list(&known)));
            }
            if self.0[..i].iter().any(|(earlier, _)| earlier == name) {
                return Err(format!("attribute {name} is given twice"));
            }
        }
        let mut complete = Vec::with_capacity(defs.len());
        for def in defs {
            let value = match self.get(def.name) {
                Some(value) => checked(def, value)?,
                None => def.default_value().ok_or_else(|| format!("attribute {} is missing", def.name))?,
            };
            complete.push((def.name, value));
        }
        Ok(Attrs(complete))
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn checked(def: &AttrDef, value: &AttrValue) -> Result<AttrValue, String> {
    let fits = match (def.kind, value) {
        (AttrKind::Bool, AttrValue::Bool(_))
        | (AttrKind::Float, AttrValue::Float(_))
        | (AttrKind::DType, AttrValue::DType(_)) => true,
        // Integers stay below 2^53 so that a reader in any language can hold them in a double.
        (AttrKind::Int, AttrValue::Int(v)) => *v < 1 << 53,
        (AttrKind::Ints, AttrValue::Ints(v)) => v.iter().all(|v| *v < 1 << 53),
        (AttrKind::Word(words), AttrValue::Word(word)) => words.contains(word),
        _ => false,
    };
    if fits {
        Ok(value.clone())
    } else {
        Err(format!("attribute {} is {value}; expected {}", def.name, def.kind))
    }
}

impl fmt::Display for AttrKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttrKind::Bool => f.write_str("true or false"),
            AttrKind::Int => f.write_str("an integer from 0 to 2^53 - 1"),
            AttrKind::Float => f.write_str("a number"),
            AttrKind::Ints => f.write_str("a list of integers"),
            AttrKind::DType => f.write_str("an element type"),
            AttrKind::Word(words) => write!(f, "one of: {}", words.join(", ")),
        }
    }
}

impl fmt::Display for AttrValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttrValue::Bool(value) => write!(f, "{value}"),
            AttrValue::Int(value) => write!(f, "{value}"),
            // The shortest form that reads back as the same number.
            AttrValue::Float(value) if value.is_nan() => f.write_str("nan"),
            AttrValue::Float(value) => write!(f, "{value:?}"),
            AttrValue::Ints(values) => {
                f.write_str("[")?;
                for (i, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if i == 0 { "" } else { "," })?;
                }
                f.write_str("]")
            }
            AttrValue::DType(value) => write!(f, "{value}"),
            AttrValue::Word(value) => f.write_str(value),
        }
    }
}
