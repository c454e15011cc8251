//! The values of a GGUF file's metadata.

use std::fmt;

use super::reader::Reader;

/// Lists in lists in lists: no file has more.
const MAX_DEPTH: usize = 4;

/// What stands under a key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(String),
    List(List),
}

/// A list: all of its values are of one type. Numbers take no more room than in the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum List {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    Text(Vec<String>),
    Lists(Vec<List>),
}

impl Value {
    /// Reads a value with its type in front.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Value, String> {
        let at = reader.at();
        Ok(match reader.u32()? {
            0 => Value::Unsigned(u8::from_le_bytes(reader.array()?).into()),
            1 => Value::Signed(i8::from_le_bytes(reader.array()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(reader.array()?).into()),
            3 => Value::Signed(i16::from_le_bytes(reader.array()?).into()),
            4 => Value::Unsigned(reader.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(reader.array()?).into()),
            6 => Value::F32(f32::from_le_bytes(reader.array()?)),
            7 => Value::Bool(truth(reader)?),
            8 => Value::Text(reader.text()?),
            9 => Value::List(List::read(reader, 1)?),
            10 => Value::Unsigned(reader.u64()?),
            11 => Value::Signed(i64::from_le_bytes(reader.array()?)),
            12 => Value::F64(f64::from_le_bytes(reader.array()?)),
            other => return Err(unknown(other, at)),
        })
    }

    /// As a whole number from 0 up.
    pub(super) fn whole(&self) -> Option<u64> {
        match *self {
            Value::Unsigned(value) => Some(value),
            Value::Signed(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// As a finite number. An f32 becomes the shortest decimal that is written so: 1e-5, not
    /// 9.999999747378752e-6.
    pub(super) fn number(&self) -> Option<f64> {
        let value = match *self {
            Value::Unsigned(value) => value as f64,
            Value::Signed(value) => value as f64,
            Value::F32(value) => value.to_string().parse().ok()?,
            Value::F64(value) => value,
            _ => return None,
        };
        value.is_finite().then_some(value)
    }
}

/// As an error shows it; long ones are not shown whole.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Unsigned(value) => write!(f, "{value}"),
            Value::Signed(value) => write!(f, "{value}"),
            Value::F32(value) => write!(f, "{value}"),
            Value::F64(value) => write!(f, "{value}"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Text(text) if text.chars().count() > 40 => {
                write!(f, "a text of {} bytes", text.len())
            }
            Value::Text(text) => write!(f, "{text:?}"),
            Value::List(list) => write!(f, "a list of {} {}", list.len(), list.of()),
        }
    }
}

impl List {
    fn read(reader: &mut Reader<'_>, depth: usize) -> Result<List, String> {
        let at = reader.at();
        if depth > MAX_DEPTH {
            return Err(format!("the list at byte {at} is nested deeper than {MAX_DEPTH} lists"));
        }
        let (kind, count) = (reader.u32()?, reader.u64()?);
        Ok(match kind {
            0 => List::U8(numbers(reader, count, u8::from_le_bytes)?),
            1 => List::I8(numbers(reader, count, i8::from_le_bytes)?),
            2 => List::U16(numbers(reader, count, u16::from_le_bytes)?),
            3 => List::I16(numbers(reader, count, i16::from_le_bytes)?),
            4 => List::U32(numbers(reader, count, u32::from_le_bytes)?),
            5 => List::I32(numbers(reader, count, i32::from_le_bytes)?),
            6 => List::F32(numbers(reader, count, f32::from_le_bytes)?),
            7 => List::Bool(each(reader, count, 1, truth)?),
            8 => List::Text(each(reader, count, 8, |reader| reader.text())?),
            9 => List::Lists(each(reader, count, 12, |reader| List::read(reader, depth + 1))?),
            10 => List::U64(numbers(reader, count, u64::from_le_bytes)?),
            11 => List::I64(numbers(reader, count, i64::from_le_bytes)?),
            12 => List::F64(numbers(reader, count, f64::from_le_bytes)?),
            other => return Err(unknown(other, at)),
        })
    }

    pub(super) fn len(&self) -> usize {
        match self {
            List::U8(list) => list.len(),
            List::I8(list) => list.len(),
            List::U16(list) => list.len(),
            List::I16(list) => list.len(),
            List::U32(list) => list.len(),
            List::I32(list) => list.len(),
            List::U64(list) => list.len(),
            List::I64(list) => list.len(),
            List::F32(list) => list.len(),
            List::F64(list) => list.len(),
            List::Bool(list) => list.len(),
            List::Text(list) => list.len(),
            List::Lists(list) => list.len(),
        }
    }

    /// What it is a list of.
    fn of(&self) -> &'static str {
        match self {
            List::F32(_) | List::F64(_) => "numbers",
            List::Bool(_) => "truth values",
            List::Text(_) => "texts",
            List::Lists(_) => "lists",
            _ => "whole numbers",
        }
    }
}

fn numbers<T, const N: usize>(
    reader: &mut Reader<'_>,
    count: u64,
    number: fn([u8; N]) -> T,
) -> Result<Vec<T>, String> {
    let bytes = reader.take(count.saturating_mul(N as u64))?;
    Ok(bytes.as_chunks::<N>().0.iter().map(|&bytes| number(bytes)).collect())
}

/// `count` values of at least `size` bytes each. A count that cannot be reserves nothing.
fn each<T>(
    reader: &mut Reader<'_>,
    count: u64,
    size: usize,
    mut value: impl FnMut(&mut Reader<'_>) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    if count > (reader.left() / size) as u64 {
        // Says what is wrong in the words of every other cut.
        reader.take(count.saturating_mul(size as u64))?;
    }
    (0..count).map(|_| value(reader)).collect()
}

fn truth(reader: &mut Reader<'_>) -> Result<bool, String> {
    let at = reader.at();
    match reader.array()? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(format!("the truth value at byte {at} is {other}; expected 0 or 1")),
    }
}

fn unknown(kind: u32, at: usize) -> String {
    format!("the value at byte {at} is of type {kind}, which the format does not know; expected 0 to 12")
}
