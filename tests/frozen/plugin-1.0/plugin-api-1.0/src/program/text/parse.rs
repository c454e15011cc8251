use super::lex::Line;
use super::{MAX_VALUES, VERSION};
use crate::program::attrs::{AttrDef, AttrKind, AttrValue, Attrs};
use crate::program::{Builder, DType, MAX_RANK, Op, Program, ProgramError, Role, TensorType, ValueId};

/// Reads a program. Every rule of the language is checked; a message names the line and, where there is one,
/// the op.
pub fn parse(text: &str) -> Result<Program, ProgramError> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| !Line::new(line).at_end());
    let at = |index: usize| move |message: String| ProgramError::Text { line: index + 1, message };
    let (first, header) =
        lines.next().ok_or_else(|| at(0)("the text is empty; expected \"finetune.program 1\"".into()))?;
    parse_header(header).map_err(at(first))?;
    let mut parser = Parser::default();
    let mut last = first;
    for (index, line) in lines {
        last = index;
        if parser.ended {
            return Err(at(index)("nothing may follow \"end\"".into()));
        }
        parser.line(line).map_err(at(index))?;
    }
    if !parser.ended {
        return Err(at(last + 1)("the text stops before \"end\"; it was cut off".into()));
    }
    parser.builder.finish()
}

fn parse_header(line: &str) -> Result<(), String> {
    let mut line = Line::new(line);
    if line.word("\"finetune.program\"")? != "finetune.program" {
        return Err("expected \"finetune.program\" and a version".into());
    }
    let version = line.integer("a version")?;
    if version != u64::from(VERSION) {
        return Err(format!(
            "the program is in version {version} of the language; this reader knows {VERSION}"
        ));
    }
    line.end()
}

#[derive(std::default::Default)]
struct Parser {
    builder: Builder,
    values: usize,
    any_op: bool,
    ended: bool,
}

impl Parser {
    fn line(&mut self, text: &str) -> Result<(), String> {
        let mut line = Line::new(text);
        if line.peek() == Some('%') {
            self.definition(&mut line)?;
        } else {
            match line.word("a definition, update, output or end")? {
                "update" => {
                    let state = self.value(&mut line)?;
                    line.expect('=')?;
                    let value = self.value(&mut line)?;
                    self.builder.update(state, value);
                    self.rule_kept()?;
                }
                "output" => {
                    let name = line.quoted()?;
                    line.expect('=')?;
                    let value = self.value(&mut line)?;
                    self.builder.output(&name, value);
                    self.rule_kept()?;
                }
                "end" => self.ended = true,
                other => {
                    return Err(format!("{other:?} begins no line; expected %.., update, output or end"));
                }
            }
        }
        line.end()
    }

    /// The builder's complaint about what was just added. Asked before the rest of the line is read: that
    /// the types behind an op which cannot be applied look wrong as well is no news.
    fn rule_kept(&self) -> Result<(), String> {
        match self.builder.error() {
            None => Ok(()),
            Some(ProgramError::Op { op, message, .. }) => Err(format!("{op}: {message}")),
            Some(error) => Err(error.to_string()),
        }
    }

    fn value(&self, line: &mut Line<'_>) -> Result<ValueId, String> {
        let number = line.value()?;
        if number >= self.values as u64 {
            return Err(format!("%{number} is not defined above"));
        }
        Ok(ValueId(number as u32))
    }

    fn definition(&mut self, line: &mut Line<'_>) -> Result<(), String> {
        let mut count = 0;
        loop {
            let number = line.value()?;
            if number != (self.values + count) as u64 {
                return Err(format!("%{number} is defined where %{} comes next", self.values + count));
            }
            count += 1;
            if !line.take(',') {
                break;
            }
        }
        if self.values + count > MAX_VALUES {
            return Err(format!("the program defines more than {MAX_VALUES} values"));
        }
        line.expect('=')?;
        let word = line.word("input, param, state or an op")?;
        let role = [Role::Input, Role::Param, Role::State].into_iter().find(|role| role.word() == word);
        match role {
            Some(role) => self.argument(role, count, line)?,
            None => self.op(word, count, line)?,
        }
        self.values += count;
        Ok(())
    }

