//! The op reference page, generated from the table.

use std::fmt::Write;

use super::attrs::AttrDef;
use super::table::{Class, OpDef, Slot, TABLE};

const INTRODUCTION: &str = "\
# Ops of the language of programs

Generated from the table in `src/program/table.rs`; a test keeps the two equal (`UPDATE_OPS_PAGE=1 cargo test -p
finetune-plugin-api` writes this page anew). The reference interpreter in `src/reference/` says the same in code.

- Tensors are row major and contiguous, of `f32`, `f16`, `bf16`, `u32` or `bool`, with at most 8 dimensions of at
  least 1. Shapes in this page are written `[B, T]`, a scalar's `[]`.
- Float ops compute in f32 or better and round the result once to its type, to nearest even. The one-operand
  elementwise ops (`neg` to `erf`) take a float and give the same type; two-operand ops take two operands of one type
  and give that type, `compare` gives `bool`.
- `u32` arithmetic wraps around.
- A plugin has every **core** op. A **composite** op is handed to a plugin only if it says that it has it; for others
  the host writes the op's decomposition into core ops. A plugin whose `attention` gives `lse` says `attention.lse`
  too.
- An attribute with a default may be left out. An operand or result marked with an attribute is there only where that
  attribute is true.
";

/// The whole page, in Markdown.
pub fn reference_page() -> String {
    let mut page = String::from(INTRODUCTION);
    for (class, title) in [(Class::Core, "Core ops"), (Class::Composite, "Composite ops")] {
        let _ = write!(page, "\n## {title}\n");
        for def in TABLE.iter().filter(|def| def.class == class) {
            let _ = write!(page, "\n### `{}`\n\n    {}\n\n{}\n", def.name, signature(def), def.doc);
            if !def.attrs.is_empty() {
                page.push_str("\n| attribute | value | default |\n|---|---|---|\n");
                def.attrs.iter().for_each(|attr| page.push_str(&attribute(attr)));
            }
        }
    }
    page
}

fn signature(def: &OpDef) -> String {
    let operands = def.operands.map_or("x, ...".into(), slots);
    format!("{} = {}({operands})", slots(def.results), def.name)
}

fn slots(slots: &[Slot]) -> String {
    let shown = slots.iter().map(|slot| match slot.when {
        None => slot.name.to_string(),
        Some(attr) => format!("{} [{attr}]", slot.name),
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn attribute(attr: &AttrDef) -> String {
    let default = attr.default_value().map_or("required".into(), |value| format!("`{value}`"));
    format!("| `{}` | {} | {default} |\n", attr.name, attr.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What plugin authors read is the table.
    #[test]
    fn the_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/OPS.md");
        let page = reference_page();
        if std::env::var_os("UPDATE_OPS_PAGE").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == page,
            "OPS.md differs from the table; run with UPDATE_OPS_PAGE=1 to write it anew"
        );
    }
}