    fn argument(&mut self, role: Role, count: usize, line: &mut Line<'_>) -> Result<(), String> {
        if count != 1 {
            return Err(format!("{} defines one value, not {count}", role.word()));
        }
        if self.any_op {
            return Err("arguments come before the first op".into());
        }
        let name = line.quoted()?;
        line.expect(':')?;
        let ty = tensor_type(line)?;
        self.builder.arg(role, &name, ty);
        self.rule_kept()
    }

    fn op(&mut self, word: &str, count: usize, line: &mut Line<'_>) -> Result<(), String> {
        self.any_op = true;
        let op = Op::from_name(word)
            .ok_or_else(|| format!("{word:?} is no op of this version of the language"))?;
        let mut operands = Vec::new();
        line.expect('(')?;
        if !line.take(')') {
            loop {
                operands.push(self.value(line)?);
                if !line.take(',') {
                    break;
                }
            }
            line.expect(')')?;
        }
        let attrs = if line.take('{') { attributes(op, line)? } else { Attrs::none() };
        let results = self.builder.push(op, &operands, attrs);
        self.rule_kept()?;
        if results.len() != count {
            return Err(format!("{word} defines {} values, not {count}", results.len()));
        }
        line.expect(':')?;
        for (i, result) in results.iter().enumerate() {
            if i > 0 {
                line.expect(',')?;
            }
            let (stated, actual) = (tensor_type(line)?, self.builder.ty(*result));
            if stated != *actual {
                return Err(format!("{word} gives {actual} here; the text says {stated}"));
            }
        }
        Ok(())
    }
}

fn attributes(op: Op, line: &mut Line<'_>) -> Result<Attrs, String> {
    let mut attrs = Attrs::none();
    loop {
        let name = line.word("the name of an attribute")?;
        let def = op.def().attrs.iter().find(|def| def.name == name);
        let def = def.ok_or_else(|| format!("{} has no attribute {name:?}", op.name()))?;
        line.expect('=')?;
        let value = attribute(def, line)
            .map_err(|message| format!("attribute {name} of {}: {message}", op.name()))?;
        attrs = attrs.with(def.name, value);
        if !line.take(',') {
            break;
        }
    }
    line.expect('}')?;
    Ok(attrs)
}

fn attribute(def: &AttrDef, line: &mut Line<'_>) -> Result<AttrValue, String> {
    let wrong = |word: &str| format!("{word:?} is not {}", def.kind);
    Ok(match def.kind {
        AttrKind::Bool => match line.word("true or false")? {
            "true" => AttrValue::Bool(true),
            "false" => AttrValue::Bool(false),
            other => return Err(wrong(other)),
        },
        AttrKind::Int => AttrValue::Int(line.integer("an integer")?),
        AttrKind::Float => {
            let word = line.scalar("a number")?;
            AttrValue::Float(word.parse().map_err(|_| wrong(word))?)
        }
        AttrKind::Ints => AttrValue::Ints(integers(line)?),
        AttrKind::DType => {
            let word = line.word("an element type")?;
            AttrValue::DType(DType::from_name(word).ok_or_else(|| wrong(word))?)
        }
        AttrKind::Word(words) => {
            let word = line.word("a word")?;
            AttrValue::Word(words.iter().copied().find(|known| *known == word).ok_or_else(|| wrong(word))?)
        }
    })
}

/// `[2,3]`, with no more numbers than a tensor has dimensions: every list in the language is about those.
fn integers(line: &mut Line<'_>) -> Result<Vec<u64>, String> {
    let mut values = Vec::new();
    line.expect('[')?;
    if line.take(']') {
        return Ok(values);
    }
    loop {
        if values.len() == MAX_RANK {
            return Err(format!("a list has at most {MAX_RANK} numbers"));
        }
        values.push(line.integer("an integer")?);
        if !line.take(',') {
            break;
        }
    }
    line.expect(']')?;
    Ok(values)
}

fn tensor_type(line: &mut Line<'_>) -> Result<TensorType, String> {
    let word = line.word("a type")?;
    let dtype = DType::from_name(word).ok_or_else(|| format!("{word:?} is no element type"))?;
    let shape = integers(line)?;
    let shape: Result<Vec<usize>, _> = shape.into_iter().map(usize::try_from).collect();
    Ok(TensorType { dtype, shape: shape.map_err(|_| "a dimension is too large".to_string())? })
}
